//! Sign-in and the registry of keys.
//!
//! Keys are served at `/auth/key` and, for later clients, at `/engine/key`; one is removed at `DELETE /auth` too, where
//! existing clients send it.

use actors::error::Failure;
use actors::ids::KeyId;
use actors::key_registry::{Attempt, Change, KeyError, KeyRecord, PublicKey};
use actors::permission::Permissions;
use actors::time::iso;
use actors::units::Span;
use futures_util::stream;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Answer, Route};
use super::subject::SignedIn;

pub(crate) fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::get("/auth/challenge", Access::Public, challenge)
            .says("Gives a challenge; its nonce is signed to sign in.")
            .answers::<ChallengeAnswer>(200),
        Route::post("/auth/verify", Access::Public, verify)
            .says("Signs in with the signature of a challenge's nonce.")
            .takes::<VerifyRequest>()
            .answers::<VerifyAnswer>(200),
        Route::get("/auth/inspect", Access::SignedIn, inspect)
            .says("Says who is signed in and what they may do.")
            .answers::<InspectAnswer>(202),
        unregister_at("/auth"),
    ];
    for path in ["/auth/key", "/engine/key"] {
        routes.extend([
            Route::get(path, Access::MASTER, list)
                .says("Lists the registered keys; without `all` only the enabled ones.")
                .query::<ListQuery>()
                .answers::<Vec<KeyAnswer>>(200),
            Route::post(path, Access::MASTER, register)
                .says("Registers a key; without `key` the engine makes a pair and returns the private half this once.")
                .takes::<RegisterRequest>()
                .answers::<KeyAnswer>(201)
                .refuses(&[409]),
            Route::patch(path, Access::MASTER, update)
                .says("Changes what a key may do, or disables or enables it.")
                .takes::<UpdateRequest>()
                .answers::<KeyAnswer>(200)
                .refuses(&[409]),
            unregister_at(path),
        ]);
    }
    routes
}

fn unregister_at(path: &'static str) -> Route {
    Route::delete(path, Access::MASTER, unregister)
        .says("Removes a key; its sessions end at once.")
        .takes::<UnregisterRequest>()
        .answers::<Removed>(200)
        .refuses(&[409])
}

/// A challenge.
#[derive(Debug, Serialize, JsonSchema)]
struct ChallengeAnswer {
    /// Names the challenge.
    identity: String,
    /// The same as `nonce`, under the name that existing clients read.
    nounce: String,
    /// What is to be signed: the UTF-8 bytes of this text.
    nonce: String,
    /// How long the challenge waits for its answer (`1m0s`).
    lifetime: String,
}

/// An answer to a challenge: `identity` and `signature`, or `challenge_response`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct VerifyRequest {
    /// The challenge's identity.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "String")]
    identity: Option<String>,
    /// The signature over the nonce: raw Ed25519 in base64 or hex, an armored SSH signature (`ssh-keygen -Y sign -n
    /// dxflow`), or RSA PKCS#1 v1.5 with SHA-256 in base64.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "String")]
    signature: Option<String>,
    /// `<challenge identity>.<signature>`; with `identity` beside it the signature alone will do.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "String")]
    challenge_response: Option<String>,
    /// How long the token is to be good: `1m` to `24h`, by default `1h`.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Span")]
    lifetime: Option<Span>,
}

/// A sign-in.
#[derive(Serialize, JsonSchema)]
struct VerifyAnswer {
    /// The token, for `Authorization: Bearer`.
    token: String,
    /// What it allows.
    permissions: Permissions,
    /// When it ends, Unix seconds.
    expires_at: i64,
}

/// Who is signed in.
#[derive(Debug, Serialize, JsonSchema)]
struct InspectAnswer {
    /// The key's identity; `unix` over the engine's own socket.
    identity: String,
    /// What the token allows.
    permissions: Permissions,
    /// When it ends, Unix seconds; never over the engine's own socket.
    expires_at: Option<i64>,
}

/// Which keys are listed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// The disabled ones too.
    #[serde(default)]
    all: bool,
}

/// A registered key.
#[derive(Serialize, JsonSchema)]
struct KeyAnswer {
    /// Its name.
    identity: String,
    /// The public key, an OpenSSH line.
    key: String,
    /// `ed25519` or `rsa`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// `SHA256:…`, as `ssh-keygen -l` writes it.
    fingerprint: String,
    /// What it may do.
    permissions: Permissions,
    /// Whether it may not sign in for now.
    disabled: bool,
    /// When it was registered, ISO 8601.
    created_at: String,
    /// When it last signed in, ISO 8601.
    last_used_at: Option<String>,
    /// The private key, an OpenSSH text, where the engine made it: told once, kept nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    private_key: Option<String>,
}

impl KeyAnswer {
    fn new(record: &KeyRecord) -> Self {
        Self {
            identity: record.identity.to_string(),
            key: record.key.to_string(),
            kind: record.key.kind(),
            fingerprint: record.key.fingerprint(),
            permissions: record.permissions,
            disabled: record.disabled,
            created_at: iso(record.created_at),
            last_used_at: record.last_used_at.map(iso),
            private_key: None,
        }
    }
}

/// A key to register.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RegisterRequest {
    /// Its name.
    identity: KeyId,
    /// What it may do; by default all but MASTER and READ_ONLY.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Permissions")]
    permissions: Option<Permissions>,
    /// The public key: an OpenSSH line or PEM (SPKI, PKCS#1), Ed25519 or RSA of 2048 to 8192 bits.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "String")]
    key: Option<String>,
}

/// A change of a key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UpdateRequest {
    /// Its name.
    identity: KeyId,
    /// What it may do.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Permissions")]
    permissions: Option<Permissions>,
    /// Whether it may not sign in.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "bool")]
    disabled: Option<bool>,
}

/// A key to remove.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnregisterRequest {
    /// Its name.
    identity: KeyId,
}

/// A key that was removed.
#[derive(Debug, Serialize, JsonSchema)]
struct Removed {
    /// Its name.
    identity: KeyId,
    /// `removed`.
    state: &'static str,
}

/// A field that may be left out, but not be `null`: what is not said by mistake should not count as left out.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

async fn challenge(request: Request) -> Answer {
    let () = request.query::<Nothing>().map(|_| ())?;
    let challenge = request.engine.keys.challenge();
    request.ok(&ChallengeAnswer {
        identity: challenge.identity,
        nounce: challenge.nonce.clone(),
        nonce: challenge.nonce,
        lifetime: Span(challenge.lifetime).to_go_string(),
    })
}

/// A query without parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl VerifyRequest {
    /// The challenge's identity and the signature, from whichever fields say them.
    fn parts(&self) -> Result<(&str, &str), Problem> {
        match (&self.identity, &self.signature, &self.challenge_response) {
            (Some(identity), Some(signature), None) => Ok((identity, signature)),
            (Some(identity), None, Some(response)) => {
                let bare = response.strip_prefix(identity.as_str()).and_then(|rest| rest.strip_prefix('.'));
                Ok((identity, bare.unwrap_or(response)))
            }
            (None, None, Some(response)) => response
                .split_once('.')
                .ok_or_else(|| Problem::bad_request("`challenge_response` must be `<challenge identity>.<signature>`")),
            (_, Some(_), Some(_)) => Err(Problem::bad_request("say `signature` or `challenge_response`, not both")),
            (None, Some(_), None) => Err(Problem::bad_request("`identity`, the challenge's, is missing")),
            (_, None, None) => Err(Problem::bad_request("`signature` is missing")),
        }
    }
}

async fn verify(mut request: Request) -> Answer {
    let body: VerifyRequest = request.json().await?;
    let (challenge, signature) = body.parts()?;
    let attempt = Attempt {
        challenge: challenge.to_owned(),
        signature: signature.to_owned(),
        lifetime: body.lifetime.map(|lifetime| lifetime.0),
    };
    let issued = request.engine.keys.sign_in(attempt).await?;
    let mut response = request.ok(&VerifyAnswer {
        token: issued.token,
        permissions: issued.session.permissions,
        expires_at: issued.session.expires_at,
    })?;
    response.extensions_mut().insert(SignedIn(issued.session.key));
    Ok(response)
}

async fn inspect(request: Request) -> Answer {
    let () = request.query::<Nothing>().map(|_| ())?;
    let answer = InspectAnswer {
        identity: request.caller.name().to_owned(),
        permissions: request.caller.permissions,
        expires_at: request.caller.expires_at,
    };
    request.answer(StatusCode::ACCEPTED, &answer)
}

async fn list(request: Request) -> Answer {
    let ListQuery { all } = request.query()?;
    let mut keys = request.engine.keys.list();
    keys.retain(|record| all || !record.disabled);
    let total = keys.len() as u64;
    request.list(Some(total), stream::iter(keys.into_iter().map(|record| Ok(KeyAnswer::new(&record))))).await
}

async fn register(mut request: Request) -> Answer {
    let body: RegisterRequest = request.json().await?;
    let permissions = body.permissions.unwrap_or(Permissions::DEFAULT_FOR_KEYS);
    let keys = &request.engine.keys;
    let answer = match &body.key {
        Some(text) => {
            let key = PublicKey::parse(text).map_err(|error| field("key", error))?;
            KeyAnswer::new(&*keys.register(&body.identity, &key, permissions).await?)
        }
        None => {
            let (record, private_key) = keys.generate(&body.identity, permissions).await?;
            KeyAnswer { private_key: Some(private_key), ..KeyAnswer::new(&record) }
        }
    };
    request.answer(StatusCode::CREATED, &answer)
}

async fn update(mut request: Request) -> Answer {
    let body: UpdateRequest = request.json().await?;
    let change = Change { permissions: body.permissions, disabled: body.disabled };
    let record = request.engine.keys.update(&body.identity, change).await?;
    request.ok(&KeyAnswer::new(&record))
}

async fn unregister(mut request: Request) -> Answer {
    let body: UnregisterRequest = request.json().await?;
    request.engine.keys.unregister(&body.identity).await?;
    request.ok(&Removed { identity: body.identity, state: "removed" })
}

/// A refusal that names the field that it is about.
fn field(name: &str, error: KeyError) -> Problem {
    let named = matches!(error.kind(), actors::error::ErrorKind::Invalid);
    let problem = Problem::from(error);
    if named { problem.member("field", name) } else { problem }
}
