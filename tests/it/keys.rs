//! The registry of keys.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::Engine;

/// A public key that nobody has the private half of.
fn public_line(seed: u8) -> String {
    let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let public = ssh_key::public::Ed25519PublicKey(key.verifying_key().to_bytes());
    ssh_key::PublicKey::from(ssh_key::public::KeyData::Ed25519(public)).to_openssh().expect("written")
}

fn identities(keys: &Value) -> Vec<&str> {
    keys.as_array().expect("an array").iter().map(|key| key["identity"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn a_key_is_registered_listed_changed_and_removed() {
    let engine = Engine::start().await;
    let line = public_line(1);
    let body = json!({ "identity": "user", "key": format!("{line} somebody@somewhere") });
    let registered = engine.post("/auth/key/", body).await.expect(201);
    let names: Vec<&String> = registered.as_object().expect("an object").keys().collect();
    let expected = ["identity", "key", "type", "fingerprint", "permissions", "disabled", "created_at", "last_used_at"];
    assert_eq!(names.len(), expected.len(), "{registered}");
    assert!(expected.iter().all(|name| registered.get(name).is_some()), "{registered}");
    assert_eq!(registered["key"], line);
    assert_eq!(registered["type"], "ed25519");
    assert_eq!(registered["permissions"], json!(["SHELL", "OBJECT", "WORKFLOW", "PLATFORM", "PROXY", "BRIDGE"]));
    assert_eq!((&registered["disabled"], &registered["last_used_at"]), (&json!(false), &Value::Null));
    let created = registered["created_at"].as_str().expect("a time");
    assert!(created.len() == 20 && created.ends_with('Z') && created.contains('T'), "{created}");
    assert!(registered["fingerprint"].as_str().is_some_and(|text| text.starts_with("SHA256:")), "{registered}");

    let listed = engine.get("/auth/key/").await;
    assert_eq!(listed.header("x-total-count"), "2");
    let listed = listed.expect(200);
    assert_eq!(identities(&listed), ["admin", "user"]);
    assert_eq!(listed[1], registered);
    assert!(listed[0]["last_used_at"].is_string(), "{listed}");

    let change = json!({ "identity": "user", "permissions": ["ARTIFACT"], "disabled": true });
    let changed = engine.patch("/auth/key/", change).await.expect(200);
    assert_eq!((&changed["permissions"], &changed["disabled"]), (&json!(["OBJECT"]), &json!(true)));
    assert_eq!(identities(&engine.get("/auth/key/").await.expect(200)), ["admin"]);
    for all in ["?all=", "?all", "?all=true", "?all=1"] {
        let listed = engine.get(&format!("/auth/key/{all}")).await.expect(200);
        assert_eq!(identities(&listed), ["admin", "user"], "{all}");
    }
    let removed = engine.delete("/auth/key/", json!({ "identity": "user" })).await.expect(200);
    assert_eq!(removed, json!({ "identity": "user", "state": "removed" }));
    engine.delete("/auth/key/", json!({ "identity": "user" })).await.refusal(404);
    engine.patch("/auth/key/", json!({ "identity": "user", "disabled": true })).await.refusal(404);
}

#[tokio::test]
async fn a_pair_is_made_and_its_private_half_told_once() {
    let engine = Engine::start().await;
    let made = engine.post("/auth/key/", json!({ "identity": "made", "permissions": ["SHELL"] })).await.expect(201);
    let private = made["private_key"].as_str().expect("a private key");
    assert!(private.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----\n"), "{private}");
    let token = engine.sign_in_with(private).await;
    engine.client(&token).get("/auth/inspect/").send().await.expect(202);
    let listed = engine.get("/auth/key/?all=").await;
    assert!(!listed.text().contains("PRIVATE"), "{}", listed.text());
    let secret = private.lines().nth(3).expect("a line of it");
    for name in ["dxflow.db", "dxflow.db-wal", "engine.log"] {
        let bytes = std::fs::read(engine.data_dir().join(name)).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{name}");
    }
    assert!(!engine.log().contains(secret));
}

#[tokio::test]
async fn the_same_four_are_at_the_engine_and_one_at_auth() {
    let engine = Engine::start().await;
    engine.post("/engine/key/", json!({ "identity": "a" })).await.expect(201);
    engine.patch("/engine/key/", json!({ "identity": "a", "disabled": true })).await.expect(200);
    assert_eq!(identities(&engine.get("/engine/key/?all").await.expect(200)), ["admin", "a"]);
    engine.delete("/engine/key/", json!({ "identity": "a" })).await.expect(200);
    engine.post("/auth/key/", json!({ "identity": "b" })).await.expect(201);
    engine.delete("/auth/", json!({ "identity": "b" })).await.expect(200);
    engine.post("/auth/key/", json!({ "identity": "c" })).await.expect(201);
    engine.master().delete("/auth/key/?identity=c").send().await.expect(200);
    assert_eq!(identities(&engine.get("/auth/key/?all").await.expect(200)), ["admin"]);
}

#[tokio::test]
async fn a_key_or_name_that_is_there_is_a_conflict() {
    let engine = Engine::start().await;
    engine.post("/auth/key/", json!({ "identity": "a", "key": public_line(1) })).await.expect(201);
    let detail = engine.post("/auth/key/", json!({ "identity": "b", "key": public_line(1) })).await.refusal(409);
    assert!(detail.contains("`a`"), "{detail}");
    engine.post("/auth/key/", json!({ "identity": "a", "key": public_line(2) })).await.refusal(409);
    engine.post("/auth/key/", json!({ "identity": "a" })).await.refusal(409);
    // Many at once: one is registered, the others hear that it is there.
    let attempts = (0..20).map(|_| engine.post("/auth/key/", json!({ "identity": "raced" })));
    let answers = futures_util::future::join_all(attempts).await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(201_u16), count(409)), (1, 19));
}

#[tokio::test]
async fn bad_registrations_are_refused_and_leave_nothing() {
    let engine = Engine::start().await;
    for (body, named) in [
        (json!({}), "identity"),
        (json!({ "identity": null }), "identity"),
        (json!({ "identity": "" }), "identity"),
        (json!({ "identity": "-rf" }), "identity"),
        (json!({ "identity": "../x" }), "identity"),
        (json!({ "identity": "a\nb" }), "identity"),
        (json!({ "identity": "$(x)" }), "identity"),
        (json!({ "identity": "x".repeat(65) }), "identity"),
        (json!({ "identity": "x", "key": null }), "key"),
        (json!({ "identity": "x", "key": "" }), "key"),
        (json!({ "identity": "x", "key": "ssh-ed25519 AAAA" }), "key"),
        (json!({ "identity": "x", "key": ["ssh-ed25519"] }), "key"),
        (json!({ "identity": "x", "Key": public_line(1) }), "Key"),
        (json!({ "identity": "x", "permissions": null }), "permissions"),
        (json!({ "identity": "x", "permissions": "MASTER" }), "permissions"),
        (json!({ "identity": "x", "permissions": ["ROOT"] }), "ROOT"),
        (json!({ "identity": "x", "permissions": ["master"] }), "master"),
        (json!({ "identity": "x", "disabled": false }), "disabled"),
    ] {
        let detail = engine.post("/auth/key/", body.clone()).await.refusal(400);
        assert!(detail.contains(named), "{body}: {detail}");
    }
    let twice = "{\"identity\":\"x\",\"permissions\":[],\"permissions\":[\"MASTER\"]}";
    engine.master().post("/auth/key/").body(twice).send().await.refusal(400);
    for change in [
        json!({ "identity": "admin" }),
        json!({ "identity": "admin", "disabled": "false" }),
        json!({ "identity": "admin", "disabled": null }),
        json!({ "identity": "admin", "key": public_line(1) }),
    ] {
        engine.patch("/auth/key/", change).await.refusal(400);
    }
    engine.get("/auth/key/?everything").await.refusal(400);
    assert_eq!(identities(&engine.get("/auth/key/?all").await.expect(200)), ["admin"]);
}

#[tokio::test]
async fn the_last_key_that_manages_keys_stays() {
    let engine = Engine::start().await;
    engine
        .post("/auth/key/", json!({ "identity": "reader", "permissions": ["MASTER", "READ_ONLY"] }))
        .await
        .expect(201);
    engine.delete("/auth/", json!({ "identity": "admin" })).await.refusal(409);
    for change in [
        json!({ "identity": "admin", "disabled": true }),
        json!({ "identity": "admin", "permissions": ["SHELL"] }),
        json!({ "identity": "admin", "permissions": ["MASTER", "READ_ONLY"] }),
    ] {
        engine.patch("/auth/key/", change).await.refusal(409);
    }
    let second = engine.token_with("second", &["MASTER"]).await;
    engine.client(&second).delete("/auth/").json(&json!({ "identity": "admin" })).send().await.expect(200);
    engine.get("/auth/inspect/").await.refusal(401);
    let last = engine.client(&second).delete("/auth/key/").json(&json!({ "identity": "second" })).send().await;
    last.refusal(409);
}

#[tokio::test]
async fn everything_that_is_kept_is_the_owners_alone() {
    let engine = Engine::start().await;
    engine.post("/auth/key/", json!({ "identity": "a" })).await.expect(201);
    let data = engine.data_dir();
    let mut directories = vec![data.clone()];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("listed") {
            let path = entry.expect("an entry").path();
            let metadata = std::fs::symlink_metadata(&path).expect("there");
            assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
            if metadata.is_dir() {
                directories.push(path);
            }
            seen += 1;
        }
    }
    assert!(seen >= 6, "{seen}");
    for name in ["keys/admin", "keys/admin.pub", "keys/signing", "dxflow.db"] {
        assert!(data.join(name).is_file(), "{name}");
    }
    let log = engine.log();
    assert_eq!(log.matches("A MASTER key was made").count(), 1, "{log}");
}
