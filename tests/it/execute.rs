//! Commands with a result, in every shell that is installed: exit code, output, what stays in the session, and no trace.

use serde_json::{Value, json};

use crate::support::socket::Socket;
use crate::support::{Answer, Engine, process, until, until_true};

/// The shells that this machine has.
fn shells() -> Vec<(&'static str, Value)> {
    let all = [
        ("bash", json!({"command": "bash", "args": ["--norc"]})),
        ("dash", json!({"command": "dash"})),
        ("zsh", json!({"command": "zsh", "args": ["-f"]})),
        ("busybox", json!({"command": "busybox", "args": ["sh"]})),
    ];
    let installed = |name: &str| {
        let path = std::env::var("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(name).exists())
    };
    all.into_iter().filter(|(name, _)| installed(name)).collect()
}

async fn run(engine: &Engine, identity: &str, command: &str) -> Value {
    run_for(engine, identity, command, "20s").await.expect(200)
}

async fn run_for(engine: &Engine, identity: &str, command: &str, timeout: &str) -> Answer {
    let body = json!({"identity": identity, "command": command, "wait": true, "timeout": timeout});
    engine.put("/shell/execute/", body).await
}

#[tokio::test]
async fn results_are_exact_in_every_shell() {
    let engine = Engine::start().await;
    for (name, config) in shells() {
        engine.post("/shell/", json!({"identity": name, "config": config})).await.expect(201);
        for (command, code, output) in [
            ("echo hello", 0, "hello\n"),
            ("printf 'no end'", 0, "no end"),
            ("sh -c 'exit 42'", 42, ""),
            ("echo $?", 0, "42\n"),
            ("cd /tmp; X=kept; false", 1, ""),
            ("echo $? $X $PWD", 0, "1 kept /tmp\n"),
            ("for i in 1 2 3\ndo\n  echo $i\ndone", 0, "1\n2\n3\n"),
            ("cat <<'E'\nit's $here\nE", 0, "it's $here\n"),
            ("printf '\\033]133;D;9;dxflow=00\\007x'", 0, "\u{1b}]133;D;9;dxflow=00\u{7}x"),
            ("echo é漢🙂", 0, "é漢🙂\n"),
            ("true", 0, ""),
            ("", 0, ""),
        ] {
            let result = run(&engine, name, command).await;
            assert_eq!(
                (&result["exit_code"], &result["output"]),
                (&json!(code), &json!(output)),
                "{name}: {command:?}: {result}"
            );
            assert!(result["duration"].as_f64().is_some_and(|seconds| seconds < 20.0), "{result}");
        }
        let wrong = run(&engine, name, "if").await;
        assert_ne!(wrong["exit_code"], 0, "{name}: {wrong}");
        let long = run(&engine, name, "seq 1 20000").await;
        let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
        assert_eq!(long["output"].as_str(), Some(expected.as_str()), "{name}");
        assert_eq!(run(&engine, name, "echo alive").await["output"], "alive\n", "{name}");
        let ended = run(&engine, name, "exit 3").await;
        assert_eq!(ended["exit_code"], 3, "{name}");
    }
}

#[tokio::test]
async fn nothing_of_it_is_seen_on_the_screen() {
    let engine = Engine::start().await;
    for (name, mut config) in shells() {
        // Prompts tell it, and the test's own has a word in it that is looked for.
        config["cwd"] = json!("/");
        engine.post("/shell/", json!({"identity": name, "config": config})).await.expect(201);
        run(&engine, name, "echo one").await;
        let (mut typist, _) = Socket::attach(&engine, name, "").await;
        // Half a line, which a command takes the place of.
        typist.type_bytes(b"ha").await;
        typist.read_until(b"ha").await;
        run(&engine, name, "echo two").await;
        let mut socket = Socket::open(&engine, name, "", &engine.token, "").await.expect("an upgrade");
        let crate::support::socket::Event::Text(screen) = socket.next().await else { panic!("text expected") };
        for wanted in ["echo one", "\none", "echo two", "\ntwo"] {
            assert!(screen.contains(wanted), "{name}: {wanted:?} in {screen:?}");
        }
        for trace in ["/proc/", "133;", "dxflow", "printf", "eval"] {
            assert!(!screen.contains(trace), "{name}: {trace:?} in {screen:?}");
        }
        if name == "bash" {
            let history = run(&engine, name, "history").await;
            assert!(!history["output"].as_str().expect("text").contains("/proc/"), "{history}");
        }
    }
}

#[tokio::test]
async fn what_is_busy_or_no_shell_is_refused() {
    let engine = Engine::start().await;
    engine.post("/shell/", json!({"identity": "cat", "config": {"command": "cat"}})).await.expect(201);
    run_for(&engine, "cat", "echo x", "5s").await.expect(409);
    run_for(&engine, "none", "echo x", "5s").await.expect(404);
    let config = json!({"command": "sh", "args": ["-c", "sleep 1000; true"]});
    engine.post("/shell/", json!({"identity": "script", "config": config})).await.expect(201);
    run_for(&engine, "script", "echo x", "5s").await.expect(409);

    engine.post("/shell/", json!({"identity": "busy", "config": {"command": "sh"}})).await.expect(201);
    run(&engine, "busy", "true").await;
    let (mut socket, _) = Socket::attach(&engine, "busy", "").await;
    socket.type_bytes(b"echo be''gun; sleep 1000\r").await;
    socket.read_until(b"begun").await;
    run_for(&engine, "busy", "echo x", "5s").await.expect(409);
    // An interrupt that dash gets just before it starts a program waits for that program's end.
    let sleeps = || engine.keeper_processes().into_iter().any(|pid| process::name(pid) == "sleep");
    until_true("the program to run", sleeps).await;
    socket.type_bytes(b"\x03").await;
    until("the prompt", async || (run_for(&engine, "busy", "echo x", "5s").await.status == 200).then_some(())).await;

    engine.put("/shell/kill/", json!({"identity": "busy"})).await.expect(200);
    run_for(&engine, "busy", "echo x", "5s").await.expect(409);
    for (timeout, status) in [("25h", 400), ("soon", 400)] {
        run_for(&engine, "busy", "echo x", timeout).await.expect(status);
    }
    engine.put("/shell/execute/", json!({"identity": "busy", "wait": true})).await.expect(400);
}

#[tokio::test]
async fn a_command_goes_on_when_its_time_is_up() {
    let engine = Engine::start().await;
    for (name, config) in shells() {
        engine.post("/shell/", json!({"identity": name, "config": config})).await.expect(201);
        let (mut socket, _) = Socket::attach(&engine, name, "?since=0").await;
        run_for(&engine, name, "read line; echo read $line", "300ms").await.expect(504);
        // Another one has to wait for it.
        run_for(&engine, name, "echo never", "5s").await.expect(409);
        socket.type_bytes(b"what is typed\r").await;
        socket.read_until(b"read what is typed").await;
        let next = until("the command to end", async || {
            let answer = run_for(&engine, name, "echo next", "5s").await;
            (answer.status == 200).then(|| answer.expect(200))
        })
        .await;
        assert_eq!(next["output"], "next\n", "{name}");
    }
}

#[tokio::test]
async fn the_keyboard_breaks_a_command_off() {
    let engine = Engine::start().await;
    for (name, config) in shells() {
        engine.post("/shell/", json!({"identity": name, "config": config})).await.expect(201);
        let (mut socket, _) = Socket::attach(&engine, name, "?since=0").await;
        let command = run_for(&engine, name, "echo be''gun; sleep 1000; echo never", "30s");
        let keyboard = async {
            socket.read_until(b"\x07begun").await;
            // A key that comes before `sleep` has the terminal is the shell's own, and lost on some.
            loop {
                socket.type_bytes(b"\x03").await;
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
        };
        let answer = tokio::select! {
            answer = command => answer,
            () = keyboard => unreachable!("it goes on for ever"),
        };
        let result = answer.expect(200);
        assert_eq!(result["exit_code"], 130, "{name}: {result}");
        assert!(!result["output"].as_str().expect("text").contains("never"), "{name}: {result}");
        assert_eq!(run(&engine, name, "echo fine").await["output"], "fine\n", "{name}");
    }
}
