//! The user's own example calls, run from the user's own document with the real `curl`.
//!
//! Each is prepared (what its placeholders name is made), run as it stands there, and its answer is checked. A call in
//! the document that is not in the tables below fails the test, and so does one in the tables that is not in the document.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Engine, until};

const DOCUMENT: &str = include_str!("data/user-examples.md");

/// The calls by their headings.
fn calls() -> BTreeMap<String, String> {
    let mut calls = BTreeMap::new();
    let mut heading = String::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text.into();
        } else if line == "```sh" {
            let call: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            calls.insert(heading.clone(), call.join("\n"));
        }
    }
    calls
}

/// What came of one call.
struct Ran {
    status: u16,
    body: String,
}

impl Ran {
    #[track_caller]
    fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Runs calls of the document against one engine under one base.
struct Runner<'a> {
    engine: &'a Engine,
    base: String,
    calls: BTreeMap<String, String>,
    ran: Vec<String>,
}

impl<'a> Runner<'a> {
    fn new(engine: &'a Engine, base: &str) -> Self {
        Self { engine, base: format!("http://{}{base}", engine.address), calls: calls(), ran: Vec::new() }
    }

    /// Runs the call under `heading`, with `real` put in the place of placeholders, as MASTER or as nobody.
    async fn run(&mut self, heading: &str, real: &[(&str, &str)], signed_in: bool) -> Ran {
        let call = self.calls.get(heading).unwrap_or_else(|| panic!("`{heading}` is not in the document"));
        self.ran.push(heading.into());
        let mut call = call.clone();
        for (placeholder, real) in real {
            assert!(call.contains(placeholder), "`{placeholder}` is not in `{call}`");
            call = call.replace(placeholder, real);
        }
        let mut options = "curl -s -S --max-time 50 -w '\\n%{http_code}'".to_owned();
        if signed_in {
            options.push_str(" -H \"Authorization: Bearer $TOKEN\"");
        }
        let call = call.replacen("curl", &options, 1);
        let mut command = Command::new("bash");
        command.args(["-c", &call]).current_dir(self.engine.scratch());
        command.env("BASE", &self.base).env("TOKEN", &self.engine.token);
        let output = tokio::task::spawn_blocking(move || command.output().expect("bash runs")).await.expect("no panic");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
        let status = status.parse().unwrap_or_else(|_| panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)));
        Ran { status, body: body.into() }
    }
}

/// Headings that another test runs.
const AUTH_AND_ENGINE: [&str; 9] = [
    "Request a Challenge",
    "Verify the Challenge",
    "Inspect the Authentication Token",
    "List Keys",
    "Register a Key",
    "Unregister a Key",
    "Healthcheck",
    "Ping",
    "Restart Engine",
];
const OBJECTS: [&str; 12] = [
    "List Filesystem Objects",
    "Create Filesystem Object",
    "Delete Filesystem Object",
    "Upload Filesystem Object",
    "Upload Pre-signed Filesystem Object",
    "Download Filesystem Object",
    "Download Pre-signed Filesystem Object",
    "Rename Filesystem Object",
    "Zip Filesystem Object",
    "Unzip Filesystem Object",
    "Share Filesystem Object",
    "Batch Delete Filesystem Objects",
];
const SHELLS: [&str; 8] = [
    "List Shells",
    "Create Shell",
    "Remove Shell",
    "Connect to Shell",
    "Resize Shell",
    "Execute Shell Command",
    "Kill Shell",
    "Batch Remove Shells",
];
const WORKFLOWS: [&str; 5] = [
    "Stop Compose Workflow",
    "Pause Compose Workflow",
    "Unpause Compose Workflow",
    "Execute Compose Workflow",
    "Kill Compose Workflow",
];

#[test]
fn every_example_of_the_document_is_run() {
    let mut listed: Vec<&str> = [&AUTH_AND_ENGINE[..], &OBJECTS, &SHELLS, &WORKFLOWS].concat();
    listed.sort_unstable();
    let calls = calls();
    let documented: Vec<&str> = calls.keys().map(String::as_str).collect();
    assert_eq!(documented, listed);
}

#[tokio::test]
async fn auth_and_engine_examples_answer_as_described() {
    let engine = Engine::start().await;
    for base in ["/api", "/api/v1"] {
        let mut runner = Runner::new(&engine, base);
        let challenge = runner.run("Request a Challenge", &[], false).await.json(200);
        assert_eq!(challenge["nounce"], challenge["nonce"]);
        assert_eq!(challenge["lifetime"], "1m0s");
        let response = format!("{}.{}", challenge["identity"].as_str().expect("text"), sign(&engine, &challenge));
        let verified = runner.run("Verify the Challenge", &[("your_response_data", &response)], false).await.json(200);
        let token = verified["token"].as_str().expect("a token");
        assert!(verified["expires_at"].is_i64());
        let inspected =
            runner.run("Inspect the Authentication Token", &[("<your_token>", token)], false).await.json(202);
        assert_eq!(inspected["permissions"], json!(["MASTER"]));
        assert_eq!(inspected["expires_at"], verified["expires_at"]);

        let identity = format!("examples{}", base.len());
        let register = [("your_identity", identity.as_str()), ("PERMISSION1", "SHELL"), ("PERMISSION2", "OBJECT")];
        let made = runner.run("Register a Key", &register, true).await.json(201);
        assert_eq!(made["permissions"], json!(["SHELL", "OBJECT"]));
        let keys = runner.run("List Keys", &[], true).await.json(200);
        let listed = keys.as_array().expect("an array").iter().any(|key| key["identity"] == identity.as_str());
        assert!(listed, "{keys}");
        let removed = runner.run("Unregister a Key", &[("your_identity", &identity)], true).await.json(200);
        assert_eq!(removed["identity"], identity.as_str());

        let health = runner.run("Healthcheck", &[], false).await.json(200);
        assert!(["healthy", "degraded"].contains(&health["status"].as_str().expect("text")), "{health}");
        let pings = runner.run("Ping", &[("count=5", "count=5&interval=1")], true).await.json(200);
        let pings: Vec<i64> = serde_json::from_value(pings).expect("integers");
        assert!(pings.len() == 5 && pings.is_sorted(), "{pings:?}");

        let before = generation(&engine).await;
        let restarted = runner.run("Restart Engine", &[], true).await.json(200);
        assert_eq!(restarted, "Engine restart initiated");
        until("the next generation", || async { (generation(&engine).await > before).then_some(()) }).await;
        assert_eq!(runner.ran.len(), AUTH_AND_ENGINE.len());
    }
}

async fn generation(engine: &Engine) -> i64 {
    engine.get("/engine/healthcheck/").await.expect(200)["generation"].as_i64().expect("a number")
}

/// Signs a challenge with the MASTER key.
fn sign(engine: &Engine, challenge: &Value) -> String {
    use base64::Engine as _;
    use ed25519_dalek::Signer;
    let text = std::fs::read_to_string(engine.data_dir().join("keys/admin")).expect("the key");
    let key = ssh_key::PrivateKey::from_openssh(text).expect("an OpenSSH key");
    let pair = key.key_data().ed25519().expect("Ed25519");
    let key = ed25519_dalek::SigningKey::from_bytes(&pair.private.to_bytes());
    let signature = key.sign(challenge["nonce"].as_str().expect("a nonce").as_bytes());
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(signature.to_bytes())
}

#[tokio::test]
async fn shell_examples_answer_as_described() {
    let engine = Engine::start().await;
    for base in ["/api", "/api/v1"] {
        let mut runner = Runner::new(&engine, base);
        let made = runner.run("Create Shell", &[], true).await.json(201);
        assert_eq!(made["path"], "/bin/bash");
        assert_eq!(made["args"], json!(["-l"]));
        assert_eq!(made["state"], "executed");
        let shell = made["identity"].as_str().expect("text");
        let listed = runner.run("List Shells", &[], true).await.json(200);
        assert_eq!(listed[0]["identity"], shell, "newest first");
        let resized = runner.run("Resize Shell", &[("shell_id", shell)], true).await.json(200);
        assert_eq!(resized["identity"], shell);
        let described = engine.get(&format!("/shell/{shell}/")).await.expect(200);
        assert_eq!((described["columns"].as_i64(), described["rows"].as_i64()), (Some(120), Some(30)));
        let executed = runner.run("Execute Shell Command", &[("shell_id", shell)], true).await.json(200);
        assert_eq!(executed["identity"], shell);
        // An upgrade that is not a whole one is refused clearly, once the caller is known.
        let upgrade = runner.run("Connect to Shell", &[("shell_id", shell)], true).await;
        assert_eq!(upgrade.status, 400, "{}", upgrade.body);
        let killed = runner.run("Kill Shell", &[("shell_id", shell)], true).await.json(200);
        assert_eq!(killed["identity"], shell);
        let state = format!("/shell/{shell}/");
        until("the state `killed`", || async {
            (engine.get(&state).await.expect(200)["state"] == "killed").then_some(())
        })
        .await;
        let removed = runner.run("Remove Shell", &[("shell_id", shell)], true).await.json(200);
        assert_eq!(removed, json!({ "identity": shell, "state": "removed" }));
        for identity in ["one", "two"] {
            engine.post("/shell/", json!({ "identity": identity })).await.expect(201);
        }
        let both = [("shell_id1", "one"), ("shell_id2", "two")];
        let batch = runner.run("Batch Remove Shells", &both, true).await.json(200);
        assert_eq!(batch, json!([{ "identity": "one", "removed": true }, { "identity": "two", "removed": true }]));
        assert_eq!(runner.ran.len(), SHELLS.len());
    }
}

#[tokio::test]
async fn object_examples_answer_as_described() {
    let engine = Engine::start().await;
    std::fs::write(engine.scratch().join("file.bin"), [0, 1, 2, 254, 255]).expect("written");
    for base in ["/api", "/api/v1"] {
        let mut runner = Runner::new(&engine, base);
        let uploaded = runner.run("Upload Filesystem Object", &[], true).await;
        assert!([200, 201].contains(&uploaded.status), "{}", uploaded.body);
        assert_eq!(uploaded.json(uploaded.status)["size"], 5);
        let downloaded = runner.run("Download Filesystem Object", &[], true).await;
        assert_eq!(downloaded.status, 200);
        assert_eq!(read(&engine, "downloaded_file.bin"), [0, 1, 2, 254, 255]);
        let created = runner.run("Create Filesystem Object", &[], true).await.json(201);
        assert_eq!(created["permission"], "-r--r--r--");

        std::fs::create_dir_all(engine.volume().join("path/to/dir")).expect("made");
        std::fs::write(engine.volume().join("path/to/dir/.hidden"), "x").expect("written");
        let listed = runner.run("List Filesystem Objects", &[], true).await.json(200);
        assert_eq!(listed[0]["identity"], "path/to/dir/.hidden");

        let shares = [("object_id1", "object_id"), ("object_id2", "new_object")];
        let shared = runner.run("Share Filesystem Object", &shares, true).await.json(200);
        let signature = shared[0]["signature"].as_str().expect("text");
        std::fs::remove_file(engine.scratch().join("downloaded_file.bin")).expect("removed");
        let presigned = [("your_signature", signature)];
        let downloaded = runner.run("Download Pre-signed Filesystem Object", &presigned, false).await;
        assert_eq!(downloaded.status, 200);
        assert_eq!(read(&engine, "downloaded_file.bin"), [0, 1, 2, 254, 255]);
        let writable =
            engine.put("/object/fs/share/", json!({ "identities": ["object_id"], "writable": true })).await.expect(200);
        let signature = writable[0]["signature"].as_str().expect("text");
        let uploaded = runner.run("Upload Pre-signed Filesystem Object", &[("your_signature", signature)], false).await;
        assert!([200, 201].contains(&uploaded.status), "{}", uploaded.body);

        std::fs::write(engine.volume().join("old_name"), "old").expect("written");
        let renamed = runner.run("Rename Filesystem Object", &[], true).await.json(200);
        assert_eq!(renamed, json!({ "identity": "old_name", "new_identity": "new_name" }));
        std::fs::create_dir_all(engine.volume().join("folder_id/inner")).expect("made");
        std::fs::write(engine.volume().join("folder_id/inner/a.txt"), "inside").expect("written");
        let zipped = runner.run("Zip Filesystem Object", &[], true).await.json(200);
        assert_eq!(zipped["destination"], "archive.zip");
        let unzipped = runner.run("Unzip Filesystem Object", &[], true).await.json(200);
        assert_eq!(unzipped["destination"], "extracted_folder");
        let inside = std::fs::read(engine.volume().join("extracted_folder/folder_id/inner/a.txt")).expect("unpacked");
        assert_eq!(inside, b"inside");

        let deleted = runner.run("Delete Filesystem Object", &[], true).await.json(200);
        assert_eq!(deleted["identity"], "object_id");
        let both = [("object_id1", "new_object"), ("object_id2", "new_name")];
        let batch = runner.run("Batch Delete Filesystem Objects", &both, true).await.json(200);
        let expected =
            json!([{ "identity": "new_object", "deleted": true }, { "identity": "new_name", "deleted": true }]);
        assert_eq!(batch, expected);
        for left in ["archive.zip", "extracted_folder", "folder_id", "path"] {
            engine.delete("/object/fs/", json!({ "identity": left })).await.expect(200);
        }
        assert_eq!(runner.ran.len(), OBJECTS.len());
    }
}

fn read(engine: &Engine, name: &str) -> Vec<u8> {
    std::fs::read(engine.scratch().join(name)).expect("the download is there")
}

#[tokio::test]
async fn workflow_examples_answer_as_described() {
    let engine = Engine::start().await;
    let file = format!(
        "services:\n  main:\n    image: {}\n    command: sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.1; done'\n",
        crate::support::docker::IMAGE
    );
    for (base, name) in [("/api", "one"), ("/api/v1", "two")] {
        let name = crate::support::docker::Project::new(&format!("examples-{name}"));
        let create = json!({ "identity": name.name(), "content": file, "start": true });
        engine.post("/workflow/compose/", create).await.expect(201);
        let mut runner = Runner::new(&engine, base);
        let real = [("workflow_id", name.name())];
        let paused = runner.run("Pause Compose Workflow", &real, true).await.json(200);
        assert_eq!((paused["identity"].as_str(), paused["state"].as_str()), (Some(name.name()), Some("paused")));
        let unpaused = runner.run("Unpause Compose Workflow", &real, true).await.json(200);
        assert_eq!(unpaused["state"], "running");
        let command = [("workflow_id", name.name()), ("your_command", "echo hello; exit 3")];
        let executed = runner.run("Execute Compose Workflow", &command, true).await.json(200);
        assert_eq!(executed, json!({ "exit_code": 3, "stdout": "hello\n", "stderr": "" }));
        let stopped = runner.run("Stop Compose Workflow", &real, true).await.json(200);
        assert_eq!(stopped["state"], "stopped");
        engine.put("/workflow/compose/start/", json!({ "identity": name.name() })).await.expect(200);
        let killed = runner.run("Kill Compose Workflow", &real, true).await.json(200);
        assert_eq!(killed["state"], "stopped");
        engine.delete("/workflow/compose/", json!({ "identity": name.name() })).await.expect(200);
        assert_eq!(runner.ran.len(), WORKFLOWS.len());
    }
}
