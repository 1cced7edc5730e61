//! `Idempotency-Key`: one effect and one answer, whatever becomes of the connection and of the engine.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::http::Request;
use crate::support::{Answer, Engine, until};

const KEY: &str = "idempotency-key";

async fn shells(engine: &Engine) -> usize {
    engine.get("/shell/").await.expect(200).as_array().expect("shells").len()
}

/// A new shell that the engine names: twice would be two.
fn new_shell(engine: &Engine, key: &str) -> Request {
    engine.master().post("/shell/").header(KEY, key).json(&json!({ "command": "/bin/sh" }))
}

fn same(first: &Answer, second: &Answer) {
    assert_eq!((first.status, first.text()), (second.status, second.text()));
    assert_eq!(first.header("content-type"), second.header("content-type"));
    assert_eq!((first.header("idempotency-replayed"), second.header("idempotency-replayed")), ("", "true"));
}

#[tokio::test]
async fn a_request_sent_again_has_one_effect_and_the_same_answer_across_restart_and_kill() {
    let mut engine = Engine::start().await;
    let first = new_shell(&engine, "k1").send().await;
    first.expect(201);
    same(&first, &new_shell(&engine, "k1").send().await);
    engine.put("/engine/restart/", json!({})).await.expect(200);
    same(&first, &new_shell(&engine, "k1").send().await);
    engine.kill().await;
    engine.boot().await;
    // The token is another: the caller is the same.
    same(&first, &new_shell(&engine, "k1").send().await);
    assert_eq!(shells(&engine).await, 1);
    new_shell(&engine, "k2").send().await.expect(201);
    assert_eq!(shells(&engine).await, 2);
    // Refusals are answers too.
    let refused = || engine.master().delete("/shell/").header(KEY, "k3").json(&json!({ "identity": "later" }));
    let first = refused().send().await;
    first.refusal(404);
    engine.post("/shell/", json!({ "identity": "later", "command": "/bin/sh" })).await.expect(201);
    same(&first, &refused().send().await);
    assert_eq!(shells(&engine).await, 3);
}

#[tokio::test]
async fn a_key_is_for_one_request_of_one_caller() {
    let engine = Engine::start().await;
    let put = |path: &str, body: Value| engine.master().put(path).header(KEY, "one").json(&body);
    let post = |body: Value| engine.master().post("/object/fs/").header(KEY, "one").json(&body);
    post(json!({ "identity": "a" })).send().await.expect(201);
    post(json!({ "identity": "b" })).send().await.refusal(422);
    post(json!({ "identity": "a", "force": true })).send().await.refusal(422);
    put("/object/fs/rename/", json!({ "identity": "a" })).send().await.refusal(422);
    engine.master().delete("/object/fs/?identity=a").header(KEY, "one").send().await.refusal(422);
    engine.master().post("/object/fs/?stream=true").header(KEY, "one").json(&json!({ "identity": "a" })).send().await;
    assert!(engine.volume().join("a").exists() && !engine.volume().join("b").exists());
    // Another's key of the same name is another.
    let other = engine.client(&engine.token_with("other", &["OBJECT"]).await);
    other.post("/object/fs/").header(KEY, "one").json(&json!({ "identity": "b" })).send().await.expect(201);
    // Whoever takes a name over does not take its answers over.
    engine.delete("/auth/key/", json!({ "identity": "other" })).await.expect(200);
    let other = engine.client(&engine.token_with("other", &["OBJECT"]).await);
    other.post("/object/fs/").header(KEY, "one").json(&json!({ "identity": "b" })).send().await.refusal(409);
    for key in ["", &"k".repeat(256)] {
        engine
            .master()
            .post("/object/fs/")
            .header(KEY, key)
            .json(&json!({ "identity": "c" }))
            .send()
            .await
            .refusal(400);
    }
    assert!(!engine.volume().join("c").exists());
}

#[tokio::test]
async fn one_sent_again_while_the_first_runs_waits_its_turn_and_a_cut_connection_changes_nothing() {
    let engine = Engine::start().await;
    engine.post("/shell/", json!({ "identity": "s", "command": "/bin/sh" })).await.expect(201);
    let gate = engine.scratch().join("gate");
    let line = format!("echo x >> {0}.ran; while [ ! -e {0} ]; do sleep 0.05; done; echo done", gate.display());
    let body = json!({ "identity": "s", "command": line, "wait": true, "timeout": "60s" });
    let run = || engine.master().put("/shell/execute/").header(KEY, "run").json(&body);
    // The client leaves while the command runs.
    let ran = engine.scratch().join("gate.ran");
    let client = tokio::spawn(run().try_send());
    until("the command to run", || async { ran.exists().then_some(()) }).await;
    client.abort();
    let busy = run().send().await;
    assert!(busy.refusal(409).contains("being carried out"), "{}", busy.text());
    assert!(!busy.header("retry-after").is_empty());
    std::fs::write(&gate, "").expect("the gate opens");
    let answer = until("the answer", || async {
        let answer = run().send().await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(answer.expect(200)["output"].as_str().map(str::trim), Some("done"));
    assert_eq!(std::fs::read_to_string(&ran).expect("it ran"), "x\n", "once");
}

#[tokio::test]
async fn what_the_end_of_the_engine_cut_off_is_never_carried_out_twice() {
    let mut engine = Engine::start().await;
    engine.post("/shell/", json!({ "identity": "s", "command": "/bin/sh" })).await.expect(201);
    let ran = engine.scratch().join("ran");
    let body = json!({ "identity": "s", "command": format!("echo x >> {}; sleep 1000", ran.display()), "wait": true });
    let client = tokio::spawn(engine.master().put("/shell/execute/").header(KEY, "run").json(&body).try_send());
    until("the command to run", || async { ran.exists().then_some(()) }).await;
    engine.kill().await;
    assert!(client.await.expect("no panic").is_err(), "the connection broke");
    engine.boot().await;
    let again = engine.master().put("/shell/execute/").header(KEY, "run").json(&body).send().await;
    assert!(again.refusal(409).contains("does not know how far"), "{}", again.text());
    assert_eq!(std::fs::read_to_string(&ran).expect("it ran"), "x\n", "once");
}

#[tokio::test]
async fn a_body_that_breaks_off_has_used_nothing_up() {
    let engine = Engine::start().await;
    let body = json!({ "identity": "whole", "content": "x".repeat(1000) }).to_string();
    let mut stream = tokio::net::TcpStream::connect(engine.address).await.expect("connected");
    let head = format!(
        "POST /api/v1/object/fs/ HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n{KEY}: cut\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{}",
        engine.address,
        engine.token,
        body.len(),
        &body[..500],
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    drop(stream);
    let again =
        || engine.master().post("/object/fs/").header(KEY, "cut").json(&serde_json::from_str(&body).expect("JSON"));
    let first = again().send().await;
    first.expect(201);
    same(&first, &again().send().await);
}

#[tokio::test]
async fn no_secret_of_a_kept_answer_is_in_the_database() {
    let engine = Engine::start().await;
    let make =
        || engine.master().post("/auth/key/").header(KEY, "my-own-random-key").json(&json!({ "identity": "made" }));
    let first = make().send().await;
    let private = first.expect(201)["private_key"].as_str().expect("a private key").to_owned();
    same(&first, &make().send().await);
    let line = private.lines().nth(2).expect("a line of it").to_owned();
    for name in ["dxflow.db", "dxflow.db-wal"] {
        let bytes = std::fs::read(engine.data_dir().join(name)).unwrap_or_default();
        for secret in [line.as_str(), "my-own-random-key"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} in {name}");
        }
    }
}

#[tokio::test]
async fn what_is_kept_is_bounded() {
    let config = "[idempotency]\nmax_records_per_key = 3\nmax_records = 4\nmax_answer = \"1KiB\"";
    let engine = Engine::options().config(config).start().await;
    let make = |client: &crate::support::Client, n: usize| {
        client.post("/object/fs/").header(KEY, &format!("k{n}")).json(&json!({ "identity": format!("o{n}") }))
    };
    for n in 0..3 {
        make(&engine.master(), n).send().await.expect(201);
    }
    let full = make(&engine.master(), 3).send().await;
    full.refusal(429);
    assert!(!full.header("retry-after").is_empty());
    assert!(!engine.volume().join("o3").exists());
    let other = engine.client(&engine.token_with("other", &["OBJECT", "SHELL"]).await);
    let many: Vec<String> = (0..100).map(|n| format!("missing-{n}")).collect();
    let long = || other.delete("/object/fs/batch/").header(KEY, "long").json(&json!({ "identities": many }));
    assert!(long().send().await.expect(200).as_array().is_some_and(|results| results.len() == 100));
    assert!(long().send().await.refusal(409).contains("too long"));
    make(&other, 5).send().await.refusal(503);
}
