//! What a token is good for, and for how long: forged ones, ended ones, and what is open when a key loses its rights.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::support::credentials::{Ed25519, Forger, HEADER, claims_of, now};
use crate::support::socket::Socket;
use crate::support::{Answer, Engine, process};

async fn inspect(engine: &Engine, token: &str) -> Answer {
    engine.client(token).get("/auth/inspect/").send().await
}

/// The claims with one of them written otherwise, and nothing else changed.
fn with(claims: &str, name: &str, written: &str) -> String {
    let value = &serde_json::from_str::<Value>(claims).expect("JSON")[name];
    let changed = claims.replace(&format!("\"{name}\":{value}"), &format!("\"{name}\":{written}"));
    assert_ne!(changed, claims, "`{name}` was there");
    changed
}

/// The claims without one of them.
fn without(claims: &str, name: &str) -> String {
    let mut map: serde_json::Map<String, Value> = serde_json::from_str(claims).expect("JSON");
    map.remove(name).expect("it was there");
    Value::Object(map).to_string()
}

#[tokio::test]
async fn even_signed_by_the_engine_a_token_must_say_what_it_should() {
    let engine = Engine::start().await;
    let forger = Forger::of(&engine);
    let claims = claims_of(&engine.token);
    let later = now() + 100;
    // The forger's hand is good: what is refused below is refused for what it says.
    inspect(&engine, &forger.sign(HEADER, &claims)).await.expect(202);
    inspect(&engine, &forger.redate(&engine.token, -5, 500)).await.expect(202);
    let mut forged: Vec<(String, String)> = Vec::new();
    for header in [
        r#"{"alg":"none","typ":"JWT"}"#,
        r#"{"alg":"None","typ":"JWT"}"#,
        r#"{"alg":"HS256","typ":"JWT"}"#,
        r#"{"alg":"Ed25519","typ":"JWT"}"#,
        r#"{"alg":"EdDSA","typ":"JWT","kid":"keys/admin"}"#,
        r#"{"alg":"EdDSA","typ":"JWT","kid":"../../../../dev/null"}"#,
        r#"{"alg":"EdDSA","typ":"JWT","jku":"http://127.0.0.1/keys"}"#,
        r#"{"alg":"EdDSA","typ":"JWT","crit":["exp"],"exp":1}"#,
        r#"{"alg":"EdDSA","alg":"none","typ":"JWT"}"#,
        r#"{"alg":["EdDSA"],"typ":"JWT"}"#,
        r#"{"typ":"JWT"}"#,
        "{}",
        "null",
        "",
    ] {
        forged.push((format!("the header {header}"), forger.sign(header, &claims)));
    }
    for exp in [
        format!("\"{later}\""),
        format!("{later}.0"),
        format!("{later}.5"),
        format!("[{later}]"),
        "null".into(),
        "true".into(),
        "-1".into(),
        "0".into(),
        "1e99".into(),
        "9223372036854775808".into(),
        "99999999999999999999999999".into(),
        format!("{later},\"exp\":{}", later + 1),
        format!("{},\"exp\":{later}", now() - 1),
        format!("{later},\"nbf\":{}", now() - 1),
        format!("{later},\"EXP\":{later}"),
        format!("{}", now() - 1),
        format!("{}", now() - 60),
    ] {
        forged.push((format!("exp: {exp}"), forger.sign(HEADER, &with(&claims, "exp", &exp))));
    }
    for name in ["iss", "sub", "identity", "permissions", "writable", "iat", "exp", "jti"] {
        forged.push((format!("without {name}"), forger.sign(HEADER, &without(&claims, name))));
        for written in ["null", "{}", "[]", "\"\"", "-1", "\"nobody\""] {
            // That one is what a key without permissions, or a clock before 1970, would make.
            if matches!((name, written), ("permissions", "[]") | ("iat", "-1")) {
                continue;
            }
            forged.push((format!("{name}: {written}"), forger.sign(HEADER, &with(&claims, name, written))));
        }
    }
    for (what, said) in [
        ("nothing", String::new()),
        ("an array of it", format!("[{claims}]")),
        ("a text of it", Value::from(claims.as_str()).to_string()),
        ("white space", format!("{claims} ")),
        ("much of it", claims.replacen('{', &format!("{{\"a\":\"{}\",", "a".repeat(100_000)), 1)),
        ("deep", "[".repeat(1_000)),
    ] {
        forged.push((what.into(), forger.sign(HEADER, &said)));
    }
    for (what, token) in forged {
        let answer = engine.client(&token).get("/auth/inspect/").try_send().await;
        // One that is too long for a header is refused as such.
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        let status = answer.status.as_u16();
        assert!(status == 401 || token.len() > 4_000 && status == 431, "{what}: {status}");
    }
    inspect(&engine, &engine.token).await.expect(202);
}

#[tokio::test]
async fn nobody_elses_signature_makes_a_token() {
    let engine = Engine::start().await;
    let claims = claims_of(&engine.token);
    let public = Forger::of(&engine).0.0.verifying_key().to_bytes();
    let (line, admin) = (Forger::of(&engine).0.line(), Ed25519::read(&engine.data_dir().join("keys/admin")));
    // HMAC with the public key as its secret, in the forms in which a library may hold it.
    for secret in [public.to_vec(), STANDARD.encode(public).into_bytes(), line.into_bytes(), Vec::new()] {
        for header in [HEADER, r#"{"alg":"HS256","typ":"JWT"}"#] {
            let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(&claims));
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes());
            inspect(&engine, &format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))).await.refusal(401);
        }
    }
    for key in [admin, Ed25519::generate()] {
        inspect(&engine, &Forger(key).sign(HEADER, &claims)).await.refusal(401);
    }
    let other = Engine::start().await;
    inspect(&other, &engine.token).await.refusal(401);
    inspect(&engine, &other.token).await.refusal(401);
}

#[tokio::test]
async fn a_token_stops_at_its_end_and_takes_its_sockets_along() {
    let engine = Engine::start().await;
    engine.post("/shell/", json!({ "identity": "open", "command": "/bin/sh" })).await.expect(201);
    let token = Forger::of(&engine).redate(&engine.token, -60, 6);
    let end = now() + 6;
    let mut socket = Socket::open(&engine, "open", "", &token, "dxflow.pty.v1").await.expect("attached");
    inspect(&engine, &token).await.expect(202);
    let (code, _) = socket.closed().await;
    assert_eq!(code, 1008);
    assert!((end..end + 5).contains(&now()), "it was closed {} s after the end", now() - end);
    inspect(&engine, &token).await.refusal(401);
    assert!(Socket::open(&engine, "open", "", &token, "dxflow.pty.v1").await.is_err());
}

#[tokio::test]
async fn sockets_end_with_what_their_key_may_and_others_stay() {
    let engine = Engine::start().await;
    engine.post("/shell/", json!({ "identity": "open", "command": "/bin/sh" })).await.expect(201);
    let (mut bystander, _) = Socket::attach(&engine, "open", "").await;
    for (what, change) in [
        ("unregistered", None),
        ("disabled", Some(json!({ "disabled": true }))),
        ("without SHELL", Some(json!({ "permissions": ["OBJECT"] }))),
        ("without OBJECT", Some(json!({ "permissions": ["SHELL"] }))),
        ("READ_ONLY", Some(json!({ "permissions": ["SHELL", "OBJECT", "READ_ONLY"] }))),
    ] {
        let token = engine.token_with("user", &["SHELL", "OBJECT"]).await;
        let mut with_control = Socket::open(&engine, "open", "", &token, "dxflow.pty.v1").await.expect("attached");
        let in_header = format!("bearer, bearer.{token}");
        let mut plain = Socket::open(&engine, "open", "", "", &in_header).await.expect("attached");
        assert_eq!(plain.protocol, "bearer");
        // What grants more ends nothing.
        let more = json!({ "identity": "user", "permissions": ["SHELL", "OBJECT", "WORKFLOW"] });
        engine.patch("/auth/key/", more).await.expect(200);
        inspect(&engine, &token).await.expect(202);
        with_control.type_bytes(format!("echo {}-$((40+2))\n", what.len()).as_bytes()).await;
        with_control.read_until(format!("{}-42", what.len()).as_bytes()).await;
        let started = match change {
            None => {
                let started = Instant::now();
                engine.delete("/auth/key/", json!({ "identity": "user" })).await.expect(200);
                started
            }
            Some(mut change) => {
                change["identity"] = "user".into();
                let started = Instant::now();
                engine.patch("/auth/key/", change).await.expect(200);
                started
            }
        };
        inspect(&engine, &token).await.refusal(401);
        assert_eq!((with_control.closed().await.0, plain.closed().await.0), (1008, 1008), "{what}");
        // A second is promised; the rest is for a machine that is busy with other tests.
        assert!(started.elapsed() < Duration::from_secs(5), "{what}: {:?}", started.elapsed());
        let again = Socket::open(&engine, "open", "", &token, "dxflow.pty.v1").await;
        assert!(again.is_err(), "{what}");
        if what != "unregistered" {
            engine.delete("/auth/key/", json!({ "identity": "user" })).await.expect(200);
        }
    }
    bystander.type_bytes(b"echo still-$((40+2))\n").await;
    bystander.read_until(b"still-42").await;
}

#[tokio::test]
async fn what_was_answered_is_kept_whatever_comes_then() {
    let mut engine = Engine::start().await;
    for round in 0..5 {
        let (kept, gone) = (format!("kept{round}"), format!("gone{round}"));
        let key = Ed25519::generate();
        engine.post("/auth/key/", json!({ "identity": gone })).await.expect(201);
        let token = engine.token_with(&format!("user{round}"), &["SHELL"]).await;
        engine.post("/auth/key/", json!({ "identity": kept, "key": key.line() })).await.expect(201);
        engine.patch("/auth/key/", json!({ "identity": kept, "permissions": ["OBJECT"] })).await.expect(200);
        engine.delete("/auth/key/", json!({ "identity": gone })).await.expect(200);
        engine.kill().await;
        engine.boot().await;
        let keys = engine.get("/auth/key/?all").await.expect(200);
        let find = |name: &str| keys.as_array().expect("keys").iter().find(|key| key["identity"] == name);
        assert_eq!(find(&kept).expect("it is kept")["permissions"], json!(["OBJECT"]));
        assert!(find(&gone).is_none(), "{keys}");
        inspect(&engine, &token).await.expect(202);
        inspect(&engine, &engine.sign_in_with(&key.private_text()).await).await.expect(202);
    }
}

#[tokio::test]
async fn two_that_take_each_others_rights_do_not_both_succeed() {
    let engine = Engine::start().await;
    let pairs = [Ed25519::generate(), Ed25519::generate()];
    let names = ["left", "right"];
    for (name, key) in names.iter().zip(&pairs) {
        let body = json!({ "identity": name, "key": key.line(), "permissions": ["MASTER"] });
        engine.post("/auth/key/", body).await.expect(201);
    }
    let mut tokens = Vec::new();
    for key in &pairs {
        tokens.push(engine.sign_in_with(&key.private_text()).await);
    }
    engine.client(&tokens[0]).delete("/auth/").json(&json!({ "identity": "admin" })).send().await.expect(200);
    for round in 0..10 {
        let change = |of: &str| match round % 3 {
            0 => json!({ "identity": of, "disabled": true }),
            1 => json!({ "identity": of, "permissions": ["SHELL"] }),
            _ => json!({ "identity": of, "permissions": ["MASTER", "READ_ONLY"] }),
        };
        let take = |by: usize| engine.client(&tokens[by]).patch("/auth/key/").json(&change(names[1 - by])).send();
        let (left, right) = tokio::join!(take(0), take(1));
        let winner = usize::from(right.status == 200);
        assert_eq!([&left, &right].iter().filter(|answer| answer.status == 200).count(), 1, "{left:?} {right:?}");
        let loser = [&left, &right][1 - winner].status.as_u16();
        // It lost before it was let in, or after.
        assert!([401, 409].contains(&loser), "{loser}");
        let restored = json!({ "identity": names[1 - winner], "disabled": false, "permissions": ["MASTER"] });
        engine.client(&tokens[winner]).patch("/auth/key/").json(&restored).send().await.expect(200);
        tokens[1 - winner] = engine.sign_in_with(&pairs[1 - winner].private_text()).await;
    }
}

#[tokio::test]
async fn no_secret_is_logged_kept_or_handed_on() {
    let engine = Engine::options().argument("-vv").start().await;
    let made = engine.post("/auth/key/", json!({ "identity": "user", "permissions": ["SHELL"] })).await.expect(201);
    let private = made["private_key"].as_str().expect("a private key").to_owned();
    let key = Ed25519::parse(&private);
    let challenge = engine.anonymous().get("/auth/challenge/").send().await.expect(200);
    let signature = key.sign(challenge["nonce"].as_str().expect("text"));
    let body = json!({ "identity": challenge["identity"], "signature": signature });
    let verified = engine.anonymous().post("/auth/verify/").json(&body).send().await.expect(200);
    let token = verified["token"].as_str().expect("text").to_owned();
    // Used in every way in which it may come, and in those in which it may not.
    let cookie = format!("authorization={token}");
    engine.anonymous().get("/auth/inspect/").header("cookie", &cookie).send().await.expect(202);
    let query = format!("/auth/inspect/?authorization={token}&token={token}");
    let refused = engine.anonymous().get(&query).send().await;
    refused.refusal(401);
    assert!(!refused.text().contains(&token));
    let wrong = engine.client(&format!("{token}x")).get(&format!("/shell/?x={token}")).send().await;
    assert!(!wrong.text().contains(&token));
    let shell = json!({ "identity": "heir", "command": "/bin/sh" });
    let shell = engine.client(&token).post("/shell/").json(&shell).send().await.expect(201);
    let mut socket = Socket::open(&engine, "heir", "", "", &format!("bearer, bearer.{token}")).await.expect("attached");
    assert!(!socket.protocol.contains(&token));
    socket.send_text("exit\n").await;
    assert_eq!(socket.closed().await.0, 1000);
    let again = engine.put("/shell/execute/", json!({ "identity": "heir" })).await;
    again.expect(200);
    let pid = engine.get("/shell/heir/").await.expect(200)["pid"].as_i64().expect("a pid");
    assert_ne!(pid, shell["pid"].as_i64().expect("a pid"));
    let mut secrets = vec![token.clone(), signature.clone(), token.rsplit('.').next().expect("a part").to_owned()];
    // Without the first line of the body, which all such keys share.
    secrets.extend(private.lines().filter(|line| !line.starts_with("-----")).skip(1).map(str::to_owned));
    let held = |place: &str, bytes: &[u8]| {
        for secret in &secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "a secret of {} characters is in {place}", secret.len());
        }
    };
    assert!(engine.log().contains("answered"), "everything is logged");
    held("the log", engine.log().as_bytes());
    let mut directories = vec![engine.data_dir()];
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().expect("listed") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.is_file() {
                held(&path.display().to_string(), &std::fs::read(&path).expect("read"));
            }
        }
    }
    let mut processes = process::tree(engine.pid());
    processes.extend(engine.keeper_processes());
    for pid in processes {
        for file in ["cmdline", "environ"] {
            let path = format!("/proc/{pid}/{file}");
            held(&path, &std::fs::read(&path).unwrap_or_default());
        }
    }
    let shells = engine.get("/shell/").await;
    held("a list", shells.text().as_bytes());
    held("a list", engine.get("/auth/key/?all").await.text().as_bytes());
}

/// A panic costs the call that it hit, and no other: what was answered is kept, what was signed in stays so, and the next
/// call finds everything in order.
#[cfg(feature = "fault-injection")]
#[tokio::test]
async fn a_panic_of_the_registry_or_the_store_costs_one_call() {
    let engine = Engine::start().await;
    let token = engine.token_with("user", &["SHELL"]).await;
    engine.post("/shell/", json!({ "identity": "open", "command": "/bin/sh" })).await.expect(201);
    let mut socket = Socket::open(&engine, "open", "", &token, "dxflow.pty.v1").await.expect("attached");
    let mut kept = vec!["admin".to_owned(), "user".to_owned()];
    // No more than a supervisor puts up with in its period.
    for (round, actor) in ["key-registry", "store", "key-registry"].into_iter().enumerate() {
        let names: Vec<String> = (0..8).map(|n| format!("round{round}-{n}")).collect();
        engine.post("/engine/fault/", json!({ "actor": actor })).await.expect(200);
        let attempts = names.iter().map(|name| engine.post("/auth/key/", json!({ "identity": name })));
        let answers = futures_util::future::join_all(attempts).await;
        let mut failed = 0;
        for (name, answer) in names.iter().zip(&answers) {
            if answer.status != 201 {
                failed += 1;
                assert!(answer.status.is_server_error(), "{actor}: {}", answer.text());
                assert!(!answer.text().contains("PRIVATE KEY"));
                // It may have been kept or not; either way a second try finds it in order.
                let again = engine.post("/auth/key/", json!({ "identity": name })).await.status.as_u16();
                assert!([201, 409].contains(&again), "{actor}: {again}");
            }
            kept.push(name.clone());
        }
        assert!(failed <= 1, "{actor}: {failed} calls failed");
        inspect(&engine, &token).await.expect(202);
        let listed = engine.get("/auth/key/?all").await.expect(200);
        let mut listed: Vec<&str> =
            listed.as_array().expect("keys").iter().map(|key| key["identity"].as_str().expect("a name")).collect();
        listed.sort_unstable();
        kept.sort_unstable();
        assert_eq!(listed, kept, "{actor}");
    }
    let tree = engine.get("/engine/supervision/").await.expect(200).to_string();
    assert!(tree.contains("key-registry") && tree.contains("store"), "{tree}");
    socket.type_bytes(b"echo still-$((40+2))\n").await;
    socket.read_until(b"still-42").await;
}

/// What a key has shared, reading and writing: the signatures of both.
async fn share(engine: &Engine, token: &str, object: &str) -> [String; 2] {
    let mut signatures = Vec::new();
    for writable in [false, true] {
        let body = json!({ "identities": [object], "writable": writable, "lifetime": "1h" });
        let shared = engine.client(token).put("/object/fs/share/").json(&body).send().await.expect(200);
        signatures.push(shared[0]["signature"].as_str().expect("a signature").to_owned());
    }
    signatures.try_into().expect("two")
}

/// What becomes of the two.
async fn use_share(engine: &Engine, [reads, writes]: &[String; 2]) -> [u16; 2] {
    let path = format!("/object/fs/presigned/upload/?signature={writes}");
    let written = engine.anonymous().put(&path).body("shared").send().await.status.as_u16();
    let path = format!("/object/fs/presigned/download/?signature={reads}");
    [engine.anonymous().get(&path).send().await.status.as_u16(), written]
}

#[tokio::test]
async fn shares_end_with_their_key_and_outlive_the_engine() {
    let mut engine = Engine::start().await;
    let create = |name: &str| json!({ "identity": name, "content": "shared" });
    for name in ["kept", "one", "two", "three", "four"] {
        engine.post("/object/fs/", create(name)).await.expect(201);
    }
    let bystander = engine.token_with("bystander", &["OBJECT"]).await;
    let kept = share(&engine, &bystander, "kept").await[0].clone();
    let download = format!("/object/fs/presigned/download/?signature={kept}");
    for (object, change) in [
        ("one", None),
        ("two", Some(json!({ "identity": "user", "disabled": true }))),
        ("three", Some(json!({ "identity": "user", "permissions": ["SHELL"] }))),
        ("four", Some(json!({ "identity": "user", "permissions": ["SHELL", "OBJECT", "READ_ONLY"] }))),
    ] {
        let token = engine.token_with("user", &["SHELL", "OBJECT"]).await;
        let shared = share(&engine, &token, object).await;
        let read = format!("/object/fs/presigned/download/?signature={}", shared[0]);
        assert_eq!(engine.anonymous().get(&read).send().await.text(), "shared");
        match &change {
            None => engine.delete("/auth/key/", json!({ "identity": "user" })).await.expect(200),
            Some(change) => engine.patch("/auth/key/", change.clone()).await.expect(200),
        };
        let [reads, writes] = use_share(&engine, &shared).await;
        assert_eq!(writes, 403, "{change:?}");
        // Who may still read may still let others read, or not: what it must not is write.
        assert!(reads == 403 || object == "four", "{change:?}: {reads}");
        let restored = json!({ "identity": "user", "disabled": false, "permissions": ["SHELL", "OBJECT"] });
        match &change {
            None => engine.post("/auth/key/", json!({ "identity": "user" })).await.expect(201),
            Some(_) => engine.patch("/auth/key/", restored).await.expect(200),
        };
        let [reads, writes] = use_share(&engine, &shared).await;
        assert_eq!(writes, 403, "what was taken does not come back: {change:?}");
        assert!(reads == 403 || object == "four", "{change:?}: {reads}");
        engine.delete("/auth/key/", json!({ "identity": "user" })).await.expect(200);
        assert_eq!(use_share(&engine, &shared).await, [403, 403], "{change:?}");
        assert_eq!(engine.anonymous().get(&download).send().await.text(), "shared", "another key's share");
    }
    engine.kill().await;
    engine.boot().await;
    assert_eq!(engine.anonymous().get(&download).send().await.text(), "shared");
    engine.delete("/auth/key/", json!({ "identity": "bystander" })).await.expect(200);
    engine.anonymous().get(&download).send().await.refusal(403);
    engine.kill().await;
    engine.boot().await;
    engine.anonymous().get(&download).send().await.refusal(403);
}
