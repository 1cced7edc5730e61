//! The stream form, read as it arrives: one chunk a line between brackets, commas leading.
//!
//! It keeps no more than one line. What is not a chunk is dropped, as every client of this format does; a line that
//! grows past [`LONGEST_LINE`] is an error.

use bytes::{Buf, BytesMut};
use serde::Deserialize;
use serde_json::Value;

/// The longest chunk that is kept.
const LONGEST_LINE: usize = 64 << 20;

/// One chunk of a stream.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Chunk {
    /// How it stands: 200 at the start, or the code and message of what went wrong later.
    Status {
        /// An HTTP status.
        code: u16,
        /// What the engine says.
        message: String,
    },
    /// How many entities there are in all.
    Total(u64),
    /// One of the things that were asked for.
    Entity(Value),
}

/// A line that is longer than anything the engine sends.
#[derive(Debug, thiserror::Error)]
#[error("the engine sent a line longer than {LONGEST_LINE} bytes")]
pub(crate) struct LineTooLong;

/// Takes bytes in, gives chunks out.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: BytesMut,
    /// How much of the buffer was searched for a line's end.
    searched: usize,
}

impl Parser {
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), LineTooLong> {
        self.buffer.extend_from_slice(bytes);
        // Many whole lines may be waiting; only one without an end is too long.
        let unfinished = self.buffer.len() - self.buffer.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if unfinished > LONGEST_LINE { Err(LineTooLong) } else { Ok(()) }
    }

    /// The next whole chunk.
    pub(crate) fn next(&mut self) -> Option<Chunk> {
        loop {
            let Some(at) = self.buffer[self.searched..].iter().position(|&byte| byte == b'\n') else {
                self.searched = self.buffer.len();
                return None;
            };
            let end = self.searched + at;
            let chunk = parse_line(&self.buffer[..end]);
            self.buffer.advance(end + 1);
            self.searched = 0;
            if chunk.is_some() {
                return chunk;
            }
        }
    }

    /// The chunk of a last line without an end.
    pub(crate) fn finish(&mut self) -> Option<Chunk> {
        let rest = std::mem::take(&mut self.buffer);
        self.searched = 0;
        parse_line(&rest)
    }
}

#[derive(Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    payload: Value,
}

fn parse_line(line: &[u8]) -> Option<Chunk> {
    let line = line.trim_ascii();
    let line = line.strip_prefix(b",").unwrap_or(line);
    if !line.starts_with(b"{") {
        return None;
    }
    let Line { kind, payload } = serde_json::from_slice(line).ok()?;
    match kind.as_str() {
        "entity" => Some(Chunk::Entity(payload)),
        "total" => Some(Chunk::Total(payload.get("value")?.as_u64()?)),
        "status" => Some(Chunk::Status {
            code: payload.get("code")?.as_u64()?.try_into().ok()?,
            message: payload.get("message").and_then(Value::as_str).unwrap_or_default().to_owned(),
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const STREAM: &str = "[\n{\"kind\":\"status\",\"payload\":{\"code\":200,\"message\":\"OK\"}}\n,{\"kind\":\"total\",\"payload\":{\"value\":2}}\n,{\"kind\":\"entity\",\"payload\":{\"a\":\"\\n\"}}\nnoise\n,{\"kind\":\"entity\",\"payload\":7}\n,{\"kind\":\"status\",\"payload\":{\"code\":503,\"message\":\"gone\"}}\n]\n";

    fn expected() -> Vec<Chunk> {
        vec![
            Chunk::Status { code: 200, message: "OK".into() },
            Chunk::Total(2),
            Chunk::Entity(json!({ "a": "\n" })),
            Chunk::Entity(json!(7)),
            Chunk::Status { code: 503, message: "gone".into() },
        ]
    }

    proptest! {
        #[test]
        fn chunks_are_the_same_however_they_arrive(cuts in proptest::collection::vec(1_usize..40, 1..60)) {
            let mut parser = Parser::default();
            let (mut chunks, mut rest) = (Vec::new(), STREAM.as_bytes());
            for cut in cuts.iter().cycle() {
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                parser.feed(now).expect("short lines");
                chunks.extend(std::iter::from_fn(|| parser.next()));
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            chunks.extend(parser.finish());
            prop_assert_eq!(chunks, expected());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let mut parser = Parser::default();
            parser.feed(&bytes).expect("short");
            while parser.next().is_some() {}
            parser.finish();
        }
    }

    #[test]
    fn a_last_line_without_an_end_counts() {
        let mut parser = Parser::default();
        parser.feed(b",{\"kind\":\"entity\",\"payload\":1}").expect("short");
        assert_eq!(parser.next(), None);
        assert_eq!(parser.finish(), Some(Chunk::Entity(json!(1))));
        assert_eq!(parser.finish(), None);
    }
}
