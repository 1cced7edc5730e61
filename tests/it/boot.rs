//! The engine as a process: one per data directory, ready when it says so, gone when it is told, and private.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use serde_json::json;

use crate::support::{Engine, process, until, until_true, within};

#[tokio::test]
async fn a_second_engine_on_one_data_directory_is_refused() {
    let engine = Engine::start().await;
    let second = engine.cli(&["boot", "up", "--listen", "127.0.0.1:0"]).await;
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains(&engine.pid().to_string()) && said.contains("boot down"), "{said}");
    engine.get("/engine/healthcheck/").await.expect(200);
}

#[tokio::test]
async fn what_is_in_the_data_directory_is_its_owners_alone() {
    let engine = Engine::start().await;
    engine.post("/shell/", json!({ "identity": "a" })).await.expect(201);
    fn check(path: &Path) -> usize {
        let metadata = path.symlink_metadata().expect("its metadata");
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
        let children = if metadata.is_dir() { Some(path.read_dir().expect("a directory")) } else { None };
        1 + children.into_iter().flatten().map(|entry| check(&entry.expect("an entry").path())).sum::<usize>()
    }
    // The database, the key pairs, both sockets, the pid file, the volume.
    assert!(check(&engine.data_dir()) >= 8);
    for key in ["keys/admin", "keys/admin.pub"] {
        assert!(engine.data_dir().join(key).exists(), "{key}");
    }
}

#[tokio::test]
async fn sigterm_stops_it_in_order_and_says_what_goes_on() {
    let mut engine = Engine::start().await;
    engine.post("/shell/", json!({ "identity": "goes-on" })).await.expect(201);
    assert_eq!(engine.stop().await.code(), Some(0));
    assert!(engine.log().contains("1 shell(s) go on"), "{}", engine.log());
    assert!(!engine.data_dir().join("engine.sock").exists());
    engine.boot().await;
    let shells = engine.get("/shell/").await.expect(200);
    assert_eq!((shells[0]["identity"].as_str(), shells[0]["state"].as_str()), (Some("goes-on"), Some("executed")));
}

#[tokio::test]
async fn boot_down_stops_it_and_its_shells_when_asked() {
    let mut engine = Engine::start().await;
    let made = engine.post("/shell/", json!({ "identity": "ends" })).await.expect(201);
    let shell = i32::try_from(made["pid"].as_i64().expect("a pid")).expect("a pid");
    let pid = engine.pid();
    let down = engine.cli(&["boot", "down", "--kill-shells"]).await;
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    until_true("the end of the engine and its shell", || !process::lives(pid) && !process::lives(shell)).await;
    until_true("the end of the keeper", || engine.keeper_processes().is_empty()).await;
    let again = engine.cli(&["boot", "down"]).await;
    assert_eq!(again.status.code(), Some(3), "nobody is there to stop");
    engine.boot().await;
    assert_eq!(engine.get("/shell/").await.expect(200), json!([]));
}

#[tokio::test]
async fn an_invalid_configuration_is_refused_with_its_line() {
    let engine = Engine::start().await;
    let file = engine.scratch().join("bad.toml");
    std::fs::write(&file, "[server]\nlisten = \"127.0.0.1:0\"\npublic_rate = \"often\"\n").expect("written");
    let mut command = engine.command(&[]);
    command.args(["boot", "up", "--config"]).arg(&file).arg("--data-dir").arg(engine.scratch().join("other"));
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("no panic");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("public_rate") && said.contains("line 3"), "{said}");
}

#[tokio::test]
async fn a_daemon_is_ready_when_the_command_returns() {
    let engine = Engine::start().await;
    let other = engine.scratch().join("daemon");
    let mut command = engine.command(&[]);
    command.args(["boot", "up", "--daemon", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&other);
    let output = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
    let output = within("the daemon", output).await.expect("no panic");
    let said = String::from_utf8_lossy(&output.stdout);
    let address = said.trim().strip_prefix("ready http://").unwrap_or_else(|| panic!("{said}"));
    let client = crate::support::Client::new(address.parse().expect("an address"), None);
    client.get("/engine/healthcheck/").send().await.expect(200);
    let pid = std::fs::read_to_string(other.join("engine.pid")).expect("the pid file");
    let pid: i32 = pid.trim().parse().expect("a pid");
    let mut down = engine.command(&[]);
    down.args(["boot", "down", "--data-dir"]).arg(&other);
    let down = tokio::task::spawn_blocking(move || down.output().expect("it runs")).await.expect("no panic");
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
    until_true("the end of the daemon", || !process::lives(pid)).await;
    for pid in process::keeper_tree(&other) {
        process::signal(pid, rustix::process::Signal::KILL);
    }
}

#[tokio::test]
async fn the_service_manager_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(crate::support::PATIENCE)).expect("set");
    let mut engine = Engine::options()
        .environment("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))
        .environment("WATCHDOG_USEC", "200000")
        .start()
        .await;
    let heard = tokio::task::spawn_blocking(move || {
        let mut heard = Vec::new();
        let mut buffer = [0; 256];
        while !heard.ends_with(&["STOPPING=1".to_owned()]) {
            let length = socket.recv(&mut buffer).expect("the engine says something");
            let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if heard.last() != Some(&said) {
                heard.push(said);
            }
        }
        heard
    });
    until("a watchdog interval", || async {
        engine.get("/engine/ping/?count=3&interval=150").await.expect(200).as_array().map(|_| ())
    })
    .await;
    engine.stop().await;
    assert_eq!(heard.await.expect("no panic"), ["READY=1", "WATCHDOG=1", "STOPPING=1"]);
}

#[tokio::test]
async fn the_owner_needs_no_key_on_the_unix_socket() {
    let engine = Engine::start().await;
    let output = engine.cli(&["--json", "key", "list"]).await;
    let keys: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(keys[0]["identity"], "admin", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn replacing_the_process_loses_nothing() {
    let engine = Engine::start().await;
    let made = engine.post("/shell/", json!({ "identity": "kept" })).await.expect(201);
    let (pid, boot) = (engine.pid(), engine.get("/engine/healthcheck/").await.expect(200)["uptime"].as_f64());
    let (mut socket, _) = crate::support::socket::Socket::attach(&engine, "kept", "").await;
    let answer = engine.put("/engine/restart/", json!({ "mode": "process" })).await;
    assert_eq!(answer.expect(200), "Engine restart initiated");
    let closing = socket.control_of("closing").await;
    assert_eq!(closing["retry"], true);
    assert_eq!(socket.closed().await.0, 1001);
    // The listeners were inherited: requests wait in the backlog, none is refused.
    until("the new process", || async {
        let health = engine.anonymous().get("/engine/healthcheck/").send().await.expect(200);
        (health["uptime"].as_f64() < boot).then_some(())
    })
    .await;
    assert!(process::lives(pid), "it is the same process");
    let described = engine.get("/shell/kept/").await.expect(200);
    assert_eq!((&described["pid"], &described["state"]), (&made["pid"], &json!("executed")));
}
