//! Short-lived shells leave nothing behind: no zombie, no descriptor, no actor, no memory.

use futures_util::{StreamExt, stream};
use serde_json::json;

use crate::support::{Engine, process, until};

/// What an engine and its keeper hold.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    processes: usize,
    actors: usize,
    private_kib: u64,
}

async fn held(engine: &Engine) -> Held {
    let keeper = engine.keeper_processes();
    let tree = engine.get("/engine/supervision/").await.expect(200);
    fn count(actors: &serde_json::Value) -> usize {
        actors.as_array().map_or(0, |actors| actors.iter().map(|actor| 1 + count(&actor["children"])).sum())
    }
    let processes = keeper.first().copied().into_iter().chain([engine.pid()]);
    Held {
        descriptors: processes.clone().map(process::descriptors).sum(),
        processes: process::tree(engine.pid()).len() + keeper.len(),
        actors: count(&tree),
        private_kib: processes.map(process::private_kib).sum(),
    }
}

/// Makes shells, runs each to its end, attaches to every tenth, and removes them.
async fn churn(engine: &Engine, shells: u32) {
    stream::iter(0..shells)
        .for_each_concurrent(8, |n| async move {
            let id = format!("short-{n}");
            let config = json!({ "command": "/bin/sh", "args": ["-c", "echo done; exit 3"] });
            engine.post("/shell/", json!({ "identity": id, "config": config })).await.expect(201);
            if n % 10 == 0 {
                let (mut socket, _) = crate::support::socket::Socket::attach(engine, &id, "").await;
                assert_eq!(socket.closed().await.0, 1000);
            }
            let path = format!("/shell/{id}/");
            until("its end", || async {
                let shell = engine.get(&path).await.expect(200);
                (shell["state"] == "exited" && shell["exit_code"] == 3).then_some(())
            })
            .await;
            engine.delete("/shell/", json!({ "identity": id })).await.expect(200);
        })
        .await;
}

#[tokio::test]
async fn a_thousand_short_lived_shells_leave_nothing() {
    let engine = Engine::start().await;
    // One that stays keeps the keeper; the first thousand warm what is made once (threads, pools,
    // the allocator's arenas, the database's cache): 15 MiB, after which a thousand more take some 200 KiB.
    engine.post("/shell/", json!({ "identity": "stays" })).await.expect(201);
    churn(&engine, 1000).await;
    let before = held(&engine).await;
    churn(&engine, 1000).await;
    let after = until("descriptors, processes and actors as before", || async {
        let now = held(&engine).await;
        // Connections that are being closed at this moment are still there in either count.
        let settled = now.processes == before.processes
            && now.actors == before.actors
            && now.descriptors <= before.descriptors + 2;
        settled.then_some(now)
    })
    .await;
    let shells = engine.get("/shell/").await.expect(200);
    assert_eq!(shells.as_array().map(Vec::len), Some(1));
    // A leaked shell would be at least its actor (8 KiB) and a page of its log: 12 MiB for a thousand.
    assert!(after.private_kib < before.private_kib + 4 * 1024, "{before:?} {after:?}");
}
