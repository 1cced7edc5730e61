//! What the engine and the keeper say to each other over the Unix socket `keeper.sock`.
//!
//! # Frames
//! A stream of frames in both directions. A frame is a header of eight bytes and a body of JSON:
//!
//! ```text
//! 0        4        5        8
//! │ length │ descr. │ 0 0 0  │ body: `length` bytes of JSON …
//! ```
//!
//! `length` is a little-endian `u32`, at most [`MAX_BODY`]. `descr.` is the number of descriptors that belong to the
//! frame; they are sent (`SCM_RIGHTS`) with its first byte, so that they arrive no later than it, in order.
//!
//! # Conversation
//! The client speaks first: [`Request::Hello`] with the version that it speaks. The keeper answers
//! [`Message::Welcome`], or [`Message::Refused`] in words and hangs up: when the version is newer than its own, or the
//! peer is neither of the same user nor root. Then every [`Request::Ask`] has an `id` of the client's choice and gets
//! one [`Message::Answer`] with that id, in any order; [`Message::Exited`] comes without being asked for. A keeper serves
//! one engine: a newer connection replaces the older one, which it hangs up.
//!
//! | answer | descriptors |
//! |---|---|
//! | [`Outcome::Shell`] | the log's memory; and the pty when `pty` is true |
//! | all others | none |
//!
//! # Versions
//! A keeper outlives engines, so a newer engine must speak to an older keeper. New commands and fields need a higher
//! [`VERSION`]; `Welcome` says what the keeper speaks; unknown fields are ignored.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::Refusal;
use super::types::{Record, Scope, SpawnSpec, Status, Usage};
use crate::ids::ShellId;

/// The version of the protocol that this build speaks.
pub(super) const VERSION: u32 = 1;
/// The longest body of a frame, in bytes: arguments and environment of a program may be 2 MiB (`ARG_MAX`).
pub(super) const MAX_BODY: usize = 4 << 20;
/// The most descriptors that a frame may carry.
pub(super) const MAX_DESCRIPTORS: usize = 2;
/// The most descriptors that may have arrived ahead of their frames.
const MAX_WAITING_DESCRIPTORS: usize = 256;
const HEADER: usize = 8;

/// What a client says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(super) enum Request {
    /// First of all.
    Hello { version: u32 },
    /// Do this.
    Ask { id: u64, command: Command },
}

/// What a client can ask for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(super) enum Command {
    /// Make a shell.
    Spawn { spec: SpawnSpec },
    /// Describe the shells after this one, in the order of their names; as many as fit into one answer.
    List { after: Option<ShellId> },
    /// Hand over a shell's descriptors.
    Adopt { shell: ShellId },
    /// Start a shell that does not run.
    Start { shell: ShellId },
    /// Set the size of its terminal.
    Resize { shell: ShellId, columns: u16, rows: u16 },
    /// Send a signal.
    Signal { shell: ShellId, signal: i32, scope: Scope },
    /// Hang up, kill what is left after the grace time, forget.
    Remove { shell: ShellId, grace_millis: u64 },
    /// Replace the engine's note.
    SetNote {
        shell: ShellId,
        #[serde(with = "super::types::base64_bytes")]
        note: Vec<u8>,
    },
}

/// What the keeper says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(super) enum Message {
    /// The client may go on. `instance` is a different number for every keeper process.
    Welcome { version: u32, pid: i32, instance: u64 },
    /// The client may not, and why.
    Refused { reason: String },
    /// To the request with this id.
    Answer { id: u64, outcome: Outcome },
    /// A shell's program has ended.
    Exited { shell: ShellId, generation: u32, status: Status, usage: Option<Usage> },
}

/// How a request went.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// It was done.
    Done,
    /// It was done to this shell, whose descriptors come along.
    Shell { record: Box<Record>, pty: bool },
    /// These are there; `more` after the last of them.
    Shells { records: Vec<Record>, more: bool },
    /// It was not done.
    Refused { refusal: Refusal },
}

/// What cannot be a frame of this protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("a frame of {length} bytes is longer than {MAX_BODY}")]
    TooLong { length: usize },
    #[error("a frame header that is not of this protocol")]
    Header,
    #[error("descriptors that belong to no frame")]
    Descriptors,
    #[error("a frame that is not understood")]
    Body(#[source] serde_json::Error),
}

/// Writes one frame, header and body.
///
/// # Errors
/// When the body would be longer than [`MAX_BODY`].
pub(super) fn encode<T: Serialize>(message: &T, descriptors: usize) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message).map_err(FrameError::Body)?;
    let length = frame.len() - HEADER;
    if length > MAX_BODY {
        return Err(FrameError::TooLong { length });
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    frame[4] = descriptors as u8;
    Ok(frame)
}

/// Takes frames out of what arrives. Holds at most one frame and one read.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    buffer: Vec<u8>,
    taken: usize,
    descriptors: VecDeque<OwnedFd>,
}

impl FrameReader {
    /// Takes in what was received. Call [`next`](Self::next) until it gives nothing before the next push.
    pub(super) fn push(&mut self, bytes: &[u8], descriptors: impl IntoIterator<Item = OwnedFd>) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
            if self.buffer.is_empty() && self.buffer.capacity() > 64 << 10 {
                self.buffer = Vec::new();
            }
        }
        self.buffer.extend_from_slice(bytes);
        self.descriptors.extend(descriptors);
    }

    /// Whether [`next`](Self::next) has something to give or to complain of.
    pub(super) fn has_frame(&self) -> bool {
        let pending = &self.buffer[self.taken..];
        let Some((header, rest)) = pending.split_first_chunk::<HEADER>() else { return false };
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        length > MAX_BODY || rest.len() >= length
    }

    /// The next whole frame and its descriptors.
    ///
    /// # Errors
    /// When what arrived cannot be a frame: the connection is of no use any more.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> Result<Option<(T, Vec<OwnedFd>)>, FrameError> {
        if self.descriptors.len() > MAX_WAITING_DESCRIPTORS {
            return Err(FrameError::Descriptors);
        }
        let pending = &self.buffer[self.taken..];
        let Some((header, rest)) = pending.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [a, b, c, d, descriptors, 0, 0, 0] = *header else { return Err(FrameError::Header) };
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_BODY {
            return Err(FrameError::TooLong { length });
        }
        let descriptors = usize::from(descriptors);
        if descriptors > MAX_DESCRIPTORS {
            return Err(FrameError::Header);
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        if descriptors > self.descriptors.len() {
            return Err(FrameError::Descriptors);
        }
        let message = serde_json::from_slice(body).map_err(FrameError::Body)?;
        self.taken += HEADER + length;
        Ok(Some((message, self.descriptors.drain(..descriptors).collect())))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all<T: DeserializeOwned>(reader: &mut FrameReader) -> Result<Vec<T>, FrameError> {
        let mut messages = Vec::new();
        while let Some((message, _)) = reader.next()? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn requests() -> Vec<Request> {
        let shell: ShellId = "work".parse().expect("a name");
        let spec = SpawnSpec {
            id: shell.clone(),
            path: "sh".into(),
            args: vec!["-c".into(), "printf '\u{1b}[1m'\n".into()],
            env: vec![("A".into(), "=b\n".into())],
            cwd: "/".into(),
            columns: 80,
            rows: 24,
            log_capacity: 1 << 18,
            note: vec![0, 255, 1],
            start: true,
            limits: Some(super::super::types::Limits { memory: Some(1), ..Default::default() }),
        };
        let commands = [
            Command::Spawn { spec },
            Command::List { after: None },
            Command::List { after: Some(shell.clone()) },
            Command::Adopt { shell: shell.clone() },
            Command::Start { shell: shell.clone() },
            Command::Resize { shell: shell.clone(), columns: 1, rows: 1000 },
            Command::Signal { shell: shell.clone(), signal: 15, scope: Scope::Tree },
            Command::Remove { shell: shell.clone(), grace_millis: 0 },
            Command::SetNote { shell, note: vec![] },
        ];
        std::iter::once(Request::Hello { version: VERSION })
            .chain(commands.into_iter().enumerate().map(|(id, command)| Request::Ask { id: id as u64, command }))
            .collect()
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_before_it_is_held() {
        for header in [[0, 0, 0, 255, 0, 0, 0, 0], [0, 0, 0, 0, 200, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0]] {
            let mut reader = FrameReader::default();
            reader.push(&header, []);
            assert!(reader.next::<Request>().is_err(), "{header:?}");
        }
        let mut reader = FrameReader::default();
        reader.push(&[2, 0, 0, 0, 1, 0, 0, 0, b'{', b'}'], []);
        assert!(matches!(reader.next::<Request>(), Err(FrameError::Descriptors)), "it never got its descriptor");
        assert!(matches!(encode(&"x".repeat(MAX_BODY), 0), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn descriptors_go_to_the_frame_that_names_them() {
        let mut bytes = encode(&Message::Refused { reason: "a".into() }, 0).expect("short");
        bytes.extend(encode(&Message::Refused { reason: "b".into() }, 2).expect("short"));
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("null"));
        let mut reader = FrameReader::default();
        reader.push(&bytes, [null(), null()]);
        let counts: Vec<usize> =
            std::iter::from_fn(|| reader.next::<Message>().expect("frames")).map(|(_, fds)| fds.len()).collect();
        assert_eq!(counts, [0, 2]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_however_it_is_cut(cuts in prop::collection::vec(1..700_usize, 1..50)) {
            let requests = requests();
            let bytes: Vec<u8> =
                requests.iter().flat_map(|request| encode(request, 0).expect("short")).collect();
            let (mut reader, mut seen, mut rest, mut cuts) =
                (FrameReader::default(), Vec::new(), &bytes[..], cuts.into_iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                reader.push(now, []);
                seen.extend(all::<Request>(&mut reader).expect("frames"));
                rest = later;
            }
            prop_assert_eq!(seen, requests);
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_wait_for_more(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut reader = FrameReader::default();
            reader.push(&bytes, []);
            let _ = all::<Request>(&mut reader);
            // The same inside a frame that is well-formed up to its body.
            let mut frame = vec![0; HEADER];
            frame[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            frame.extend_from_slice(&bytes);
            let mut reader = FrameReader::default();
            reader.push(&frame, []);
            prop_assert!(reader.next::<Request>().is_err() || !bytes.is_empty());
        }

        #[test]
        fn a_damaged_frame_is_no_panic(at in 0..200_usize, byte: u8, which in 0..10_usize) {
            let mut frame = encode(&requests()[which], 0).expect("short");
            let at = at % frame.len();
            frame[at] = byte;
            let mut reader = FrameReader::default();
            reader.push(&frame, []);
            let _ = all::<Request>(&mut reader);
        }
    }
}
