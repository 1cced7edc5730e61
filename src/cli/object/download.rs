//! `dxflow object download`: files and directories from the engine, several at once, resumed after a break.
//!
//! Bytes go to a hidden file beside the final name, whose own name says which version of the object they are of; it is
//! renamed when it is whole. The same command, run again, goes on with it if the object is still the same. What the
//! engine names is never written outside the place that was asked for.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use futures_util::{StreamExt, stream};
use http::header;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::list::ALL_LEVELS;
use super::progress::{FileBar, Progress};
use super::retry::Retry;
use crate::cli::args::Download;
use crate::cli::client::{Call, Client, Reply};
use crate::cli::error::{CliError, Done, REFUSED};
use crate::cli::output::{Output, cell, clean, output_error};

#[derive(Debug)]
struct Item {
    remote: String,
    local: PathBuf,
    /// As the listing says; none where a single file was asked for.
    size: Option<u64>,
}

pub(super) async fn run(download: &Download, client: &Client, output: Output) -> Done {
    let (sources, target) = match download.paths.as_slice() {
        [source] => (std::slice::from_ref(source), "."),
        [sources @ .., target] => (sources, target.as_str()),
        [] => return Err(CliError::Usage("say what to download".into())),
    };
    if target == "-" {
        let [source] = sources else {
            return Err(CliError::Usage("only one object can go to the standard output".into()));
        };
        return to_stdout(source, client, output).await;
    }
    let place = Path::new(if target == "." { "" } else { target });
    let into = target == "." || place.is_dir();
    if !into && (sources.len() > 1 || target.ends_with('/')) {
        std::fs::create_dir_all(place)
            .map_err(|error| CliError::failed(format!("failed to make `{}`", place.display()), error))?;
    }
    let into = into || place.is_dir();
    let mut items = Vec::new();
    for source in sources {
        let source = source.trim_end_matches('/');
        let name = source.rsplit('/').next().unwrap_or(source);
        let whole_volume = matches!(name, "" | ".");
        let local = if into && !whole_volume { place.join(below(name)?) } else { place.to_owned() };
        if !add_directory(source, &local, client, output, &mut items).await? {
            items.push(Item { remote: source.to_owned(), local, size: None });
        }
    }
    fetch_all(&items, download, client, output).await
}

/// Adds what is in a directory of the engine; false where it is none.
async fn add_directory(
    source: &str,
    local: &Path,
    client: &Client,
    output: Output,
    items: &mut Vec<Item>,
) -> Result<bool, CliError> {
    let directory = if source.is_empty() { "." } else { source };
    let call = Call::get("/object/fs/")
        .query("directory", directory)
        .query("all", true)
        .query("depth", ALL_LEVELS)
        .query("limit", -1)
        .streamed();
    let mut reply = match client.send(call).await {
        Ok(reply) => reply,
        Err(error) if matches!(error.status(), Some(400 | 404 | 409 | 422)) => return Ok(false),
        Err(error) => return Err(error),
    };
    let make = |path: &Path| {
        std::fs::create_dir_all(path)
            .map_err(|error| CliError::failed(format!("failed to make `{}`", path.display()), error))
    };
    make(local)?;
    while let Some(object) = reply.entity().await? {
        let identity = cell(&object["identity"]);
        let path = match source {
            "" | "." => Some(identity.as_str()),
            source => identity
                .strip_prefix(source.strip_prefix("./").unwrap_or(source))
                .and_then(|rest| rest.strip_prefix('/')),
        };
        let Some(path) = path.and_then(|path| below(path).ok()) else {
            output.note(format!("dxflow: {} is left out: it is not below what was asked for", clean(&identity)));
            continue;
        };
        let local = local.join(path);
        match object["kind"].as_str() {
            Some("directory") => make(&local)?,
            Some("file") => items.push(Item { remote: identity, local, size: object["size"].as_u64() }),
            _ => output.note(format!("dxflow: {} is left out: it is not a file", clean(&identity))),
        }
    }
    Ok(true)
}

/// A path that stays below where it is joined to.
fn below(path: &str) -> Result<PathBuf, CliError> {
    let path = PathBuf::from(path);
    let plain =
        path.components().all(|part| matches!(part, Component::Normal(_))) && path.components().next().is_some();
    if plain {
        Ok(path)
    } else {
        Err(CliError::Failed(format!("`{}` is not a name to write to", clean(&path.to_string_lossy()))))
    }
}

async fn fetch_all(items: &[Item], download: &Download, client: &Client, output: Output) -> Done {
    let progress = Progress::new(output, "download", Some(items.iter().filter_map(|item| item.size).sum()));
    let mut worst: Option<CliError> = None;
    let (mut done, mut bytes, mut results) = (0, 0, Vec::new());
    let fetching = items.iter().map(|item| {
        let progress = &progress;
        async move { (item, fetch(item, download.force, client, progress).await) }
    });
    let mut fetching = stream::iter(fetching).buffer_unordered(usize::from(download.jobs));
    while let Some((item, fetched)) = fetching.next().await {
        match fetched {
            Ok(size) => {
                done += 1;
                bytes += size;
                if output.json {
                    results.push(json!({ "identity": item.remote, "path": item.local, "size": size }));
                } else if !output.terminal {
                    output.line(clean(&item.local.to_string_lossy()))?;
                }
            }
            Err(error) => {
                progress.note(&format!("dxflow: {}: {error}", clean(&item.remote)));
                let stop = matches!(error, CliError::Unreachable { .. }) || matches!(error.status(), Some(401 | 403));
                if worst.is_none() || stop {
                    worst = Some(CliError::Exit(if stop { error.exit_code() } else { REFUSED }));
                }
                if stop {
                    break;
                }
            }
        }
    }
    drop(fetching);
    if worst.is_none() {
        progress.finish("fetched", done, bytes);
    } else {
        progress.clear();
    }
    if output.json {
        output.json(&Value::Array(results))?;
    }
    worst.map_or(Ok(()), Err)
}

/// Fetches one file, as often as it takes, and gives its size.
async fn fetch(item: &Item, force: bool, client: &Client, progress: &Progress) -> Result<u64, CliError> {
    if !force && item.local.symlink_metadata().is_ok() {
        return Err(CliError::Failed(format!("`{}` is there already (--force replaces it)", item.local.display())));
    }
    let mut bar = progress.file(&item.remote, item.size.unwrap_or(0));
    let mut retry = Retry::default();
    let mut reached = 0;
    loop {
        match Box::pin(try_fetch(item, force, client, progress, &mut bar, &mut reached)).await {
            Ok(size) => return Ok(size),
            Err(error) => retry.after(error, reached).await?,
        }
    }
}

fn call(remote: &str) -> Call {
    Call::get("/object/fs/download/").query("identity", remote).header(header::ACCEPT_ENCODING, "identity")
}

async fn try_fetch(
    item: &Item,
    force: bool,
    client: &Client,
    progress: &Progress,
    bar: &mut FileBar,
    reached: &mut u64,
) -> Result<u64, CliError> {
    let mut reply = client.send(call(&item.remote)).await?;
    let etag = reply.header("etag").map(str::to_owned);
    let size: Option<u64> = reply.header("content-length").and_then(|text| text.parse().ok());
    let part = part_name(&item.local, etag.as_deref())?;
    let failed = |error: std::io::Error| CliError::failed(format!("failed to write `{}`", part.display()), error);
    let present = part.metadata().map_or(0, |metadata| metadata.len());
    let mut from = 0;
    if let (Some(etag), Some(size)) = (&etag, size)
        && present > 0
        && present <= size
    {
        from = present;
        if present < size {
            // The connection of the first answer is dropped with it; its bytes are on the way, and not wanted.
            let resumed =
                call(&item.remote).header(header::RANGE, format!("bytes={present}-")).header(header::IF_RANGE, etag);
            reply = client.send(resumed).await?;
            if reply.status() != http::StatusCode::PARTIAL_CONTENT || !starts_at(&reply, present) {
                from = 0;
            }
        }
    }
    if item.size.is_none() {
        progress.expect(size.unwrap_or(0).saturating_sub(*reached));
    }
    let mut options = OpenOptions::new();
    let mut file = options.create(true).append(true).open(&part).map_err(failed)?;
    if from == 0 {
        file.set_len(0).map_err(failed)?;
    }
    let mut written = from;
    bar.set(written);
    *reached = written;
    if size != Some(from) || from == 0 {
        while let Some(bytes) = reply.bytes().await? {
            // Written in place: the page cache takes it faster than the network brings it.
            file.write_all(&bytes).map_err(failed)?;
            written += bytes.len() as u64;
            bar.set(written);
            *reached = written;
        }
    }
    if size.is_some_and(|size| size != written) {
        return Err(CliError::Unreachable {
            address: client.endpoint().to_string(),
            reason: format!("{written} bytes came instead of {}", size.unwrap_or(0)),
        });
    }
    place(file, &part, &item.local, force)?;
    Ok(written)
}

fn starts_at(reply: &Reply, offset: u64) -> bool {
    reply.header("content-range").is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

/// The file that the bytes go to until they are all there: beside the final one, and of one version of the object.
fn part_name(local: &Path, etag: Option<&str>) -> Result<PathBuf, CliError> {
    let name =
        local.file_name().ok_or_else(|| CliError::Usage(format!("`{}` is not a name for a file", local.display())))?;
    let version = match etag {
        Some(etag) => hex::encode(&Sha256::digest(etag)[..6]),
        None => std::process::id().to_string(),
    };
    let mut part = std::ffi::OsString::from(".");
    part.push(name);
    part.push(format!(".{version}.dxpart"));
    Ok(local.with_file_name(part))
}

/// Puts the whole file in its place.
fn place(file: File, part: &Path, local: &Path, force: bool) -> Done {
    let failed = |error| CliError::failed(format!("failed to write `{}`", local.display()), error);
    file.sync_all().map_err(failed)?;
    drop(file);
    if force {
        return std::fs::rename(part, local).map_err(failed);
    }
    // Never over what came there in the meantime.
    match rustix::fs::renameat_with(rustix::fs::CWD, part, rustix::fs::CWD, local, rustix::fs::RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => std::fs::rename(part, local).map_err(failed),
        Err(error) => Err(failed(error.into())),
    }
}

/// Writes one object to the standard output; a break is resumed where the engine has the same version still.
async fn to_stdout(source: &str, client: &Client, output: Output) -> Done {
    let progress = Progress::new(output, "download", None);
    let mut bar = progress.file(source, 0);
    let mut retry = Retry::default();
    let (mut written, mut etag): (u64, Option<String>) = (0, None);
    let result = loop {
        let mut call = call(source);
        if let (Some(etag), true) = (&etag, written > 0) {
            call = call.header(header::RANGE, format!("bytes={written}-")).header(header::IF_RANGE, etag);
        }
        let broken = match client.send(call).await {
            Ok(reply) if written > 0 && !starts_at(&reply, written) => {
                break Err(CliError::Failed("the connection broke, and the object cannot be resumed".into()));
            }
            Ok(mut reply) => {
                etag = reply.header("etag").map(str::to_owned);
                let mut broken = None;
                loop {
                    match reply.bytes().await {
                        Ok(Some(bytes)) => {
                            std::io::stdout().lock().write_all(&bytes).map_err(output_error)?;
                            written += bytes.len() as u64;
                            bar.set(written);
                        }
                        Ok(None) => break,
                        Err(error) => {
                            broken = Some(error);
                            break;
                        }
                    }
                }
                broken
            }
            Err(error) => Some(error),
        };
        match broken {
            None => break std::io::stdout().flush().map_err(output_error),
            Some(error) => {
                if let Err(error) = retry.after(error, written).await {
                    break Err(error);
                }
            }
        }
    };
    drop(bar);
    progress.clear();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_names_stays_below() {
        for path in ["a", "a/b", ".hidden", "a b"] {
            assert!(below(path).is_ok(), "{path}");
        }
        for path in ["", "..", "a/../b", "/a", "a/..", "."] {
            assert!(below(path).is_err(), "{path}");
        }
    }

    #[test]
    fn parts_are_of_one_version() {
        let name = |etag| part_name(Path::new("d/f.txt"), Some(etag)).expect("a name");
        assert_ne!(name("\"1\""), name("\"2\""));
        assert!(name("\"1\"").to_string_lossy().starts_with("d/.f.txt."));
        assert!(part_name(Path::new("/"), None).is_err());
    }
}
