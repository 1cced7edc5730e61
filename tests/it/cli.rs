//! The command line against a real engine: exit codes, what goes to which output, `--json`, keys, pipes, load.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use base64::Engine as _;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Engine, until, within};

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn as_json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", out(output), err(output)))
}

/// Runs the program with an input.
async fn with_input(engine: &Engine, arguments: &[&str], input: &str) -> Output {
    let mut command = engine.command(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let input = input.to_owned();
    let run = tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().expect("the program starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it is read");
        child.wait_with_output().expect("it ends")
    });
    within(&format!("{arguments:?}"), run).await.expect("no panic")
}

#[tokio::test]
async fn exit_codes_and_outputs_are_as_documented() {
    let mut engine = Engine::start().await;
    let good = engine.cli(&["engine", "healthcheck"]).await;
    assert_eq!(good.status.code(), Some(0), "{}", err(&good));
    assert!(out(&good).starts_with("status\thealthy\n") && good.stderr.is_empty(), "{}", out(&good));

    let refused = engine.cli(&["shell", "show", "nothing"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    assert_eq!(err(&refused).lines().count(), 1, "{}", err(&refused));
    let refused = engine.cli(&["--json", "shell", "show", "nothing"]).await;
    let problem: Value = serde_json::from_str(&err(&refused)).expect("a problem");
    assert_eq!((refused.status.code(), problem["status"].as_u64()), (Some(1), Some(404)));

    for wrong in [&["shell", "resize", "a", "0", "1"] as &[&str], &["nothing"], &["config", "get", "no.such"]] {
        assert_eq!(engine.cli(wrong).await.status.code(), Some(2), "{wrong:?}");
    }
    engine.stop().await;
    for unreachable in [&["shell", "list"] as &[&str], &["boot", "down"], &["shell", "connect", "a"]] {
        assert_eq!(engine.cli(unreachable).await.status.code(), Some(3), "{unreachable:?}");
    }
}

#[tokio::test]
async fn every_list_and_description_is_json_when_asked() {
    let engine = Engine::start().await;
    for (arguments, array) in [
        (&["shell", "list"] as &[&str], true),
        (&["key", "list", "-a"], true),
        (&["object", "list"], true),
        (&["object", "shares"], true),
        (&["engine", "ping", "-c", "2", "-i", "0"], true),
        (&["engine", "stat"], true),
        (&["engine", "info"], false),
        (&["engine", "healthcheck"], false),
        (&["config", "get"], false),
    ] {
        let output = engine.cli(&[arguments, &["--json"]].concat()).await;
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", err(&output));
        let value = as_json(&output);
        assert!(if array { value.is_array() } else { value.is_object() }, "{arguments:?}: {value}");
    }
    let tree = engine.cli(&["engine", "tree"]).await;
    assert!(out(&tree).contains("running"), "{} {}", out(&tree), err(&tree));
}

#[tokio::test]
async fn shells_are_made_used_and_removed() {
    let engine = Engine::start().await;
    let made = engine.cli(&["shell", "create", "one", "/bin/sh", "--columns", "100", "-e", "WHO=me"]).await;
    assert_eq!(out(&made), "one\n", "{}", err(&made));
    let list = engine.cli(&["shell", "list"]).await;
    assert!(out(&list).starts_with("one\texecuted\t/bin/sh\t"), "{}", out(&list));
    let run = engine.cli(&["shell", "execute", "one", "--wait", "--", "echo \"$WHO\"; (exit 42)"]).await;
    assert_eq!((out(&run).trim(), run.status.code()), ("me", Some(42)), "{}", err(&run));
    let run = engine.cli(&["shell", "execute", "one", "--wait", "--", "printf", "%s", "a b"]).await;
    assert_eq!((out(&run).as_str(), run.status.code()), ("a b", Some(0)));
    let resized = engine.cli(&["--json", "shell", "resize", "one", "90", "33"]).await;
    assert_eq!(resized.status.code(), Some(0));
    let shown = as_json(&engine.cli(&["--json", "shell", "show", "one"]).await);
    assert_eq!((shown["columns"].as_u64(), shown["rows"].as_u64()), (Some(90), Some(33)));
    let removed = engine.cli(&["shell", "remove", "one", "two"]).await;
    assert_eq!((out(&removed).as_str(), removed.status.code()), ("one\n", Some(1)));
    assert!(err(&removed).contains("two"), "{}", err(&removed));
}

#[tokio::test]
async fn a_piped_line_is_typed_and_answered() {
    let engine = Engine::start().await;
    engine.cli(&["shell", "create", "p", "/bin/sh"]).await;
    let output = with_input(&engine, &["shell", "connect", "p"], "echo from-''a-pipe\n").await;
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("from-a-pipe"), "{}", out(&output));
    // The shell runs on, until it is told to end; its exit code is ours.
    let output = with_input(&engine, &["shell", "connect", "p"], "exit 7\n").await;
    assert_eq!(output.status.code(), Some(7), "{}", err(&output));
    let output = with_input(&engine, &["shell", "connect", "p"], "").await;
    assert_eq!(output.status.code(), Some(7), "an ended shell still says how it ended");
}

#[tokio::test]
async fn a_stream_goes_on_at_its_byte_after_kill_9_of_the_engine() {
    let mut engine = Engine::start().await;
    engine.cli(&["shell", "create", "s", "/bin/sh"]).await;
    let mut command = engine.command(&["shell", "connect", "s", "--quiet", "30s"]);
    let file = engine.scratch().join("lines");
    command.stdin(Stdio::piped()).stdout(std::fs::File::create(&file).expect("made")).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let line = "stty -echo; i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo \"line-$i-\"; sleep 0.01; done; exit 5\n";
    child.stdin.take().expect("piped").write_all(line.as_bytes()).expect("it is read");
    let has = |text: &'static str| {
        let file = file.clone();
        move || std::future::ready(std::fs::read_to_string(&file).unwrap_or_default().contains(text).then_some(()))
    };
    until("the first lines", has("line-20-")).await;
    engine.kill().await;
    engine.boot().await;
    let ended = tokio::task::spawn_blocking(move || child.wait().expect("it ends"));
    assert_eq!(within("the end of the session", ended).await.expect("no panic").code(), Some(5));
    let text = std::fs::read_to_string(&file).expect("text");
    let numbers: Vec<u32> =
        text.split("line-").skip(1).filter_map(|rest| rest.split('-').next()?.parse().ok()).collect();
    assert_eq!(numbers, (1..=400).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_remote_is_signed_in_to_with_a_key_file() {
    let engine = Engine::start().await;
    let address = format!("http://{}", engine.address);
    for kind in ["ed25519", "rsa"] {
        let name = format!("key-{kind}");
        let made = engine.cli(&["--json", "key", "generate", &name, "--type", kind]).await;
        assert_eq!(made.status.code(), Some(0), "{}", err(&made));
        let register = ["--json", "key", "register", &format!("{name}.pub"), "-p", "shell"];
        let registered = engine.cli(&register).await;
        assert_eq!(registered.status.code(), Some(0), "{}", err(&registered));
        let remote = |arguments: &[&str]| {
            let mut command = engine.command(arguments);
            command.env("DXFLOW_ADDRESS", &address).env("DXFLOW_KEY", engine.scratch().join(&name));
            tokio::task::spawn_blocking(move || command.output().expect("the program runs"))
        };
        let list = remote(&["shell", "list"]).await.expect("no panic");
        assert_eq!(list.status.code(), Some(0), "{kind}: {}", err(&list));
        let denied = remote(&["key", "list"]).await.expect("no panic");
        assert_eq!(denied.status.code(), Some(1));
        let token = remote(&["engine", "token", "--lifetime", "5m"]).await.expect("no panic");
        let token = out(&token).trim().to_owned();
        engine.client(&token).get("/shell/").send().await.expect(200);
        engine.cli(&["key", "unregister", &name]).await;
        let list = remote(&["shell", "list"]).await.expect("no panic");
        assert_eq!(list.status.code(), Some(1), "an unregistered key signs nobody in");
    }
}

/// An ssh-agent with one key, for as long as the test lasts.
fn agent(socket: &Path, key: SigningKey) {
    let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let string = |bytes: &[u8]| {
                let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
                [&length[..], bytes].concat()
            };
            let blob = [string(b"ssh-ed25519"), string(key.verifying_key().as_bytes())].concat();
            while let Ok(length) = stream.read_u32().await {
                let mut request = vec![0; length as usize];
                stream.read_exact(&mut request).await.expect("a request");
                let answer = match request[0] {
                    11 => [vec![12, 0, 0, 0, 1], string(&blob), string(b"me")].concat(),
                    13 => {
                        let rest = &request[1 + 4 + blob.len()..];
                        let (length, rest) = rest.split_first_chunk::<4>().expect("a length");
                        let signature = key.sign(&rest[..u32::from_be_bytes(*length) as usize]);
                        let signature = [string(b"ssh-ed25519"), string(&signature.to_bytes())].concat();
                        [vec![14], string(&signature)].concat()
                    }
                    _ => vec![5],
                };
                stream.write_all(&string(&answer)).await.expect("it is read");
            }
        }
    });
}

#[tokio::test]
async fn a_remote_is_signed_in_to_with_the_agent() {
    let engine = Engine::start().await;
    let key = SigningKey::from_bytes(&[9; 32]);
    let blob = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20" as &[u8], key.verifying_key().as_bytes()].concat();
    let line = format!("ssh-ed25519 {} me", base64::engine::general_purpose::STANDARD.encode(blob));
    let public = engine.scratch().join("me.pub");
    std::fs::write(&public, format!("{line}\n")).expect("written");
    engine.post("/auth/key/", json!({ "identity": "me", "key": line })).await.expect(201);
    let socket = engine.scratch().join("agent.sock");
    agent(&socket, key);
    // Any key of the agent, or the one whose public half is named.
    for named in [None, Some(&public)] {
        let mut command = engine.command(&["shell", "list"]);
        command.env("DXFLOW_ADDRESS", engine.address.to_string()).env("SSH_AUTH_SOCK", &socket);
        if let Some(public) = named {
            command.env("DXFLOW_KEY", public);
        }
        let run = tokio::task::spawn_blocking(move || command.output().expect("the program runs"));
        let list = within("the list", run).await.expect("no panic");
        assert_eq!(list.status.code(), Some(0), "{}", err(&list));
    }
    let mut command = engine.command(&["shell", "list"]);
    command.env("DXFLOW_ADDRESS", engine.address.to_string());
    let run = tokio::task::spawn_blocking(move || command.output().expect("the program runs"));
    let list = within("the refusal", run).await.expect("no panic");
    assert_eq!(list.status.code(), Some(1));
    assert!(err(&list).contains("connection-key"), "{}", err(&list));
}

#[tokio::test]
async fn settings_are_kept_in_the_file_and_used() {
    let engine = Engine::start().await;
    let address = format!("http://{}", engine.address);
    let key = engine.data_dir().join("keys/admin").to_string_lossy().into_owned();
    for (name, value) in
        [("connection-address", address.as_str()), ("connection-key", &key), ("server.max_requests", "7")]
    {
        let set = engine.cli(&["config", "set", name, value]).await;
        assert_eq!(set.status.code(), Some(0), "{}", err(&set));
        assert_eq!(out(&engine.cli(&["config", "get", name]).await).trim(), value);
    }
    // Over TCP now: the key says who we are.
    let keys = engine.cli(&["-v", "key", "list"]).await;
    assert_eq!(keys.status.code(), Some(0), "{}", err(&keys));
    assert!(err(&keys).contains(&address), "{}", err(&keys));
    let wrong = engine.cli(&["config", "set", "server.max_requests", "0"]).await;
    assert_eq!(wrong.status.code(), Some(2), "what the engine would refuse is not written");
    assert_eq!(out(&engine.cli(&["config", "get", "server.max_requests"]).await).trim(), "7");
    for name in ["connection-address", "connection.key", "server.max_requests"] {
        assert_eq!(engine.cli(&["config", "unset", name]).await.status.code(), Some(0));
    }
    assert_eq!(std::fs::read_to_string(engine.scratch().join("config.toml")).expect("text").trim(), "");
    assert_eq!(out(&engine.cli(&["config", "get", "server.max_requests"]).await).trim(), "4096");
}

#[tokio::test]
async fn profiles_are_engines_by_name() {
    let engine = Engine::start().await;
    let address = format!("http://{}", engine.address);
    let key = engine.data_dir().join("keys/admin").to_string_lossy().into_owned();
    for (name, value) in [("connection-address", address.as_str()), ("connection-key", &key)] {
        assert_eq!(engine.cli(&["-C", "far", "config", "set", name, value]).await.status.code(), Some(0));
    }
    let far = engine.cli(&["-C", "far", "-v", "shell", "list"]).await;
    assert!(far.status.success() && err(&far).contains(&address), "{}", err(&far));
    let near = engine.cli(&["-v", "shell", "list"]).await;
    assert!(near.status.success() && !err(&near).contains(&address), "{}", err(&near));
    assert_eq!(engine.cli(&["-C", "nowhere", "shell", "list"]).await.status.code(), Some(2));
}

#[tokio::test]
async fn completions_are_printed_without_an_engine() {
    let engine = Engine::start().await;
    for shell in ["bash", "zsh", "fish"] {
        let script = engine.cli(&["completions", shell]).await;
        assert!(script.status.success() && out(&script).contains("healthcheck"), "{shell}");
    }
}

#[tokio::test]
async fn a_load_test_measures_and_leaves_nothing() {
    let engine = Engine::start().await;
    let report = engine.scratch().join("report.html").to_string_lossy().into_owned();
    for workload in ["echo", "flood", "redraw", "idle"] {
        let arguments =
            ["--json", "load", "shells", "-n", "3", "-r", "0", "-d", "1s", "--workload", workload, "--report", &report];
        let output = engine.cli(&arguments).await;
        assert_eq!(output.status.code(), Some(0), "{workload}: {} {}", out(&output), err(&output));
        let result = as_json(&output);
        assert_eq!(result["most_at_once"], 3, "{result}");
        assert_eq!(result["latency_seconds"]["create"]["count"], 3, "{result}");
        assert!(result["usage"]["engine"]["memory"].as_u64() > Some(0), "{result}");
        if workload == "echo" {
            assert!(result["latency_seconds"]["echo"]["p99"].as_f64() > Some(0.0), "{result}");
        }
        let page = std::fs::read_to_string(&report).expect("the report");
        assert!(page.contains("<svg") && page.ends_with("</html>\n"));
    }
    let shells = engine.get("/shell/").await.expect(200);
    assert_eq!(shells.as_array().map(Vec::len), Some(0));
    let failing = engine.cli(&["load", "shells", "-n", "2", "--command", "/no/such/program"]).await;
    assert_eq!(failing.status.code(), Some(1), "{}", err(&failing));
}
