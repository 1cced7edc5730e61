//! The audit: what is recorded, how it is read, and that nobody changes it unseen.

use serde_json::{Value, json};

use crate::support::{Engine, until};

/// The record of the request that was answered so; there may be a moment before a refusal's is there.
async fn record_of(engine: &Engine, request: &str) -> Value {
    until("the record of the request", || async {
        let found = engine.get(&format!("/engine/audit/?request={request}")).await.expect(200);
        found.get(0).cloned()
    })
    .await
}

#[tokio::test]
async fn changes_refusals_and_sign_ins_are_recorded_with_who_and_what() {
    let engine = Engine::start().await;
    let token = engine.token_with("looker", &["SHELL", "READ_ONLY"]).await;
    let looker = engine.client(&token);
    let body = json!({ "identity": "s1", "command": "/bin/sh" });
    let cases = [
        (engine.master().post("/shell/").json(&body), "admin", "POST /shell", "s1", "201"),
        (looker.post("/shell/").json(&body), "looker", "POST /shell", "", "403"),
        (looker.delete("/auth/key/").json(&body), "looker", "DELETE /auth/key", "", "403"),
        (looker.get("/auth/key/"), "looker", "GET /auth/key", "", "403"),
        (engine.anonymous().get("/shell/"), "-", "GET /shell", "", "401"),
        (engine.master().delete("/shell/?identity=s1"), "admin", "DELETE /shell", "s1", "200"),
        (
            engine.master().delete("/object/fs/").json(&json!({"identity": "no"})),
            "admin",
            "DELETE /object/fs",
            "no",
            "404",
        ),
    ];
    for (request, caller, action, subject, outcome) in cases {
        let answer = request.send().await;
        assert_eq!(answer.status.as_str(), outcome, "{action}");
        let record = record_of(&engine, answer.header("x-request-id")).await;
        let told = ["caller", "action", "subject", "outcome", "peer"].map(|name| record[name].as_str().unwrap_or(""));
        assert_eq!(told, [caller, action, subject, outcome, "127.0.0.1"]);
    }
    let signed_in = engine.get("/engine/audit/?caller=looker&limit=-1").await.expect(200);
    let actions: Vec<&str> =
        signed_in.as_array().expect("records").iter().filter_map(|r| r["action"].as_str()).collect();
    assert_eq!(actions.last(), Some(&"POST /auth/verify"), "{signed_in}");
    engine.client(&token).get("/engine/audit/").send().await.refusal(403);
    engine.client(&token).get("/engine/audit/verify/").send().await.refusal(403);
}

#[tokio::test]
async fn it_is_read_page_by_page_in_both_forms() {
    let engine = Engine::start().await;
    for n in 0..30 {
        engine.post("/object/fs/", json!({ "identity": format!("o{n}"), "content": "x" })).await.expect(201);
    }
    let all = engine.get("/engine/audit/?limit=-1").await;
    let total: usize = all.header("x-total-count").parse().expect("a number");
    let all = all.expect(200);
    let all = all.as_array().expect("records");
    assert_eq!(all.len(), total);
    let ids: Vec<i64> = all.iter().filter_map(|record| record["id"].as_i64()).collect();
    assert_eq!(ids, (1..=total as i64).rev().collect::<Vec<_>>(), "numbered without a gap, the newest first");
    for (offset, limit) in [(0, 1), (0, 7), (5, 7), (total - 3, 10), (total, 5), (3, 0)] {
        let page = engine.get(&format!("/engine/audit/?offset={offset}&limit={limit}")).await.expect(200);
        let expected: Vec<&Value> = all.iter().skip(offset).take(limit).collect();
        assert_eq!(page.as_array().expect("records").iter().collect::<Vec<_>>(), expected, "{offset} {limit}");
    }
    let streamed = engine.get("/engine/audit/?stream=true&limit=4").await;
    assert_eq!(streamed.entities(), all[..4]);
    assert_eq!(streamed.chunks()[1]["payload"]["value"], total);
    for query in ["limit=-2", "limit=x", "offset=-1", "nothing=1"] {
        engine.get(&format!("/engine/audit/?{query}")).await.refusal(400);
    }
}

#[tokio::test]
async fn verification_names_the_first_record_that_was_changed_or_removed() {
    let mut engine = Engine::start().await;
    for n in 0..10 {
        engine.post("/object/fs/", json!({ "identity": format!("o{n}") })).await.expect(201);
    }
    let verdict = engine.get("/engine/audit/verify/").await.expect(200);
    assert_eq!(verdict["intact"], true, "{verdict}");
    let head = verdict["head"].as_str().expect("a head").to_owned();
    assert!(engine.cli(&["audit", "verify"]).await.status.success());
    engine.kill().await;
    engine.boot().await;
    let noted = engine.get(&format!("/engine/audit/verify/?head={head}")).await.expect(200);
    assert_eq!(noted["intact"], true, "a noted head is still there after a kill: {noted}");
    for (sql, broken) in [
        ("DROP TRIGGER audit_is_append_only; UPDATE audit SET subject = 'another' WHERE id = 6", 6),
        ("DROP TRIGGER audit_is_kept; DELETE FROM audit WHERE id = 4", 4),
    ] {
        engine.stop().await;
        let database = rusqlite::Connection::open(engine.data_dir().join("dxflow.db")).expect("opens");
        database.execute_batch(sql).expect("changed by force");
        drop(database);
        engine.boot().await;
        let verdict = engine.get("/engine/audit/verify/").await.expect(200);
        assert_eq!((&verdict["intact"], &verdict["broken"]["id"]), (&json!(false), &json!(broken)), "{verdict}");
        let told = engine.cli(&["audit", "verify"]).await;
        assert_eq!(told.status.code(), Some(1));
        let said = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(said.contains(&format!("record {broken}")), "{said}");
    }
    let other = "0".repeat(64);
    engine.get(&format!("/engine/audit/verify/?head=3:{other}")).await.expect(200);
    engine.get("/engine/audit/verify/?head=nonsense").await.refusal(400);
}

#[tokio::test]
async fn a_flood_of_refusals_does_not_push_the_others_out() {
    let engine = Engine::options().config("[audit]\nrefusal_burst = 5").start().await;
    for _ in 0..200 {
        engine.anonymous().get("/shell/").send().await.refusal(401);
    }
    let refused = engine.get("/engine/audit/?caller=-&limit=-1").await.expect(200);
    let count = refused.as_array().expect("records").len();
    assert!(count < 100, "{count} of 200");
}
