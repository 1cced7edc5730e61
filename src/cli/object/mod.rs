//! `dxflow object …`: files of the engine's volume.

mod download;
mod list;
mod progress;
mod retry;
mod upload;

use std::io::Read;

use serde_json::{Map, Value, json};

use self::progress::Progress;
use super::args::Object;
use super::client::{Call, Client};
use super::error::{CliError, Done};
use super::output::{Align, Output, Style, Table, cell, clean, size, time};
use super::shell::batch;

/// The longest content that `create` sends with its JSON; more is an upload.
const LONGEST_CONTENT: u64 = 512 * 1024;

/// Runs one of the commands.
pub(crate) async fn run(command: Object, client: &Client, output: Output) -> Done {
    match command {
        Object::List(list) => list::run(&list, client, output).await,
        Object::Create { path, directory, content, force, permission } => {
            let mut body = Map::from_iter([("identity".to_owned(), Value::from(path))]);
            if directory {
                body.insert("directory".into(), true.into());
            }
            if let Some(content) = content {
                let content = if content == "-" { read_content()? } else { content };
                body.insert("content".into(), content.into());
            }
            if force {
                body.insert("force".into(), true.into());
            }
            if let Some(permission) = permission {
                body.insert("permission".into(), permission.into());
            }
            let object = client.value(Call::post("/object/fs/").json(&body)).await?;
            if output.json { output.json(&object) } else { output.line(clean(&cell(&object["identity"]))) }
        }
        Object::Upload(upload) => upload::run(&upload, client, output).await,
        Object::Download(download) => download::run(&download, client, output).await,
        Object::Rename { from, to, force } => {
            let mut body = json!({ "identity": from, "new_identity": to });
            if force {
                body["force"] = true.into();
            }
            let answer = client.value(Call::put("/object/fs/rename/").json(&body)).await?;
            if output.json { output.json(&answer) } else { output.line(clean(&cell(&answer["new_identity"]))) }
        }
        Object::Zip { paths, destination, level, force } => {
            let mut body = Map::new();
            match paths.as_slice() {
                [path] => body.insert("identity".into(), path.as_str().into()),
                paths => body.insert("identities".into(), paths.into()),
            };
            body.extend(destination.map(|destination| ("destination".to_owned(), destination.into())));
            body.extend(level.map(|level| ("level".to_owned(), level.into())));
            body.extend(force.then(|| ("force".to_owned(), true.into())));
            job("/object/fs/zip/", body, "zip", client, output).await
        }
        Object::Unzip { archive, destination, force } => {
            let mut body = Map::from_iter([("identity".to_owned(), Value::from(archive))]);
            body.extend(destination.map(|destination| ("destination".to_owned(), destination.into())));
            body.extend(force.then(|| ("force".to_owned(), true.into())));
            job("/object/fs/unzip/", body, "unzip", client, output).await
        }
        Object::Share { paths, lifetime, writable, uses } => {
            let mut body = json!({ "identities": paths });
            if let Some(lifetime) = lifetime {
                body["lifetime"] = lifetime.to_string().into();
            }
            if writable {
                body["writable"] = true.into();
            }
            if let Some(uses) = uses {
                body["uses"] = uses.into();
            }
            let shares = client.value(Call::put("/object/fs/share/").json(&body)).await?;
            if output.json { output.json(&shares) } else { output.table(&share_table(&shares)) }
        }
        Object::Shares => {
            let shares = client.value(Call::get("/object/fs/share/")).await?;
            if output.json { output.json(&shares) } else { output.table(&shares_table(&shares)) }
        }
        Object::Unshare { id } => {
            // A signature is far longer than an id; the engine takes either under its name.
            let name = if id.len() > 64 { "signature" } else { "id" };
            let answer = client.value(Call::delete("/object/fs/share/").json(&json!({ name: id }))).await?;
            if output.json { output.json(&answer) } else { output.line(clean(&cell(&answer["identity"]))) }
        }
        Object::Delete { paths } => match paths.as_slice() {
            [path] => {
                let answer = client.value(Call::delete("/object/fs/").json(&json!({ "identity": path }))).await?;
                if output.json { output.json(&answer) } else { output.line(clean(&cell(&answer["identity"]))) }
            }
            paths => {
                let call = Call::delete("/object/fs/batch/").json(&json!({ "identities": paths }));
                batch(&client.value(call).await?, "deleted", output)
            }
        },
    }
}

fn read_content() -> Result<String, CliError> {
    let mut content = String::new();
    std::io::stdin()
        .take(LONGEST_CONTENT + 1)
        .read_to_string(&mut content)
        .map_err(|error| CliError::failed("failed to read the standard input", error))?;
    if content.len() as u64 > LONGEST_CONTENT {
        return Err(CliError::Usage("that is too long for `object create`: use `object upload - PATH`".into()));
    }
    Ok(content)
}

/// A job of the engine, with its progress as it tells it.
async fn job(path: &str, body: Map<String, Value>, what: &'static str, client: &Client, output: Output) -> Done {
    let mut reply = client.send(Call::put(path).json(&body).streamed()).await?;
    let progress = Progress::new(output, what, None);
    let mut result = Value::Null;
    loop {
        match reply.entity().await {
            Ok(None) => break,
            Ok(Some(entity)) => {
                if entity.get("destination").is_some() {
                    result = entity;
                } else {
                    show(&progress, &entity);
                }
            }
            Err(error) => {
                progress.clear();
                return Err(error);
            }
        }
    }
    progress.clear();
    if output.json {
        return output.json(&result);
    }
    let (entries, bytes) = (cell(&result["entries"]), result["size"].as_u64().map(size).unwrap_or_default());
    output.line(clean(&cell(&result["destination"])))?;
    output.detail(format!("{entries} entries, {bytes}"));
    Ok(())
}

/// Shows what a progress entity says: bytes done, of how many, and at which entry it is.
fn show(progress: &Progress, entity: &Value) {
    let number = |names: &[&str]| names.iter().find_map(|name| entity.get(*name).and_then(Value::as_u64));
    if let Some(done) = number(&["bytes", "done", "processed"]) {
        progress.set(done, number(&["total", "total_bytes"]));
    }
    if let Some(text) = ["identity", "entry", "name"].iter().find_map(|name| entity.get(*name).and_then(Value::as_str))
    {
        progress.say(text);
    }
}

fn share_table(shares: &Value) -> Table {
    let mut table = Table::new(&[("IDENTITY", Align::Left), ("SIGNATURE", Align::Left), ("UNTIL", Align::Left)]);
    for share in shares.as_array().into_iter().flatten() {
        table.row(vec![
            (cell(&share["identity"]), Style::Plain),
            (cell(&share["signature"]), Style::Plain),
            (share["expires_at"].as_i64().map(time).unwrap_or_default(), Style::Faint),
        ]);
    }
    table
}

fn shares_table(shares: &Value) -> Table {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("IDENTITY", Align::Left),
        ("FOR", Align::Left),
        ("USES", Align::Right),
        ("UNTIL", Align::Left),
    ]);
    for share in shares.as_array().into_iter().flatten() {
        let writable = share["writable"] == Value::Bool(true);
        table.row(vec![
            (cell(&share["id"]), Style::Plain),
            (cell(&share["identity"]), Style::Plain),
            ((if writable { "upload" } else { "download" }).into(), Style::Plain),
            (cell(&share["uses"]), Style::Plain),
            (share["expires_at"].as_i64().map(time).unwrap_or_default(), Style::Faint),
        ]);
    }
    table
}

/// Joins a directory and a path below it.
fn join(directory: &str, below: &str) -> String {
    match directory.trim_end_matches('/') {
        "" | "." => below.to_owned(),
        directory => format!("{directory}/{below}"),
    }
}

/// Whether there is a directory of this name on the engine.
async fn is_directory(client: &Client, path: &str) -> Result<bool, CliError> {
    if path.trim_end_matches('/').is_empty() || path == "." {
        return Ok(true);
    }
    match client.value(Call::get("/object/fs/").query("directory", path).query("limit", 1)).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.status(), Some(400 | 404 | 409 | 422)) => Ok(false),
        Err(error) => Err(error),
    }
}
