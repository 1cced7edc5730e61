//! The keys that leave a connected shell: how they are written, and how they are found in what is typed.
//!
//! What may be the beginning of them is held back until it is clear; whatever turns out to be something else is passed
//! on, byte for byte and in order.

/// The keys, as the bytes that a terminal sends for them. None: nothing leaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Keys(Vec<u8>);

impl Keys {
    /// Reads keys as `ctrl-\ ctrl-\`, `ctrl-p,ctrl-q`, `^a d`, or `none`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(Vec::new()));
        }
        let words = text.split([' ', ',']).filter(|word| !word.is_empty());
        let keys: Vec<u8> = words.map(key).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err("no detach keys: write them like `ctrl-a d`, or `none`".into());
        }
        Ok(Self(keys))
    }
}

fn key(word: &str) -> Result<u8, String> {
    let lower = word.to_ascii_lowercase();
    let control = lower.strip_prefix("ctrl-").or_else(|| lower.strip_prefix('^').filter(|rest| !rest.is_empty()));
    match (control.map(str::as_bytes), word.as_bytes()) {
        (Some([letter @ (b'a'..=b'z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]), _) => {
            Ok(letter.to_ascii_uppercase() & 0x1f)
        }
        (None, [plain @ 0x21..=0x7e]) => Ok(*plain),
        _ => Err(format!("`{word}` is not a key: write it like `ctrl-a` or `d`")),
    }
}

/// Finds the keys in what is typed.
#[derive(Debug)]
pub(crate) struct Detector {
    keys: Vec<u8>,
    /// How many of the keys are held back.
    matched: usize,
}

/// What became of some typed bytes.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Typed {
    /// What goes to the shell.
    pub(crate) pass: Vec<u8>,
    /// Whether the keys were typed; what came after them is dropped.
    pub(crate) leave: bool,
}

impl Detector {
    pub(crate) fn new(keys: Keys) -> Self {
        Self { keys: keys.0, matched: 0 }
    }

    /// Whether something is held back.
    pub(crate) fn waiting(&self) -> bool {
        self.matched > 0
    }

    /// Passes on what is held back: nobody goes on typing.
    pub(crate) fn release(&mut self) -> Vec<u8> {
        let held = self.keys[..self.matched].to_vec();
        self.matched = 0;
        held
    }

    /// Takes what was typed.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Typed {
        let mut pass = Vec::with_capacity(bytes.len());
        if self.keys.is_empty() {
            pass.extend_from_slice(bytes);
            return Typed { pass, leave: false };
        }
        for &byte in bytes {
            // The longest beginning of the keys that what is held, and this byte, end in; what stands before it passes.
            let mut held = self.keys[..self.matched].to_vec();
            held.push(byte);
            let keep = (0..=held.len()).rev().find(|&length| held.ends_with(&self.keys[..length])).unwrap_or(0);
            pass.extend_from_slice(&held[..held.len() - keep]);
            self.matched = keep;
            if keep == self.keys.len() {
                self.matched = 0;
                return Typed { pass, leave: true };
            }
        }
        Typed { pass, leave: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("ctrl-\\ ctrl-\\", &[0x1c_u8, 0x1c] as &[u8]),
            ("ctrl-p,ctrl-q", &[16, 17]),
            ("^a d", &[1, b'd']),
            ("Ctrl-A D", &[1, b'D']),
            ("^ ^", b"^^"),
            ("none", &[]),
        ] {
            assert_eq!(Keys::parse(text), Ok(Keys(bytes.to_vec())), "{text}");
        }
        for text in ["", " ", "ctrl-", "ctrl-ab", "ctrl-1", "ab", "é"] {
            assert!(Keys::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_keys_leave() {
        for (pieces, passed, leaves) in [
            (&["abc"] as &[&str], "abc", false),
            (&["a\x1c", "\x1cb"], "a", true),
            (&["\x1c", "x\x1c", "y"], "\x1cx\x1cy", false),
            (&["\x1c\x1c"], "", true),
            (&["\x1c"], "", false),
        ] {
            let mut detector = Detector::new(Keys(vec![0x1c, 0x1c]));
            let (mut pass, mut leave) = (Vec::new(), false);
            for piece in pieces {
                let typed = detector.feed(piece.as_bytes());
                pass.extend(typed.pass);
                leave |= typed.leave;
            }
            assert_eq!((String::from_utf8(pass).expect("text"), leave), (passed.to_owned(), leaves), "{pieces:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_missed(
            keys in proptest::collection::vec(0_u8..3, 1..4),
            pieces in proptest::collection::vec(proptest::collection::vec(0_u8..3, 0..6), 0..8),
        ) {
            let whole = pieces.concat();
            let place = whole.windows(keys.len()).position(|window| window == keys);
            let mut detector = Detector::new(Keys(keys.clone()));
            let (mut pass, mut leave) = (Vec::new(), false);
            for piece in &pieces {
                if !leave {
                    let typed = detector.feed(piece);
                    pass.extend(typed.pass);
                    leave = typed.leave;
                }
            }
            if !leave {
                pass.extend(detector.release());
            }
            prop_assert_eq!(leave, place.is_some());
            prop_assert_eq!(&pass[..], &whole[..place.unwrap_or(whole.len())]);
        }
    }
}
