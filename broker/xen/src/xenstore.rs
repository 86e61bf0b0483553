//! Xenstore clients: a synchronous one for a few calls, and in `queue.rs` one that never waits.
mod fake;
mod queue;

use crate::{Result, XenError};
use bulkhead_xen_abi::xenstore::{self, Header};
pub use fake::FakeXenstored;
pub use queue::{Call, Heard, Progress, WriteBeside, XenstoreQueue, is_socket};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use zerocopy::IntoBytes;

/// A connection to xenstored.
#[derive(Debug)]
pub struct Xenstore {
    stream: Stream,
    serial: u32,
    /// Tokens of watches that have fired and were not returned yet, each once.
    fired: Vec<String>,
    /// xenstored has not answered a call, or not with its answer. A late answer would be taken for the next call's, and each further
    /// call would wait as long.
    lost: bool,
}

#[derive(Debug)]
enum Stream {
    /// xenstored's socket, with a time limit for reads and writes.
    Socket(UnixStream),
    /// The kernel's device: a read waits for the answer, for ever if xenstored does not run.
    Device(std::fs::File),
}

impl Read for Stream {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let device = match self {
            Self::Socket(socket) => return socket.read(to),
            Self::Device(device) => device,
        };
        let answer = rustix::event::PollFd::new(&*device, rustix::event::PollFlags::IN);
        let timeout = rustix::event::Timespec::try_from(TIMEOUT).map_err(std::io::Error::other)?;
        match rustix::event::poll(&mut [answer], Some(&timeout))? {
            0 => Err(std::io::ErrorKind::TimedOut.into()),
            _ => device.read(to),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.write(from),
            Self::Device(device) => device.write(from),
        }
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket) => socket.as_fd(),
            Self::Device(device) => device.as_fd(),
        }
    }
}

/// Time limit of a call; xenstored usually answers at once.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most attempts of a transaction; each fails only if somebody else has changed the same nodes meanwhile.
const TRIES: u32 = 16;
/// xenstored's answer to the end of such a transaction.
const CONFLICT: &str = "EAGAIN";
/// xenstored's answer about a node that does not exist.
const MISSING: &str = "ENOENT";
/// Paths of xenstored's socket.
const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];

/// Connects to xenstored's socket. A xenstored that does not accept connections is waited for `patience`; `None`: not at all, and
/// the error then is of the kind `WouldBlock`.
fn socket(patience: Option<Duration>) -> Result<OwnedFd> {
    let connect = |path: &str| -> rustix::io::Result<OwnedFd> {
        let flags = if patience.is_none() { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
        let flags = SocketFlags::CLOEXEC | flags;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        if patience.is_some() {
            set_socket_timeout(&socket, Timeout::Send, patience)?;
        }
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::io::ioctl_fionbio(&socket, false)?;
        Ok(socket)
    };
    let mut last = rustix::io::Errno::NOENT;
    for path in SOCKETS {
        match connect(path) {
            Ok(socket) => return Ok(socket),
            Err(rustix::io::Errno::NOENT) => {}
            Err(e) => last = e,
        }
    }
    Err(XenError::new("xenstored's socket", last))
}

/// A message for xenstored.
fn message(kind: u32, serial: u32, transaction: u32, payload: &[u8]) -> std::io::Result<Vec<u8>> {
    let len = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= xenstore::XENSTORE_PAYLOAD_MAX);
    let header = Header { kind, req_id: serial, tx_id: transaction, len: len.ok_or(std::io::ErrorKind::InvalidInput)? };
    Ok([header.as_bytes(), payload].concat())
}

/// What an answer says: its payload, or the error that it names.
fn answered(header: &Header, payload: Vec<u8>) -> Result<Vec<u8>> {
    if header.kind != xenstore::XS_ERROR {
        return Ok(payload);
    }
    let text = String::from_utf8_lossy(&payload).trim_end_matches('\0').to_owned();
    Err(XenError::new("xenstore", std::io::Error::other(text)))
}

/// The token in a watch's event, after its path.
fn token(event: &[u8]) -> String {
    event.split(|b| *b == 0).nth(1).map(|t| String::from_utf8_lossy(t).into_owned()).unwrap_or_default()
}

/// Sorted names in the answer to XS_DIRECTORY.
fn names(payload: &[u8]) -> Vec<String> {
    let parts = payload.split(|b| *b == 0).filter(|n| !n.is_empty());
    let mut names: Vec<String> = parts.map(|n| String::from_utf8_lossy(n).into_owned()).collect();
    names.sort();
    names
}

impl Xenstore {
    /// Connects: to xenstored's socket, or, where there is none, through the kernel's device.
    pub fn connect() -> Result<Self> {
        match socket(Some(TIMEOUT)) {
            Ok(socket) => return Self::from_stream(socket),
            // A call through the device waits for xenstored in the kernel, and cannot be interrupted.
            Err(e) if e.source.kind() != std::io::ErrorKind::NotFound => return Err(e),
            Err(_) => {}
        }
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus");
        let device =
            device.map_err(|e| XenError::new("xenstore: neither xenstored's socket nor /dev/xen/xenbus", e))?;
        Ok(Self { stream: Stream::Device(device), serial: 0, fired: Vec::new(), lost: false })
    }

    /// Makes a call in no transaction. Once xenstored has not answered a call, all later ones fail at once.
    fn call(&mut self, kind: u32, payload: &[u8]) -> Result<Vec<u8>> {
        self.serial = self.serial.wrapping_add(1);
        let message = message(kind, self.serial, 0, payload).map_err(|e| XenError::new("xenstore", e))?;
        let exchanged = if self.lost { Err(std::io::ErrorKind::TimedOut.into()) } else { self.exchange(&message) };
        let (header, answer) = exchanged.map_err(|e| {
            self.lost = true;
            let silent = matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
            let why = format!("no answer from xenstored in {} s", TIMEOUT.as_secs());
            XenError::new("xenstore", if silent { std::io::Error::new(std::io::ErrorKind::TimedOut, why) } else { e })
        })?;
        answered(&header, answer)
    }

    /// Sends a message, and receives the answer.
    fn exchange(&mut self, message: &[u8]) -> std::io::Result<(Header, Vec<u8>)> {
        self.stream.write_all(message)?;
        loop {
            let (header, answer) = self.receive()?;
            if header.kind == xenstore::XS_WATCH_EVENT {
                self.fire(&answer);
            } else if header.req_id == self.serial {
                return Ok((header, answer));
            } else {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
        }
    }

    /// Receives one message of xenstored.
    fn receive(&mut self) -> std::io::Result<(Header, Vec<u8>)> {
        let mut header = Header { kind: 0, req_id: 0, tx_id: 0, len: 0 };
        self.stream.read_exact(header.as_mut_bytes())?;
        let len = header.len as usize;
        // The longest valid payload.
        if len > xenstore::XENSTORE_PAYLOAD_MAX {
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        let mut answer = vec![0; len];
        self.stream.read_exact(&mut answer)?;
        Ok((header, answer))
    }

    /// Wraps an open connection to xenstored's socket.
    pub fn from_stream(fd: OwnedFd) -> Result<Self> {
        let stream = UnixStream::from(fd);
        let limits = stream.set_read_timeout(Some(TIMEOUT)).and(stream.set_write_timeout(Some(TIMEOUT)));
        limits.map_err(|e| XenError::new("xenstored's socket", e))?;
        Ok(Self { stream: Stream::Socket(stream), serial: 0, fired: Vec::new(), lost: false })
    }

    /// Opens a connection for [`Self::from_stream`]; fails where only the kernel's device exists (stub domains).
    pub fn open_stream() -> Result<OwnedFd> {
        socket(Some(TIMEOUT))
    }

    /// The same connection for calls that are not waited for.
    pub fn into_queue(self) -> XenstoreQueue {
        let fired = self.fired;
        let queue = match self.stream {
            Stream::Socket(socket) => XenstoreQueue::over_socket(socket.into()),
            Stream::Device(device) => XenstoreQueue::over_device(device.into()),
        };
        queue.after(self.serial, fired)
    }

    /// Watches `path` and the nodes below it; the watch fires once immediately. See [`Self::changed`].
    pub fn watch(&mut self, path: &str) -> Result<()> {
        self.call(xenstore::XS_WATCH, &[path.as_bytes(), b"\0watch\0"].concat()).map(|_| ())
    }

    /// Records a watch's event: its path and its token.
    fn fire(&mut self, event: &[u8]) {
        let token = token(event);
        if !self.fired.contains(&token) {
            self.fired.push(token);
        }
    }

    /// Whether a watch has fired since the last call, without waiting. Poll the descriptor to wait.
    pub fn changed(&mut self) -> Result<bool> {
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        // Limits the events of one call; events of the same name are merged.
        for _ in 0..256 {
            let ready = rustix::event::PollFd::new(&self.stream, rustix::event::PollFlags::IN);
            match rustix::event::poll(&mut [ready], Some(&now)) {
                Ok(0) => break,
                Ok(_) => {
                    let (_, event) = self.receive().map_err(|e| XenError::new("xenstore", e))?;
                    self.fire(&event);
                }
                Err(e) => return Err(XenError::new("xenstore", e)),
            }
        }
        Ok(!std::mem::take(&mut self.fired).is_empty())
    }

    /// Sorted names of the nodes below a node; empty if there is no such node.
    pub fn directory(&mut self, path: &str) -> Vec<String> {
        names(&self.call(xenstore::XS_DIRECTORY, &[path.as_bytes(), b"\0"].concat()).unwrap_or_default())
    }

    /// The value of a node.
    pub fn read(&mut self, path: &str) -> Result<String> {
        let value = self.call(xenstore::XS_READ, &[path.as_bytes(), b"\0"].concat())?;
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// Writes a node.
    pub fn write(&mut self, path: &str, value: &str) -> Result<()> {
        self.call(xenstore::XS_WRITE, &[path.as_bytes(), b"\0", value.as_bytes()].concat()).map(|_| ())
    }
}

impl AsFd for Xenstore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each call waited for its time limit, and the answer to an earlier one was taken for a later one's.
    #[test]
    fn a_xenstored_that_was_silent_once_is_not_asked_again() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut xenstore = Xenstore::from_stream(near.into()).unwrap();
        set_socket_timeout(&xenstore.stream, Timeout::Recv, Some(Duration::from_millis(1))).unwrap();
        let silent = |e: &XenError| !e.is_answer() && e.source.kind() == std::io::ErrorKind::TimedOut;
        assert!(xenstore.read("/a").is_err_and(|e| silent(&e)));
        // The late answer.
        let late = Header { kind: xenstore::XS_READ, req_id: 1, tx_id: 0, len: 1 };
        far.write_all(&[late.as_bytes(), b"x"].concat()).unwrap();
        let mut asked = [0; 64];
        assert_eq!(far.read(&mut asked).unwrap(), 16 + 3);
        far.set_nonblocking(true).unwrap();
        assert!(xenstore.read("/b").is_err_and(|e| silent(&e)));
        assert!(xenstore.directory("/b").is_empty());
        assert!(far.read(&mut asked).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock), "nothing was sent");
    }
}
