//! What the engine leaves with the keeper about a shell: the last base of its screen, and what only the engine knows.
//!
//! One line of JSON, then the snapshot's bytes. An unreadable note (of another version) counts as none: the shell is
//! adopted with a screen that is rebuilt from the ring.

use serde::{Deserialize, Serialize};

use super::timeline::{Base, Sizes};
use crate::keeper::MAX_NOTE;

/// A shell's note.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Note {
    /// Whether an API call asked for the end of the program that runs or ran last.
    pub(crate) killed: bool,
    /// Why it could not be started the last time.
    pub(crate) reason: Option<String>,
    /// The recording's name, while the shell is recorded.
    pub(crate) recording: Option<String>,
    /// How many bytes were typed before this note.
    pub(crate) bytes_in: u64,
    /// The base: offset, columns, rows; none when it was too long for the note.
    pub(crate) base: Option<(u64, u16, u16)>,
    /// Changes of size since: offset, columns, rows.
    pub(crate) resizes: Sizes,
    #[serde(skip)]
    pub(crate) snapshot: Vec<u8>,
}

impl Note {
    /// Puts the base and the changes of size since into the note.
    pub(crate) fn set_screen(&mut self, base: &Base, resizes: Sizes) {
        self.base = Some((base.offset, base.columns, base.rows));
        self.resizes = resizes;
        self.snapshot = base.snapshot.to_vec();
    }

    /// The base and the changes of size since, if there are any.
    pub(crate) fn screen(&self) -> Option<(Base, Sizes)> {
        let (offset, columns, rows) = self.base?;
        let base = Base { snapshot: self.snapshot.as_slice().into(), ..Base::blank(offset, columns, rows) };
        Some((base, self.resizes.clone()))
    }

    /// The note as bytes; without the screen when it would be too long.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let whole = self.encode();
        if whole.len() <= MAX_NOTE {
            return whole;
        }
        let mut short = Self { base: None, snapshot: Vec::new(), ..self.clone() };
        let excess = short.resizes.len().saturating_sub(32);
        short.resizes.drain(..excess);
        short.encode()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.snapshot);
        bytes
    }

    /// Reads a note; an unreadable one is an empty one.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let Ok(mut note) = serde_json::from_slice::<Self>(&bytes[..end]) else { return Self::default() };
        note.snapshot = bytes.get(end + 1..).unwrap_or_default().to_vec();
        note
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_note_reads_back(snapshot in prop::collection::vec(any::<u8>(), 0..2000), offset: u64, killed: bool, columns: u16, sizes in prop::collection::vec(any::<(u64, u16, u16)>(), 0..5)) {
            let note = Note { killed, base: Some((offset, columns, 24)), resizes: sizes, snapshot, recording: Some("a.cast".into()), ..Note::default() };
            prop_assert_eq!(Note::from_bytes(&note.to_bytes()), note);
        }

        #[test]
        fn any_bytes_are_a_note(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Note::from_bytes(&bytes);
        }
    }

    #[test]
    fn a_long_snapshot_is_left_out() {
        let note = Note { base: Some((1, 2, 3)), snapshot: vec![b'x'; MAX_NOTE], ..Note::default() };
        let read = Note::from_bytes(&note.to_bytes());
        assert_eq!((read.base, read.snapshot.len()), (None, 0));
    }
}
