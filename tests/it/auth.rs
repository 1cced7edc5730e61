//! Sign-in and tokens.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};
use ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, Signature, SshSig};

use crate::support::socket::Socket;
use crate::support::{Answer, Engine, until, until_true, within};

/// The key of an OpenSSH private key text.
fn signing_key(text: &str) -> SigningKey {
    let key = PrivateKey::from_openssh(text).expect("an OpenSSH private key");
    SigningKey::from_bytes(&key.key_data().ed25519().expect("an Ed25519 key").private.to_bytes())
}

fn admin(engine: &Engine) -> SigningKey {
    let path = engine.data_dir().join("keys/admin");
    signing_key(&std::fs::read_to_string(path).expect("the key can be read"))
}

fn raw(key: &SigningKey, nonce: &str) -> String {
    STANDARD.encode(key.sign(nonce.as_bytes()).to_bytes())
}

/// What `ssh-keygen -Y sign` writes.
fn armored(key: &SigningKey, namespace: &str, nonce: &str) -> String {
    let signed = SshSig::signed_data(namespace, HashAlg::Sha512, nonce.as_bytes()).expect("written");
    let signature = Signature::new(Algorithm::Ed25519, key.sign(&signed).to_bytes().to_vec()).expect("64 bytes");
    let public = ssh_key::public::Ed25519PublicKey(key.verifying_key().to_bytes());
    let signature = SshSig::new(public.into(), namespace, HashAlg::Sha512, signature).expect("a signature");
    signature.to_pem(LineEnding::LF).expect("written")
}

/// A challenge's identity and nonce.
async fn challenge(engine: &Engine) -> (String, String) {
    let challenge = engine.anonymous().get("/auth/challenge/").send().await.expect(200);
    let text = |name: &str| challenge[name].as_str().expect(name).to_owned();
    assert_eq!(challenge["nounce"], challenge["nonce"]);
    assert_eq!(challenge["lifetime"], "1m0s");
    assert_eq!(challenge.as_object().map(serde_json::Map::len), Some(4), "{challenge}");
    (text("identity"), text("nonce"))
}

async fn verify(engine: &Engine, body: &Value) -> Answer {
    engine.anonymous().post("/auth/verify/").json(body).send().await
}

async fn inspect(engine: &Engine, token: &str) -> Answer {
    engine.client(token).get("/auth/inspect/").send().await
}

#[tokio::test]
async fn a_key_signs_in_in_every_form() {
    let engine = Engine::start().await;
    let key = admin(&engine);
    for form in 0..5 {
        let (identity, nonce) = challenge(&engine).await;
        assert!(URL_SAFE_NO_PAD.decode(&nonce).is_ok_and(|bytes| bytes.len() >= 32), "{nonce}");
        let body = match form {
            0 => json!({ "identity": identity, "signature": raw(&key, &nonce) }),
            1 => json!({ "identity": identity, "signature": armored(&key, "dxflow", &nonce) }),
            2 => json!({ "challenge_response": format!("{identity}.{}", raw(&key, &nonce)) }),
            3 => json!({ "identity": identity, "challenge_response": raw(&key, &nonce) }),
            _ => json!({ "identity": identity, "challenge_response": format!("{identity}.{}", raw(&key, &nonce)) }),
        };
        let verified = verify(&engine, &body).await.expect(200);
        assert_eq!(verified["permissions"], json!(["MASTER"]), "{verified}");
        let token = verified["token"].as_str().expect("a token");
        let inspected = inspect(&engine, token).await.expect(202);
        let expected = json!({ "identity": "admin", "permissions": ["MASTER"], "expires_at": verified["expires_at"] });
        assert_eq!(inspected, expected);
    }
}

#[tokio::test]
async fn an_rsa_key_signs_in() {
    use aws_lc_rs::rsa::{KeyPair, KeySize};
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512};
    let engine = Engine::start().await;
    let pair = KeyPair::generate(KeySize::Rsa2048).expect("a pair");
    let body = STANDARD.encode(pair.public_key().as_ref());
    let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64")).collect();
    let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n", lines.join("\n"));
    let registered = engine.post("/auth/key/", json!({ "identity": "rsa", "key": pem })).await.expect(201);
    assert_eq!(registered["type"], "rsa");
    for (algorithm, status) in [(&RSA_PKCS1_SHA256, 200), (&RSA_PKCS1_SHA512, 401)] {
        let (identity, nonce) = challenge(&engine).await;
        let mut signature = vec![0; pair.public_modulus_len()];
        let random = aws_lc_rs::rand::SystemRandom::new();
        pair.sign(algorithm, &random, nonce.as_bytes(), &mut signature).expect("signed");
        let response = format!("{identity}.{}", STANDARD.encode(signature));
        verify(&engine, &json!({ "challenge_response": response })).await.expect(status);
    }
}

#[tokio::test]
async fn failed_sign_ins_are_alike_and_use_the_challenge_up() {
    let engine = Engine::start().await;
    let key = admin(&engine);
    let disabled = engine.post("/auth/key/", json!({ "identity": "off" })).await.expect(201);
    let disabled = signing_key(disabled["private_key"].as_str().expect("a key"));
    engine.patch("/auth/key/", json!({ "identity": "off", "disabled": true })).await.expect(200);
    let stranger = SigningKey::from_bytes(&[9; 32]);
    let mut refusals = Vec::new();
    let mut refused = |answer: Answer| {
        let mut document = answer.expect(401);
        document.as_object_mut().expect("an object").remove("instance");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        refusals.push(document);
    };
    let (identity, nonce) = challenge(&engine).await;
    let good = json!({ "identity": identity, "signature": raw(&key, &nonce) });
    verify(&engine, &good).await.expect(200);
    refused(verify(&engine, &good).await);
    let (identity, nonce) = challenge(&engine).await;
    for signature in [raw(&key, "another nonce"), raw(&key, &nonce)] {
        refused(verify(&engine, &json!({ "identity": identity, "signature": signature })).await);
    }
    for (signer, unknown) in [(&key, true), (&disabled, false), (&stranger, false)] {
        let (identity, nonce) = challenge(&engine).await;
        let identity = if unknown { "unknown".into() } else { identity };
        refused(verify(&engine, &json!({ "identity": identity, "signature": raw(signer, &nonce) })).await);
    }
    let (identity, nonce) = challenge(&engine).await;
    let other_namespace = armored(&key, "file", &nonce);
    refused(verify(&engine, &json!({ "identity": identity, "signature": other_namespace })).await);
    for garbage in ["", "=", "-----BEGIN SSH SIGNATURE-----", &"A".repeat(500_000)] {
        let (identity, _) = challenge(&engine).await;
        refused(verify(&engine, &json!({ "identity": identity, "signature": garbage })).await);
    }
    assert!(refusals.iter().all(|document| *document == refusals[0]), "{refusals:#?}");
}

#[tokio::test]
async fn malformed_sign_ins_use_nothing_up() {
    let engine = Engine::start().await;
    let key = admin(&engine);
    let (identity, nonce) = challenge(&engine).await;
    let signature = raw(&key, &nonce);
    for (body, named) in [
        (json!({}), "signature"),
        (json!({ "identity": identity }), "signature"),
        (json!({ "signature": signature }), "identity"),
        (json!({ "identity": identity, "signature": null }), "signature"),
        (json!({ "identity": identity, "signature": 7 }), "signature"),
        (json!({ "identity": [identity], "signature": signature }), "identity"),
        (json!({ "identity": identity, "Signature": signature }), "Signature"),
        (json!({ "identity": identity, "signature": signature, "challenge_response": signature }), "both"),
        (json!({ "challenge_response": "nothing" }), "challenge_response"),
        (json!({ "identity": identity, "signature": signature, "lifetime": "59s" }), "lifetime"),
        (json!({ "identity": identity, "signature": signature, "lifetime": "24h1s" }), "lifetime"),
        (json!({ "identity": identity, "signature": signature, "lifetime": 3600 }), "lifetime"),
        (json!({ "identity": identity, "signature": signature, "permissions": ["MASTER"] }), "permissions"),
    ] {
        let detail = verify(&engine, &body).await.refusal(400);
        assert!(detail.contains(named), "{body}: {detail}");
    }
    let twice = format!("{{\"identity\":\"{identity}\",\"signature\":\"x\",\"signature\":\"{signature}\"}}");
    engine.anonymous().post("/auth/verify/").body(twice).send().await.refusal(400);
    engine.anonymous().get("/auth/challenge/?lifetime=1h").send().await.refusal(400);
    let good = json!({ "identity": identity, "signature": signature, "lifetime": "1m" });
    let verified = verify(&engine, &good).await.expect(200);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let left = verified["expires_at"].as_u64().expect("seconds") - now;
    assert!((50..=60).contains(&left), "{left}");
}

fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).expect("base64")).expect("JSON")
}

#[tokio::test]
async fn a_token_says_what_clients_read_in_it() {
    let engine = Engine::start().await;
    let token = engine.token_with("reader", &["SHELL", "READ_ONLY"]).await;
    let said = claims(&token);
    assert_eq!(said["sub"], "reader");
    assert_eq!(said["identity"], "reader");
    assert_eq!(said["permissions"], json!(["SHELL", "READ_ONLY"]));
    assert_eq!(said["writable"], false);
    assert_eq!(said["exp"].as_i64().expect("exp") - said["iat"].as_i64().expect("iat"), 3600);
    assert!(said["iss"].is_string() && said["jti"].is_string());
    assert_eq!(claims(&engine.token)["writable"], true);
}

#[tokio::test]
async fn tokens_that_are_not_ours_are_refused() {
    let engine = Engine::start().await;
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let (header, payload, signature) = {
        let parts: Vec<&str> = engine.token.split('.').collect();
        (parts[0].to_owned(), parts[1].to_owned(), parts[2].to_owned())
    };
    let mut longer = claims(&engine.token);
    longer["exp"] = json!(9_999_999_999_u64);
    let none = encode(&json!({ "alg": "none", "typ": "JWT" }));
    let own = SigningKey::from_bytes(&[1; 32]);
    let by_another = format!("{header}.{}", encode(&longer));
    // The signing key's public half is no secret of HMAC, and the admin's own key signs no tokens.
    let by_admin = format!("{header}.{payload}.{}", URL_SAFE_NO_PAD.encode(admin(&engine).sign(b"x").to_bytes()));
    for token in [
        String::new(),
        "x".into(),
        format!("{header}.{payload}."),
        format!("{header}.{payload}"),
        format!("{none}.{payload}."),
        format!("{none}.{payload}.{signature}"),
        format!("{header}.{}.{signature}", encode(&longer)),
        format!("{by_another}.{}", URL_SAFE_NO_PAD.encode(own.sign(by_another.as_bytes()).to_bytes())),
        by_admin,
        engine.token.to_uppercase(),
        format!("{}=", engine.token),
        format!("{}.{}", engine.token, signature),
        "A".repeat(7_000),
    ] {
        inspect(&engine, &token).await.refusal(401);
    }
    inspect(&engine, &engine.token).await.expect(202);
}

#[tokio::test]
async fn a_token_may_come_in_a_cookie() {
    let engine = Engine::start().await;
    let by_cookie = |cookie: String| engine.anonymous().get("/auth/inspect/").header("cookie", &cookie).send();
    let token = &engine.token;
    by_cookie(format!("authorization={token}")).await.expect(202);
    by_cookie(format!("a=b; authorization={token}; c=d")).await.expect(202);
    by_cookie(format!("authorization={}", token.replace('.', "%2E"))).await.expect(202);
    for cookie in ["authorization=".to_owned(), "authorization=x".into(), format!("Authorization={token}")] {
        by_cookie(cookie).await.refusal(401);
    }
    // An empty cookie is none; a header decides over a cookie.
    let both = engine.master().get("/auth/inspect/");
    both.header("cookie", "authorization=").send().await.expect(202);
    let wrong_header = engine.client("wrong").get("/auth/inspect/");
    wrong_header.header("cookie", &format!("authorization={token}")).send().await.refusal(401);
}

#[tokio::test]
async fn forwarded_headers_say_nothing() {
    let engine = Engine::start().await;
    for (name, value) in [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-user", "admin"),
        ("x-user", "admin"),
        ("x-remote-user", "admin"),
        ("forwarded", "for=unix;by=unix"),
    ] {
        engine.anonymous().get("/auth/inspect/").header(name, value).send().await.refusal(401);
    }
}

#[tokio::test]
async fn a_token_ends_with_what_its_key_may() {
    let engine = Engine::start().await;
    let key = |change: Value| async { engine.patch("/auth/key/", change).await.expect(200) };
    let token = engine.token_with("user", &["SHELL", "OBJECT"]).await;
    key(json!({ "identity": "user", "permissions": ["SHELL", "OBJECT", "WORKFLOW"] })).await;
    inspect(&engine, &token).await.expect(202);
    key(json!({ "identity": "user", "permissions": ["OBJECT"] })).await;
    inspect(&engine, &token).await.refusal(401);
    key(json!({ "identity": "user", "permissions": ["SHELL", "OBJECT"] })).await;
    inspect(&engine, &token).await.refusal(401);
    engine.delete("/auth/key/", json!({ "identity": "user" })).await.expect(200);
    let token = engine.token_with("user", &["SHELL"]).await;
    key(json!({ "identity": "user", "disabled": true })).await;
    inspect(&engine, &token).await.refusal(401);
    key(json!({ "identity": "user", "disabled": false })).await;
    inspect(&engine, &token).await.refusal(401);
}

#[tokio::test]
async fn open_sockets_end_with_the_sign_in() {
    let engine = Engine::start().await;
    engine.post("/shell/", json!({ "identity": "s", "config": { "command": "cat" } })).await.expect(201);
    let changes = [
        json!({ "identity": "user", "permissions": ["OBJECT"] }),
        json!({ "identity": "user", "disabled": true }),
        Value::Null,
    ];
    for change in changes {
        let token = engine.token_with("user", &["SHELL", "OBJECT"]).await;
        let offered = format!("bearer, bearer.{token}, dxflow.pty.v1");
        let mut socket = Socket::open(&engine, "s", "", "", &offered).await.expect("it opens with the token offered");
        assert_eq!(socket.protocol, "dxflow.pty.v1");
        socket.control_of("attached").await;
        if change.is_object() {
            engine.patch("/auth/key/", change.clone()).await.expect(200);
        }
        engine.delete("/auth/key/", json!({ "identity": "user" })).await.expect(200);
        let since = std::time::Instant::now();
        let (code, reason) = socket.closed().await;
        assert_eq!(code, 1008, "{change}: {reason}");
        // A second, and what a busy machine adds.
        assert!(since.elapsed() < std::time::Duration::from_secs(5), "{change}: {:?}", since.elapsed());
    }
    let offered = "bearer, bearer.not-a-token";
    let refused = Socket::open(&engine, "s", "", "", offered).await.err().expect("it is refused before the upgrade");
    assert!(refused.to_string().contains("401"), "{refused}");
}

#[tokio::test]
async fn sign_ins_outlive_restarts_and_kills() {
    let mut engine = Engine::start().await;
    let token = engine.token_with("user", &["SHELL"]).await;
    let key = engine.token_with("gone", &["SHELL"]).await;
    engine.delete("/auth/key/", json!({ "identity": "gone" })).await.expect(200);
    let (identity, nonce) = challenge(&engine).await;
    engine.put("/engine/restart/", json!({})).await.expect(200);
    for _ in 0..50 {
        inspect(&engine, &token).await.expect(202);
        inspect(&engine, &key).await.refusal(401);
    }
    let answer = json!({ "identity": identity, "signature": raw(&admin(&engine), &nonce) });
    verify(&engine, &answer).await.expect(200);
    engine.kill().await;
    engine.boot().await;
    inspect(&engine, &token).await.expect(202);
    inspect(&engine, &key).await.refusal(401);
    let keys = engine.get("/auth/key/").await.expect(200);
    assert_eq!(keys.as_array().map(Vec::len), Some(2), "{keys}");
}

/// Not one sign-in or change of a key fails while the actors are restarted under it, again and again.
#[tokio::test]
async fn nobody_notices_a_restart() {
    let engine = Engine::start().await;
    let key = admin(&engine);
    let done = std::sync::atomic::AtomicBool::new(false);
    let over = || done.load(std::sync::atomic::Ordering::SeqCst);
    let signs_in = async {
        let mut count = 0;
        while !over() {
            let (identity, nonce) = challenge(&engine).await;
            let body = json!({ "identity": identity, "signature": raw(&key, &nonce) });
            let verified = verify(&engine, &body).await.expect(200);
            inspect(&engine, verified["token"].as_str().expect("a token")).await.expect(202);
            count += 1;
        }
        count
    };
    let changes = |name: &'static str| {
        let engine = &engine;
        async move {
            let mut count = 0;
            while !over() {
                engine.post("/auth/key/", json!({ "identity": name })).await.expect(201);
                engine.patch("/auth/key/", json!({ "identity": name, "disabled": true })).await.expect(200);
                engine.delete("/auth/key/", json!({ "identity": name })).await.expect(200);
                count += 1;
            }
            count
        }
    };
    let restarts = async {
        for generation in 2..8 {
            engine.put("/engine/restart/", json!({})).await.expect(200);
            until("the next generation", || async {
                let health = engine.anonymous().get("/engine/healthcheck/").send().await;
                let health: Value = serde_json::from_slice(&health.body).expect("JSON");
                (health["generation"].as_u64() >= Some(generation)).then_some(())
            })
            .await;
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let (signed_in, one, two, ()) = tokio::join!(signs_in, changes("one"), changes("two"), restarts);
    assert!(signed_in > 0 && one > 0 && two > 0, "{signed_in} {one} {two}");
}

#[tokio::test]
async fn the_owner_needs_no_key_on_the_unix_socket() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let engine = Engine::start().await;
    let mut stream = tokio::net::UnixStream::connect(engine.data_dir().join("engine.sock")).await.expect("connected");
    let request = "GET /api/v1/auth/inspect HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer)).await.expect("read");
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let body = answer.split("\r\n\r\n").nth(1).expect("a body");
    let said: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert_eq!(said["permissions"], json!(["MASTER"]));
}

#[tokio::test]
async fn the_audit_tells_who_did_what() {
    let engine = Engine::start().await;
    engine.token_with("audited-key", &["SHELL"]).await;
    // Looked for in the files themselves, as SQLite keeps text.
    let holds = |text: &str| {
        ["dxflow.db", "dxflow.db-wal"].iter().any(|name| {
            let bytes = std::fs::read(engine.data_dir().join(name)).unwrap_or_default();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        })
    };
    until_true("the audit", || holds("POST /auth/key") && holds("POST /auth/verify") && holds("audited-key")).await;
    assert!(!holds(&engine.token), "no token is kept");
}
