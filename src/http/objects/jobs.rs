//! Archives: made and unpacked by workers, with their progress in the stream form.

use actors::fs::{Done, Job, ObjectPath, Running};
use futures_util::stream;
use http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::both;
use crate::http::answer;
use crate::http::problem::Problem;
use crate::http::request::Request;
use crate::http::route::{Access, Answer, Route};

pub(super) fn zip_routes() -> [Route; 2] {
    both!("/zip", |path| Route::put(path, Access::OBJECT, zip)
        .says("Makes an archive of objects; it is there whole or not at all.")
        .takes::<ZipBody>()
        .answers::<JobAnswer>(200)
        .refuses(&[404, 409, 422, 507]))
}

pub(super) fn unzip_routes() -> [Route; 2] {
    both!("/unzip", |path| Route::put(path, Access::OBJECT, unzip)
        .says("Unpacks an archive, all of it or nothing.")
        .takes::<UnzipBody>()
        .answers::<JobAnswer>(200)
        .refuses(&[404, 409, 422, 507]))
}

/// What is to be archived.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct ZipBody {
    /// One object; or `identities`.
    identity: Option<String>,
    /// Several objects, which the archive holds side by side.
    identities: Option<Vec<String>>,
    /// The archive; the object's name with `.zip` when it is left out.
    destination: Option<String>,
    /// From 0 (stored) to 9; 6 when it is left out.
    level: Option<u8>,
    /// No progress in the stream form.
    quiet: bool,
    /// Whether something may be replaced.
    force: bool,
}

/// What is to be unpacked.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnzipBody {
    identity: String,
    /// The directory; the archive's name without `.zip` when it is left out.
    destination: Option<String>,
    /// Whether files may be replaced.
    #[serde(default)]
    force: bool,
    /// No progress in the stream form.
    #[serde(default)]
    quiet: bool,
}

/// What was done.
#[derive(Debug, JsonSchema, Serialize)]
struct JobAnswer {
    destination: String,
    entries: u64,
    size: u64,
}

/// How far the work is.
#[derive(Debug, JsonSchema, Serialize)]
struct StepAnswer {
    entry: String,
    entries: u64,
    bytes: u64,
}

/// An entity of a job's stream.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Progress {
    Step(StepAnswer),
    Done(JobAnswer),
}

fn done(done: Done) -> JobAnswer {
    JobAnswer { destination: done.destination.to_string(), entries: done.entries, size: done.size }
}

async fn zip(mut request: Request) -> Answer {
    let body: ZipBody = request.json().await?;
    let identities = match (body.identity, body.identities) {
        (Some(identity), None) => vec![identity],
        (None, Some(identities)) if !identities.is_empty() => identities,
        (Some(_), Some(_)) => return Err(Problem::bad_request("`identity` and `identities` exclude each other")),
        (None, _) => return Err(Problem::bad_request("`identity` is missing").member("field", "identity")),
    };
    let paths: Vec<ObjectPath> =
        identities.iter().map(|identity| ObjectPath::parse(identity)).collect::<Result<_, _>>()?;
    let level = body.level.unwrap_or(6);
    if level > 9 {
        return Err(Problem::bad_request("`level` must be from 0 to 9").member("field", "level"));
    }
    let destination = match (&body.destination, paths.as_slice()) {
        (Some(destination), _) => ObjectPath::parse(destination)?,
        (None, [one]) if !one.is_volume() => ObjectPath::parse(&format!("{one}.zip"))?,
        (None, _) => ObjectPath::parse("archive.zip")?,
    };
    if destination.is_volume() {
        return Err(Problem::bad_request("`destination` is not the name of a file").member("field", "destination"));
    }
    let job = Job::Zip { paths, destination, level: level.into(), replace: body.force };
    perform(&request, job, body.quiet).await
}

async fn unzip(mut request: Request) -> Answer {
    let body: UnzipBody = request.json().await?;
    let path = ObjectPath::parse(&body.identity)?;
    let destination = match body.destination {
        Some(destination) => ObjectPath::parse(&destination)?,
        None => {
            let name = path.to_string();
            let stem =
                name.strip_suffix(".zip").or_else(|| name.strip_suffix(".ZIP")).filter(|stem| !stem.ends_with('/'));
            ObjectPath::parse(stem.filter(|stem| !stem.is_empty()).unwrap_or(&format!("{name}.d")))?
        }
    };
    perform(&request, Job::Unzip { path, destination, replace: body.force }, body.quiet).await
}

/// Runs a job; a client that leaves cancels it.
fn perform(request: &Request, job: Job, quiet: bool) -> impl Future<Output = Answer> + Send + use<> {
    let running = request.engine.files.job(job);
    let in_stream = request.stream;
    async move {
        let running = running?;
        if !in_stream {
            return answer::one(false, StatusCode::OK, &done(running.end().await?));
        }
        // The first thing that happens decides the status: a refusal is one, not the end of a stream that began well.
        let mut running = running;
        let Some(first) = running.steps.recv().await else {
            return answer::one(true, StatusCode::OK, &done(running.end().await?));
        };
        let step = |step: actors::fs::Step| {
            Progress::Step(StepAnswer { entry: step.entry, entries: step.entries, bytes: step.bytes })
        };
        let first = (!quiet).then(|| Ok(step(first)));
        let rest = stream::unfold(Some(running), move |running: Option<Running>| async move {
            let mut running = running?;
            if !quiet && let Some(next) = running.steps.recv().await {
                return Some((Ok(step(next)), Some(running)));
            }
            let end = running.end().await;
            Some((end.map(|end| Progress::Done(done(end))).map_err(Problem::from), None))
        });
        let entities = futures_util::StreamExt::chain(stream::iter(first), rest);
        answer::list(true, StatusCode::OK, None, entities).await
    }
}
