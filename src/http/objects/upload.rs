//! Uploads: whole in one request, or in parts that go on where they broke off.

use actors::fs::{ObjectPath, Part, PartDone, PartSink, Sink, Upload, Uploaded};
use base64::Engine as _;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::both;
use crate::http::answer;
use crate::http::problem::Problem;
use crate::http::request::{Body, Request};
use crate::http::route::{Access, Answer, Route};

pub(super) fn routes() -> [Route; 2] {
    both!("/upload", |path| Route::put(path, Access::OBJECT, upload)
        .says(
            "Takes an object's content; it is there whole or not at all. With `upload`, in parts that can be resumed."
        )
        .query::<UploadQuery>()
        .takes_bytes()
        .answers::<UploadAnswer>(201)
        .answers::<UploadAnswer>(200)
        .refuses(&[404, 409, 411, 413, 416, 422, 507]))
}

pub(super) fn heads() -> [Route; 2] {
    both!("/upload", |path| Route::head(path, Access::OBJECT, progress)
        .says("How far a resumable upload is, in `Upload-Offset` and `Upload-Length`.")
        .query::<ProgressQuery>()
        .answers_as(200, "application/octet-stream")
        .refuses(&[404]))
}

/// Where, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UploadQuery {
    identity: String,
    /// Whether something may be replaced.
    #[serde(default)]
    force: bool,
    /// The client's name for an upload in parts.
    upload: Option<String>,
}

/// Which upload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProgressQuery {
    identity: String,
    upload: String,
}

/// The object as it is now; or, while parts are missing, how far it is.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(untagged)]
enum UploadAnswer {
    Complete {
        #[serde(flatten)]
        object: actors::fs::Object,
        /// The SHA-256 of its content, in hex.
        sha256: String,
    },
    Partial {
        identity: String,
        upload: String,
        offset: u64,
        length: u64,
    },
}

/// What the body's SHA-256 must be, by `X-Content-SHA256` (hex), `Digest` (RFC 3230) or `Content-Digest`,
/// `Repr-Digest` (RFC 9530).
fn digest_of(headers: &HeaderMap) -> Result<Option<[u8; 32]>, Problem> {
    let wrong = |name: &str| Problem::bad_request(format!("`{name}` is not a SHA-256 digest"));
    if let Some(value) = headers.get("x-content-sha256") {
        let digest = value.to_str().ok().and_then(|text| hex::decode(text.trim()).ok());
        let digest = digest.and_then(|bytes| bytes.try_into().ok());
        return digest.map(Some).ok_or_else(|| wrong("X-Content-SHA256"));
    }
    for name in ["digest", "content-digest", "repr-digest"] {
        let Some(value) = headers.get(name) else { continue };
        let text = value.to_str().map_err(|_| wrong(name))?;
        for entry in text.split(',').map(str::trim) {
            let Some((algorithm, value)) = entry.split_once('=') else { return Err(wrong(name)) };
            if algorithm.trim().eq_ignore_ascii_case("sha-256") {
                let value = value.trim().trim_start_matches(':').trim_end_matches(':');
                let bytes = base64::engine::general_purpose::STANDARD.decode(value).ok();
                let digest = bytes.and_then(|bytes| bytes.try_into().ok());
                return digest.map(Some).ok_or_else(|| wrong(name));
            }
        }
    }
    Ok(None)
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads `bytes a-b/total`.
fn content_range(headers: &HeaderMap) -> Result<(u64, u64, u64), Problem> {
    let wrong = || Problem::bad_request("a part needs `Content-Range: bytes FIRST-LAST/TOTAL`");
    let text = headers.get(header::CONTENT_RANGE).ok_or_else(wrong)?.to_str().map_err(|_| wrong())?;
    let digits = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| text.parse::<u64>().ok()).flatten().filter(|number| *number <= i64::MAX.unsigned_abs())
    };
    let parse = || {
        let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((digits(first)?, digits(last)?, digits(total)?))
    };
    let (first, last, total) = parse().ok_or_else(wrong)?;
    if first > last || last >= total {
        return Err(Problem::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range",
            "the part of `Content-Range` does not lie within its total",
        ));
    }
    Ok((first, last, total))
}

/// Sends a body into a sink until either ends.
pub(super) async fn pour<T: Send + 'static>(mut body: Body, sink: &mut Sink<T>) -> Result<(), Problem> {
    while let Some(chunk) = body.next().await {
        if !sink.write(chunk?).await {
            // The sink says why when it is finished.
            break;
        }
    }
    Ok(())
}

async fn upload(mut request: Request) -> Answer {
    let query: UploadQuery = request.query()?;
    let path = ObjectPath::parse(&query.identity)?;
    let upload = Upload {
        path: path.clone(),
        replace: query.force,
        length: length_of(&request.headers),
        sha256: digest_of(&request.headers)?,
    };
    let Some(name) = query.upload else {
        if request.headers.contains_key(header::CONTENT_RANGE) {
            return Err(Problem::bad_request("`Content-Range` is for an upload in parts, which needs `upload`"));
        }
        let mut sink = request.engine.files.upload(upload).await?;
        pour(request.take_body(), &mut sink).await?;
        let uploaded = sink.finish().await?;
        return complete(request.stream, uploaded);
    };
    let (start, end, total) = content_range(&request.headers)?;
    if upload.length.is_some_and(|length| length != end + 1 - start) {
        return Err(Problem::bad_request("the body is not as long as its `Content-Range` says"));
    }
    let part = Part { upload: name.clone(), start, end, total };
    let mut writing = match request.engine.files.upload_part(upload, part).await? {
        PartSink::Complete(uploaded) => return complete(request.stream, *uploaded),
        PartSink::Wanted(writing) => writing,
    };
    pour(request.take_body(), &mut writing.sink).await?;
    match writing.finish().await? {
        PartDone::Complete(uploaded) => complete(request.stream, uploaded),
        PartDone::Partial(progress) => {
            let partial = UploadAnswer::Partial {
                identity: path.to_string(),
                upload: name,
                offset: progress.offset,
                length: progress.total,
            };
            let mut response = request.ok(&partial)?;
            tell(response.headers_mut(), progress);
            Ok(response)
        }
    }
}

fn tell(headers: &mut HeaderMap, progress: actors::fs::Progress) {
    headers.insert("upload-offset", HeaderValue::from(progress.offset));
    headers.insert("upload-length", HeaderValue::from(progress.total));
}

/// Answers with the object as it is now.
pub(super) fn complete(in_stream: bool, uploaded: Uploaded) -> Answer {
    let status = if uploaded.replaced { StatusCode::OK } else { StatusCode::CREATED };
    let etag = format!("\"{}\"", uploaded.object.etag);
    let sha256 = uploaded.sha256.clone();
    let body = UploadAnswer::Complete { object: uploaded.object, sha256: uploaded.sha256 };
    let mut response = answer::one(in_stream, status, &body)?;
    for (name, value) in [("etag", etag), ("x-content-sha256", sha256)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

async fn progress(request: Request) -> Answer {
    let query: ProgressQuery = request.query()?;
    let path = ObjectPath::parse(&query.identity)?;
    let progress = request.engine.files.upload_progress(path, &query.upload).await?;
    let progress = progress.ok_or_else(|| Problem::not_found("there is no upload of that name for that object"))?;
    let mut response = answer::bytes(StatusCode::OK, "application/octet-stream", "");
    tell(response.headers_mut(), progress);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_in_every_form() {
        let hash = [7_u8; 32];
        let (hexed, based) = (hex::encode(hash), base64::engine::general_purpose::STANDARD.encode(hash));
        let read = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_str(value).expect("a value"));
            digest_of(&headers).map_err(|problem| problem.status.as_u16())
        };
        for (name, value) in [
            ("x-content-sha256", hexed.clone()),
            ("x-content-sha256", hexed.to_uppercase()),
            ("digest", format!("SHA-256={based}")),
            ("digest", format!("md5=x, sha-256={based}")),
            ("repr-digest", format!("sha-256=:{based}:")),
        ] {
            assert_eq!(read(name, &value), Ok(Some(hash)), "{name}: {value}");
        }
        assert_eq!(read("digest", "md5=abc"), Ok(None));
        for (name, value) in [("x-content-sha256", "abc"), ("digest", "sha-256=abc"), ("digest", "nonsense")] {
            assert_eq!(read(name, value), Err(400), "{name}: {value}");
        }
    }

    #[test]
    fn parts_lie_within_their_total() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, HeaderValue::from_str(value).expect("a value"));
            content_range(&headers).map_err(|problem| problem.status.as_u16())
        };
        assert_eq!(read("bytes 0-9/10"), Ok((0, 9, 10)));
        for (value, status) in [
            ("bytes 0-10/10", 416),
            ("bytes 5-4/10", 416),
            ("bytes 0-9/*", 400),
            ("bytes -1-9/10", 400),
            ("0-9/10", 400),
            ("bytes 0-9/99999999999999999999", 400),
            ("", 400),
        ] {
            assert_eq!(read(value), Err(status), "{value}");
        }
    }
}
