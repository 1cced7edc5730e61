//! Keys and signatures as the tools of others write them, and the registry as its users see it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use ed25519_dalek::{Signer, SigningKey};
use proptest::prelude::*;
use ssh_key::{Algorithm, HashAlg, LineEnding, Signature, SshSig};

use super::signature::Presented;
use super::*;
use crate::live::Live;
use crate::permission::Permission;
use crate::store::Store;
use crate::supervision::{Strategy as Supervision, Supervisor, SupervisorHandle, SupervisorSpec};

/// What ssh-keygen and openssl made. The message is `a nonce`.
macro_rules! made {
    ($name:literal) => {
        include_str!(concat!("data/", $name))
    };
}

const MESSAGE: &[u8] = b"a nonce";

fn parse(text: &str) -> PublicKey {
    PublicKey::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn keys_of_the_usual_tools_are_read() {
    let rsa = parse(made!("rsa.pub"));
    assert_eq!(rsa.kind(), "rsa");
    assert_eq!(rsa, parse(made!("rsa.spki.pem")));
    assert_eq!(rsa, parse(made!("rsa.pkcs1.pem")));
    assert_eq!(rsa, parse(&made!("rsa.spki.pem").replace('\n', "\r\n")));
    assert_eq!(rsa.to_string(), made!("rsa.pub").trim());
    let ed25519 = parse(made!("ed25519.pub"));
    assert_eq!((ed25519.kind(), ed25519.to_string().as_str()), ("ed25519", made!("ed25519.pub").trim()));
    assert_eq!(ed25519, parse(&format!("  {} a comment of three words\n", made!("ed25519.pub").trim())));
    assert_eq!(parse(made!("ed25519.spki.pem")).kind(), "ed25519");
    assert!(ed25519.fingerprint().starts_with("SHA256:") && ed25519.fingerprint().len() == 50);
}

#[test]
fn nothing_else_is_a_key() {
    let line = made!("ed25519.pub").trim();
    let secret = key_files::to_openssh(&key_files::generate(), "x");
    let weak = ssh_key::PublicKey::from(ssh_key::public::KeyData::Ed25519(ssh_key::public::Ed25519PublicKey([0; 32])));
    for (what, text) in [
        ("nothing", String::new()),
        ("a private key", secret),
        ("a key of a curve", made!("ecdsa.pub").into()),
        ("a key of a curve in PEM", made!("ecdsa.spki.pem").into()),
        ("a short RSA key", made!("rsa1024.pub").into()),
        ("a certificate", made!("rsa-cert.pub").into()),
        ("options before the key", format!("command=\"sh\" {line}")),
        ("two lines", format!("{line}\n{line}")),
        ("a NUL", format!("{line} a\0b")),
        ("half a line", line[..line.len() - 8].into()),
        ("another name than the key's", line.replacen("ssh-ed25519", "ssh-rsa", 1)),
        ("a weak point", weak.to_openssh().expect("written")),
        ("two blocks of PEM", made!("rsa.spki.pem").repeat(2)),
        ("PEM and more", format!("{}garbage", made!("rsa.spki.pem"))),
        ("PEM under another name", made!("rsa.spki.pem").replace("PUBLIC KEY", "CERTIFICATE")),
        ("PKCS#1 called SPKI", made!("rsa.pkcs1.pem").replace("RSA PUBLIC KEY", "PUBLIC KEY")),
        ("too long a text", format!("{line} {}", "c".repeat(20_000))),
    ] {
        let refused = PublicKey::parse(&text);
        assert!(matches!(refused, Err(KeyError::NotAKey(_))), "{what}: {refused:?}");
    }
}

#[test]
fn signatures_of_the_usual_tools_are_good_for_their_key_alone() {
    let (ed25519, rsa) = (parse(made!("ed25519.pub")), parse(made!("rsa.pub")));
    let other = parse(made!("ed25519.spki.pem"));
    for (what, text, key) in [
        ("ssh-keygen -Y sign with Ed25519", made!("ed25519.sig"), &ed25519),
        ("ssh-keygen -Y sign with RSA", made!("rsa.sig"), &rsa),
        ("openssl dgst -sha256 -sign with RSA", made!("rsa.pkcs1-sha256.base64"), &rsa),
        ("openssl pkeyutl -sign with Ed25519", made!("ed25519.spki.base64"), &other),
    ] {
        let presented = Presented::parse(text);
        assert!(presented.is_good(key, MESSAGE), "{what}");
        assert!(!presented.is_good(key, b"another nonce"), "{what}");
        for not_signer in [&ed25519, &rsa, &other].into_iter().filter(|other| *other != key) {
            assert!(!presented.is_good(not_signer, MESSAGE), "{what}");
        }
        let crlf = text.replace('\n', "\r\n");
        assert!(Presented::parse(&crlf).is_good(key, MESSAGE), "{what}");
    }
    for (what, text, key) in [
        ("another namespace", made!("ed25519.other-namespace.sig"), &ed25519),
        ("SHA-1", made!("rsa.pkcs1-sha1.base64"), &rsa),
        ("nothing", "", &ed25519),
        ("nothing at all armored", "-----BEGIN SSH SIGNATURE-----\n-----END SSH SIGNATURE-----\n", &ed25519),
    ] {
        assert!(!Presented::parse(text).is_good(key, MESSAGE), "{what}");
    }
}

#[test]
fn raw_ed25519_may_be_written_in_five_ways() {
    let key = SigningKey::from_bytes(&[3; 32]);
    let public = key_files::public_half(&key);
    let bytes = key.sign(MESSAGE).to_bytes();
    for text in [
        STANDARD.encode(bytes),
        STANDARD_NO_PAD.encode(bytes),
        URL_SAFE.encode(bytes),
        URL_SAFE_NO_PAD.encode(bytes),
        hex::encode(bytes),
        hex::encode_upper(bytes),
        format!(" {}\n", STANDARD.encode(bytes)),
    ] {
        assert!(Presented::parse(&text).is_good(&public, MESSAGE), "{text}");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    for text in [STANDARD.encode(&longer), STANDARD.encode(&bytes[..63]), hex::encode(&bytes[..63])] {
        assert!(!Presented::parse(&text).is_good(&public, MESSAGE), "{text}");
    }
}

fn ssh_signature(key: &SigningKey, message: &[u8]) -> SshSig {
    let signed = SshSig::signed_data("dxflow", HashAlg::Sha512, message).expect("written");
    let signature = Signature::new(Algorithm::Ed25519, key.sign(&signed).to_bytes().to_vec()).expect("64 bytes");
    let public = key_files::public_half(key).to_ssh().key_data().clone();
    SshSig::new(public, "dxflow", HashAlg::Sha512, signature).expect("a signature")
}

proptest! {
    #[test]
    fn keys_are_written_as_they_are_read(seed: [u8; 32]) {
        let key = key_files::public_half(&SigningKey::from_bytes(&seed));
        prop_assert_eq!(parse(&key.to_string()), key);
    }

    #[test]
    fn text_that_is_no_key_is_refused_quietly(text in "(ssh-rsa |ssh-ed25519 |-----BEGIN PUBLIC KEY-----\n)?[A-Za-z0-9+/= \n-]{0,200}") {
        let _ = PublicKey::parse(&text);
    }

    #[test]
    fn text_that_is_no_signature_is_good_for_nobody(text in "(-----BEGIN SSH SIGNATURE-----\n)?[A-Za-z0-9+/=_ \n-]{0,300}") {
        prop_assert!(!Presented::parse(&text).is_good(&parse(made!("ed25519.pub")), MESSAGE));
        prop_assert!(!Presented::parse(&text).is_good(&parse(made!("rsa.pub")), MESSAGE));
    }

    /// Every byte of an SSH signature counts.
    #[test]
    fn a_changed_ssh_signature_is_not_good(place in any::<prop::sample::Index>(), change in 1_u8..) {
        use ssh_encoding::Encode as _;
        let key = SigningKey::from_bytes(&[5; 32]);
        let good = ssh_signature(&key, MESSAGE);
        let armored = good.to_pem(LineEnding::LF).expect("written");
        prop_assert!(Presented::parse(&armored).is_good(&key_files::public_half(&key), MESSAGE));
        let mut bytes = Vec::new();
        good.encode(&mut bytes).expect("written");
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        let text = pem::encode_config(
            &pem::Pem::new("SSH SIGNATURE", bytes),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF).set_line_wrap(70),
        );
        prop_assert!(!Presented::parse(&text).is_good(&key_files::public_half(&key), MESSAGE), "byte {}", place);
    }
}

/// A registry over a store of its own.
struct Registry {
    keys: Keys,
    store: Store,
    directory: tempfile::TempDir,
    supervisor: SupervisorHandle,
}

impl Registry {
    async fn start() -> Self {
        Self::start_in(tempfile::tempdir().expect("a directory"), Settings::default()).await
    }

    async fn start_in(directory: tempfile::TempDir, settings: Settings) -> Self {
        let store = Store::new(directory.path());
        let keys = Keys::new(Live::new(settings), store.clone(), directory.path());
        let children = vec![store.child(), keys.child()];
        let supervisor = Supervisor::spawn(SupervisorSpec::new("test", Supervision::RestForOne, children)).await;
        Self { keys, store, directory, supervisor: supervisor.expect("it starts") }
    }

    /// Stops it and starts it again on the same directory.
    async fn again(self) -> Self {
        self.supervisor.stop(Duration::from_secs(5)).await;
        drop((self.keys, self.store));
        Self::start_in(self.directory, Settings::default()).await
    }

    fn admin(&self) -> SigningKey {
        key_files::admin_key(self.directory.path()).expect("the key is there")
    }

    async fn sign_in(&self, key: &SigningKey) -> Result<Issued, KeyError> {
        let challenge = self.keys.challenge();
        let signature = STANDARD.encode(key.sign(challenge.nonce.as_bytes()).to_bytes());
        self.keys.sign_in(Attempt { challenge: challenge.identity, signature, lifetime: None }).await
    }

    async fn register(&self, identity: &str, permissions: Permissions) -> SigningKey {
        let key = key_files::generate();
        self.keys.register(&id(identity), &key_files::public_half(&key), permissions).await.expect("registered");
        key
    }
}

fn id(text: &str) -> KeyId {
    text.parse().expect("an identity")
}

#[tokio::test]
async fn the_first_start_makes_a_master_key_and_no_later_one() {
    let registry = Registry::start().await;
    assert!(registry.keys.made_admin_key());
    let issued = registry.sign_in(&registry.admin()).await.expect("signed in");
    assert_eq!((issued.session.key.as_str(), issued.session.permissions), ("admin", Permissions::MASTER));
    assert_eq!(registry.keys.verify_token(&issued.token).expect("good"), issued.session);
    assert!(registry.keys.list()[0].last_used_at.is_some());
    let registry = registry.again().await;
    assert!(!registry.keys.made_admin_key());
    registry.keys.verify_token(&issued.token).expect("a sign-in outlives the engine");
}

#[tokio::test]
async fn every_failed_sign_in_looks_alike() {
    let registry = Registry::start().await;
    let admin = registry.admin();
    let off = registry.register("off", Permissions::MASTER).await;
    let change = Change { disabled: Some(true), ..Change::default() };
    registry.keys.update(&id("off"), change).await.expect("disabled");
    let signed = |key: &SigningKey, nonce: &str| STANDARD.encode(key.sign(nonce.as_bytes()).to_bytes());
    let attempt = |challenge: &Challenge, signature: String| {
        registry.keys.sign_in(Attempt { challenge: challenge.identity.clone(), signature, lifetime: None })
    };
    let used = registry.keys.challenge();
    let good = signed(&admin, &used.nonce);
    attempt(&used, good.clone()).await.expect("signed in");
    let mut unknown = registry.keys.challenge();
    unknown.identity = "unknown".into();
    let wasted = registry.keys.challenge();
    let stranger = key_files::generate();
    let ssh_of_stranger = {
        let challenge = registry.keys.challenge();
        (ssh_signature(&stranger, challenge.nonce.as_bytes()).to_pem(LineEnding::LF).expect("written"), challenge)
    };
    let fresh = || registry.keys.challenge();
    let (a, b, c) = (fresh(), fresh(), fresh());
    for (what, challenge, signature) in [
        ("a second use", &used, good),
        ("an unknown challenge", &unknown, signed(&admin, &unknown.nonce)),
        ("a wrong signature", &wasted, signed(&admin, "another")),
        ("a right one after a wrong one", &wasted, signed(&admin, &wasted.nonce)),
        ("a disabled key", &a, signed(&off, &a.nonce)),
        ("an unregistered key", &b, signed(&stranger, &b.nonce)),
        ("an unregistered key by SSH", &ssh_of_stranger.1, ssh_of_stranger.0.clone()),
        ("garbage", &c, "garbage!".into()),
    ] {
        let refused = attempt(challenge, signature).await;
        assert!(matches!(refused, Err(KeyError::SignIn)), "{what}: {refused:?}");
    }
}

#[tokio::test]
async fn a_lifetime_out_of_range_does_not_use_the_challenge_up() {
    let registry = Registry::start().await;
    let challenge = registry.keys.challenge();
    let signature = STANDARD.encode(registry.admin().sign(challenge.nonce.as_bytes()).to_bytes());
    let attempt = |seconds| Attempt {
        challenge: challenge.identity.clone(),
        signature: signature.clone(),
        lifetime: Some(Duration::from_secs(seconds)),
    };
    for seconds in [0, 59, 86_401, u64::MAX] {
        let refused = registry.keys.sign_in(attempt(seconds)).await;
        assert!(matches!(refused, Err(KeyError::Lifetime { .. })), "{refused:?}");
    }
    let issued = registry.keys.sign_in(attempt(86_400)).await.expect("signed in");
    assert!(issued.session.expires_at - crate::time::unix_now() > 86_000);
}

#[tokio::test]
async fn a_session_ends_with_what_its_key_may() {
    let registry = Registry::start().await;
    let shell = Permissions::default().with(Permission::Shell);
    let both = shell.with(Permission::Object);
    let change = |permissions| Change { permissions: Some(permissions), ..Change::default() };
    let key = registry.register("user", both).await;
    let issued = registry.sign_in(&key).await.expect("signed in");
    let mut watch = Box::pin(registry.keys.watch(&issued.session));
    assert!(futures_util::poll!(&mut watch).is_pending());
    registry.sign_in(&key).await.expect("signed in again");
    let more = change(both.with(Permission::Workflow));
    registry.keys.update(&id("user"), more).await.expect("more permissions");
    registry.keys.verify_token(&issued.token).expect("good with more");
    assert!(futures_util::poll!(&mut watch).is_pending());
    registry.keys.update(&id("user"), change(shell)).await.expect("fewer permissions");
    tokio::time::timeout(Duration::from_secs(1), watch).await.expect("the watch ends within a second");
    assert!(matches!(registry.keys.verify_token(&issued.token), Err(KeyError::Token)));
    registry.keys.update(&id("user"), change(both)).await.expect("permissions given back");
    assert!(registry.keys.verify_token(&issued.token).is_err(), "what ended does not come back");

    let issued = registry.sign_in(&key).await.expect("signed in");
    let watch = registry.keys.watch(&issued.session);
    let disable = Change { disabled: Some(true), ..Change::default() };
    registry.keys.update(&id("user"), disable).await.expect("disabled");
    tokio::time::timeout(Duration::from_secs(1), watch).await.expect("the watch ends within a second");
    assert!(registry.keys.verify_token(&issued.token).is_err());
    let enable = Change { disabled: Some(false), ..Change::default() };
    registry.keys.update(&id("user"), enable).await.expect("enabled");
    assert!(registry.keys.verify_token(&issued.token).is_err(), "what ended does not come back");

    let issued = registry.sign_in(&key).await.expect("signed in");
    registry.keys.unregister(&id("user")).await.expect("unregistered");
    tokio::time::timeout(Duration::from_secs(1), registry.keys.watch(&issued.session)).await.expect("it is over");
    assert!(registry.keys.verify_token(&issued.token).is_err());
    registry.keys.register(&id("user"), &key_files::public_half(&key), both).await.expect("registered again");
    assert!(registry.keys.verify_token(&issued.token).is_err(), "of another registration");
    let read_only = change(both.with(Permission::ReadOnly));
    let issued = registry.sign_in(&key).await.expect("signed in");
    registry.keys.update(&id("user"), read_only).await.expect("read-only");
    assert!(registry.keys.verify_token(&issued.token).is_err(), "READ_ONLY takes something away");
}

#[tokio::test]
async fn the_last_key_that_manages_keys_stays() {
    let registry = Registry::start().await;
    let admin = id("admin");
    let refused = [
        Change { disabled: Some(true), ..Change::default() },
        Change { permissions: Some(Permissions::DEFAULT_FOR_KEYS), ..Change::default() },
        Change { permissions: Some(Permissions::MASTER.with(Permission::ReadOnly)), ..Change::default() },
    ];
    registry.register("reader", Permissions::MASTER.with(Permission::ReadOnly)).await;
    for change in refused {
        let result = registry.keys.update(&admin, change).await;
        assert!(matches!(result, Err(KeyError::LastMaster(_))), "{change:?}: {result:?}");
    }
    assert!(matches!(registry.keys.unregister(&admin).await, Err(KeyError::LastMaster(_))));
    registry.register("second", Permissions::MASTER).await;
    registry.keys.unregister(&admin).await.expect("another one is there");
    let last = id("second");
    // Both at once: one of the two must lose, whatever the order.
    registry.register("third", Permissions::MASTER).await;
    let third = id("third");
    let (one, two) = tokio::join!(registry.keys.unregister(&last), registry.keys.unregister(&third));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
}

#[tokio::test]
async fn an_identity_and_a_key_are_registered_once() {
    let registry = Registry::start().await;
    let key = registry.register("a", Permissions::default()).await;
    let public = key_files::public_half(&key);
    let result = registry.keys.register(&id("b"), &public, Permissions::default()).await;
    assert!(matches!(&result, Err(KeyError::KeyTaken(holder)) if *holder == id("a")), "{result:?}");
    let result = registry.keys.generate(&id("a"), Permissions::default()).await;
    assert!(matches!(result, Err(KeyError::IdentityTaken(_))), "{result:?}");
    for result in [
        registry.keys.update(&id("none"), Change { disabled: Some(true), ..Change::default() }).await.map(drop),
        registry.keys.unregister(&id("none")).await,
    ] {
        assert!(matches!(result, Err(KeyError::NotFound(_))), "{result:?}");
    }
    let result = registry.keys.update(&id("a"), Change::default()).await;
    assert!(matches!(result, Err(KeyError::NothingToChange)), "{result:?}");
    let (record, private) = registry.keys.generate(&id("c"), Permissions::MASTER).await.expect("made");
    let pair = ssh_key::PrivateKey::from_openssh(&private).expect("an OpenSSH private key");
    assert_eq!(PublicKey::from_ssh(pair.public_key().key_data()).expect("a key"), record.key);
}

#[tokio::test]
async fn the_number_of_keys_is_bounded() {
    let settings = Settings { max_keys: 2, ..Settings::default() };
    let registry = Registry::start_in(tempfile::tempdir().expect("a directory"), settings).await;
    registry.register("a", Permissions::default()).await;
    let result = registry.keys.generate(&id("b"), Permissions::default()).await;
    assert!(matches!(result, Err(KeyError::TooMany { limit: 2 })), "{result:?}");
}

#[tokio::test]
async fn a_moved_database_finds_the_admin_key_again() {
    let registry = Registry::start().await;
    let admin = registry.admin();
    registry.supervisor.stop(Duration::from_secs(5)).await;
    let directory = registry.directory;
    for name in ["dxflow.db", "dxflow.db-wal", "dxflow.db-shm"] {
        let _ = std::fs::remove_file(directory.path().join(name));
    }
    let registry = Registry::start_in(directory, Settings::default()).await;
    assert_eq!(registry.admin().to_bytes(), admin.to_bytes());
    registry.sign_in(&admin).await.expect("signed in");
}

/// The three of every actor: it panics in a handler, its dependency panics, it is asked while it is away.
#[cfg(feature = "fault-injection")]
#[tokio::test]
async fn sign_ins_outlive_the_actor() {
    let registry = Registry::start().await;
    let issued = registry.sign_in(&registry.admin()).await.expect("signed in");
    let challenge = registry.keys.challenge();
    for name in [NAME, crate::store::NAME] {
        crate::fault::arm(name);
        let failed = registry.keys.generate(&id(&format!("lost-{name}")), Permissions::MASTER).await;
        assert!(failed.is_err(), "{failed:?}");
        registry.keys.verify_token(&issued.token).expect("good while the actor is away");
        registry.keys.generate(&id(&format!("kept-{name}")), Permissions::MASTER).await.expect("the next generation");
        registry.keys.ping().await.expect("it answers");
    }
    let signature = STANDARD.encode(registry.admin().sign(challenge.nonce.as_bytes()).to_bytes());
    let attempt = Attempt { challenge: challenge.identity, signature, lifetime: None };
    registry.keys.sign_in(attempt).await.expect("a challenge outlives the actor");
    assert_eq!(registry.keys.list().len(), 3, "{:?}", registry.keys.list());
}
