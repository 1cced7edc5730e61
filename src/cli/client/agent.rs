//! The ssh-agent, as far as signing in needs it: which keys it holds, and a signature by one of them.
//!
//! The protocol is draft-miller-ssh-agent; two requests of it are spoken. What the agent answers is read with bounds, and
//! an answer that makes no sense is an error.

use std::path::PathBuf;

use ssh_key::{PublicKey, Signature};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::cli::error::CliError;

const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
/// RSA keys sign with SHA-512 and not with SHA-1.
const RSA_SHA2_512: u32 = 4;
/// The longest answer that is read, as OpenSSH has it.
const LONGEST_ANSWER: u32 = 256 * 1024;

/// Where the agent listens, if there is one.
pub(crate) fn socket() -> Option<PathBuf> {
    std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The keys that the agent holds, as far as they are of a kind that we know.
pub(crate) async fn keys() -> Result<Vec<PublicKey>, CliError> {
    let answer = ask(&[REQUEST_IDENTITIES], IDENTITIES_ANSWER).await?;
    parse_keys(&answer).ok_or_else(nonsense)
}

/// Has the agent sign `data` with the key.
pub(crate) async fn sign(key: &PublicKey, data: &[u8]) -> Result<Signature, CliError> {
    let blob = key.to_bytes().map_err(|error| CliError::failed("failed to write a public key", error))?;
    let mut request = vec![SIGN_REQUEST];
    put_string(&mut request, &blob);
    put_string(&mut request, data);
    request.extend(RSA_SHA2_512.to_be_bytes());
    let answer = ask(&request, SIGN_RESPONSE).await?;
    let mut rest = answer.as_slice();
    let signature = take_string(&mut rest).ok_or_else(nonsense)?;
    Signature::try_from(signature)
        .map_err(|error| CliError::failed("the ssh-agent's signature is not understood", error))
}

fn nonsense() -> CliError {
    CliError::Failed("the ssh-agent's answer is not understood".into())
}

async fn ask(request: &[u8], expected: u8) -> Result<Vec<u8>, CliError> {
    let path = socket().ok_or_else(|| CliError::Failed("there is no ssh-agent (SSH_AUTH_SOCK is not set)".into()))?;
    let failed = |error: std::io::Error| {
        CliError::failed(format!("the ssh-agent at `{}` does not answer", path.display()), error)
    };
    let exchange = async {
        let mut stream = UnixStream::connect(&path).await?;
        let mut message = Vec::new();
        put_string(&mut message, request);
        stream.write_all(&message).await?;
        let length = stream.read_u32().await?;
        if length == 0 || length > LONGEST_ANSWER {
            return Err(std::io::Error::other("an answer of this length makes no sense"));
        }
        let mut answer = vec![0; length as usize];
        stream.read_exact(&mut answer).await?;
        Ok(answer)
    };
    let mut answer = exchange.await.map_err(failed)?;
    if answer[0] != expected {
        return Err(CliError::Failed("the ssh-agent refuses".into()));
    }
    answer.remove(0);
    Ok(answer)
}

fn put_string(message: &mut Vec<u8>, bytes: &[u8]) {
    message.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    message.extend(bytes);
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (number, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(u32::from_be_bytes(*number))
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_u32(rest)? as usize;
    let (string, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(string)
}

/// Reads a list of keys; those of an unknown kind are left out.
fn parse_keys(mut rest: &[u8]) -> Option<Vec<PublicKey>> {
    let count = take_u32(&mut rest)?;
    let mut keys = Vec::new();
    for _ in 0..count {
        let blob = take_string(&mut rest)?;
        let comment = take_string(&mut rest)?;
        if let Ok(mut key) = PublicKey::from_bytes(blob) {
            key.set_comment(String::from_utf8_lossy(comment));
            keys.push(key);
        }
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_of_unknown_kinds_are_left_out() {
        let key = PublicKey::from_openssh(
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti me",
        )
        .expect("a key");
        let mut answer = 2_u32.to_be_bytes().to_vec();
        put_string(&mut answer, b"\0\0\0\x03xyz");
        put_string(&mut answer, b"odd");
        put_string(&mut answer, &key.to_bytes().expect("bytes"));
        put_string(&mut answer, b"mine");
        let keys = parse_keys(&answer).expect("a list");
        assert_eq!(keys.len(), 1);
        assert_eq!((keys[0].key_data(), keys[0].comment()), (key.key_data(), "mine"));
        assert!(parse_keys(&answer[..answer.len() - 1]).is_none());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes: Vec<u8>) {
            parse_keys(&bytes);
        }
    }
}
