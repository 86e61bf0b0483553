//! A synchronous xenstore client for a few calls: reads, writes and watches.
use crate::{Result, XenError};
use bulkhead_xen_abi::xenstore::{self, Header};
use rustix::fd::{AsFd, BorrowedFd};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use zerocopy::IntoBytes;

/// A connection to xenstored.
#[derive(Debug)]
pub struct Xenstore {
    stream: Box<dyn Stream>,
    serial: u32,
    /// Tokens of watches that have fired and were not returned yet, each once.
    fired: Vec<String>,
}

trait Stream: Read + Write + AsFd + Send + std::fmt::Debug {}
impl<T: Read + Write + AsFd + Send + std::fmt::Debug> Stream for T {}

/// The kernel's device: a read waits for the answer, for ever if xenstored does not run.
#[derive(Debug)]
struct Device(std::fs::File);

impl Read for Device {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let answer = rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN);
        let timeout = rustix::event::Timespec::try_from(TIMEOUT).map_err(std::io::Error::other)?;
        match rustix::event::poll(&mut [answer], Some(&timeout))? {
            0 => Err(std::io::ErrorKind::TimedOut.into()),
            _ => self.0.read(to),
        }
    }
}

impl Write for Device {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        self.0.write(from)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Time limit of a call; xenstored usually answers at once.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Paths of xenstored's socket.
const SOCKETS: [&str; 2] = ["/run/xenstored/socket", "/var/run/xenstored/socket"];

impl Xenstore {
    /// Connects: to xenstored's socket, or through the kernel's device.
    pub fn connect() -> Result<Self> {
        if let Some(stream) = SOCKETS.iter().find_map(|path| UnixStream::connect(path).ok()) {
            return Self::limited(stream);
        }
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus");
        let device =
            device.map_err(|e| XenError::new("xenstore: neither xenstored's socket nor /dev/xen/xenbus", e))?;
        Ok(Self { stream: Box::new(Device(device)), serial: 0, fired: Vec::new() })
    }

    fn call(&mut self, kind: u32, payload: &[u8]) -> Result<Vec<u8>> {
        let fail = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => XenError::new(
                "xenstore",
                std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    format!("no answer from xenstored in {} s", TIMEOUT.as_secs()),
                ),
            ),
            _ => XenError::new("xenstore", e),
        };
        self.serial = self.serial.wrapping_add(1);
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if payload.len() > xenstore::XENSTORE_PAYLOAD_MAX {
            return Err(fail(std::io::ErrorKind::InvalidInput.into()));
        }
        let header = Header { kind, req_id: self.serial, tx_id: 0, len };
        let mut message = header.as_bytes().to_vec();
        message.extend_from_slice(payload);
        self.stream.write_all(&message).map_err(fail)?;
        let (header, answer) = loop {
            let (header, answer) = self.receive().map_err(fail)?;
            if header.kind != xenstore::XS_WATCH_EVENT {
                break (header, answer);
            }
            self.fire(&answer);
        };
        if header.req_id != self.serial {
            return Err(fail(std::io::ErrorKind::InvalidData.into()));
        }
        if header.kind == xenstore::XS_ERROR {
            let text = String::from_utf8_lossy(&answer).trim_end_matches('\0').to_owned();
            return Err(fail(std::io::Error::other(text)));
        }
        Ok(answer)
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
    pub fn from_stream(fd: rustix::fd::OwnedFd) -> Result<Self> {
        Self::limited(UnixStream::from(fd))
    }

    fn limited(stream: UnixStream) -> Result<Self> {
        let limits = stream.set_read_timeout(Some(TIMEOUT)).and(stream.set_write_timeout(Some(TIMEOUT)));
        limits.map_err(|e| XenError::new("xenstored's socket", e))?;
        Ok(Self { stream: Box::new(stream), serial: 0, fired: Vec::new() })
    }

    /// Opens a connection for [`Self::from_stream`]; fails where only the kernel's device exists (stub domains).
    pub fn open_stream() -> Result<rustix::fd::OwnedFd> {
        let connected = SOCKETS.iter().find_map(|path| UnixStream::connect(path).ok());
        connected
            .map(Into::into)
            .ok_or(XenError { what: "xenstored's socket", source: std::io::ErrorKind::NotFound.into() })
    }

    /// Watches `path` and the nodes below it; the watch fires once immediately. See [`Self::changed`].
    pub fn watch(&mut self, path: &str) -> Result<()> {
        self.watch_as(path, "watch")
    }

    /// The same with the name `token`. See [`Self::fired`].
    pub fn watch_as(&mut self, path: &str, token: &str) -> Result<()> {
        self.call(xenstore::XS_WATCH, &[path.as_bytes(), b"\0", token.as_bytes(), b"\0"].concat()).map(|_| ())
    }

    /// Records a watch's event: its path and its token.
    fn fire(&mut self, event: &[u8]) {
        let token =
            event.split(|b| *b == 0).nth(1).map(|t| String::from_utf8_lossy(t).into_owned()).unwrap_or_default();
        if !self.fired.contains(&token) {
            self.fired.push(token);
        }
    }

    /// Names of watches that have fired since the last call, without waiting.
    pub fn fired(&mut self) -> Result<Vec<String>> {
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
        Ok(std::mem::take(&mut self.fired))
    }

    /// Whether a watch has fired since the last call, without waiting. Poll the descriptor to wait.
    pub fn changed(&mut self) -> Result<bool> {
        Ok(!self.fired()?.is_empty())
    }

    /// Sorted names of the nodes below a node; empty if there is no such node.
    pub fn directory(&mut self, path: &str) -> Vec<String> {
        let names = self.call(xenstore::XS_DIRECTORY, &[path.as_bytes(), b"\0"].concat()).unwrap_or_default();
        let mut names: Vec<String> = names
            .split(|b| *b == 0)
            .filter(|n| !n.is_empty())
            .map(|n| String::from_utf8_lossy(n).into_owned())
            .collect();
        names.sort();
        names
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
