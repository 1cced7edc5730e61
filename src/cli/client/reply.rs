//! An answer of the engine, read as it arrives.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::chunks::{Chunk, Parser};
use super::{IDLE_CONNECTIONS, Sender};
use crate::cli::error::CliError;

/// The longest refusal that is read.
const LONGEST_PROBLEM: usize = 1 << 20;

/// An answer, its body still to come.
pub(crate) struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    /// The connection, kept for the next call once the body has ended.
    sender: Option<Sender>,
    idle: Arc<Mutex<VecDeque<Sender>>>,
    address: String,
    parser: Parser,
    ended: bool,
}

impl Reply {
    pub(super) fn new(
        response: Response<Incoming>,
        sender: Sender,
        idle: Arc<Mutex<VecDeque<Sender>>>,
        address: String,
    ) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status,
            headers: parts.headers,
            body,
            sender: Some(sender),
            idle,
            address,
            parser: Parser::default(),
            ended: false,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How long the engine asks to wait before another try.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        self.header("retry-after")?.parse().ok().map(Duration::from_secs)
    }

    /// The next bytes of the body; none at its end.
    ///
    /// # Errors
    /// The connection broke: what came is not the whole.
    pub(crate) async fn bytes(&mut self) -> Result<Option<Bytes>, CliError> {
        loop {
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data()
                        && !bytes.is_empty()
                    {
                        return Ok(Some(bytes));
                    }
                }
                Some(Err(error)) => {
                    self.sender = None;
                    return Err(CliError::Unreachable {
                        address: self.address.clone(),
                        reason: format!("the answer broke off: {}", crate::cli::error::chain(&error)),
                    });
                }
                None => {
                    self.keep_connection();
                    return Ok(None);
                }
            }
        }
    }

    fn keep_connection(&mut self) {
        if let Some(sender) = self.sender.take()
            && !sender.is_closed()
        {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push_back(sender);
            if idle.len() > IDLE_CONNECTIONS {
                idle.pop_front();
            }
        }
    }

    /// The whole body.
    pub(crate) async fn whole(&mut self, limit: usize) -> Result<Vec<u8>, CliError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.bytes().await? {
            if whole.len() + bytes.len() > limit {
                return Err(CliError::Failed(format!("the engine's answer is longer than {limit} bytes")));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }

    /// The body as one JSON value.
    pub(crate) async fn value(mut self) -> Result<Value, CliError> {
        let bytes = self.whole(usize::MAX).await?;
        serde_json::from_slice(&bytes).map_err(|error| CliError::failed("the engine's answer is not JSON", error))
    }

    /// The next chunk of the stream form; none at its end. A status chunk that tells a failure is the error.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Chunk>, CliError> {
        loop {
            if let Some(chunk) = self.parser.next() {
                return checked(chunk).map(Some);
            }
            if self.ended {
                return Ok(None);
            }
            match self.bytes().await? {
                Some(bytes) => {
                    self.parser.feed(&bytes).map_err(|error| CliError::Failed(error.to_string()))?;
                }
                None => {
                    self.ended = true;
                    if let Some(chunk) = self.parser.finish() {
                        return checked(chunk).map(Some);
                    }
                }
            }
        }
    }

    /// The next entity of the stream form; none at its end.
    pub(crate) async fn entity(&mut self) -> Result<Option<Value>, CliError> {
        while let Some(chunk) = self.chunk().await? {
            if let Chunk::Entity(value) = chunk {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The refusal that this answer is.
    pub(crate) async fn into_refusal(mut self) -> CliError {
        let status = self.status.as_u16();
        // The header repeats the problem's detail; it is all that an answer to HEAD has.
        let told = self
            .header("x-error-message")
            .map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned())
            .unwrap_or_default();
        let body = match self.whole(LONGEST_PROBLEM).await {
            Ok(body) => body,
            Err(error) if told.is_empty() => return error,
            Err(_) => Vec::new(),
        };
        let problem: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let detail = ["detail", "title"]
            .iter()
            .find_map(|name| problem.get(name).and_then(Value::as_str))
            .map(str::to_owned)
            .filter(|text| !text.is_empty())
            .or_else(|| (!told.is_empty()).then_some(told))
            .unwrap_or_else(|| format!("the engine answered with {}", self.status));
        CliError::Refused { status, detail: crate::cli::output::clean(&detail), problem }
    }
}

fn checked(chunk: Chunk) -> Result<Chunk, CliError> {
    match chunk {
        Chunk::Status { code, message } if code >= 400 => Err(CliError::Refused {
            status: code,
            problem: serde_json::json!({ "status": code, "detail": message }),
            detail: crate::cli::output::clean(&message),
        }),
        other => Ok(other),
    }
}
