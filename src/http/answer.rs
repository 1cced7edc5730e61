//! The two renderings of a result: one JSON value, or the line-by-line stream of chunks that existing clients read.
//!
//! A list is produced item by item in both: memory does not grow with its length. In the stream form the status chunk
//! is sent at once, before the first item is known.

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use warp::Reply;
use warp::reply::Response;

use super::problem::Problem;
use super::route::Answer;

/// The media type of the stream form.
pub(crate) const STREAM_TYPE: &str = "application/stream+json";
/// How many bytes of items are gathered before they are handed to the connection when more are ready.
const FLUSH_BYTES: usize = 32 * 1024;

/// Answers with one value: `status` and its JSON, or the stream form of it.
///
/// # Errors
/// 500 when the value cannot be written as JSON, which would be a fault of ours.
pub(crate) fn one<T: Serialize>(in_stream: bool, status: StatusCode, value: &T) -> Answer {
    let json = serde_json::to_vec(value).map_err(|error| Problem::internal(error.to_string()))?;
    if !in_stream {
        return Ok(bytes(status, "application/json", json));
    }
    let mut text = BytesMut::new();
    text.put_slice(b"[\n");
    text.put_slice(&status_chunk(status, status.canonical_reason().unwrap_or("")));
    text.put_slice(b"\n,{\"kind\":\"entity\",\"payload\":");
    text.put_slice(&json);
    text.put_slice(b"}\n]\n");
    Ok(bytes(status, STREAM_TYPE, text.freeze()))
}

/// A whole body of this type.
pub(crate) fn bytes(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response {
    let body: Bytes = body.into();
    let mut response = http::Response::new(body.to_vec()).into_response();
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// One chunk of `kind`, without the comma and the line's end.
fn chunk<T: Serialize + ?Sized>(kind: &str, payload: &T) -> Vec<u8> {
    let mut line = format!("{{\"kind\":\"{kind}\",\"payload\":").into_bytes();
    if serde_json::to_writer(&mut line, payload).is_err() {
        line.extend_from_slice(b"null");
    }
    line.push(b'}');
    line
}

/// The chunk that tells a status.
pub(crate) fn status_chunk(status: StatusCode, message: &str) -> Vec<u8> {
    chunk("status", &serde_json::json!({ "code": status.as_u16(), "message": message }))
}

/// Answers with a list whose items come one by one. `total` is its unpaginated size where that is known beforehand.
///
/// A failure after the start ends the stream form with a status chunk, and breaks the plain form off, so that nobody
/// takes half a list for the whole.
///
/// # Errors
/// The first item's failure, in the plain form.
pub(crate) async fn list<T, S>(in_stream: bool, status: StatusCode, total: Option<u64>, items: S) -> Answer
where
    T: Serialize + Send + 'static,
    S: Stream<Item = Result<T, Problem>> + Send + 'static,
{
    // Fused: a list without a first item is asked once more below.
    let mut items = Box::pin(items.fuse());
    let mut response = if in_stream {
        let mut head = b"[\n".to_vec();
        head.extend(status_chunk(status, status.canonical_reason().unwrap_or("")));
        head.push(b'\n');
        if let Some(total) = total {
            head.push(b',');
            head.extend(chunk("total", &serde_json::json!({ "value": total })));
            head.push(b'\n');
        }
        let entities = items.map(|item| match item {
            Ok(item) => {
                let mut line = vec![b','];
                line.extend(chunk("entity", &item));
                line.push(b'\n');
                (line, false)
            }
            Err(problem) => {
                if let Some(cause) = &problem.more.cause {
                    tracing::warn!(cause, "a stream broke off");
                }
                let mut line = vec![b','];
                line.extend(status_chunk(problem.status, &problem.detail));
                line.push(b'\n');
                (line, true)
            }
        });
        let body = stream::once(async move { Bytes::from(head) })
            .chain(gather(until_end(entities)))
            .chain(stream::once(async { Bytes::from_static(b"]\n") }));
        streamed(STREAM_TYPE, body.map(Ok::<_, std::convert::Infallible>))
    } else {
        let first = items.next().await.transpose()?;
        let mut opened = false;
        let lines = stream::iter(first.map(Ok)).chain(items).map(move |item| {
            let item = item.map_err(|problem| std::io::Error::other(problem.detail))?;
            let mut line = vec![if opened { b',' } else { b'[' }];
            opened = true;
            serde_json::to_writer(&mut line, &item).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(line)
        });
        plain_list(lines)
    };
    *response.status_mut() = status;
    if let Some(total) = total {
        response.headers_mut().insert("x-total-count", HeaderValue::from(total));
    }
    Ok(response)
}

/// Joins the lines of a plain list: an opening bracket comes with the first item, or with the end when there is none.
fn plain_list<S>(lines: S) -> Response
where
    S: Stream<Item = Result<Vec<u8>, std::io::Error>> + Send + 'static,
{
    let lines = Box::pin(lines.ready_chunks(256));
    let state = (lines, false, false);
    let body = stream::unfold(state, |(mut lines, opened, ended)| async move {
        if ended {
            return None;
        }
        match lines.next().await {
            Some(batch) => {
                let mut block = BytesMut::new();
                for line in batch {
                    match line {
                        Ok(line) => block.extend_from_slice(&line),
                        Err(error) => return Some((Err(error), (lines, true, true))),
                    }
                }
                Some((Ok(block.freeze()), (lines, true, false)))
            }
            None => {
                let end: &[u8] = if opened { b"]" } else { b"[]" };
                Some((Ok(Bytes::from_static(end)), (lines, true, true)))
            }
        }
    });
    streamed("application/json", body)
}

/// Ends after the first entry that says it is the last.
fn until_end<S: Stream<Item = (Vec<u8>, bool)> + Send>(lines: S) -> impl Stream<Item = Vec<u8>> + Send {
    lines
        .scan(false, |ended, (line, last)| {
            let entry = (!*ended).then_some(line);
            *ended = last;
            std::future::ready(entry)
        })
        .fuse()
}

/// Joins what is ready at once, up to [`FLUSH_BYTES`]; what comes alone is sent alone, at once.
fn gather<S: Stream<Item = Vec<u8>> + Send + 'static>(lines: S) -> impl Stream<Item = Bytes> + Send {
    lines.ready_chunks(FLUSH_BYTES / 128).map(|batch| Bytes::from(batch.concat()))
}

/// A body of this type that is produced as it is sent.
pub(crate) fn streamed<S, E>(media_type: &'static str, body: S) -> Response
where
    S: Stream<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    let mut response = warp::reply::stream(Shared(std::sync::Mutex::new(Box::pin(body)))).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// warp asks for bodies that are `Sync`; nothing shares one, so the lock is never waited for.
struct Shared<S>(std::sync::Mutex<std::pin::Pin<Box<S>>>);

impl<S: Stream> Stream for Shared<S> {
    type Item = S::Item;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).as_mut().poll_next(context)
    }
}

impl super::request::Request {
    /// Answers 200 with one value in the form that was asked for.
    ///
    /// # Errors
    /// As [`one`].
    pub(crate) fn ok<T: Serialize>(&self, value: &T) -> Answer {
        one(self.stream, StatusCode::OK, value)
    }

    /// Answers with one value and this status in the form that was asked for.
    ///
    /// # Errors
    /// As [`one`].
    pub(crate) fn answer<T: Serialize>(&self, status: StatusCode, value: &T) -> Answer {
        one(self.stream, status, value)
    }

    /// Answers 200 with a list in the form that was asked for.
    ///
    /// # Errors
    /// As [`list`].
    pub(crate) fn list<T, S>(&self, total: Option<u64>, items: S) -> impl Future<Output = Answer> + Send + use<T, S>
    where
        T: Serialize + Send + 'static,
        S: Stream<Item = Result<T, Problem>> + Send + 'static,
    {
        // The future does not hold the request, whose body is not for two threads at once.
        list(self.stream, StatusCode::OK, total, items)
    }
}
