//! Sign-in with what is on every machine: the script of the README, and keys and signatures that ssh-keygen makes.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::credentials::{Ed25519, KeyFile, ssh_keygen};
use crate::support::{Answer, Engine};

/// The README's script, as it stands there.
fn script() -> &'static str {
    let readme = include_str!("../../README.md");
    let after = readme.split("<!-- sign-in:").nth(1).expect("the mark before the script");
    after.split("```sh\n").nth(1).and_then(|text| text.split("```").next()).expect("the script")
}

#[tokio::test]
async fn the_script_of_the_readme_signs_in() {
    let engine = Engine::start().await;
    let path = engine.scratch().join("sign-in.sh");
    std::fs::write(&path, script()).expect("written");
    let keys = [
        ("admin", engine.data_dir().join("keys/admin")),
        ("elliptic", KeyFile::generate(engine.scratch(), "elliptic", &["-t", "ed25519"]).path),
        ("rsa", KeyFile::generate(engine.scratch(), "rsa", &["-t", "rsa", "-b", "2048"]).path),
    ];
    for (identity, key) in keys {
        if identity != "admin" {
            let line = std::fs::read_to_string(key.with_extension("pub")).expect("the public key");
            engine.post("/auth/key/", json!({ "identity": identity, "key": line })).await.expect(201);
        }
        let base = format!("http://{}/api/v1", engine.address);
        let mut command = Command::new("sh");
        command.arg(&path).arg(&key).arg(&base).env_remove("SSH_AUTH_SOCK");
        let output = tokio::task::spawn_blocking(move || command.output().expect("sh runs")).await.expect("no panic");
        let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success(), "{identity}: {}", String::from_utf8_lossy(&output.stderr));
        let inspected = engine.client(&token).get("/auth/inspect/").send().await.expect(202);
        assert_eq!(inspected["identity"], identity);
    }
}

async fn challenge(engine: &Engine) -> (Value, String) {
    let challenge = engine.anonymous().get("/auth/challenge/").send().await.expect(200);
    (challenge["identity"].clone(), challenge["nonce"].as_str().expect("a nonce").to_owned())
}

/// Signs in with what `sign` makes of the nonce.
async fn sign_in(engine: &Engine, sign: impl FnOnce(&str) -> String) -> Answer {
    let (identity, nonce) = challenge(engine).await;
    let body = json!({ "identity": identity, "signature": sign(&nonce) });
    engine.anonymous().post("/auth/verify/").json(&body).send().await
}

#[tokio::test]
async fn keys_of_ssh_keygen_sign_in_under_each_of_their_forms() {
    let engine = Engine::start().await;
    let directory = engine.scratch();
    let elliptic = KeyFile::generate(directory, "elliptic", &["-t", "ed25519"]);
    let rsa = KeyFile::generate(directory, "rsa", &["-t", "rsa", "-b", "3072", "-m", "PEM"]);
    let forms = [
        ("ed25519", elliptic.line(), &elliptic),
        ("rsa", rsa.line(), &rsa),
        ("rsa", rsa.public_pem("PKCS8"), &rsa),
        ("rsa", rsa.public_pem("PEM"), &rsa),
    ];
    for (kind, text, file) in &forms {
        let made = engine.post("/auth/key/", json!({ "identity": "it", "key": text })).await.expect(201);
        assert_eq!((&made["type"], &made["fingerprint"]), (&json!(kind), &json!(file.fingerprint())));
        let line = file.line();
        let canonical: Vec<&str> = line.split(' ').take(2).collect();
        assert_eq!(made["key"], canonical.join(" "));
        // Under whichever form, it is the same key.
        for (_, other, _) in forms.iter().filter(|(other, ..)| other == kind) {
            engine.post("/auth/key/", json!({ "identity": "again", "key": other })).await.refusal(409);
        }
        sign_in(&engine, |nonce| file.ssh_sign("dxflow", nonce)).await.expect(200);
        sign_in(&engine, |nonce| file.ssh_sign("dxflow", nonce).replace('\n', "\r\n")).await.expect(200);
        sign_in(&engine, |nonce| file.ssh_sign("dxflow", &format!("{nonce}\n"))).await.refusal(401);
        for namespace in ["file", "git", "dxflow2", "DXFLOW"] {
            sign_in(&engine, |nonce| file.ssh_sign(namespace, nonce)).await.refusal(401);
        }
        if *kind == "rsa" {
            sign_in(&engine, |nonce| rsa.rsa_sign(nonce)).await.expect(200);
            sign_in(&engine, |nonce| rsa.rsa_sign(&format!("{nonce} "))).await.refusal(401);
        }
        engine.delete("/auth/key/", json!({ "identity": "it" })).await.expect(200);
        sign_in(&engine, |nonce| file.ssh_sign("dxflow", nonce)).await.refusal(401);
    }
}

#[tokio::test]
async fn what_is_not_a_plain_key_is_not_registered() {
    let engine = Engine::start().await;
    let directory = engine.scratch();
    let good = KeyFile::generate(directory, "good", &["-t", "ed25519"]);
    let authority = KeyFile::generate(directory, "authority", &["-t", "ed25519"]);
    let authority = authority.path.to_str().expect("UTF-8").to_owned();
    let subject = good.path.with_extension("pub");
    ssh_keygen(directory, &["-q", "-s", &authority, "-I", "admin", "-n", "admin", subject.to_str().expect("UTF-8")]);
    let certificate = std::fs::read_to_string(directory.join("good-cert.pub")).expect("the certificate");
    let curve = KeyFile::generate(directory, "curve", &["-t", "ecdsa", "-b", "256"]);
    let short = KeyFile::generate(directory, "short", &["-t", "rsa", "-b", "1024"]);
    let line = good.line();
    let blob = line.split(' ').nth(1).expect("a body");
    let private = std::fs::read_to_string(&good.path).expect("the private key");
    for (what, text) in [
        ("a certificate", certificate.clone()),
        (
            "a certificate that calls itself a key",
            certificate.replacen("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", 1),
        ),
        ("a key that calls itself a certificate", line.replacen("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com", 1)),
        ("ECDSA", curve.line()),
        ("ECDSA as PEM", curve.public_pem("PKCS8")),
        ("short RSA", short.line()),
        ("short RSA as SPKI", short.public_pem("PKCS8")),
        ("short RSA as PKCS#1", short.public_pem("PEM")),
        ("a security token's key", format!("sk-ssh-ed25519@openssh.com {blob}")),
        ("DSA", format!("ssh-dss {blob}")),
        ("a certificate authority's line", format!("cert-authority {line}")),
        ("options", format!("no-pty,command=\"id\" {line}")),
        ("two lines", format!("{line}\n{line}")),
        ("a private key", private),
        ("a signature", good.ssh_sign("dxflow", "text")),
        ("a name alone", "ssh-ed25519".into()),
        ("another type's name", format!("ssh-rsa {blob}")),
        ("half a key", line[..line.find(blob).expect("there") + blob.len() / 2].into()),
        ("long garbage", "A".repeat(900_000)),
    ] {
        let answer = engine.post("/auth/key/", json!({ "identity": "it", "key": text })).await;
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        let detail = answer.refusal(400);
        assert!(detail.contains("key"), "{what}: {detail}");
        assert!(!answer.text().contains("OPENSSH PRIVATE KEY") && detail.len() < 400, "{what}: {detail}");
    }
    let keys = engine.get("/auth/key/?all").await.expect(200);
    assert_eq!(keys.as_array().map(Vec::len), Some(1), "{keys}");
    // What the certificate vouches for is not believed either when it signs.
    std::fs::copy(directory.join("good-cert.pub"), directory.join("signer-cert.pub")).expect("copied");
    sign_in(&engine, |nonce| good.ssh_sign("dxflow", nonce)).await.refusal(401);
}

#[tokio::test]
async fn a_signature_over_anything_but_the_nonce_is_refused_like_any_other() {
    let engine = Engine::start().await;
    let admin = Ed25519::read(&engine.data_dir().join("keys/admin"));
    let stranger = KeyFile::generate(engine.scratch(), "stranger", &["-t", "rsa", "-b", "2048", "-m", "PEM"]);
    let mut refusals = Vec::new();
    type Text = fn(nonce: &str, identity: &str) -> String;
    let over: [(&str, Text); 6] = [
        ("the identity", |_, identity| identity.to_owned()),
        ("both", |nonce, identity| format!("{identity}.{nonce}")),
        ("a line", |nonce, _| format!("{nonce}\n")),
        ("padding", |nonce, _| format!("{nonce}=")),
        ("upper case", |nonce, _| nonce.to_uppercase()),
        ("nothing", |_, _| String::new()),
    ];
    for (what, text) in over {
        let (identity, nonce) = challenge(&engine).await;
        let signature = admin.sign(&text(&nonce, identity.as_str().expect("text")));
        let body = json!({ "identity": identity, "signature": signature });
        refusals.push((what.to_owned(), engine.anonymous().post("/auth/verify/").json(&body).send().await));
    }
    let good = sign_in(&engine, |nonce| admin.sign(nonce)).await;
    good.expect(200);
    for (what, signature) in [
        ("zeros", "A".repeat(86)),
        ("zeros in hex", "00".repeat(64)),
        // R is the neutral point and S is zero: good for every message under a key of small order.
        ("a small point", format!("01{}", "00".repeat(63))),
        ("a number that is too large", "ff".repeat(64)),
        ("a NUL", "\0".into()),
        ("other letters", "\u{1F511}".repeat(64)),
        ("half", admin.sign("x")[..44].to_owned()),
        ("one byte more", format!("{}AA", admin.sign("x").trim_end_matches('='))),
    ] {
        refusals.push((what.into(), sign_in(&engine, |_| signature).await));
    }
    refusals.push(("a stranger's RSA".into(), sign_in(&engine, |nonce| stranger.rsa_sign(nonce)).await));
    refusals.push(("a stranger's ssh".into(), sign_in(&engine, |nonce| stranger.ssh_sign("dxflow", nonce)).await));
    let alike = |answer: &Answer| {
        let mut document = answer.expect(401);
        document.as_object_mut().expect("an object").remove("instance");
        let mut names: Vec<String> = answer.headers.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        (document, names)
    };
    let first = alike(&refusals[0].1);
    for (what, answer) in &refusals {
        assert_eq!(alike(answer), first, "{what}");
    }
}

#[tokio::test]
async fn of_many_answers_to_one_challenge_one_is_taken() {
    let engine = Engine::start().await;
    let admin = Ed25519::read(&engine.data_dir().join("keys/admin"));
    for _ in 0..5 {
        let (identity, nonce) = challenge(&engine).await;
        let body = json!({ "identity": identity, "signature": admin.sign(&nonce) });
        let attempts = (0..16).map(|_| engine.anonymous().post("/auth/verify/").json(&body).send());
        let answers = futures_util::future::join_all(attempts).await;
        let count = |status| answers.iter().filter(|answer| answer.status == status).count();
        assert_eq!((count(200_u16), count(401)), (1, 15));
    }
}

#[tokio::test]
async fn no_header_of_a_proxy_makes_another_address() {
    let engine = Engine::options()
        .environment("DXFLOW_SERVER_PUBLIC_RATE", "1")
        .environment("DXFLOW_SERVER_PUBLIC_BURST", "10")
        .start()
        .await;
    let mut refused = 0;
    for n in 0..20 {
        let mut request = engine.anonymous().get("/auth/challenge/");
        for name in ["x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip", "true-client-ip"] {
            request = request.header(name, &format!("10.0.0.{n}"));
        }
        refused += usize::from(request.send().await.status == 429);
    }
    assert!(refused >= 5, "{refused}");
}
