//! Faults on purpose: a panic in each kind of actor costs one call of its own, and nobody else notices.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use crate::support::socket::{Event, Socket};
use crate::support::{Engine, until};

/// Prints a number every 10 ms.
const TICKS: &str = "i=0; while :; do echo tick $i; i=$((i+1)); sleep 0.01; done";

/// Every actor of the live tree by its name: its state, and how often it was restarted.
async fn tree(engine: &Engine) -> BTreeMap<String, (String, u64)> {
    fn walk(children: &Value, found: &mut BTreeMap<String, (String, u64)>) {
        for child in children.as_array().into_iter().flatten() {
            let name = child["name"].as_str().expect("a name").to_owned();
            let state = child["state"].as_str().expect("a state").to_owned();
            found.insert(name, (state, child["restarts"].as_u64().expect("a number")));
            walk(&child["children"], found);
        }
    }
    let mut found = BTreeMap::new();
    walk(&engine.get("/engine/supervision/").await.expect(200), &mut found);
    found
}

/// Sends what the actor handles next; whatever it answers.
async fn provoke(engine: &Engine, actor: &str) {
    match actor {
        "stats" => engine.get("/engine/ping/?count=1").await,
        "key-registry" | "store" => engine.post("/auth/key/", json!({ "identity": "provoked" })).await,
        // The registrar hears of its end.
        "keeper" | "shell-registrar" => {
            engine.post("/shell/", json!({ "identity": "provoked", "config": { "command": "true" } })).await
        }
        "shell/s0" => engine.put("/shell/resize/", json!({ "identity": "s0", "columns": 91, "rows": 31 })).await,
        "files/worker-0" => engine.put("/object/fs/zip/", json!({ "identity": "f", "force": true })).await,
        // It acts by itself, first of all when it starts.
        "files/sweeper" => engine.put("/engine/restart/", json!({})).await,
        other => panic!("what provokes {other}?"),
    };
}

/// Reads on until `more` further ticks have come, each once and in order.
async fn follow(socket: &mut Socket, rest: &mut Vec<u8>, next: &mut u64, more: u64) {
    let last = *next + more;
    while *next < last {
        match socket.next().await {
            Event::Bytes(bytes) => rest.extend_from_slice(&bytes),
            Event::Text(_) => continue,
            other => panic!("{other:?}"),
        }
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in rest[..whole].split_inclusive(|byte| *byte == b'\n') {
            assert_eq!(String::from_utf8_lossy(line), format!("tick {next}\r\n"));
            *next += 1;
        }
        rest.drain(..whole);
    }
}

#[tokio::test]
async fn a_panic_of_any_actor_is_noticed_by_nobody_else() {
    let kinds =
        ["stats", "key-registry", "store", "keeper", "shell-registrar", "shell/s0", "files/worker-0", "files/sweeper"];
    for actor in kinds {
        let engine = Engine::options().config("[object]\nworkers = 1").start().await;
        engine.post("/object/fs/", json!({ "identity": "f", "content": "x" })).await.expect(201);
        let mut watched = Vec::new();
        for name in ["s0", "s1"] {
            let config = json!({ "command": "sh", "args": ["-c", TICKS] });
            engine.post("/shell/", json!({ "identity": name, "config": config })).await.expect(201);
            let (socket, _) = Socket::attach(&engine, name, "?since=0").await;
            watched.push((socket, Vec::new(), 0));
        }
        let pid = engine.get("/shell/s0/").await.expect(200)["pid"].clone();
        let before = tree(&engine).await;
        engine.post("/engine/fault/", json!({ "actor": actor })).await.expect(200);
        let since = Instant::now();
        provoke(&engine, actor).await;
        let after = until("the actor to be there again", async || {
            let now = tree(&engine).await;
            let (state, restarts) = now.get(actor)?.clone();
            // A restart of the whole tree counts anew.
            let least = if actor == "files/sweeper" { 1 } else { before[actor].1 + 1 };
            (state == "running" && restarts >= least).then_some(now)
        })
        .await;
        println!("{actor}: back after {} ms", since.elapsed().as_millis());
        let siblings = after.keys().filter(|name| !name.ends_with("provoked"));
        assert_eq!(siblings.collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{actor}");
        for (socket, rest, next) in &mut watched {
            follow(socket, rest, next, 50).await;
        }
        assert_eq!(engine.get("/shell/s0/").await.expect(200)["pid"], pid, "{actor}: its process lives");
        // It does what it is for again: the second try is answered, not lost.
        engine.delete("/shell/provoked/", json!({})).await;
        engine.post("/auth/key/", json!({ "identity": "second" })).await.expect(201);
        engine.put("/shell/resize/", json!({ "identity": "s0", "columns": 92, "rows": 32 })).await.expect(200);
        engine.put("/object/fs/zip/", json!({ "identity": "f", "force": true })).await.expect(200);
        engine.get("/engine/ping/?count=1").await.expect(200);
        let health = engine.get("/engine/healthcheck/").await.expect(200);
        assert_eq!(health["generation"], if actor == "files/sweeper" { 2 } else { 1 }, "{actor}: {health}");
    }
}
