//! Objects: the files of the volume. Every route is there twice, at `/object/fs` and at `/artifact/fs`, the later name.

mod conditions;
mod download;
mod jobs;
mod shares;
mod upload;

use actors::fs::{Create, FsError, Listing, Object, ObjectPath};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::answer;
use super::problem::Problem;
use super::request::Request;
use super::route::{Access, Answer, Route};

/// Makes the path of both names of a route, from its end.
macro_rules! both {
    ($end:literal, $route:expr) => {
        [$route(concat!("/object/fs", $end)), $route(concat!("/artifact/fs", $end))]
    };
}

pub(crate) fn routes() -> Vec<Route> {
    const OBJECT: Access = Access::OBJECT;
    [
        both!("", |path| Route::get(path, OBJECT, list)
            .says("Lists a directory, sorted by the bytes of the path.")
            .query::<ListQuery>()
            .answers::<Vec<Object>>(200)
            .refuses(&[404, 409])),
        both!("", |path| Route::post(path, OBJECT, create)
            .says("Makes a file or a directory, and the directories it is in.")
            .takes::<CreateBody>()
            .answers::<Object>(201)
            .refuses(&[404, 409, 507])),
        both!("", |path| Route::delete(path, OBJECT, remove)
            .says("Removes an object, and all in it; never the volume.")
            .takes::<IdentityBody>()
            .answers::<Confirmation>(200)
            .refuses(&[404, 409])),
        both!("/batch", |path| Route::delete(path, OBJECT, batch)
            .says("Removes several objects; each has a result of its own.")
            .takes::<IdentitiesBody>()
            .answers::<Vec<Deleted>>(200)),
        both!("/rename", |path| Route::put(path, OBJECT, rename)
            .says("Renames an object in one step.")
            .takes::<RenameBody>()
            .answers::<Renamed>(200)
            .refuses(&[404, 409])),
        upload::routes(),
        upload::heads(),
        download::routes(),
        jobs::zip_routes(),
        jobs::unzip_routes(),
        shares::put_routes(),
        shares::get_routes(),
        shares::delete_routes(),
        shares::upload_routes(),
        shares::download_routes(),
    ]
    .concat()
}

pub(super) use both;

/// What is listed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct ListQuery {
    /// The directory; the volume when it is left out.
    directory: String,
    /// Whether names that begin with a dot are shown.
    all: bool,
    /// A glob over names, or over paths relative to the directory where it has a `/`.
    pattern: Option<String>,
    /// How many directories below this one are entered.
    depth: u32,
    /// How many are left out at the beginning.
    offset: u64,
    /// How many are shown at most; -1 for all.
    limit: i64,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self { directory: String::new(), all: false, pattern: None, depth: 0, offset: 0, limit: -1 }
    }
}

/// Directories below the listed one that can be entered at most.
const MAX_DEPTH: u32 = 1000;

async fn list(request: Request) -> Answer {
    let query: ListQuery = request.query()?;
    if query.limit < -1 {
        return Err(Problem::bad_request("query parameter `limit`: must be -1 (all) or more"));
    }
    if query.depth > MAX_DEPTH {
        return Err(Problem::bad_request(format!("query parameter `depth`: must be from 0 to {MAX_DEPTH}")));
    }
    let listing = Listing {
        directory: ObjectPath::parse(&query.directory)?,
        all: query.all,
        pattern: query.pattern,
        depth: query.depth,
        offset: query.offset,
        limit: u64::try_from(query.limit).ok(),
        in_stream: request.stream,
    };
    let listed = request.engine.files.list(listing).await?;
    let objects = stream::unfold((listed.objects, Vec::new().into_iter()), |(mut batches, mut batch)| async move {
        loop {
            if let Some(object) = batch.next() {
                return Some((Ok(object), (batches, batch)));
            }
            match batches.recv().await? {
                Ok(next) => batch = next.into_iter(),
                Err(error) => return Some((Err(Problem::from(error)), (batches, batch))),
            }
        }
    });
    request.list::<Object, _>(listed.total, objects).await
}

/// A mode, as words or in octal.
fn mode_of(permission: &str, directory: bool) -> Result<u32, Problem> {
    match permission {
        "read" => Ok(if directory { 0o555 } else { 0o444 }),
        "write" => Ok(if directory { 0o755 } else { 0o644 }),
        octal => {
            let digits = octal.strip_prefix("0o").unwrap_or(octal);
            let good = (3..=4).contains(&digits.len()) && digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
            let mode = good.then(|| u32::from_str_radix(digits, 8).ok()).flatten().filter(|mode| mode & 0o7000 == 0);
            mode.ok_or_else(|| {
                Problem::bad_request(
                    "`permission` does not fit: `read`, `write`, or an octal mode without special bits, `0644`",
                )
                .member("field", "permission")
            })
        }
    }
}

/// What is to be made.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct CreateBody {
    /// The object; or `name`.
    identity: Option<String>,
    /// The same.
    name: Option<String>,
    /// `true` for a directory; or the directory that the object is to be in.
    directory: Option<Directory>,
    /// A file's content, as text.
    content: Option<String>,
    /// Whether something may be there.
    force: bool,
    /// `read` (0444), `write` (0644), or an octal mode.
    permission: Option<String>,
}

/// `true` for a directory; or the directory that the object is to be in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Directory {
    Is(bool),
    In(String),
}

async fn create(mut request: Request) -> Answer {
    let body: CreateBody = request.json().await?;
    let identity = match (body.identity, body.name) {
        (Some(identity), None) | (None, Some(identity)) => identity,
        (Some(identity), Some(name)) if identity == name => identity,
        (Some(_), Some(_)) => return Err(Problem::bad_request("`identity` and `name` say different things")),
        (None, None) => return Err(Problem::bad_request("`identity` is missing").member("field", "identity")),
    };
    let mut path = ObjectPath::parse(&identity)?;
    let directory = match body.directory {
        Some(Directory::In(parent)) => {
            path = ObjectPath::parse(&parent)?.join_path(&path);
            false
        }
        Some(Directory::Is(directory)) => directory,
        None => false,
    };
    if directory && body.content.is_some() {
        return Err(Problem::bad_request("a directory has no `content`").member("field", "content"));
    }
    let mode = body.permission.map(|permission| mode_of(&permission, directory)).transpose()?;
    let content = Bytes::from(body.content.unwrap_or_default());
    let create = Create { path, directory, content, replace: body.force, mode };
    let (object, _) = request.engine.files.create(create).await?;
    request.answer(StatusCode::CREATED, &object)
}

/// Which object.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct IdentityBody {
    identity: String,
}

/// What was done.
#[derive(Debug, JsonSchema, Serialize)]
struct Confirmation {
    identity: String,
    state: &'static str,
}

async fn remove(mut request: Request) -> Answer {
    let body: IdentityBody = request.json().await?;
    let path = ObjectPath::parse(&body.identity)?;
    let identity = path.to_string();
    request.engine.files.remove(path).await?;
    request.ok(&Confirmation { identity, state: "removed" })
}

/// Which objects.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct IdentitiesBody {
    identities: Vec<String>,
}

/// What became of one of several.
#[derive(Debug, JsonSchema, Serialize)]
struct Deleted {
    identity: String,
    deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn batch(mut request: Request) -> Answer {
    let body: IdentitiesBody = request.json().await?;
    let files = request.engine.files.clone();
    let total = body.identities.len() as u64;
    let results = stream::unfold((files, body.identities.into_iter()), |(files, mut identities)| async move {
        let identity = identities.next()?;
        let removed: Result<(), FsError> = match ObjectPath::parse(&identity) {
            Ok(path) => files.remove(path).await,
            Err(error) => Err(error),
        };
        let error = removed.err().map(|error| error.to_string());
        Some((Ok(Deleted { identity, deleted: error.is_none(), error }), (files, identities)))
    });
    request.list(Some(total), results).await
}

/// What is to be renamed.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RenameBody {
    identity: String,
    new_identity: String,
    /// Whether something may be replaced.
    #[serde(default)]
    force: bool,
}

/// What was renamed.
#[derive(Debug, JsonSchema, Serialize)]
struct Renamed {
    identity: String,
    new_identity: String,
}

async fn rename(mut request: Request) -> Answer {
    let body: RenameBody = request.json().await?;
    let (from, to) = (ObjectPath::parse(&body.identity)?, ObjectPath::parse(&body.new_identity)?);
    let renamed = Renamed { identity: from.to_string(), new_identity: to.to_string() };
    request.engine.files.rename(from, to, body.force).await?;
    request.ok(&renamed)
}

/// A body of these pieces, of this length where it is known.
fn body_of(
    media_type: &'static str,
    length: Option<u64>,
    pieces: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>,
) -> warp::reply::Response {
    let pieces = stream::unfold(pieces, |mut pieces| async move { Some((pieces.recv().await?, pieces)) });
    let mut response = answer::streamed(media_type, pieces);
    if let Some(length) = length {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_words_or_octal() {
        for (text, mode) in [("read", 0o444), ("write", 0o644), ("0755", 0o755), ("600", 0o600), ("0o640", 0o640)] {
            assert_eq!(mode_of(text, false).expect(text), mode);
        }
        assert_eq!(mode_of("write", true).expect("good"), 0o755);
        for text in ["", "rw", "4755", "1777", "999", "77777", "0x1ff", "-644"] {
            assert!(mode_of(text, false).is_err(), "{text}");
        }
    }
}
