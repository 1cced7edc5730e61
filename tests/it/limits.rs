//! Limits: each with an answer of its own, and room again as soon as somebody leaves.

use serde_json::json;
use tokio_tungstenite::tungstenite;

use crate::support::socket::Socket;
use crate::support::{Engine, until};

/// The status and whether `Retry-After` stands in the refusal of an upgrade; none where it is accepted.
async fn upgrade(engine: &Engine, token: &str) -> Result<Socket, (u16, bool)> {
    Socket::open(engine, "s", "", token, "dxflow.pty.v1").await.map_err(|error| match *error {
        tungstenite::Error::Http(answer) => (answer.status().as_u16(), answer.headers().contains_key("retry-after")),
        other => panic!("{other}"),
    })
}

#[tokio::test]
async fn websockets_are_limited_for_each_key_and_in_all() {
    let config = "[shell]\nwebsockets_per_key = 2\nwebsockets = 3";
    let engine = Engine::options().config(config).start().await;
    engine.post("/shell/", json!({ "identity": "s", "command": "/bin/sh" })).await.expect(201);
    let other = engine.token_with("other", &["SHELL"]).await;
    let first = upgrade(&engine, &engine.token).await.expect("there is room");
    let _second = upgrade(&engine, &engine.token).await.expect("there is room");
    assert_eq!(upgrade(&engine, &engine.token).await.err(), Some((429, true)), "one key's");
    let _third = upgrade(&engine, &other).await.expect("another has room");
    assert_eq!(upgrade(&engine, &other).await.err(), Some((503, true)), "in all");
    drop(first);
    until("room again", || async { upgrade(&engine, &engine.token).await.ok() }).await;
}

#[tokio::test]
async fn shells_are_limited_and_one_that_is_removed_makes_room() {
    let engine = Engine::options().config("[shell]\nmax_shells = 2").start().await;
    let make = |name: &str| engine.post("/shell/", json!({ "identity": name, "command": "/bin/sh" }));
    make("a").await.expect(201);
    make("b").await.expect(201);
    let full = make("c").await;
    assert!(full.refusal(503).contains("shell.max_shells"), "{}", full.text());
    assert!(!full.header("retry-after").is_empty());
    make("a").await.refusal(409);
    engine.delete("/shell/", json!({ "identity": "a" })).await.expect(200);
    make("c").await.expect(201);
}
