//! Every route of objects, to the letter of the contract.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::objects::{bytes, sha256, tree, until_finished};
use crate::support::{Answer, Engine, until};

fn names(objects: &Value) -> Vec<&str> {
    objects.as_array().expect("an array").iter().map(|object| object["identity"].as_str().expect("text")).collect()
}

async fn put(engine: &Engine, identity: &str, content: impl Into<bytes::Bytes>) -> Answer {
    let path = format!("/object/fs/upload/?identity={identity}&force=true");
    engine.master().put(&path).body(content).send().await
}

#[tokio::test]
async fn objects_are_created_under_both_names_and_in_both_forms() {
    let engine = Engine::start().await;
    let made = engine.post("/object/fs/", json!({ "identity": "a/b/./c//d.txt", "content": "text" })).await;
    let object = made.expect(201);
    assert_eq!(object["identity"], "a/b/c/d.txt");
    assert_eq!(object["name"], "d.txt");
    assert_eq!(object["permission"], "-rw-r--r--");
    assert_eq!(object["size"], 4);
    assert_eq!(object["kind"], "file");
    assert!(object["modified_at"].as_i64().is_some_and(|at| at > 1_700_000_000), "{object}");
    assert!(object["etag"].as_str().is_some_and(|etag| !etag.is_empty()), "{object}");
    assert_eq!(std::fs::read(engine.volume().join("a/b/c/d.txt")).expect("there"), b"text");

    let again = engine.post("/object/fs/", json!({ "identity": "a/b/c/d.txt", "content": "other" })).await;
    again.refusal(409);
    assert_eq!(std::fs::read(engine.volume().join("a/b/c/d.txt")).expect("there"), b"text");
    let body = json!({ "name": "a/b/c/d.txt", "content": "other!", "force": true, "permission": "read" });
    let forced = engine.post("/artifact/fs/", body).await.expect(201);
    assert_eq!((forced["permission"].as_str(), forced["size"].as_u64()), (Some("-r--r--r--"), Some(6)));

    let body = json!({ "identity": "dir", "directory": true, "permission": "0750" });
    let directory = engine.post("/object/fs/", body.clone()).await.expect(201);
    assert_eq!((directory["kind"].as_str(), directory["permission"].as_str()), (Some("directory"), Some("drwxr-x---")));
    engine.post("/object/fs/", body).await.refusal(409);
    engine.post("/object/fs/", json!({ "identity": "dir", "directory": true, "force": true })).await.expect(201);
    let inside = json!({ "identity": "in.txt", "directory": "dir/sub", "content": "" });
    assert_eq!(engine.post("/object/fs/", inside).await.expect(201)["identity"], "dir/sub/in.txt");
    // A file stays a file and a directory a directory, whatever force says.
    let body = json!({ "identity": "dir/sub/in.txt", "directory": true, "force": true });
    engine.post("/object/fs/", body).await.refusal(409);
    engine.post("/object/fs/", json!({ "identity": "dir", "content": "x", "force": true })).await.refusal(409);
    engine.post("/object/fs/", json!({ "identity": "dir/sub/in.txt/below" })).await.refusal(409);
    for (body, what) in [
        (json!({}), "nothing"),
        (json!({ "identity": "x", "permission": "4755" }), "setuid"),
        (json!({ "identity": "x", "permission": "rw" }), "a word"),
        (json!({ "identity": "x", "name": "y" }), "two names"),
        (json!({ "identity": "x", "content": 5 }), "a number"),
        (json!({ "identity": "x", "contents": "" }), "an unknown field"),
        (json!({ "identity": "x", "directory": true, "content": "y" }), "a directory with content"),
        (json!({ "identity": ".dxflow-x" }), "the engine's own"),
        (json!({ "identity": "a\u{0}b" }), "a NUL"),
        (json!({ "identity": "n".repeat(256) }), "a long name"),
    ] {
        let answer = engine.post("/object/fs/", body).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        answer.refusal(400);
    }
    assert!(engine.post("/object/fs/", json!({ "identity": "." })).await.status.is_client_error());

    let streamed = engine.master().post("/object/fs/").stream().json(&json!({ "identity": "s" })).send().await;
    assert_eq!(streamed.entities()[0]["identity"], "s");
}

#[tokio::test]
async fn directories_are_listed_in_order_in_pages_and_by_pattern() {
    let engine = Engine::start().await;
    for file in ["b/x.rs", "b/y.txt", "b/c/z.rs", "a.rs", "a-b", ".hid/x.rs", "é.rs", "sp ace"] {
        engine.post("/object/fs/", json!({ "identity": file })).await.expect(201);
    }
    let list = async |query: &str| engine.get(&format!("/object/fs/?{query}")).await;
    let all = list("").await;
    assert_eq!(names(&all.expect(200)), ["a-b", "a.rs", "b", "sp ace", "é.rs"]);
    assert_eq!(all.header("x-total-count"), "5");
    for (query, expected) in [
        ("all=true", &[".hid", "a-b", "a.rs", "b", "sp ace", "é.rs"][..]),
        ("directory=.", &["a-b", "a.rs", "b", "sp ace", "é.rs"]),
        ("directory=b", &["b/c", "b/x.rs", "b/y.txt"]),
        ("directory=./b/", &["b/c", "b/x.rs", "b/y.txt"]),
        ("depth=1", &["a-b", "a.rs", "b", "b/c", "b/x.rs", "b/y.txt", "sp ace", "é.rs"]),
        ("depth=2&pattern=*.rs", &["a.rs", "b/c/z.rs", "b/x.rs", "é.rs"]),
        ("depth=2&pattern=b/*.rs", &["b/x.rs"]),
        ("depth=2&pattern=**/*.rs", &["a.rs", "b/c/z.rs", "b/x.rs", "é.rs"]),
        ("offset=1&limit=2", &["a.rs", "b"]),
        ("offset=1&limit=-1", &["a.rs", "b", "sp ace", "é.rs"]),
        ("limit=0", &[]),
        ("offset=99", &[]),
    ] {
        let answer = list(query).await;
        assert_eq!(names(&answer.expect(200)), expected, "{query}");
        let both = engine.get(&format!("/artifact/fs/?{query}")).await;
        assert_eq!(both.body, answer.body, "{query}");
        let streamed = engine.master().get(&format!("/object/fs/?{query}")).stream().send().await;
        assert_eq!(Value::Array(streamed.entities()), answer.expect(200), "{query}");
    }
    assert_eq!(list("offset=1&limit=2").await.header("x-total-count"), "5");
    list("directory=none").await.refusal(404);
    list("directory=a.rs").await.refusal(409);
    for query in ["limit=-2", "limit=x", "depth=-1", "depth=1001", "offset=-1", "pattern=[", "directory=../", "some=x"]
    {
        list(query).await.refusal(400);
    }
    // What would cost a backtracking matcher an age costs a linear one nothing.
    engine.post("/object/fs/", json!({ "identity": "a".repeat(200) })).await.expect(201);
    let start = std::time::Instant::now();
    list(&format!("pattern={}b", "*a".repeat(100))).await.expect(200);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_large_directory_comes_whole_in_the_stream_form() {
    let engine = Engine::start().await;
    let directory = engine.volume().join("many");
    std::fs::create_dir(&directory).expect("made");
    for n in 0..12_000 {
        std::fs::write(directory.join(format!("{n:05}")), "").expect("written");
    }
    let plain = engine.get("/object/fs/?directory=many").await;
    assert_eq!(plain.header("x-total-count"), "12000");
    let plain = plain.expect(200);
    assert_eq!(names(&plain), (0..12_000).map(|n| format!("many/{n:05}")).collect::<Vec<_>>());
    let streamed = engine.master().get("/object/fs/?directory=many").stream().send().await;
    let mut found = streamed.entities();
    assert!(streamed.chunks()[0].get("total").is_none_or(Value::is_null), "{}", streamed.chunks()[0]);
    found.sort_by_key(|object| object["identity"].as_str().expect("text").to_owned());
    assert_eq!(Value::Array(found), plain);
}

#[tokio::test]
async fn what_is_deeper_than_a_thread_s_stack_harms_nobody() {
    let engine = Engine::start().await;
    // 1000 levels: as many as an identity and a listing may have.
    let mut body = String::from("d");
    for _ in 1..1000 {
        body.push_str("/d");
    }
    engine.post("/object/fs/", json!({ "identity": body, "directory": true })).await.expect(201);
    let listed = engine.get("/object/fs/?depth=1000").await;
    assert_eq!(listed.expect(200).as_array().expect("an array").len(), 1000);
    assert_eq!(engine.get("/object/fs/download/?identity=d").await.status, 200);
    let zipped = engine.put("/object/fs/zip/", json!({ "identity": "d" })).await.expect(200);
    assert_eq!(zipped["entries"], 1000);
    let body = json!({ "identity": "d.zip", "destination": "e" });
    assert_eq!(engine.put("/object/fs/unzip/", body).await.expect(200)["entries"], 1000);
    for identity in ["d", "e"] {
        engine.delete("/object/fs/", json!({ "identity": identity })).await.expect(200);
    }
}

#[tokio::test]
async fn objects_are_removed_alone_and_in_batches() {
    let engine = Engine::start().await;
    for file in ["d/e/f", "d/g", "one", "two"] {
        engine.post("/object/fs/", json!({ "identity": file })).await.expect(201);
    }
    engine.delete("/object/fs/", json!({ "identity": "none" })).await.refusal(404);
    for volume in [".", "", "./", "/", ".."] {
        let answer = engine.delete("/object/fs/", json!({ "identity": volume })).await;
        assert!(answer.status.is_client_error(), "{volume}: {}", answer.text());
    }
    assert_eq!(engine.delete("/artifact/fs/", json!({ "identity": "d" })).await.expect(200)["identity"], "d");
    let body = json!({ "identities": ["one", "none", "../x", ".", "two"] });
    let batch = engine.delete("/object/fs/batch/", body).await.expect(200);
    let results: Vec<(&str, bool, bool)> = batch
        .as_array()
        .expect("an array")
        .iter()
        .map(|one| {
            (one["identity"].as_str().expect("text"), one["deleted"].as_bool().expect("said"), one["error"].is_string())
        })
        .collect();
    let expected =
        [("one", true, false), ("none", false, true), ("../x", false, true), (".", false, true), ("two", true, false)];
    assert_eq!(results, expected);
    assert!(tree(&engine.volume()).is_empty());
}

#[tokio::test]
async fn uploads_are_whole_or_not_there() {
    let engine = Engine::start().await;
    let content = bytes(1, 3_000_000);
    let upload = |query: &str| engine.master().put(&format!("/object/fs/upload/?{query}")).body(content.clone());
    let made = upload("identity=a/u").send().await;
    let object = made.expect(201);
    assert_eq!(object["sha256"], sha256(&content));
    assert_eq!((object["identity"].as_str(), object["size"].as_u64()), (Some("a/u"), Some(3_000_000)));
    assert_eq!(made.header("x-content-sha256"), sha256(&content));
    assert_eq!(std::fs::read(engine.volume().join("a/u")).expect("there"), content);
    upload("identity=a/u").send().await.refusal(409);
    upload("identity=a/u&force=true").send().await.expect(200);
    upload("identity=a&force=true").send().await.refusal(409);
    upload("identity=.&force=true").send().await.refusal(409);
    upload("").send().await.refusal(400);
    let before = tree(&engine.volume());
    for (name, value, status) in [
        ("x-content-sha256", sha256(b"other"), 422),
        ("digest", "SHA-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=".to_owned(), 422),
        ("content-digest", "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:".to_owned(), 422),
        ("x-content-sha256", "abc".to_owned(), 400),
        ("digest", "sha-256=abc".to_owned(), 400),
        ("content-range", "bytes 0-2999999/3000000".to_owned(), 400),
    ] {
        upload("identity=b/new").header(name, &value).send().await.refusal(status);
        upload("identity=a/u&force=true").header(name, &value).send().await.refusal(status);
    }
    // A directory that was made for what then failed is no object of it.
    std::fs::remove_dir(engine.volume().join("b")).ok();
    assert_eq!(tree(&engine.volume()), before);
    upload("identity=b/new").header("x-content-sha256", &sha256(&content).to_uppercase()).send().await.expect(201);
    let empty = engine.master().put("/artifact/fs/upload/?identity=empty").send().await.expect(201);
    assert_eq!((empty["size"].as_u64(), empty["sha256"].as_str()), (Some(0), Some(sha256(b"").as_str())));
}

#[tokio::test]
async fn an_upload_over_the_limit_is_refused_and_leaves_nothing() {
    let engine = Engine::options().config("[object]\nmax_upload = \"1000\"").start().await;
    let upload = |length: usize| engine.master().put("/object/fs/upload/?identity=u").body(vec![7; length]);
    upload(1001).send().await.refusal(413);
    assert!(tree(&engine.volume()).is_empty());
    upload(1000).send().await.expect(201);
    let part = engine.master().put("/object/fs/upload/?identity=v&upload=x").body(vec![7; 10]);
    part.header("content-range", "bytes 0-9/1001").send().await.refusal(413);
}

#[tokio::test]
async fn downloads_come_whole_in_parts_and_on_condition() {
    let engine = Engine::start().await;
    let content = bytes(2, 2_000_000);
    put(&engine, "d/f%20%C3%A9.bin", content.clone()).await.expect(201);
    let get = || engine.master().get("/object/fs/download/?identity=d/f%20%C3%A9.bin");
    let whole = get().send().await;
    assert_eq!(whole.status, 200);
    assert!(whole.body == content, "the same bytes");
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert_eq!(whole.header("content-length"), "2000000");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    assert_eq!(
        whole.header("content-disposition"),
        "attachment; filename*=UTF-8''f%20%C3%A9.bin; filename=\"f _.bin\""
    );
    let (etag, modified) = (whole.header("etag").to_owned(), whole.header("last-modified").to_owned());
    assert!(etag.starts_with('"') && modified.ends_with(" GMT"), "{etag} {modified}");

    let head = engine.master().head("/artifact/fs/download/?identity=d/f%20%C3%A9.bin").send().await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    for name in ["content-length", "etag", "content-disposition", "last-modified", "accept-ranges"] {
        assert_eq!(head.header(name), whole.header(name), "{name}");
    }
    for (range, first, last) in [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=1999990-", 1_999_990, 1_999_999),
        ("bytes=-5", 1_999_995, 1_999_999),
        ("bytes=-9999999", 0, 1_999_999),
        ("bytes=700000-9999999", 700_000, 1_999_999),
    ] {
        let part = get().header("range", range).send().await;
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(part.header("content-range"), format!("bytes {first}-{last}/2000000"));
        assert_eq!(part.header("content-length"), (last - first + 1).to_string());
        assert!(part.body == content[first..=last], "{range}");
    }
    for range in ["bytes=2000000-", "bytes=-0"] {
        let answer = get().header("range", range).send().await;
        answer.refusal(416);
        assert_eq!(answer.header("content-range"), "bytes */2000000");
    }
    for range in ["bytes=5-4", "items=0-1", "bytes=x"] {
        assert_eq!(get().header("range", range).send().await.body.len(), content.len(), "{range}");
    }
    let several = get().header("range", "bytes=0-3, 100-103,-2").send().await;
    assert_eq!(several.status, 206);
    let kind = several.header("content-type").to_owned();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").expect("the boundary");
    assert_eq!(several.header("content-length"), several.body.len().to_string());
    let mut expected = Vec::new();
    for (first, last) in [(0, 3), (100, 103), (1_999_998, 1_999_999)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {first}-{last}/2000000\r\n\r\n"
        );
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(&content[first..=last]);
    }
    expected.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(several.body == expected, "{}", several.text());

    for (name, value, status) in [
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", "*", 304),
        ("if-none-match", "\"other\"", 200),
        ("if-modified-since", modified.as_str(), 304),
        ("if-match", "\"other\"", 412),
        ("if-match", etag.as_str(), 200),
    ] {
        let answer = get().header(name, value).send().await;
        assert_eq!(answer.status, status, "{name}: {value}");
        if status == 304 {
            assert_eq!((answer.header("etag"), answer.body.len()), (etag.as_str(), 0));
        }
    }
    let fresh = get().header("range", "bytes=0-3").header("if-range", &etag).send().await;
    assert_eq!(fresh.status, 206);
    let stale = get().header("range", "bytes=0-3").header("if-range", "\"other\"").send().await;
    assert_eq!((stale.status.as_u16(), stale.body.len()), (200, content.len()));
    // Another version has another tag.
    put(&engine, "d/f%20%C3%A9.bin", "new").await.expect(200);
    assert_ne!(get().send().await.header("etag"), etag);

    for (identity, status) in [("none", 404), ("d/none", 404), ("../x", 400), ("/etc/passwd", 400), ("", 200)] {
        let answer = engine.get(&format!("/object/fs/download/?identity={identity}")).await;
        assert_eq!(answer.status, status, "{identity}");
    }
    let empty = put(&engine, "empty", "").await;
    empty.expect(201);
    let answer = engine.get("/object/fs/download/?identity=empty").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-length")), (200, "0"));
    let ranged = engine.master().get("/object/fs/download/?identity=empty").header("range", "bytes=0-").send().await;
    ranged.refusal(416);
}

#[tokio::test]
async fn a_directory_downloads_as_an_archive() {
    let engine = Engine::start().await;
    put(&engine, "top/sub/a", "aaa").await.expect(201);
    std::os::unix::fs::symlink("/etc/passwd", engine.volume().join("top/link")).expect("linked");
    engine.post("/object/fs/", json!({ "identity": "top/empty", "directory": true })).await.expect(201);
    let answer = engine.get("/object/fs/download/?identity=top").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/zip"));
    assert!(answer.header("content-disposition").ends_with("filename=\"top.zip\""));
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(answer.body.to_vec())).expect("an archive");
    let mut found: Vec<String> = archive.file_names().map(|name| name.expect("a name").to_string()).collect();
    found.sort();
    assert_eq!(found, ["top/", "top/empty/", "top/sub/", "top/sub/a"]);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut archive.by_name("top/sub/a").expect("there"), &mut text).expect("read");
    assert_eq!(text, "aaa");
    let head = engine.master().head("/object/fs/download/?identity=top").send().await;
    assert_eq!((head.status.as_u16(), head.header("content-type"), head.body.len()), (200, "application/zip", 0));
}

#[tokio::test]
async fn objects_are_renamed_in_one_step() {
    let engine = Engine::start().await;
    for (identity, content) in [("a/x", "x"), ("b", "b"), ("d/e", "e")] {
        put(&engine, identity, content).await.expect(201);
    }
    let rename = async |from: &str, to: &str, force: bool| {
        let body = json!({ "identity": from, "new_identity": to, "force": force });
        engine.put("/object/fs/rename/", body).await
    };
    let renamed = rename("./a/x", "new/place/y", false).await.expect(200);
    assert_eq!(renamed, json!({ "identity": "a/x", "new_identity": "new/place/y" }));
    rename("new/place/y", "b", false).await.refusal(409);
    rename("new/place/y", "b", true).await.expect(200);
    assert_eq!(std::fs::read(engine.volume().join("b")).expect("there"), b"x");
    rename("none", "c", false).await.refusal(404);
    rename("d", "d/inside", true).await.refusal(409);
    rename("b", "d", true).await.refusal(409);
    rename("d", "b", true).await.refusal(409);
    rename(".", "z", true).await.refusal(409);
    rename("b", ".", true).await.refusal(409);
    rename("b", "../b", true).await.refusal(400);
    rename("d", "moved", false).await.expect(200);
    assert!(engine.volume().join("moved/e").exists());
}

#[tokio::test]
async fn archives_are_made_and_unpacked_with_their_defaults() {
    let engine = Engine::start().await;
    let content = "compressible ".repeat(10_000);
    put(&engine, "p/a.txt", content.clone()).await.expect(201);
    put(&engine, "p/q/b.txt", "b").await.expect(201);
    put(&engine, "c", "c").await.expect(201);
    let zip = async |body: Value| engine.put("/object/fs/zip/", body).await;
    let unzip = async |body: Value| engine.put("/object/fs/unzip/", body).await;
    let made = zip(json!({ "identity": "p" })).await.expect(200);
    assert_eq!((made["destination"].as_str(), made["entries"].as_u64()), (Some("p.zip"), Some(4)));
    let size = std::fs::metadata(engine.volume().join("p.zip")).expect("there").len();
    assert_eq!(made["size"], size);
    zip(json!({ "identity": "p" })).await.refusal(409);
    let stored = zip(json!({ "identity": "p", "force": true, "level": 0 })).await.expect(200);
    assert!(stored["size"].as_u64().expect("a size") > content.len() as u64);
    let best = zip(json!({ "identity": "p", "force": true, "level": 9 })).await.expect(200);
    assert!(best["size"].as_u64().expect("a size") < 2000, "{best}");
    let several = json!({ "identities": ["p/q", "c"], "destination": "x/two.zip" });
    assert_eq!(zip(several).await.expect(200)["destination"], "x/two.zip");
    let several = json!({ "identities": ["p/q", "c"] });
    assert_eq!(zip(several).await.expect(200)["destination"], "archive.zip");
    zip(json!({ "identity": "none" })).await.refusal(404);
    for body in [
        json!({}),
        json!({ "identities": [] }),
        json!({ "identity": "p", "level": 10 }),
        json!({ "identity": "p", "destination": "." }),
    ] {
        zip(body).await.refusal(400);
    }

    let unpacked = unzip(json!({ "identity": "x/two.zip" })).await.expect(200);
    assert_eq!(unpacked["destination"], "x/two");
    assert_eq!(unpacked["entries"], 3);
    assert_eq!(unpacked["size"], 2);
    assert_eq!(std::fs::read(engine.volume().join("x/two/q/b.txt")).expect("there"), b"b");
    // Into a directory that is there: side by side, and over what is there only with force.
    put(&engine, "x/two/kept", "kept").await.expect(201);
    put(&engine, "x/two/c", "older").await.expect(200);
    let before = tree(&engine.volume());
    unzip(json!({ "identity": "x/two.zip" })).await.refusal(409);
    assert_eq!(tree(&engine.volume()), before);
    unzip(json!({ "identity": "x/two.zip", "force": true })).await.expect(200);
    assert_eq!(std::fs::read(engine.volume().join("x/two/c")).expect("there"), b"c");
    assert_eq!(std::fs::read(engine.volume().join("x/two/kept")).expect("there"), b"kept");
    unzip(json!({ "identity": "none.zip" })).await.refusal(404);
    unzip(json!({ "identity": "c" })).await.refusal(422);
    unzip(json!({ "identity": "p.zip", "destination": "c" })).await.refusal(409);

    let streamed = engine.master().put("/object/fs/unzip/").stream();
    let streamed = streamed.json(&json!({ "identity": "p.zip", "destination": "s" })).send().await;
    let entities = streamed.entities();
    let (last, steps) = entities.split_last().expect("the end");
    assert_eq!(last["destination"], "s");
    assert!(!steps.is_empty() && steps.iter().all(|step| step["entry"].is_string()), "{}", streamed.text());
    let streamed = engine.master().put("/artifact/fs/zip/").stream();
    let quiet = streamed.json(&json!({ "identity": "p", "destination": "q.zip", "quiet": true })).send().await;
    assert_eq!(quiet.entities().len(), 1, "{}", quiet.text());
    assert_eq!(quiet.entities()[0]["destination"], "q.zip");
    let refused = engine.master().put("/object/fs/unzip/").stream().json(&json!({ "identity": "c" })).send().await;
    assert_eq!(refused.status, 422, "{}", refused.text());
}

#[tokio::test]
async fn the_volume_itself_is_archived_without_a_top_folder() {
    let engine = Engine::start().await;
    put(&engine, "a", "a").await.expect(201);
    let body = json!({ "identity": ".", "destination": "all.zip" });
    assert_eq!(engine.put("/object/fs/zip/", body).await.expect(200)["entries"], 1);
    let body = json!({ "identity": "all.zip", "destination": "back" });
    engine.put("/object/fs/unzip/", body).await.expect(200);
    assert!(engine.volume().join("back/a").exists());
    let body = json!({ "identity": "all.zip", "destination": ".", "force": true });
    engine.put("/object/fs/unzip/", body).await.expect(200);
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_archive_along() {
    let engine = Engine::options().config("[object]\nworkers = 1").start().await;
    std::fs::write(engine.volume().join("big"), bytes(3, 1 << 20)).expect("written");
    // Sparse: long to read and compress, nothing on the disk.
    std::fs::File::options()
        .write(true)
        .open(engine.volume().join("big"))
        .expect("opened")
        .set_len(60 << 30)
        .expect("set");
    for form in ["application/json", "application/stream+json"] {
        let body = json!({ "identity": "big", "level": 9 }).to_string();
        let request = engine.master().put("/object/fs/zip/").json(&json!({ "identity": "big", "level": 9 }));
        let sent = tokio::time::timeout(Duration::from_millis(300), async {
            let response = request.header("accept", form).open().await;
            // The stream's head comes at once; its body is not read.
            let _kept = response;
            std::future::pending::<()>().await;
        });
        assert!(sent.await.is_err(), "{body}");
        // The one worker is free again: the work has ended.
        put(&engine, "small", "x").await;
        until(form, || async {
            let body = json!({ "identity": "small", "destination": "small.zip", "force": true });
            let answer = engine.put("/object/fs/zip/", body).await;
            (answer.status == 200).then_some(())
        })
        .await;
        until_finished(&engine).await;
        assert!(!engine.volume().join("big.zip").exists());
    }
}

async fn share(engine: &Engine, body: Value) -> String {
    let shared = engine.put("/object/fs/share/", body).await.expect(200);
    shared[0]["signature"].as_str().expect("a signature").to_owned()
}

async fn fetch(engine: &Engine, signature: &str) -> Answer {
    engine.anonymous().get(&format!("/object/fs/presigned/download/?signature={signature}")).send().await
}

async fn send(engine: &Engine, signature: &str, content: &'static str) -> Answer {
    engine.anonymous().put(&format!("/object/fs/presigned/upload/?signature={signature}")).body(content).send().await
}

#[tokio::test]
async fn shares_open_one_object_in_one_direction_for_a_while() {
    let engine = Engine::start().await;
    put(&engine, "s/one", "one").await.expect(201);
    put(&engine, "s/two", "two").await.expect(201);
    let body = json!({ "identities": ["s/one", "s/two"], "lifetime": "1h" });
    let shared = engine.put("/object/fs/share/", body).await.expect(200);
    let now = crate::support::credentials::now();
    for (one, identity) in shared.as_array().expect("an array").iter().zip(["s/one", "s/two"]) {
        assert_eq!(one["identity"], identity);
        assert!((now + 3590..=now + 3610).contains(&one["expires_at"].as_i64().expect("seconds")), "{one}");
        let answer = fetch(&engine, one["signature"].as_str().expect("text")).await;
        assert_eq!((answer.status.as_u16(), answer.text()), (200, identity[2..].to_owned()));
    }
    let plain = shared[0]["signature"].as_str().expect("text").to_owned();
    let target = format!("/artifact/fs/presigned/download/?signature={plain}");
    let head = engine.anonymous().head(&target).send().await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "3"));
    let part = engine.anonymous().get(&target).header("range", "bytes=1-1").send().await;
    assert_eq!((part.status.as_u16(), part.text()), (206, "n".to_owned()));

    let writable = share(&engine, json!({ "identities": ["s/one"], "writable": true })).await;
    let uses = share(&engine, json!({ "identities": ["s/two"], "uses": 2 })).await;
    assert_eq!(fetch(&engine, &uses).await.status, 200);
    let counted = |shares: Value| shares.as_array().expect("an array").iter().find_map(|share| share["uses"].as_i64());
    until("the use to be counted", || async {
        (counted(engine.get("/object/fs/share/").await.expect(200)) == Some(1)).then_some(())
    })
    .await;
    assert_eq!(fetch(&engine, &uses).await.status, 200);
    until("the last use to be counted", || async { (fetch(&engine, &uses).await.status == 403).then_some(()) }).await;

    let revoked = share(&engine, json!({ "identities": ["s/two"] })).await;
    engine.delete("/object/fs/share/", json!({ "signature": revoked })).await.expect(200);
    engine.delete("/object/fs/share/", json!({ "signature": revoked })).await.refusal(404);
    let expired = share(&engine, json!({ "identities": ["s/two"], "lifetime": "1s" })).await;
    until("a share to end", || async { (fetch(&engine, &expired).await.status == 403).then_some(()) }).await;
    // Every refusal is the same, whatever is wrong.
    let reference = fetch(&engine, "forged").await;
    let detail = reference.refusal(403);
    for (what, answer) in [
        ("used up", fetch(&engine, &uses).await),
        ("revoked", fetch(&engine, &revoked).await),
        ("expired", fetch(&engine, &expired).await),
        ("none", engine.anonymous().get("/object/fs/presigned/download/").send().await),
        ("empty", fetch(&engine, "").await),
        ("long", fetch(&engine, &"x".repeat(2000)).await),
        ("wrong direction", fetch(&engine, &writable).await),
        ("wrong direction", send(&engine, &plain, "x").await),
        ("forged", send(&engine, "forged", "x").await),
        ("another case", fetch(&engine, &plain.to_lowercase()).await),
        ("padded", fetch(&engine, &format!("{plain}=")).await),
    ] {
        assert_eq!(answer.refusal(403), detail, "{what}");
        let (mut one, mut other) = (answer.expect(403), reference.expect(403));
        one["instance"] = Value::Null;
        other["instance"] = Value::Null;
        assert_eq!(one, other, "{what}");
    }
    let written = send(&engine, &writable, "rewritten").await.expect(200);
    assert_eq!((written["identity"].as_str(), written["size"].as_u64()), (Some("s/one"), Some(9)));
    assert_eq!(std::fs::read(engine.volume().join("s/one")).expect("there"), b"rewritten");
    // It is of what is there now; the plain one was of what was there before.
    send(&engine, &writable, "again").await.expect(200);
    fetch(&engine, &plain).await.refusal(403);

    for body in [
        json!({ "identities": [] }),
        json!({ "identities": ["s/one"], "lifetime": "0s" }),
        json!({ "identities": ["s/one"], "lifetime": "500ms" }),
        json!({ "identities": ["s/one"], "lifetime": "721h" }),
        json!({ "identities": ["s/one"], "uses": 0 }),
        json!({ "identities": ["s/one"], "uses": -1 }),
        json!({ "identities": ["../x"] }),
    ] {
        engine.put("/object/fs/share/", body).await.refusal(400);
    }
    engine.put("/object/fs/share/", json!({ "identities": ["s/one", "none"] })).await.refusal(404);
    engine.put("/object/fs/share/", json!({ "identities": ["s"], "writable": true })).await.refusal(409);
    engine.put("/object/fs/share/", json!({ "identities": ["s/one"], "lifetime": "720h" })).await.expect(200);
}

#[tokio::test]
async fn shares_belong_to_their_key_and_die_with_it_and_survive_a_restart() {
    let mut engine = Engine::start().await;
    put(&engine, "f", "f").await.expect(201);
    let (mine, other) = (engine.token_with("mine", &["OBJECT"]).await, engine.token_with("other", &["OBJECT"]).await);
    let (mine, other) = (engine.client(&mine), engine.client(&other));
    let body = json!({ "identities": ["f"], "lifetime": "1h" });
    let shared = mine.put("/object/fs/share/").json(&body).send().await.expect(200);
    let signature = shared[0]["signature"].as_str().expect("text").to_owned();
    let list = mine.get("/object/fs/share/").send().await;
    assert!(!list.text().contains(&signature), "a list tells no signature");
    let list = list.expect(200);
    assert_eq!((list[0]["identity"].as_str(), list[0]["key"].as_str()), (Some("f"), Some("mine")));
    let id = list[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(other.get("/object/fs/share/").send().await.expect(200), json!([]));
    for body in [json!({ "id": id }), json!({ "signature": signature })] {
        other.delete("/object/fs/share/").json(&body).send().await.refusal(404);
    }
    assert_eq!(names(&engine.get("/object/fs/share/").await.expect(200)), ["f"]);
    assert_eq!(fetch(&engine, &signature).await.status, 200);
    engine.kill().await;
    engine.boot().await;
    assert_eq!(fetch(&engine, &signature).await.status, 200);
    engine.patch("/auth/key/", json!({ "identity": "mine", "disabled": true })).await.expect(200);
    fetch(&engine, &signature).await.refusal(403);
    // What was revoked does not come back, as tokens do not.
    engine.patch("/auth/key/", json!({ "identity": "mine", "disabled": false })).await.expect(200);
    fetch(&engine, &signature).await.refusal(403);

    let shared_by = async |name: &str| {
        let token = engine.token_with(name, &["OBJECT"]).await;
        let body = json!({ "identities": ["f"], "lifetime": "1h" });
        let shared = engine.client(&token).put("/object/fs/share/").json(&body).send().await.expect(200);
        let signature = shared[0]["signature"].as_str().expect("text").to_owned();
        assert_eq!(fetch(&engine, &signature).await.status, 200);
        signature
    };
    let signature = shared_by("lessened").await;
    engine.patch("/auth/key/", json!({ "identity": "lessened", "permissions": ["SHELL"] })).await.expect(200);
    fetch(&engine, &signature).await.refusal(403);
    engine.patch("/auth/key/", json!({ "identity": "lessened", "permissions": ["OBJECT"] })).await.expect(200);
    fetch(&engine, &signature).await.refusal(403);
    let signature = shared_by("removed").await;
    engine.delete("/auth/key/", json!({ "identity": "removed" })).await.expect(200);
    fetch(&engine, &signature).await.refusal(403);
    // A key of the same name is another key.
    engine.token_with("removed", &["OBJECT"]).await;
    fetch(&engine, &signature).await.refusal(403);
}

#[tokio::test]
async fn a_share_is_of_one_version_of_one_object() {
    let engine = Engine::start().await;
    for file in ["deleted", "replaced", "moved", "linked", "dir/in"] {
        put(&engine, file, "first").await.expect(201);
    }
    let mut signatures = Vec::new();
    for file in ["deleted", "replaced", "moved", "linked", "dir"] {
        signatures.push((file, share(&engine, json!({ "identities": [file] })).await));
        signatures.push((file, share(&engine, json!({ "identities": [file] })).await));
    }
    for (file, signature) in &signatures {
        assert_eq!(fetch(&engine, signature).await.status, 200, "{file}");
    }
    engine.delete("/object/fs/", json!({ "identity": "deleted" })).await.expect(200);
    put(&engine, "deleted", "first").await.expect(201);
    put(&engine, "replaced", "other").await.expect(200);
    engine.put("/object/fs/rename/", json!({ "identity": "moved", "new_identity": "away" })).await.expect(200);
    std::fs::remove_file(engine.volume().join("linked")).expect("removed");
    std::os::unix::fs::symlink("away", engine.volume().join("linked")).expect("linked");
    engine.delete("/object/fs/", json!({ "identity": "dir" })).await.expect(200);
    put(&engine, "dir/in", "first").await.expect(201);
    for (file, signature) in &signatures[..8] {
        fetch(&engine, signature).await.refusal(403);
        send(&engine, signature, "x").await.refusal(403);
        assert!(engine.volume().join(file).exists() || *file == "moved");
    }
}

#[tokio::test]
async fn a_share_of_a_directory_made_again_opens_nothing() {
    let engine = Engine::start().await;
    for round in 0..20 {
        put(&engine, "dir/in", "first").await.expect(201);
        let signature = share(&engine, json!({ "identities": ["dir"] })).await;
        assert_eq!(fetch(&engine, &signature).await.status, 200);
        engine.delete("/object/fs/", json!({ "identity": "dir" })).await.expect(200);
        put(&engine, "dir/secret", "second").await.expect(201);
        assert_eq!(fetch(&engine, &signature).await.status, 403, "round {round}");
        engine.delete("/object/fs/", json!({ "identity": "dir" })).await.expect(200);
    }
}

#[tokio::test]
async fn busy_workers_refuse_at_once_and_a_panic_costs_its_job_only() {
    let engine = Engine::options().config("[object]\nworkers = 2").start().await;
    std::fs::File::create(engine.volume().join("big")).expect("made").set_len(60 << 30).expect("set");
    put(&engine, "small", "x").await.expect(201);
    let job = |n: usize| {
        let body = json!({ "identity": "big", "destination": format!("big{n}.zip"), "level": 9 });
        let client = engine.master();
        // Refused while the small ones below have the workers: again, until it has one.
        tokio::spawn(async move {
            while client.put("/object/fs/zip/").json(&body).try_send().await.is_ok_and(|answer| answer.status == 503) {}
        })
    };
    let jobs = [job(0), job(1)];
    let small = json!({ "identity": "small", "force": true });
    let refused = until("all workers to be busy", || async {
        let answer = engine.put("/object/fs/zip/", small.clone()).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    refused.refusal(503);
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{:?}", refused.headers);
    let start = std::time::Instant::now();
    engine.put("/object/fs/zip/", small.clone()).await.refusal(503);
    engine.get("/object/fs/").await.expect(200);
    put(&engine, "other", "y").await.expect(201);
    assert_eq!(engine.get("/object/fs/download/?identity=small").await.text(), "x");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    for job in &jobs {
        job.abort();
    }
    until("a worker to be idle", || async {
        (engine.put("/object/fs/zip/", small.clone()).await.status == 200).then_some(())
    })
    .await;
    until_finished(&engine).await;
}

#[cfg(feature = "fault-injection")]
#[tokio::test]
async fn a_worker_that_panics_costs_its_job_and_nothing_else() {
    let engine = Engine::options().config("[object]\nworkers = 1").start().await;
    put(&engine, "small", "x").await.expect(201);
    let small = json!({ "identity": "small", "force": true });
    for _ in 0..10 {
        let fault = engine.post("/engine/fault/", json!({ "actor": "files/worker-0" })).await;
        fault.expect(200);
        let failed = engine.put("/object/fs/zip/", small.clone()).await;
        failed.refusal(500);
        assert!(!failed.text().contains("small"), "{}", failed.text());
        until("the worker to be there again", || async {
            (engine.put("/object/fs/zip/", small.clone()).await.status == 200).then_some(())
        })
        .await;
    }
    crate::support::until_true("nothing to be left", || tree(&engine.volume()).len() == 2).await;
}

#[tokio::test]
async fn names_that_are_not_text_can_be_listed_read_and_removed() {
    use std::os::unix::ffi::OsStrExt;
    let engine = Engine::start().await;
    let name = std::ffi::OsStr::from_bytes(b"a\xff\n\xc3");
    std::fs::write(engine.volume().join(name), "bytes").expect("written");
    std::fs::set_permissions(engine.volume().join(name), std::fs::Permissions::from_mode(0o640)).expect("set");
    let listed = engine.get("/object/fs/").await.expect(200);
    let identity = listed[0]["identity"].as_str().expect("text").to_owned();
    assert_eq!(listed[0]["permission"], "-rw-r-----");
    let encoded: String = identity.bytes().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(engine.get(&format!("/object/fs/download/?identity={encoded}")).await.text(), "bytes");
    let body = json!({ "identity": identity, "destination": "z.zip" });
    engine.put("/object/fs/zip/", body).await.expect(200);
    engine.put("/object/fs/unzip/", json!({ "identity": "z.zip" })).await.expect(200);
    assert!(engine.volume().join("z").join(name).exists());
    engine.delete("/object/fs/", json!({ "identity": identity })).await.expect(200);
    assert!(!engine.volume().join(name).exists());
}
