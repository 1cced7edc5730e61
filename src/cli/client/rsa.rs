//! RSA keys between the formats: OpenSSH's, which keeps neither of the CRT exponents, and those of the crypto library.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeyPairComponents, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RsaPublicKeyComponents};
use ssh_key::Mpint;
use ssh_key::private::{RsaKeypair, RsaPrivateKey};
use ssh_key::public::RsaPublicKey;

use crate::cli::error::CliError;

/// Makes a pair.
pub(crate) fn generate() -> Result<RsaKeypair, CliError> {
    let failed = |what: &str| CliError::Failed(format!("failed to make an RSA key: {what}"));
    let pair = KeyPair::generate(KeySize::Rsa4096).map_err(|_| failed("the library gave none"))?;
    let document: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| failed("it cannot be written"))?;
    to_openssh(document.as_ref()).ok_or_else(|| failed("it cannot be read back"))
}

/// The public half of a pair.
pub(super) fn public(pair: &KeyPair) -> Result<RsaPublicKey, CliError> {
    let key = pair.public_key();
    let number = |bytes: &[u8]| {
        Mpint::from_positive_bytes(bytes).map_err(|error| CliError::failed("failed to write an RSA key", error))
    };
    Ok(RsaPublicKey {
        e: number(key.exponent().big_endian_without_leading_zero())?,
        n: number(key.modulus().big_endian_without_leading_zero())?,
    })
}

/// The pair that an OpenSSH file holds.
pub(super) fn from_openssh(pair: &RsaKeypair) -> Result<KeyPair, String> {
    let number =
        |number: &Mpint| number.as_positive_bytes().map(<[u8]>::to_vec).ok_or("it has a negative number in it");
    let (d, p, q) = (number(&pair.private.d)?, number(&pair.private.p)?, number(&pair.private.q)?);
    let components = KeyPairComponents {
        public_key: RsaPublicKeyComponents { n: number(&pair.public.n)?, e: number(&pair.public.e)? },
        dP: remainder(&d, &less_one(&p).ok_or("it has a zero in it")?),
        dQ: remainder(&d, &less_one(&q).ok_or("it has a zero in it")?),
        qInv: number(&pair.private.iqmp)?,
        d,
        p,
        q,
    };
    KeyPair::from_components(&components)
        .map_err(|_| "its numbers do not belong together, or it has fewer than 2048 bits".into())
}

/// The pair of a PKCS#8 document.
fn to_openssh(pkcs8: &[u8]) -> Option<RsaKeypair> {
    let mut document = sequence(pkcs8)?;
    element(&mut document, 0x02)?;
    element(&mut document, 0x30)?;
    let mut key = sequence(element(&mut document, 0x04)?)?;
    element(&mut key, 0x02)?;
    let mut number = || Mpint::from_positive_bytes(element(&mut key, 0x02)?).ok();
    let (n, e, d, p, q) = (number()?, number()?, number()?, number()?, number()?);
    let (_, _, iqmp) = (number()?, number()?, number()?);
    Some(RsaKeypair { public: RsaPublicKey { e, n }, private: RsaPrivateKey { d, iqmp, p, q } })
}

fn sequence(der: &[u8]) -> Option<&[u8]> {
    let mut rest = der;
    element(&mut rest, 0x30)
}

/// Takes one DER element with this tag off the front.
fn element<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&found, tail) = rest.split_first()?;
    let (&first, tail) = tail.split_first()?;
    let (length, tail) = if first < 0x80 {
        (usize::from(first), tail)
    } else {
        let (length, tail) =
            tail.split_at_checked(usize::from(first & 0x7f)).filter(|(length, _)| length.len() <= 4)?;
        (length.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)), tail)
    };
    let (content, tail) = tail.split_at_checked(length)?;
    *rest = tail;
    (found == tag).then_some(content)
}

/// A big-endian number, less one.
fn less_one(number: &[u8]) -> Option<Vec<u8>> {
    let mut number = number.to_vec();
    for byte in number.iter_mut().rev() {
        *byte = byte.wrapping_sub(1);
        if *byte != 0xff {
            return number.iter().any(|byte| *byte != 0).then_some(number);
        }
    }
    None
}

/// The remainder of a big-endian division, bit by bit: it is needed twice for each key file that is read.
fn remainder(number: &[u8], modulus: &[u8]) -> Vec<u8> {
    // One byte of room, for the shift before the subtraction.
    let modulus: Vec<u8> = std::iter::once(0).chain(modulus.iter().copied()).collect();
    let mut rest = vec![0_u8; modulus.len()];
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if rest >= modulus {
            let mut borrow = 0;
            for (byte, less) in rest.iter_mut().zip(&modulus).rev() {
                let (value, first) = byte.overflowing_sub(*less);
                let (value, second) = value.overflowing_sub(borrow);
                (*byte, borrow) = (value, u8::from(first || second));
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn remainders_are_right(number: u128, modulus in 1_u64..) {
            let expected = (number % u128::from(modulus)).to_be_bytes();
            prop_assert_eq!(&remainder(&number.to_be_bytes(), &modulus.to_be_bytes())[1..], &expected[8..]);
        }

        #[test]
        fn one_less_is_one_less(number in 2_u64..) {
            prop_assert_eq!(less_one(&number.to_be_bytes()), Some((number - 1).to_be_bytes().to_vec()));
        }

        #[test]
        fn no_document_makes_it_panic(bytes: Vec<u8>) {
            to_openssh(&bytes);
        }
    }

    #[test]
    fn a_pair_comes_back_from_its_openssh_form() {
        let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
        let document: Pkcs8V1Der<'_> = pair.as_der().expect("a document");
        let openssh = to_openssh(document.as_ref()).expect("an OpenSSH key");
        let back = from_openssh(&openssh).expect("a pair");
        assert_eq!(public(&back).expect("a key"), public(&pair).expect("a key"));
    }
}
