//! Shells over HTTP: made, listed, described, resized, killed, removed; what cannot be is refused with its reason.

use serde_json::{Value, json};

use crate::support::socket::Socket;
use crate::support::{Engine, process, until, until_true};

fn pid_of(shell: &Value) -> i32 {
    i32::try_from(shell["pid"].as_i64().expect("a pid")).expect("a pid fits")
}

#[tokio::test]
async fn a_shell_is_made_listed_described_and_removed() {
    let engine = Engine::start().await;
    let made = engine.post("/shell/", json!({"identity": "one", "config": {"command": "cat", "args": ["-u"]}})).await;
    let made = made.expect(201);
    assert_eq!((&made["path"], &made["args"], &made["state"]), (&json!("cat"), &json!(["-u"]), &json!("executed")));
    assert_eq!((&made["columns"], &made["rows"], &made["sessions"]), (&json!(80), &json!(24), &json!(0)));
    let generated = engine.post("/shell/", json!({"path": "cat"})).await.expect(201);
    let listed = engine.get("/shell/").await;
    assert_eq!(listed.header("x-total-count"), "2");
    let listed = listed.expect(200);
    assert_eq!(
        (&listed[0]["identity"], &listed[1]["identity"]),
        (&generated["identity"], &json!("one")),
        "newest first"
    );
    let page = engine.get("/shell/?offset=1&limit=1").await.expect(200);
    assert_eq!((page.as_array().map(Vec::len), &page[0]["identity"]), (Some(1), &json!("one")));
    assert_eq!(engine.get("/shell/one").await.expect(200)["pid"], made["pid"]);
    let removed = engine.delete("/shell/", json!({"identity": "one"})).await.expect(200);
    assert_eq!(removed, json!({"identity": "one", "state": "removed"}));
    assert!(!process::lives(pid_of(&made)));
    engine.get("/shell/one/").await.expect(404);
    engine.delete("/shell/", json!({"identity": "one"})).await.expect(404);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let engine = Engine::start().await;
    for (body, status) in [
        (json!({"config": {"command": "/no/such/program"}}), 422),
        (json!({"config": {"command": "/etc/passwd"}}), 422),
        (json!({"config": {"command": "sh", "cwd": "/no/such/directory"}}), 422),
        (json!({"config": {"command": ""}}), 400),
        (json!({"config": {"command": "a\u{0}b"}}), 400),
        (json!({"config": {"columns": 0}}), 400),
        (json!({"config": {"columns": 1001}}), 400),
        (json!({"config": {"env": {"A=B": "c"}}}), 400),
        (json!({"config": {"colums": 80}}), 400),
        (json!({"identity": "-rf"}), 400),
        (json!({"identity": "a/b"}), 400),
        (json!({"identity": "execute"}), 400),
        (json!({"identity": "resize"}), 400),
    ] {
        let problem = engine.post("/shell/", body.clone()).await;
        let problem = problem.expect(status);
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{body}: {problem}");
    }
    assert_eq!(engine.get("/shell/").await.expect(200), json!([]));
    engine.post("/shell/", json!({"identity": "twice"})).await.expect(201);
    engine.post("/shell/", json!({"identity": "twice"})).await.expect(409);
}

#[tokio::test]
async fn a_shell_has_the_users_environment_and_none_of_the_engines_secrets() {
    let engine = Engine::options().environment("SECRET_TOKEN", "s3cret").start().await;
    let config = json!({"command": "sh", "args": ["-c", "env; pwd; exec cat"], "env": {"MINE": "yes"}});
    engine.post("/shell/", json!({"identity": "env", "config": config})).await.expect(201);
    let (mut socket, _) = Socket::attach(&engine, "env", "?since=0").await;
    let home = engine.home().display().to_string();
    let said = socket.read_until(format!("\r\n{home}\r\n").as_bytes()).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    for wanted in ["TERM=xterm-256color", "MINE=yes", "HOME=", "PATH=", "SHELL=", "USER="] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert!(!said.contains("s3cret") && !said.contains("DXFLOW"), "{said}");
}

#[tokio::test]
async fn exit_codes_and_signals_are_told() {
    let engine = Engine::start().await;
    let make = async |identity: &str, script: &str| {
        let config = json!({"command": "sh", "args": ["-c", script]});
        engine.post("/shell/", json!({"identity": identity, "config": config})).await.expect(201)
    };
    let ended = async |identity: &str| {
        let path = format!("/shell/{identity}/");
        until("the end of the program", async || {
            let shell = engine.get(&path).await.expect(200);
            (shell["state"] != "executed").then_some(shell)
        })
        .await
    };
    make("code", "exit 7").await;
    let shell = ended("code").await;
    assert_eq!(
        (&shell["state"], &shell["exit_code"], &shell["exit_signal"]),
        (&json!("exited"), &json!(7), &json!(null))
    );
    assert!(shell["ended_at"].as_i64() >= shell["created_at"].as_i64() && shell["pid"].is_null(), "{shell}");
    make("itself", "kill -TERM $$").await;
    let shell = ended("itself").await;
    assert_eq!((&shell["state"], &shell["exit_signal"]), (&json!("exited"), &json!("TERM")));
    make("asked", "sleep 1000; true").await;
    let killed = engine.put("/shell/kill/", json!({"identity": "asked"})).await.expect(200);
    assert_eq!(killed, json!({"identity": "asked", "state": "killed"}));
    assert_eq!(ended("asked").await["exit_signal"], "KILL");
    make("handles", "trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done").await;
    let (mut socket, _) = Socket::attach(&engine, "handles", "?since=0").await;
    socket.read_until(b"ready").await;
    let kept = engine.put("/shell/kill/", json!({"identity": "handles", "signal": "TERM"})).await.expect(200);
    assert_eq!(kept["state"], "executed");
    socket.read_until(b"no").await;
    engine.put("/shell/kill/", json!({"identity": "handles", "signal": "NOSUCH"})).await.expect(400);
    engine.put("/shell/kill/", json!({"identity": "code"})).await.expect(409);
}

#[tokio::test]
async fn a_shell_that_ended_can_be_started_again() {
    let engine = Engine::start().await;
    let config = json!({"command": "sh", "args": ["-c", "echo run; exit 1"], "start": false});
    let made = engine.post("/shell/", json!({"identity": "again", "config": config})).await.expect(201);
    assert_eq!((&made["state"], &made["pid"]), (&json!("created"), &json!(null)));
    for run in 1..=3 {
        engine.put("/shell/execute/", json!({"identity": "again"})).await.expect(200);
        let shell = until("the end of the program", async || {
            let shell = engine.get("/shell/again/").await.expect(200);
            (shell["state"] == "exited").then_some(shell)
        })
        .await;
        assert_eq!(shell["exit_code"], 1, "run {run}");
    }
}

#[tokio::test]
async fn removal_takes_the_whole_tree() {
    let engine = Engine::start().await;
    let script = "trap '' HUP; (setsid sleep 1111 &) ; sh -c 'sleep 2222; true' & nohup sleep 3333 >/dev/null 2>&1 & echo started; sleep 4444; true";
    let config = json!({"command": "sh", "args": ["-c", script]});
    let made = engine.post("/shell/", json!({"identity": "tree", "config": config})).await.expect(201);
    let (mut socket, _) = Socket::attach(&engine, "tree", "?since=0").await;
    socket.read_until(b"started").await;
    let sleeps = || {
        let is_ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let mark = format!("DXFLOW_DATA_DIR={}", engine.data_dir().display());
            String::from_utf8_lossy(&line).contains(&mark)
        };
        process::all().into_iter().map(|(pid, _)| pid).filter(is_ours).count()
    };
    assert_eq!(sleeps(), 0, "the shell's environment is its own");
    let tree = process::tree(pid_of(&made));
    engine.delete("/shell/", json!({"identity": "tree"})).await.expect(200);
    assert_eq!(socket.closed().await.0, 1000);
    until_true("the end of all of it", || tree.iter().all(|pid| !process::lives(*pid))).await;
}

#[tokio::test]
async fn a_batch_says_what_became_of_each() {
    let engine = Engine::start().await;
    for identity in ["a", "b"] {
        engine.post("/shell/", json!({"identity": identity, "config": {"command": "cat"}})).await.expect(201);
    }
    let answer = engine.delete("/shell/batch/", json!({"identities": ["a", "none", "b", "-x"]})).await.expect(200);
    let removed: Vec<_> = answer.as_array().expect("a list").iter().map(|one| one["removed"] == true).collect();
    assert_eq!(removed, [true, false, true, false]);
    assert_eq!(engine.get("/shell/").await.expect(200), json!([]));
}

#[tokio::test]
async fn the_size_is_told_to_the_program() {
    let engine = Engine::start().await;
    let config =
        json!({"command": "sh", "args": ["-c", "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done"]});
    let config = json!({"identity": "size", "config": config, "columns": 100, "rows": 30});
    engine.post("/shell/", config).await.expect(201);
    let (mut socket, _) = Socket::attach(&engine, "size", "?since=0").await;
    socket.read_until(b"30 100").await;
    let answer =
        engine.put("/shell/resize/", json!({"identity": "size", "columns": 120, "rows": 40})).await.expect(200);
    assert_eq!(answer, json!({"identity": "size", "state": "executed"}));
    assert_eq!(socket.control_of("resized").await, json!({"type": "resized", "columns": 120, "rows": 40}));
    socket.read_until(b"40 120").await;
    engine.put("/shell/resize/", json!({"identity": "size", "columns": 0, "rows": 40})).await.expect(400);
    engine.put("/shell/resize/", json!({"identity": "none", "columns": 10, "rows": 40})).await.expect(404);
}

#[tokio::test]
async fn a_recording_is_written_listed_downloaded_and_deleted() {
    let engine = Engine::start().await;
    let config = json!({"command": "sh", "args": ["-c", "echo first; read x; echo $x; exec cat"], "record": true});
    let made = engine.post("/shell/", json!({"identity": "rec", "config": config})).await.expect(201);
    let name = made["recording"].as_str().expect("its recording").to_owned();
    let (mut socket, _) = Socket::attach(&engine, "rec", "?since=0").await;
    socket.read_until(b"first").await;
    socket.type_bytes("Grüße\r".as_bytes()).await;
    let path = format!("/shell/recording/{name}");
    let cast = until("the output in the recording", async || {
        let answer = engine.get(&path).await;
        let text = answer.text();
        (text.matches("Grüße").count() >= 2).then_some(text)
    })
    .await;
    let mut lines = cast.lines();
    let header: Value = serde_json::from_str(lines.next().expect("a header")).expect("JSON");
    assert_eq!((&header["version"], &header["width"], &header["height"]), (&json!(2), &json!(80), &json!(24)));
    for line in lines {
        let event: Value = serde_json::from_str(line).expect("each line is an event");
        assert!(event[0].is_f64() && event[1].is_string() && event[2].is_string(), "{line}");
    }
    let listed = engine.get("/shell/recording").await.expect(200);
    assert_eq!((&listed[0]["identity"], &listed[0]["active"]), (&json!(name), &json!(true)));
    engine.delete("/shell/recording", json!({"identity": name})).await.expect(409);
    engine.delete("/shell/", json!({"identity": "rec"})).await.expect(200);
    engine.delete("/shell/recording", json!({"identity": name})).await.expect(200);
    engine.get(&path).await.expect(404);
    engine.get("/shell/recording/..%2F..%2Fkeys%2Fadmin").await.expect(404);
}
