//! `dxflow key …`: key pairs here, and the registry of keys at the engine.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::{HashAlg, LineEnding, PrivateKey, PublicKey};

use super::args::{Key, KeyType};
use super::client::identity::{KeyFile, read_key};
use super::client::{Call, Client, rsa};
use super::error::{CliError, Done};
use super::output::{Align, Output, Style, Table, cell, time};

/// Makes a key pair in the files NAME and NAME.pub.
pub(crate) fn generate(name: &Path, kind: KeyType, output: Output) -> Done {
    let failed = |error: ssh_key::Error| CliError::failed("failed to write the key", error);
    let pair: KeypairData = match kind {
        KeyType::Ed25519 => {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).map_err(|error| CliError::failed("failed to get random bytes", error))?;
            let key = ed25519_dalek::SigningKey::from_bytes(&seed);
            Ed25519Keypair {
                public: ssh_key::public::Ed25519PublicKey(key.verifying_key().to_bytes()),
                private: Ed25519PrivateKey::from_bytes(&seed),
            }
            .into()
        }
        KeyType::Rsa => rsa::generate()?.into(),
    };
    let comment = name.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let private = PrivateKey::new(pair, comment).map_err(failed)?;
    let public = private.public_key().to_openssh().map_err(failed)?;
    let mut public_name = name.as_os_str().to_owned();
    public_name.push(".pub");
    let public_name = PathBuf::from(public_name);
    create(name, private.to_openssh(LineEnding::LF).map_err(failed)?.as_bytes())?;
    if let Err(error) = create(&public_name, format!("{public}\n").as_bytes()) {
        let _ = std::fs::remove_file(name);
        return Err(error);
    }
    let fingerprint = private.fingerprint(HashAlg::Sha256).to_string();
    if output.json {
        return output
            .json(&json!({ "private": name, "public": public_name, "key": public, "fingerprint": fingerprint }));
    }
    output.line(&public)?;
    output.note(format!("made `{}` (keep it secret) and `{}`, {fingerprint}", name.display(), public_name.display()));
    Ok(())
}

fn create(path: &Path, content: &[u8]) -> Done {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file =
        options.open(path).map_err(|error| CliError::failed(format!("failed to make `{}`", path.display()), error))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(|error| CliError::failed(format!("failed to write `{}`", path.display()), error))
}

/// Runs one of the commands that need an engine.
pub(crate) async fn run(command: Key, client: &Client, output: Output) -> Done {
    match command {
        Key::Generate { name, kind } => generate(&name, kind, output),
        Key::Register { file, identity, permissions } => {
            let key = public_line(&file)?;
            let identity = match identity {
                Some(identity) => identity,
                None => file
                    .file_stem()
                    .and_then(|stem| stem.to_str())
                    .map(str::to_owned)
                    .ok_or_else(|| CliError::Usage("say the key's name with -i".into()))?,
            };
            let mut body = json!({ "identity": identity, "key": key });
            if !permissions.is_empty() {
                body["permissions"] = permissions.iter().map(|permission| permission.name()).collect();
            }
            let answer = client.value(Call::post("/auth/key/").json(&body)).await?;
            told(output, &answer, &identity, "registered")
        }
        Key::List { all } => {
            let mut call = Call::get("/auth/key/");
            if all {
                call = call.query("all", true);
            }
            let keys = client.value(call).await?;
            if output.json {
                return output.json(&keys);
            }
            output.table(&key_table(&keys))
        }
        Key::Update { identity, permissions, disable, enable } => {
            let mut body = Map::from_iter([("identity".to_owned(), Value::from(identity.as_str()))]);
            if !permissions.is_empty() {
                body.insert("permissions".into(), permissions.iter().map(|permission| permission.name()).collect());
            }
            if disable || enable {
                body.insert("disabled".into(), disable.into());
            }
            if body.len() == 1 {
                return Err(CliError::Usage("say what to change: --permission, --disable or --enable".into()));
            }
            let answer = client.value(Call::new(http::Method::PATCH, "/auth/key/").json(&body)).await?;
            told(output, &answer, &identity, "updated")
        }
        Key::Unregister { identity } => {
            let answer = client.value(Call::delete("/auth/key/").json(&json!({ "identity": identity }))).await?;
            told(output, &answer, &identity, "unregistered")
        }
    }
}

fn told(output: Output, answer: &Value, identity: &str, what: &str) -> Done {
    if output.json {
        return output.json(answer);
    }
    output.line(identity)?;
    output.detail(format!("{identity} {what}"));
    Ok(())
}

/// The public key that is sent: of a private key its public half only.
fn public_line(file: &Path) -> Result<String, CliError> {
    let failed = |error: ssh_key::Error| CliError::failed("failed to write the public key", error);
    match read_key(file) {
        Ok(KeyFile::Public(key) | KeyFile::Locked(key)) => key.to_openssh().map_err(failed),
        Ok(KeyFile::Private(secret)) => PublicKey::from(secret.public()?).to_openssh().map_err(failed),
        // A PEM public key is the engine's to read.
        Err(error) => match std::fs::read_to_string(file) {
            Ok(text)
                if text.contains("-----BEGIN") && text.contains("PUBLIC KEY-----") && !text.contains("PRIVATE") =>
            {
                Ok(text)
            }
            _ => Err(error),
        },
    }
}

fn key_table(keys: &Value) -> Table {
    let mut table = Table::new(&[
        ("IDENTITY", Align::Left),
        ("TYPE", Align::Left),
        ("FINGERPRINT", Align::Left),
        ("PERMISSIONS", Align::Left),
        ("STATE", Align::Left),
        ("LAST USED", Align::Left),
    ]);
    for key in keys.as_array().into_iter().flatten() {
        let disabled = key["disabled"] == Value::Bool(true);
        let used = match &key["last_used_at"] {
            Value::Number(seconds) => seconds.as_i64().map(time).unwrap_or_default(),
            other => cell(other),
        };
        table.row(vec![
            (cell(&key["identity"]), Style::Plain),
            (cell(&key["type"]), Style::Plain),
            (cell(&key["fingerprint"]), Style::Faint),
            (cell(&key["permissions"]), Style::Plain),
            if disabled { ("disabled".into(), Style::Bad) } else { ("enabled".into(), Style::Good) },
            (used, Style::Faint),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_pair_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let output = Output { json: true, color: false, terminal: false, verbose: 0 };
        let name = dir.path().join("id");
        generate(&name, KeyType::Ed25519, output).expect("made");
        assert_eq!(std::fs::metadata(&name).expect("there").permissions().mode() & 0o777, 0o600);
        let of_private = public_line(&name).expect("a public half");
        let of_public = public_line(&dir.path().join("id.pub")).expect("a public key");
        let body = |line: &str| line.split(' ').nth(1).map(str::to_owned);
        assert_eq!(body(&of_private), body(&of_public));
        assert_eq!(generate(&name, KeyType::Ed25519, output).expect_err("there already").exit_code(), 1);
    }
}
