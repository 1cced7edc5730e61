//! `dxflow object …` against a real engine: trees there and back, breaks in between, archives, shares.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::support::{Engine, until_true, within};

fn said(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// Everything below a directory: paths, and what the files hold.
fn tree(root: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in directory.read_dir().expect("a directory").map(|entry| entry.expect("an entry")) {
            let path = entry.path();
            let name = path.strip_prefix(root).expect("below").to_string_lossy().into_owned();
            if path.is_dir() {
                found.insert(name, None);
                left.push(path);
            } else {
                found.insert(name, Some(std::fs::read(path).expect("a file")));
            }
        }
    }
    found
}

/// Bytes that do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test]
async fn a_tree_goes_there_and_comes_back() {
    let engine = Engine::start().await;
    let local = engine.scratch().join("tree");
    std::fs::create_dir_all(local.join("deep/er/empty")).expect("made");
    std::fs::write(local.join(".hidden"), "h").expect("written");
    std::fs::write(local.join("zero"), "").expect("written");
    std::fs::write(local.join("grün & 100 % ?"), "name").expect("written");
    std::fs::write(local.join("deep/large"), noise(20 << 20)).expect("written");
    for number in 0..20 {
        std::fs::write(local.join(format!("deep/er/{number}")), noise(number * 1000)).expect("written");
    }
    let (out, err, code) = said(&engine.cli(&["object", "upload", "tree"]).await);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.lines().any(|line| line == "tree/deep/large"), "{out}");
    assert_eq!(tree(&engine.volume().join("tree")), tree(&local));

    let (_, err, code) = said(&engine.cli(&["object", "upload", "tree"]).await);
    assert_eq!(code, Some(1), "nothing is replaced unasked");
    assert!(err.contains("force"), "{err}");
    let forced = engine.cli(&["--json", "fs", "upload", "--force", "-j", "8", "tree"]).await;
    let objects: Value = serde_json::from_slice(&forced.stdout).expect("JSON");
    assert_eq!((forced.status.code(), objects.as_array().map(Vec::len)), (Some(0), Some(24)), "{:?}", said(&forced));

    let (_, err, code) = said(&engine.cli(&["object", "download", "tree", "back"]).await);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(tree(&engine.scratch().join("back")), tree(&local));
    let (_, err, code) = said(&engine.cli(&["object", "download", "tree/zero", "back"]).await);
    assert_eq!((code, err.contains("--force")), (Some(1), true), "{err}");

    let (out, _, code) = said(&engine.cli(&["object", "download", "tree/grün & 100 % ?", "-"]).await);
    assert_eq!((out.as_str(), code), ("name", Some(0)));
    let (_, _, code) = said(&engine.cli(&["object", "download", "nothing"]).await);
    assert_eq!(code, Some(1));
}

/// Waits for a file below `directory` whose name holds `part` to have some bytes.
async fn until_begun(directory: &Path, part: &str) {
    until_true("the beginning of the transfer", || {
        let entries = directory.read_dir().expect("a directory").flatten();
        let mut begun = entries.filter(|entry| entry.file_name().to_string_lossy().contains(part));
        begun.any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0))
    })
    .await;
}

#[tokio::test]
async fn transfers_survive_kill_9_of_the_engine() {
    let mut engine = Engine::start().await;
    let (local, volume) = (engine.scratch().join("large"), engine.volume());
    let content = noise(256 << 20);
    std::fs::write(&local, &content).expect("written");
    let start = |arguments: &[&str]| {
        let mut command = engine.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    };
    let upload = start(&["object", "upload", "large"]);
    until_begun(&volume, ".dxflow-upload").await;
    engine.kill().await;
    engine.boot().await;
    let ended = tokio::task::spawn_blocking(move || upload.wait_with_output().expect("it ends"));
    let ended = within("the end of the upload", ended).await.expect("no panic");
    assert_eq!(ended.status.code(), Some(0), "{:?}", said(&ended));
    assert!(std::fs::read(volume.join("large")).expect("there") == content, "it arrived as something else");

    let place = engine.scratch().join("place");
    std::fs::create_dir(&place).expect("made");
    let mut command = engine.command(&["object", "download", "large", "place"]);
    let download = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    until_begun(&place, ".dxpart").await;
    engine.kill().await;
    engine.boot().await;
    let ended = tokio::task::spawn_blocking(move || download.wait_with_output().expect("it ends"));
    let ended = within("the end of the download", ended).await.expect("no panic");
    assert_eq!(ended.status.code(), Some(0), "{:?}", said(&ended));
    assert!(std::fs::read(place.join("large")).expect("there") == content, "it arrived as something else");
    assert_eq!(place.read_dir().expect("a directory").count(), 1, "nothing is left beside it");
}

#[tokio::test]
async fn objects_are_made_listed_packed_shared_and_deleted() {
    let engine = Engine::start().await;
    for arguments in [
        &["object", "create", "-d", "dir"] as &[&str],
        &["object", "create", "dir/a", "--content", "hello"],
        &["object", "create", ".dot", "--permission", "read"],
        &["object", "rename", "dir/a", "dir/b"],
    ] {
        let (_, err, code) = said(&engine.cli(arguments).await);
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
    }
    let (out, _, _) = said(&engine.cli(&["fs", "ls", "-R"]).await);
    let names: Vec<&str> = out.lines().filter_map(|line| line.split('\t').nth(3)).collect();
    assert_eq!(names, ["dir/", "dir/b"]);
    let all = engine.cli(&["--json", "object", "list", "-a", "--limit", "1"]).await;
    let all: Value = serde_json::from_slice(&all.stdout).expect("JSON");
    assert_eq!((all[0]["identity"].as_str(), all.as_array().map(Vec::len)), (Some(".dot"), Some(1)));

    let (out, err, code) = said(&engine.cli(&["object", "zip", "dir", "-o", "dir.zip"]).await);
    assert_eq!((out.as_str(), code), ("dir.zip\n", Some(0)), "{err}");
    let unzipped = engine.cli(&["--json", "object", "unzip", "dir.zip", "out"]).await;
    let unzipped: Value = serde_json::from_slice(&unzipped.stdout).expect("JSON");
    assert_eq!(unzipped["destination"], "out");
    assert_eq!(std::fs::read_to_string(engine.volume().join("out/dir/b")).expect("there"), "hello");

    let shared = engine.cli(&["--json", "object", "share", "dir/b", "--lifetime", "10m"]).await;
    let shared: Value = serde_json::from_slice(&shared.stdout).expect("JSON");
    let path = format!("/object/fs/presigned/download/?signature={}", shared[0]["signature"].as_str().expect("one"));
    assert_eq!(engine.anonymous().get(&path).send().await.status, 200);
    let shares = engine.cli(&["--json", "object", "shares"]).await;
    let shares: Value = serde_json::from_slice(&shares.stdout).expect("JSON");
    let (_, err, code) = said(&engine.cli(&["object", "unshare", shares[0]["id"].as_str().expect("an id")]).await);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(engine.anonymous().get(&path).send().await.status, 403);

    let (out, err, code) = said(&engine.cli(&["object", "delete", "dir", "nothing", "out"]).await);
    assert_eq!((out.as_str(), code), ("dir\nout\n", Some(1)), "{err}");
    assert!(err.contains("nothing"), "{err}");
}
