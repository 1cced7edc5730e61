//! An object's identity: a relative path, taken apart once into names that can each be opened beneath a directory.
//!
//! `a`, `./a`, `a/` and `a//` are one identity, written `a`; the volume itself is the empty path, written `.`. `..`,
//! NUL, absolute paths, and names or paths over the system's limits are refused here, before anything is opened.
//!
//! Names are bytes; identities are text. Bytes that are not UTF-8 are written as the private-use characters
//! U+EF80 to U+EFFF (byte 0x80 is U+EF80), and read back as those bytes. A name that holds such a character itself is
//! written with that character's three bytes escaped in the same way, so that the mapping is one to one.

use std::fmt::Write as _;

use super::error::FsError;

/// The longest name, in bytes (`NAME_MAX`).
const NAME_MAX: usize = 255;
/// The longest path, in bytes (`PATH_MAX`, less its end).
const PATH_MAX: usize = 4095;
/// The most names in a path.
const DEPTH_MAX: usize = 1024;
/// Names that begin so are the engine's own unfinished work: never listed, never an identity.
pub(super) const RESERVED: &[u8] = b".dxflow-";

/// A path beneath the volume, as names.
#[derive(Clone, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ObjectPath {
    names: Vec<Vec<u8>>,
}

impl ObjectPath {
    /// Reads an identity.
    ///
    /// # Errors
    /// [`FsError::Path`] that says which rule it breaks.
    pub fn parse(identity: &str) -> Result<Self, FsError> {
        let wrong = |reason| FsError::Path { identity: identity.chars().take(200).collect(), reason };
        if identity.starts_with('/') {
            return Err(wrong("it is relative to the volume and does not begin with `/`"));
        }
        let mut names = Vec::new();
        let mut length = 0;
        for name in identity.split('/').filter(|name| !name.is_empty() && *name != ".") {
            let name = unescape(name);
            if name == b".." {
                return Err(wrong("`..` is not allowed"));
            }
            if name.contains(&0) {
                return Err(wrong("a NUL is not allowed"));
            }
            if name.contains(&b'/') || name == b"." || name.is_empty() {
                return Err(wrong("an escaped `/` or `.` is not allowed"));
            }
            if name.len() > NAME_MAX {
                return Err(wrong("a name is longer than 255 bytes"));
            }
            if name.starts_with(RESERVED) {
                return Err(wrong("names that begin with `.dxflow-` are the engine's own"));
            }
            length += name.len() + 1;
            if length > PATH_MAX || names.len() == DEPTH_MAX {
                return Err(wrong("the path is too long"));
            }
            names.push(name);
        }
        Ok(Self { names })
    }

    /// Whether it is the volume itself.
    #[must_use]
    pub fn is_volume(&self) -> bool {
        self.names.is_empty()
    }

    /// Its names.
    #[must_use]
    pub fn names(&self) -> &[Vec<u8>] {
        &self.names
    }

    /// The path as the system takes it, relative to the volume; `.` for the volume.
    #[must_use]
    pub fn system(&self) -> Vec<u8> {
        if self.names.is_empty() { b".".to_vec() } else { self.names.join(&b'/') }
    }

    /// The directory it is in, and its name there.
    ///
    /// # Errors
    /// [`FsError::Volume`] for the volume, which is `verb`ed.
    pub fn split(&self, verb: &'static str) -> Result<(Self, &[u8]), FsError> {
        let (name, parent) = self.names.split_last().ok_or(FsError::Volume(verb))?;
        Ok((Self { names: parent.to_vec() }, name))
    }

    /// The path of `name` in this directory.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut names = self.names.clone();
        names.push(name.to_vec());
        Self { names }
    }

    /// The path of `name` in the directory `below` beneath this one.
    #[must_use]
    pub(super) fn join_all(&self, below: &[Vec<u8>], name: &[u8]) -> Self {
        let mut names = Vec::with_capacity(self.names.len() + below.len() + 1);
        names.extend_from_slice(&self.names);
        names.extend_from_slice(below);
        names.push(name.to_vec());
        Self { names }
    }

    /// The path of another path beneath this one.
    #[must_use]
    pub fn join_path(&self, other: &Self) -> Self {
        Self { names: [self.names.as_slice(), &other.names].concat() }
    }

    /// Whether it is `other` or beneath it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.names.starts_with(&other.names)
    }

    /// Its last name, as text; empty for the volume.
    #[must_use]
    pub fn name(&self) -> String {
        self.names.last().map(|name| escape(name)).unwrap_or_default()
    }
}

impl std::fmt::Display for ObjectPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.names.is_empty() {
            return f.write_str(".");
        }
        for (n, name) in self.names.iter().enumerate() {
            if n > 0 {
                f.write_char('/')?;
            }
            f.write_str(&escape(name))?;
        }
        Ok(())
    }
}

const FIRST: u32 = 0xEF80;

/// Writes a name as text.
pub(super) fn escape(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            if (FIRST..FIRST + 0x80).contains(&u32::from(character)) {
                let mut buffer = [0; 4];
                character.encode_utf8(&mut buffer).bytes().for_each(|byte| text.push(escaped(byte)));
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| text.push(escaped(*byte)));
    }
    text
}

fn escaped(byte: u8) -> char {
    char::from_u32(FIRST + u32::from(byte) - 0x80).expect("U+EF80 to U+EFFF are characters, and the byte is over 0x7f")
}

/// Reads a name from text.
fn unescape(text: &str) -> Vec<u8> {
    let mut name = Vec::with_capacity(text.len());
    for character in text.chars() {
        match u32::from(character).checked_sub(FIRST).and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) if byte < 0x80 => name.push(byte + 0x80),
            _ => name.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identities_mean_one_path() {
        for (identity, path) in [
            ("a", "a"),
            ("./a", "a"),
            ("a/", "a"),
            ("a//b/./c", "a/b/c"),
            ("", "."),
            (".", "."),
            ("./", "."),
            ("...", "..."),
            ("a\\b", "a\\b"),
        ] {
            assert_eq!(ObjectPath::parse(identity).expect(identity).to_string(), path, "{identity}");
        }
        let long = "a/".repeat(3000);
        let wide = "b".repeat(256);
        for identity in [
            "..",
            "a/..",
            "../a",
            "a/../b",
            "/",
            "/a",
            "//a",
            "a\0b",
            &long,
            &wide,
            ".dxflow-upload-x",
            "a/.dxflow-x/b",
        ] {
            assert!(ObjectPath::parse(identity).is_err(), "{identity:?}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_have_an_identity() {
        assert_eq!(escape(b"a\xff"), "a\u{efff}");
        assert_eq!(ObjectPath::parse("a\u{efff}").expect("good").names(), [b"a\xff".to_vec()]);
        let tricky = "\u{efae}\u{efae}";
        // U+EFAE twice is `..` with the high bit set, not `..`.
        assert_eq!(ObjectPath::parse(tricky).expect("good").names(), [vec![0xae, 0xae]]);
    }

    proptest! {
        #[test]
        fn every_name_is_written_and_read_back(name in proptest::collection::vec(1_u8.., 1..80)) {
            prop_assume!(!name.contains(&b'/') && name != b"." && name != b".." && !name.starts_with(RESERVED));
            let path = ObjectPath::default().join(&name);
            prop_assert_eq!(ObjectPath::parse(&path.to_string()).expect("its own identity"), path);
        }

        #[test]
        fn no_text_becomes_a_path_that_leads_out(text in ".*") {
            if let Ok(path) = ObjectPath::parse(&text) {
                for name in path.names() {
                    prop_assert!(!name.is_empty() && name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0));
                }
            }
        }
    }
}
