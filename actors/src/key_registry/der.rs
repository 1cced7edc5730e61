//! The little of DER (X.690) that public keys need: nested values with definite, minimal lengths.
//!
//! Strict: whatever DER does not allow is refused, and so is anything after the end. It allocates nothing.

/// The tags that occur in public keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
enum Tag {
    Integer = 0x02,
    BitString = 0x03,
    Null = 0x05,
    Oid = 0x06,
    Sequence = 0x30,
}

/// 1.3.101.112, Ed25519 (RFC 8410).
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// 1.2.840.113549.1.1.1, rsaEncryption (RFC 8017).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// What a public key in DER holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum DerKey<'a> {
    Ed25519(&'a [u8]),
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa {
        modulus: &'a [u8],
        exponent: &'a [u8],
    },
}

/// Reads a SubjectPublicKeyInfo (RFC 5280).
pub(super) fn spki(der: &[u8]) -> Option<DerKey<'_>> {
    let (mut outer, end) = take(der, Tag::Sequence)?;
    let (mut algorithm, rest) = take(outer, Tag::Sequence)?;
    outer = rest;
    let (oid, rest) = take(algorithm, Tag::Oid)?;
    algorithm = rest;
    let (bits, rest) = take(outer, Tag::BitString)?;
    // The first byte counts the unused bits of the last.
    let (unused, key) = bits.split_first()?;
    if !end.is_empty() || !rest.is_empty() || *unused != 0 {
        return None;
    }
    if oid == ED25519 {
        return algorithm.is_empty().then_some(DerKey::Ed25519(key));
    }
    let (null, rest) = take(algorithm, Tag::Null)?;
    if oid != RSA || !null.is_empty() || !rest.is_empty() {
        return None;
    }
    pkcs1(key)
}

/// Reads an RSAPublicKey (RFC 8017).
pub(super) fn pkcs1(der: &[u8]) -> Option<DerKey<'_>> {
    let (numbers, end) = take(der, Tag::Sequence)?;
    let (modulus, rest) = take(numbers, Tag::Integer)?;
    let (exponent, rest) = take(rest, Tag::Integer)?;
    if !end.is_empty() || !rest.is_empty() {
        return None;
    }
    Some(DerKey::Rsa { modulus: positive(modulus)?, exponent: positive(exponent)? })
}

/// A positive number in its shortest form, without the zero that keeps it positive.
fn positive(number: &[u8]) -> Option<&[u8]> {
    match number {
        [0, rest @ ..] => rest.first().is_some_and(|first| *first >= 0x80).then_some(rest),
        [first, ..] => (*first < 0x80).then_some(number),
        [] => None,
    }
}

/// Takes one value with this tag: its content, and what follows it.
fn take(der: &[u8], tag: Tag) -> Option<(&[u8], &[u8])> {
    let (first, rest) = der.split_first()?;
    if *first != tag as u8 {
        return None;
    }
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => {
            let (length, rest) = rest.split_first()?;
            (usize::from(*length), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_at_checked(2)?;
            (usize::from(u16::from_be_bytes([length[0], length[1]])), rest)
        }
        // No key of use is longer than 64 KiB.
        _ => return None,
    };
    // The short form must be used where it can be.
    let minimal = match der[1] {
        0x81 => length > 0x7f,
        0x82 => length > 0xff,
        _ => true,
    };
    if !minimal {
        return None;
    }
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(tag: Tag, content: &[u8]) -> Vec<u8> {
        let mut der = vec![tag as u8];
        match content.len() {
            length @ 0..=0x7f => der.push(length as u8),
            length @ 0x80..=0xff => der.extend([0x81, length as u8]),
            length => {
                der.push(0x82);
                der.extend((length as u16).to_be_bytes());
            }
        }
        der.extend_from_slice(content);
        der
    }

    fn integer(number: &[u8]) -> Vec<u8> {
        let mut content = number.to_vec();
        if number[0] >= 0x80 {
            content.insert(0, 0);
        }
        value(Tag::Integer, &content)
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        value(Tag::Sequence, &[integer(modulus), integer(exponent)].concat())
    }

    proptest! {
        #[test]
        fn numbers_are_read_back(mut modulus in prop::collection::vec(any::<u8>(), 1..600), exponent in 1_u8..) {
            modulus[0] |= 1;
            let exponent = [exponent];
            let der = rsa(&modulus, &exponent);
            let read = DerKey::Rsa { modulus: &modulus, exponent: &exponent };
            prop_assert_eq!(pkcs1(&der), Some(read));
            let algorithm = value(Tag::Sequence, &[value(Tag::Oid, RSA), value(Tag::Null, &[])].concat());
            let bits = value(Tag::BitString, &[&[0], der.as_slice()].concat());
            let whole = value(Tag::Sequence, &[algorithm, bits].concat());
            prop_assert_eq!(spki(&whole), Some(read));
            // Cut anywhere, or with anything after the end, it is nothing.
            for cut in 0..whole.len() {
                prop_assert_eq!(spki(&whole[..cut]), None);
            }
            let longer = [whole.as_slice(), &[0]].concat();
            prop_assert_eq!(spki(&longer), None);
        }

        #[test]
        fn garbage_is_refused_quietly(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = spki(&bytes);
            let _ = pkcs1(&bytes);
        }
    }

    #[test]
    fn what_der_does_not_allow_is_refused() {
        for (what, der) in [
            ("a long form where the short one fits", vec![0x30, 0x81, 0x06, 0x02, 0x01, 0x03, 0x02, 0x01, 0x03]),
            ("an indefinite length", vec![0x30, 0x80, 0x02, 0x01, 0x03, 0x02, 0x01, 0x03, 0, 0]),
            ("a negative number", vec![0x30, 0x06, 0x02, 0x01, 0x83, 0x02, 0x01, 0x03]),
            ("a needless zero", vec![0x30, 0x07, 0x02, 0x02, 0x00, 0x03, 0x02, 0x01, 0x03]),
            ("zero", vec![0x30, 0x06, 0x02, 0x01, 0x00, 0x02, 0x01, 0x03]),
            ("a huge length", vec![0x30, 0x84, 0xff, 0xff, 0xff, 0xff]),
        ] {
            assert_eq!(pkcs1(&der), None, "{what}");
        }
    }
}
