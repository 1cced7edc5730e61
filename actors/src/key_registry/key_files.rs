//! Key pairs that the engine itself makes: their text, and the two files of the data directory that hold one.
//!
//! `keys/admin` is the first MASTER key, for the operator to take away; `keys/signing` signs tokens and goes nowhere. Both
//! are OpenSSH private keys without a passphrase, for their owner alone (0600 in a directory of 0700, whatever the
//! umask), and are put in place whole: a file that is there is a file that can be read.

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use ssh_key::LineEnding;
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData, PrivateKey};
use ssh_key::public::Ed25519PublicKey;

use super::error::KeyError;
use super::public_key::PublicKey;

/// The directory of key files in the data directory.
pub(super) const DIRECTORY: &str = "keys";
/// The first MASTER key's identity, and its file's name.
pub(super) const ADMIN: &str = "admin";
/// The name of the file that signs tokens.
const SIGNING: &str = "signing";
/// The longest file that is read as a key.
const MAX_FILE: u64 = 16 * 1024;

/// Makes an Ed25519 key.
pub(super) fn generate() -> SigningKey {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the kernel's random source answers after boot (getrandom(2))");
    SigningKey::from_bytes(&seed)
}

/// The public half.
pub(super) fn public_half(key: &SigningKey) -> PublicKey {
    PublicKey::Ed25519(key.verifying_key())
}

/// The OpenSSH text of a private key.
pub(super) fn to_openssh(key: &SigningKey, comment: &str) -> String {
    let pair = Ed25519Keypair {
        public: Ed25519PublicKey(key.verifying_key().to_bytes()),
        private: Ed25519PrivateKey::from_bytes(key.as_bytes()),
    };
    let text = PrivateKey::new(KeypairData::Ed25519(pair), comment).and_then(|key| key.to_openssh(LineEnding::LF));
    text.expect("an Ed25519 key without a passphrase can be written").to_string()
}

fn from_openssh(text: &str) -> Option<SigningKey> {
    let key = PrivateKey::from_openssh(text).ok()?;
    let pair = key.key_data().ed25519()?;
    let signing = SigningKey::from_bytes(&pair.private.to_bytes());
    (signing.verifying_key().to_bytes() == pair.public.0).then_some(signing)
}

/// The key that signs tokens, made if there is none.
///
/// # Errors
/// [`KeyError::File`] when the file cannot be read, holds no such key, or cannot be made.
pub(super) fn signing_key(data_dir: &Path) -> Result<SigningKey, KeyError> {
    read_or_make(data_dir, SIGNING)
}

/// The first MASTER key, made if its file is not there, with its public half beside it.
///
/// # Errors
/// [`KeyError::File`], as [`signing_key`].
pub(super) fn admin_key(data_dir: &Path) -> Result<SigningKey, KeyError> {
    let key = read_or_make(data_dir, ADMIN)?;
    let path = data_dir.join(DIRECTORY).join(format!("{ADMIN}.pub"));
    let line = format!("{} dxflow {ADMIN}\n", public_half(&key));
    write(&path, line.as_bytes()).map_err(|error| failed(&path, &error))?;
    Ok(key)
}

fn failed(path: &Path, reason: &dyn ToString) -> KeyError {
    KeyError::File { path: path.to_owned(), reason: reason.to_string() }
}

fn read_or_make(data_dir: &Path, name: &str) -> Result<SigningKey, KeyError> {
    let directory = data_dir.join(DIRECTORY);
    let path = directory.join(name);
    make_directory(&directory).map_err(|error| failed(&directory, &error))?;
    match read(&path) {
        Ok(text) => from_openssh(&text)
            .ok_or_else(|| failed(&path, &"it holds no Ed25519 key without a passphrase; move it away or restore it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = generate();
            let text = to_openssh(&key, &format!("dxflow {name}"));
            write(&path, text.as_bytes()).map_err(|error| failed(&path, &error))?;
            Ok(key)
        }
        Err(error) => Err(failed(&path, &error)),
    }
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn make_directory(directory: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mode = std::fs::metadata(directory)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Puts a file in place whole: written beside it for its owner alone, synced, renamed.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary: PathBuf = directory.join(format!(".{}", crate::ids::random_name()));
    let written = (|| {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        std::fs::File::open(directory)?.sync_all()
    })();
    if written.is_err() {
        // It may be half-written, or gone by the rename already.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_kept_private() {
        let directory = tempfile::tempdir().expect("a directory");
        let made = admin_key(directory.path()).expect("made");
        let again = admin_key(directory.path()).expect("read");
        assert_eq!(made.to_bytes(), again.to_bytes());
        let signing = signing_key(directory.path()).expect("made");
        assert_ne!(signing.to_bytes(), made.to_bytes());
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        let keys = directory.path().join(DIRECTORY);
        assert_eq!(mode(&keys), 0o700);
        for name in ["admin", "admin.pub", "signing"] {
            assert_eq!(mode(&keys.join(name)), 0o600, "{name}");
        }
        assert_eq!(std::fs::read_dir(&keys).expect("listed").count(), 3, "nothing is left over");
        let line = std::fs::read_to_string(keys.join("admin.pub")).expect("read");
        assert_eq!(PublicKey::parse(&line).expect("a key"), public_half(&made));
    }

    #[test]
    fn a_damaged_file_is_not_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(DIRECTORY).join(SIGNING);
        make_directory(path.parent().expect("a parent")).expect("made");
        std::fs::write(&path, "garbage").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("opened to all");
        let error = signing_key(directory.path()).expect_err("it holds no key");
        assert!(error.to_string().contains("signing"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "garbage");
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/dev/null", &path).expect("linked");
        signing_key(directory.path()).expect_err("a link is not followed");
    }
}
