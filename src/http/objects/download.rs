//! Downloads: files whole or in parts, directories as archives made on the fly.

use actors::fs::{Download, FsError, Kind, Object, ObjectPath, Segment};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use schemars::JsonSchema;
use serde::Deserialize;
use warp::reply::Response;

use super::conditions::{Ranges, Verdict, http_date, judge, ranges};
use super::{answer, body_of, both};
use crate::http::problem::Problem;
use crate::http::request::Request;
use crate::http::route::{Access, Answer, Route};

pub(super) fn routes() -> [Route; 2] {
    both!("/download", |path| Route::get(path, Access::OBJECT, download)
        .says("Sends a file, whole or in parts; a directory as a zip archive made on the fly.")
        .query::<DownloadQuery>()
        .answers_as(200, "application/octet-stream")
        .answers_as(206, "application/octet-stream")
        .answers_as(304, "application/octet-stream")
        .refuses(&[404, 409, 412, 416]))
}

/// Which object.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DownloadQuery {
    identity: String,
}

async fn download(request: Request) -> Answer {
    let query: DownloadQuery = request.query()?;
    send(&Asked::of(&request), &request.engine.files, ObjectPath::parse(&query.identity)?, ()).await
}

/// What a request says of how it wants an object.
pub(super) struct Asked {
    method: Method,
    headers: http::HeaderMap,
}

impl Asked {
    pub(super) fn of(request: &Request) -> Self {
        Self { method: request.method.clone(), headers: request.headers.clone() }
    }
}

/// Told when a body has been sent to its end.
pub(super) trait Sent: Send + 'static {
    /// The whole answer has gone out.
    fn sent(self);
}

impl Sent for () {
    fn sent(self) {}
}

/// Sends an object; `sent` is told when the body has come to its end.
pub(super) async fn send(asked: &Asked, files: &actors::fs::Files, path: ObjectPath, sent: impl Sent) -> Answer {
    let opened = match files.open(path.clone()).await {
        Err(FsError::Kind { is: "a directory", .. }) => return send_directory(asked, files, path, sent).await,
        opened => opened?,
    };
    send_file(asked, opened, sent)
}

fn send_file(asked: &Asked, opened: Download, sent: impl Sent) -> Answer {
    let Download { file, object, whole } = opened;
    let etag = format!("\"{}\"", object.etag);
    match judge(&asked.headers, &etag, object.modified_at) {
        Verdict::Send => {}
        Verdict::NotModified => {
            let mut response = answer::bytes(StatusCode::NOT_MODIFIED, "application/octet-stream", "");
            response.headers_mut().remove(header::CONTENT_TYPE);
            response.headers_mut().remove(header::CONTENT_LENGTH);
            describe(&mut response, &object, &etag);
            return Ok(response);
        }
        Verdict::Failed => {
            return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "precondition", "the object is another version"));
        }
    }
    let length = object.size;
    // HEAD says what GET would without a range (RFC 9110, 14.2).
    let head = asked.method == Method::HEAD;
    let asked = if head { Ranges::Whole } else { ranges(&asked.headers, &etag, object.modified_at, length) };
    let (status, media_type, segments, content_range) = match asked {
        Ranges::Whole => {
            let segment = whole.map_or(Segment::File { start: 0, length }, Segment::Bytes);
            (StatusCode::OK, OCTETS.to_owned(), vec![segment], None)
        }
        Ranges::Unsatisfiable => {
            let problem = Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range",
                format!("the object has {length} bytes, and none of those"),
            );
            return Err(problem.header(header::CONTENT_RANGE, &format!("bytes */{length}")));
        }
        Ranges::Parts(parts) if parts.len() == 1 => {
            let (first, last) = parts[0];
            let segment = Segment::File { start: first, length: last - first + 1 };
            (
                StatusCode::PARTIAL_CONTENT,
                OCTETS.to_owned(),
                vec![segment],
                Some(format!("bytes {first}-{last}/{length}")),
            )
        }
        Ranges::Parts(parts) => {
            let boundary = format!("dxflow-{}", actors::ids::random_name());
            let segments = multipart(&parts, length, &boundary);
            let media_type = format!("multipart/byteranges; boundary={boundary}");
            (StatusCode::PARTIAL_CONTENT, media_type, segments, None)
        }
    };
    let whole: u64 = segments
        .iter()
        .map(|segment| match segment {
            Segment::Bytes(bytes) => bytes.len() as u64,
            Segment::File { length, .. } => *length,
        })
        .sum();
    let pieces =
        if head { tokio::sync::mpsc::channel(1).1 } else { watched(actors::fs::read(file, segments), whole, sent) };
    let mut response = body_of(OCTETS, Some(whole), pieces);
    *response.status_mut() = status;
    describe(&mut response, &object, &etag);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&media_type) {
        headers.insert(header::CONTENT_TYPE, value);
    }
    if let Some(value) = content_range.and_then(|range| HeaderValue::from_str(&range).ok()) {
        headers.insert(header::CONTENT_RANGE, value);
    }
    headers.insert(header::CONTENT_DISPOSITION, disposition(&object.name));
    Ok(response)
}

const OCTETS: &str = "application/octet-stream";

/// Passes pieces on, and tells when all `whole` bytes of them have been taken.
fn watched(
    mut pieces: tokio::sync::mpsc::Receiver<std::io::Result<Bytes>>,
    whole: u64,
    sent: impl Sent,
) -> tokio::sync::mpsc::Receiver<std::io::Result<Bytes>> {
    if std::any::TypeId::of::<()>() == std::any::Any::type_id(&sent) {
        return pieces;
    }
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut passed = 0;
        while let Some(piece) = pieces.recv().await {
            let length = piece.as_ref().map_or(0, Bytes::len) as u64;
            if sender.send(piece).await.is_err() {
                return;
            }
            passed += length;
        }
        if passed == whole || whole == u64::MAX {
            sent.sent();
        }
    });
    receiver
}

/// The parts as `multipart/byteranges` writes them.
fn multipart(parts: &[(u64, u64)], length: u64, boundary: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    for (first, last) in parts {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: bytes {first}-{last}/{length}\r\n\r\n"
        );
        segments.push(Segment::Bytes(head.into()));
        segments.push(Segment::File { start: *first, length: last - first + 1 });
    }
    segments.push(Segment::Bytes(format!("\r\n--{boundary}--\r\n").into()));
    segments
}

fn describe(response: &mut Response, object: &Object, etag: &str) {
    let headers = response.headers_mut();
    for (name, value) in [(header::ETAG, etag.to_owned()), (header::LAST_MODIFIED, http_date(object.modified_at))] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // A browser may keep it if it asks each time whether it is still that version.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
}

async fn send_directory(asked: &Asked, files: &actors::fs::Files, path: ObjectPath, sent: impl Sent) -> Answer {
    let object = files.target(path.clone()).await?;
    if object.kind != Kind::Directory {
        return Err(Problem::conflict("the object changed while it was opened; try again"));
    }
    let name = if path.is_volume() { "volume.zip".into() } else { format!("{}.zip", path.name()) };
    let pieces = if asked.method == Method::HEAD {
        tokio::sync::mpsc::channel(1).1
    } else {
        watched(files.zip_stream(path)?, u64::MAX, sent)
    };
    let mut response = body_of("application/zip", None, pieces);
    response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition(&name));
    Ok(response)
}

/// `attachment` with the name in both forms of RFC 6266; the plain one is last, since existing clients read to the end
/// of the line.
fn disposition(name: &str) -> HeaderValue {
    const KEPT: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'_').remove(b'~');
    let encoded = percent_encoding::utf8_percent_encode(name, KEPT);
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ' { c } else { '_' })
        .collect();
    let text = format!("attachment; filename*=UTF-8''{encoded}; filename=\"{plain}\"");
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_in_both_forms() {
        for (name, expected) in [
            ("a.txt", "attachment; filename*=UTF-8''a.txt; filename=\"a.txt\""),
            ("a b", "attachment; filename*=UTF-8''a%20b; filename=\"a b\""),
            ("é\"\n\\", "attachment; filename*=UTF-8''%C3%A9%22%0A%5C; filename=\"____\""),
        ] {
            assert_eq!(disposition(name), expected);
        }
    }
}
