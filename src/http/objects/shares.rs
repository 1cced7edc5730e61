//! Shares, and the two routes that need no sign-in but a share's signature.

use actors::fs::{ObjectPath, Opened, ShareInfo, ShareName, ShareRequest, Shared, Upload};
use actors::units::Span;
use futures_util::stream;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::both;
use super::download::{Asked, Sent, send};
use super::upload::{complete, pour};
use crate::http::problem::Problem;
use crate::http::request::Request;
use crate::http::route::{Access, Answer, Route};

pub(super) fn put_routes() -> [Route; 2] {
    both!("/share", |path| Route::put(path, Access::OBJECT, share)
        .says("Makes a signed link for each object; whoever has it needs no sign-in.")
        .takes::<ShareBody>()
        .answers::<Vec<Shared>>(200)
        .refuses(&[404, 409]))
}

pub(super) fn get_routes() -> [Route; 2] {
    both!("/share", |path| Route::get(path, Access::OBJECT, list)
        .says("The caller's shares; MASTER sees all.")
        .answers::<Vec<ShareInfo>>(200))
}

pub(super) fn delete_routes() -> [Route; 2] {
    both!("/share", |path| Route::delete(path, Access::OBJECT, revoke)
        .says("Revokes a share, by its id or its signature.")
        .takes::<RevokeBody>()
        .answers::<Revoked>(200)
        .refuses(&[404]))
}

pub(super) fn upload_routes() -> [Route; 2] {
    both!("/presigned/upload", |path| Route::put(path, Access::Public, presigned_upload)
        .says("Replaces the object that a writable share is of.")
        .query::<SignatureQuery>()
        .takes_bytes()
        .answers_as(200, "application/json")
        .answers_as(201, "application/json")
        .refuses(&[411, 413, 422, 507]))
}

pub(super) fn download_routes() -> [Route; 2] {
    both!("/presigned/download", |path| Route::get(path, Access::Public, presigned_download)
        .says("Sends the object that a share is of.")
        .query::<SignatureQuery>()
        .answers_as(200, "application/octet-stream")
        .answers_as(206, "application/octet-stream")
        .answers_as(304, "application/octet-stream")
        .refuses(&[412, 416]))
}

/// What is to be shared.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShareBody {
    identities: Vec<String>,
    /// From 1s to 30 days; `5m` when it is left out.
    lifetime: Option<Span>,
    /// For upload; else for download.
    #[serde(default)]
    writable: bool,
    /// How often it may be used.
    uses: Option<u32>,
}

async fn share(mut request: Request) -> Answer {
    let body: ShareBody = request.json().await?;
    let paths: Vec<ObjectPath> =
        body.identities.iter().map(|identity| ObjectPath::parse(identity)).collect::<Result<_, _>>()?;
    if paths.is_empty() {
        return Err(Problem::bad_request("`identities` names nothing").member("field", "identities"));
    }
    let lifetime = body.lifetime.unwrap_or(Span::seconds(300)).0;
    let lifetime = if lifetime.subsec_nanos() == 0 { i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX) } else { 0 };
    let key = request.caller.key.as_ref().map(ToString::to_string);
    let share = ShareRequest { paths, key, lifetime, writable: body.writable, uses: body.uses };
    let shared = request.engine.files.share(share).await?;
    request.list(Some(shared.len() as u64), stream::iter(shared.into_iter().map(Ok))).await
}

/// The key whose shares a caller may handle, and whether all.
fn whose(request: &Request) -> (Option<String>, bool) {
    (request.caller.key.as_ref().map(ToString::to_string), request.caller.is_master())
}

async fn list(request: Request) -> Answer {
    let (key, all) = whose(&request);
    let shares = request.engine.files.shares(key, all).await?;
    request.list(Some(shares.len() as u64), stream::iter(shares.into_iter().map(Ok))).await
}

/// Which share.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct RevokeBody {
    /// The share's id, as lists show it.
    id: Option<String>,
    /// Or its signature.
    signature: Option<String>,
}

/// What was revoked.
#[derive(Debug, JsonSchema, Serialize)]
struct Revoked {
    identity: String,
    state: &'static str,
}

async fn revoke(mut request: Request) -> Answer {
    let body: RevokeBody = request.json().await?;
    let name = match (body.id, body.signature) {
        (Some(id), None) => ShareName::Id(id),
        (None, Some(signature)) => ShareName::Signature(signature),
        _ => return Err(Problem::bad_request("say either `id` or `signature`")),
    };
    let (key, all) = whose(&request);
    let identity = request.engine.files.revoke(name, key, all).await?;
    request.ok(&Revoked { identity, state: "removed" })
}

/// The share's signature; for the document only, since a query that does not fit is refused like a forged one.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct SignatureQuery {
    signature: String,
}

/// Counts the use of a share once its body is out.
struct Spend {
    files: actors::fs::Files,
    opened: Opened,
}

impl Sent for Spend {
    fn sent(self) {
        tokio::spawn(async move {
            if let Err(error) = self.files.spend_share(self.opened, false).await {
                tracing::warn!(error = actors::error::chain(&error), "a share's use could not be counted");
            }
        });
    }
}

async fn presigned_download(request: Request) -> Answer {
    let asked = Asked::of(&request);
    let files = request.engine.files.clone();
    let signature = open_of(request, false).await?;
    let spend = Spend { files: files.clone(), opened: signature.clone() };
    send(&asked, &files, signature.path, spend).await
}

/// What a request's signature opens; a missing one is as wrong as a forged one.
fn open_of(request: Request, upload: bool) -> impl Future<Output = Result<Opened, Problem>> + Send {
    let signature = request.query.iter().find(|(name, _)| name == "signature").map(|(_, value)| value.clone());
    let files = request.engine.files.clone();
    async move { Ok(files.open_share(&signature.unwrap_or_default(), upload).await?) }
}

async fn presigned_upload(mut request: Request) -> Answer {
    let (files, in_stream, body) = (request.engine.files.clone(), request.stream, request.take_body());
    let length = request.headers.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let opened = open_of(request, true).await?;
    let upload = Upload { path: opened.path.clone(), replace: true, length, sha256: None };
    let mut sink = files.upload(upload).await?;
    pour(body, &mut sink).await?;
    let uploaded = sink.finish().await?;
    files.spend_share(opened, true).await?;
    complete(in_stream, uploaded)
}
