//! Frames and descriptors over one non-blocking Unix socket: what the keeper and its client do alike.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::protocol::{FrameReader, MAX_DESCRIPTORS};

/// How much is read from a socket at once.
const READ_SIZE: usize = 64 << 10;
/// Room for the descriptors of one `recvmsg`: it never gives those of two frames at once.
const RECEIVED_DESCRIPTORS: usize = 8;

/// The name of the keeper's socket in the data directory.
pub(super) const SOCKET: &str = "keeper.sock";

/// A frame on its way out.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

/// Frames that are waiting to be sent, in order.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Outgoing>,
    bytes: usize,
}

impl Outbox {
    /// Puts a frame behind the others.
    pub(super) fn push(&mut self, bytes: Vec<u8>, descriptors: Vec<OwnedFd>) {
        self.bytes += bytes.len();
        self.frames.push_back(Outgoing { bytes, sent: 0, descriptors });
    }

    /// The number of frames that wait.
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// The number of bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sends what the socket takes; `true` when nothing is left.
    ///
    /// # Errors
    /// When the connection is broken.
    pub(super) fn flush(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        while let Some(frame) = self.frames.front_mut() {
            let descriptors: Vec<BorrowedFd<'_>> = frame.descriptors.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&descriptors));
            }
            let rest = [IoSlice::new(&frame.bytes[frame.sent..])];
            match rustix::net::sendmsg(socket, &rest, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    drop(descriptors);
                    frame.descriptors.clear();
                    frame.sent += sent;
                    self.bytes -= sent;
                    if frame.sent == frame.bytes.len() {
                        self.frames.pop_front();
                    }
                }
                Err(rustix::io::Errno::AGAIN) => return Ok(false),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Receives once into `reader`; `false` at the end of the stream.
///
/// # Errors
/// `WouldBlock`, or when the connection is broken or descriptors were lost.
pub(super) fn receive(socket: BorrowedFd<'_>, reader: &mut FrameReader) -> io::Result<bool> {
    let mut buffer = vec![0; READ_SIZE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(RECEIVED_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received?,
        }
    };
    let descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::other("descriptors were lost: this process may open no more"));
    }
    reader.push(&buffer[..received.bytes], descriptors);
    Ok(received.bytes > 0)
}

/// A path by which `directory`/keeper.sock can be named in a socket address, however long it is; keep the descriptor
/// until the address was used.
///
/// # Errors
/// When the directory cannot be opened.
pub(super) fn address(directory: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    use std::os::fd::AsRawFd;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, rustix::fs::Mode::empty())?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())), directory))
}

/// Whether the other end of `socket` is a process of our own user, or root's.
///
/// # Errors
/// When the system does not say.
pub(super) fn is_trusted(socket: &UnixStream) -> io::Result<bool> {
    let peer = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}
