//! A xenstore client that never waits: requests are queued, and answers and events are taken as they arrive.
mod beside;

use super::{answered, message, names, socket, token};
use crate::{Result, XenError};
pub use beside::{Progress, WriteBeside};
use bulkhead_xen_abi::xenstore::{self, Header};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use zerocopy::FromBytes as _;

/// Bytes of the longest message.
const LONGEST: usize = size_of::<Header>() + xenstore::XENSTORE_PAYLOAD_MAX;
/// Most bytes of requests that xenstored has not taken.
const MOST_UNSENT: usize = 1 << 20;

/// A call to xenstored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call<'a> {
    /// The value of a node.
    Read(&'a str),
    /// The names of the nodes below a node.
    Directory(&'a str),
    /// Writes a node.
    Write(&'a str, &'a str),
    /// Starts a transaction; the answer is its number.
    Begin,
    /// Ends a transaction: its writes are made, or dropped.
    End(bool),
    /// Watches a node and the nodes below it; the second string is the watch's token. Over the kernel's device the kernel itself
    /// waits for xenstored's answer.
    Watch(&'a str, &'a str),
}

/// What xenstored has sent.
#[derive(Debug)]
pub enum Heard {
    /// The answer to the call with this number.
    Answer(u32, Result<Vec<u8>>),
    /// The watch with this token has fired.
    Fired(String),
}

/// A connection to xenstored on which nothing waits.
#[derive(Debug)]
pub struct XenstoreQueue {
    stream: Stream,
    serial: u32,
    unsent: Vec<u8>,
    /// The beginning of a message.
    received: Vec<u8>,
    /// The connection outlives this process: see [`Self::over_kept_socket`].
    kept: bool,
    /// Tokens of events that arrived before this value was made.
    fired: Vec<String>,
    /// Over the kernel's device: a call is not answered yet, and the next one waits.
    busy: bool,
}

#[derive(Debug)]
enum Stream {
    /// xenstored's socket. Its descriptor may be blocking: each call says that it does not wait.
    Socket(OwnedFd),
    /// The kernel's device, non-blocking.
    Device(OwnedFd),
}

/// Whether an open file is a socket.
pub fn is_socket(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|s| rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Socket)
}

/// The first message of some.
fn first_message(messages: &[u8]) -> &[u8] {
    let len = Header::read_from_prefix(messages).map_or(0, |(header, _)| header.len as usize);
    messages.get(..size_of::<Header>().saturating_add(len)).unwrap_or(messages)
}

impl XenstoreQueue {
    /// Opens a way to xenstored without waiting: its socket, or, where there is none, the kernel's device. A call through the device
    /// waits for xenstored in the kernel, and cannot be interrupted; so it is no substitute for a socket whose xenstored has ended.
    ///
    /// # Errors
    /// There is neither, or xenstored takes no connection. The kind `WouldBlock`: it accepts none now.
    pub fn open() -> Result<OwnedFd> {
        let why = match socket(None) {
            Err(e) if e.source.kind() == std::io::ErrorKind::NotFound => e,
            other => return other,
        };
        let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/xen/xenbus");
        device.map(OwnedFd::from).map_err(|_| why)
    }

    /// A connection over what [`Self::open`] has opened, perhaps in another process.
    pub fn over_opened(fd: OwnedFd) -> Self {
        if is_socket(&fd) { Self::over_socket(fd) } else { Self::over_device(fd) }
    }

    /// A connection over an open socket.
    pub fn over_socket(socket: OwnedFd) -> Self {
        Self::over(Stream::Socket(socket))
    }

    /// A connection over a socket that other processes have used before, one after the other, and will use. Only whole messages are
    /// taken out of it, so a process that dies leaves nothing that its successor cannot read. The answers to calls of a dead process
    /// have numbers that are none of this one's; [`Self::hear`] returns them like others.
    pub fn over_kept_socket(socket: OwnedFd) -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        // In microseconds, cut to 32 bits: no process makes as many calls as have passed since it started.
        let now = now.tv_sec.wrapping_mul(1_000_000).wrapping_add(now.tv_nsec.wrapping_div(1000));
        let [a, b, c, d, ..] = now.to_le_bytes();
        Self { kept: true, serial: u32::from_le_bytes([a, b, c, d]), ..Self::over_socket(socket) }
    }

    /// A connection over the kernel's device.
    pub fn over_device(device: OwnedFd) -> Self {
        let _ = rustix::io::ioctl_fionbio(&device, true);
        Self::over(Stream::Device(device))
    }

    fn over(stream: Stream) -> Self {
        Self {
            stream,
            serial: 0,
            unsent: Vec::new(),
            received: Vec::new(),
            kept: false,
            fired: Vec::new(),
            busy: false,
        }
    }

    /// The same after other calls and events on this connection.
    pub(super) fn after(self, serial: u32, fired: Vec<String>) -> Self {
        Self { serial, fired, ..self }
    }

    /// Queues a call in a transaction (0: in none), and sends as much as xenstored takes. Returns the number of its answer.
    ///
    /// # Errors
    /// The connection is lost, the call is too long, or too many are not taken.
    pub fn ask(&mut self, transaction: u32, call: Call<'_>) -> Result<u32> {
        let (kind, payload) = match call {
            Call::Read(path) => (xenstore::XS_READ, [path.as_bytes(), b"\0"].concat()),
            Call::Directory(path) => (xenstore::XS_DIRECTORY, [path.as_bytes(), b"\0"].concat()),
            Call::Write(path, value) => (xenstore::XS_WRITE, [path.as_bytes(), b"\0", value.as_bytes()].concat()),
            Call::Begin => (xenstore::XS_TRANSACTION_START, b"\0".to_vec()),
            Call::End(true) => (xenstore::XS_TRANSACTION_END, b"T\0".to_vec()),
            Call::End(false) => (xenstore::XS_TRANSACTION_END, b"F\0".to_vec()),
            Call::Watch(path, token) => {
                (xenstore::XS_WATCH, [path.as_bytes(), b"\0", token.as_bytes(), b"\0"].concat())
            }
        };
        self.serial = self.serial.wrapping_add(1);
        let message = message(kind, self.serial, transaction, &payload).map_err(lost)?;
        if self.unsent.len().saturating_add(message.len()) > MOST_UNSENT {
            return Err(lost(std::io::Error::from(std::io::ErrorKind::StorageFull)));
        }
        self.unsent.extend(message);
        self.flush()?;
        Ok(self.serial)
    }

    /// Sends what is queued, as far as xenstored takes it. Over the kernel's device that is one call at a time, each in a write of its
    /// own: a domain's ring is shared with its kernel, and xenstored 4.17 did not survive many calls of one at once (seen in the bed).
    ///
    /// # Errors
    /// The connection is lost.
    pub fn flush(&mut self) -> Result<()> {
        while !self.unsent.is_empty() {
            let sent = match &self.stream {
                Stream::Socket(fd) => rustix::net::send(fd, &self.unsent, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
                Stream::Device(_) if self.busy => break,
                Stream::Device(fd) => {
                    let sent = rustix::io::write(fd, first_message(&self.unsent));
                    self.busy = sent.is_ok();
                    sent
                }
            };
            match sent {
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(lost(e)),
            }
        }
        Ok(())
    }

    /// Whether calls go over a domain's ring, one at a time. If an answer is lost there (its xenstored has been replaced), no later call
    /// is made.
    pub fn is_one_at_a_time(&self) -> bool {
        matches!(self.stream, Stream::Device(_))
    }

    /// Whether something is queued that xenstored has not taken.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The next answer or event that has arrived; `None`: none.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn hear(&mut self) -> Result<Option<Heard>> {
        if let Some(token) = self.fired.pop() {
            return Ok(Some(Heard::Fired(token)));
        }
        loop {
            if let Some((header, payload)) = self.take_message()? {
                if header.kind == xenstore::XS_WATCH_EVENT {
                    return Ok(Some(Heard::Fired(token(&payload))));
                }
                if std::mem::take(&mut self.busy) {
                    self.flush()?;
                }
                return Ok(Some(Heard::Answer(header.req_id, answered(&header, payload))));
            }
            let mut bytes = [0; LONGEST];
            let peek = if self.kept { RecvFlags::PEEK } else { RecvFlags::empty() };
            let read = match &self.stream {
                Stream::Socket(fd) => {
                    rustix::net::recv(fd, bytes.as_mut_slice(), RecvFlags::DONTWAIT | peek).map(|(n, _)| n)
                }
                Stream::Device(fd) => rustix::io::read(fd, bytes.as_mut_slice()),
            };
            match read {
                Ok(0) => return Err(lost(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
                Ok(n) if self.kept => {
                    if !self.take_whole(bytes.get(..n).unwrap_or_default())? {
                        return Ok(None);
                    }
                }
                Ok(n) => self.received.extend_from_slice(bytes.get(..n).unwrap_or_default()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(e) => return Err(lost(e)),
            }
        }
    }

    /// Takes the first message out of the socket, if all of it is there. `waiting` is what the socket has, up to the longest message.
    fn take_whole(&mut self, waiting: &[u8]) -> Result<bool> {
        let Ok((header, _)) = Header::read_from_prefix(waiting) else { return Ok(false) };
        let len = size_of::<Header>().saturating_add(header.len as usize);
        let invalid = || lost(std::io::Error::from(std::io::ErrorKind::InvalidData));
        if len > LONGEST {
            return Err(invalid());
        }
        let Some(message) = waiting.get(..len) else { return Ok(false) };
        let Stream::Socket(socket) = &self.stream else { return Ok(false) };
        let (taken, _) = rustix::net::recv(socket, vec![0; len].as_mut_slice(), RecvFlags::DONTWAIT).map_err(lost)?;
        if taken != len {
            return Err(invalid());
        }
        self.received = message.to_vec();
        Ok(true)
    }

    /// Takes a whole message out of what has been received.
    fn take_message(&mut self) -> Result<Option<(Header, Vec<u8>)>> {
        let Ok((header, rest)) = Header::read_from_prefix(&self.received) else { return Ok(None) };
        let len = header.len as usize;
        // The longest valid payload.
        if len > xenstore::XENSTORE_PAYLOAD_MAX {
            return Err(lost(std::io::Error::from(std::io::ErrorKind::InvalidData)));
        }
        let Some(payload) = rest.get(..len).map(<[u8]>::to_vec) else { return Ok(None) };
        self.received.drain(..size_of::<Header>().saturating_add(len));
        Ok(Some((header, payload)))
    }

    /// The value in the answer to [`Call::Read`].
    pub fn value(answer: &[u8]) -> String {
        String::from_utf8_lossy(answer).into_owned()
    }

    /// The sorted names in the answer to [`Call::Directory`].
    pub fn names(answer: &[u8]) -> Vec<String> {
        names(answer)
    }

    /// The number in the answer to [`Call::Begin`].
    pub fn transaction(answer: &[u8]) -> Option<u32> {
        let id = std::str::from_utf8(answer).ok()?.trim_end_matches('\0').parse().ok()?;
        (id != 0).then_some(id)
    }
}

fn lost(why: impl Into<std::io::Error>) -> XenError {
    XenError::new("xenstore", why)
}

impl AsFd for XenstoreQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Socket(fd) | Stream::Device(fd) => fd.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use zerocopy::IntoBytes as _;

    fn pair() -> (XenstoreQueue, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (XenstoreQueue::over_socket(near.into()), far)
    }

    fn packet(kind: u32, serial: u32, payload: &[u8]) -> Vec<u8> {
        let header = Header { kind, req_id: serial, tx_id: 0, len: payload.len() as u32 };
        [header.as_bytes(), payload].concat()
    }

    /// xenstored may stop inside of a message, and take and send bytes one by one.
    #[test]
    fn nothing_waits_for_a_silent_xenstored_and_its_late_answers_are_not_mixed_up() {
        let (mut queue, mut far) = pair();
        let first = queue.ask(0, Call::Read("/a")).unwrap();
        let second = queue.ask(0, Call::Directory("/b")).unwrap();
        assert!(queue.hear().unwrap().is_none(), "no answer, and no wait");
        let mut asked = [0; 2 * 16 + 3 + 3];
        far.read_exact(&mut asked).unwrap();
        let sent = [
            packet(xenstore::XS_WATCH_EVENT, 0, b"/x\0token\0"),
            packet(xenstore::XS_DIRECTORY, second, b"two\0one\0"),
            packet(xenstore::XS_ERROR, first, b"ENOENT\0"),
        ]
        .concat();
        let mut heard = Vec::new();
        for byte in sent {
            far.write_all(&[byte]).unwrap();
            heard.extend(queue.hear().unwrap());
        }
        assert!(matches!(&heard[0], Heard::Fired(token) if token == "token"));
        assert!(
            matches!(&heard[1], Heard::Answer(n, Ok(answer)) if *n == second && XenstoreQueue::names(answer) == ["one", "two"])
        );
        assert!(
            matches!(&heard[2], Heard::Answer(n, Err(e)) if *n == first && e.is_answer() && e.source.to_string() == "ENOENT")
        );
        assert_eq!(heard.len(), 3);
        drop(far);
        assert!(queue.hear().is_err_and(|e| !e.is_answer()));
    }

    /// A process of a guest with dm_restrict dies in the middle of xenstored's message, and its successor has the same connection.
    #[test]
    fn a_successor_finds_whole_messages_and_its_own_answers() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut first = XenstoreQueue::over_kept_socket(near.try_clone().unwrap().into());
        let lost = first.ask(0, Call::Read("/a")).unwrap();
        let late = packet(xenstore::XS_READ, lost, &[b'x'; 4096]);
        let (half, rest) = late.split_at(100);
        far.write_all(half).unwrap();
        assert!(first.hear().unwrap().is_none(), "half a message");
        drop(first);
        let mut second = XenstoreQueue::over_kept_socket(near.into());
        assert!(second.hear().unwrap().is_none());
        far.write_all(rest).unwrap();
        far.write_all(&packet(xenstore::XS_WATCH_EVENT, 0, b"/x\0token\0")).unwrap();
        assert!(matches!(second.hear().unwrap(), Some(Heard::Answer(n, Ok(v))) if n == lost && v.len() == 4096));
        assert!(matches!(second.hear().unwrap(), Some(Heard::Fired(token)) if token == "token"));
        let own = second.ask(0, Call::Watch("/x", "token")).unwrap();
        assert_ne!(own, lost);
        far.write_all(&packet(xenstore::XS_ERROR, own, b"EEXIST\0")).unwrap();
        assert!(matches!(second.hear().unwrap(), Some(Heard::Answer(n, Err(e))) if n == own && e.names("EEXIST")));
        far.write_all(packet(xenstore::XS_READ, 1, b"").split_at(12).0).unwrap();
        far.write_all(&5000u32.to_le_bytes()).unwrap();
        assert!(second.hear().is_err(), "an impossible length");
    }

    /// A stub domain's launcher that asked several things at once ended dom0's xenstored.
    #[test]
    fn many_calls_over_a_domains_ring_go_one_by_one() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut queue = XenstoreQueue::over_device(near.into());
        let first = queue.ask(0, Call::Read("/a")).unwrap();
        let second = queue.ask(0, Call::Directory("/b")).unwrap();
        let third = queue.ask(0, Call::Read("/c")).unwrap();
        far.set_nonblocking(true).unwrap();
        for (number, kind, path) in [
            (first, xenstore::XS_READ, b"/a\0"),
            (second, xenstore::XS_DIRECTORY, b"/b\0"),
            (third, xenstore::XS_READ, b"/c\0"),
        ] {
            let mut asked = [0; 100];
            let n = far.read(&mut asked).unwrap();
            assert_eq!(asked[..n], packet(kind, number, path), "one call");
            assert!(far.read(&mut asked).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock));
            // An event is no answer.
            far.write_all(&packet(xenstore::XS_WATCH_EVENT, 0, b"/x\0token\0")).unwrap();
            assert!(matches!(queue.hear().unwrap(), Some(Heard::Fired(_))));
            queue.flush().unwrap();
            assert!(far.read(&mut asked).is_err(), "it waits for the answer");
            far.write_all(&packet(kind, number, b"v")).unwrap();
            assert!(matches!(queue.hear().unwrap(), Some(Heard::Answer(n, Ok(_))) if n == number));
        }
        assert!(!queue.has_unsent());
    }

    #[test]
    fn what_xenstored_does_not_take_is_kept_up_to_a_bound() {
        let (mut queue, mut far) = pair();
        let path = format!("/{}", "x".repeat(4000));
        let mut calls = 0u32;
        let refused = loop {
            match queue.ask(0, Call::Read(&path)) {
                Ok(_) => calls += 1,
                Err(e) => break e,
            }
        };
        assert!(queue.has_unsent() && (250..1000).contains(&calls), "{calls} {refused}");
        let mut seen = 0;
        while seen < calls {
            let mut message = vec![0; 16 + path.len() + 1];
            far.read_exact(&mut message).unwrap();
            seen += 1;
            queue.flush().unwrap();
        }
        assert!(!queue.has_unsent());
    }

    #[test]
    fn an_impossible_length_ends_the_connection() {
        let (mut queue, mut far) = pair();
        let header = Header { kind: xenstore::XS_READ, req_id: 1, tx_id: 0, len: 5000 };
        far.write_all(header.as_bytes()).unwrap();
        assert!(queue.hear().is_err());
    }

    #[test]
    fn a_transactions_number_is_none_or_not_0() {
        assert_eq!(XenstoreQueue::transaction(b"17\0"), Some(17));
        for wrong in [&b"0\0"[..], b"", b"-1\0", b"x"] {
            assert_eq!(XenstoreQueue::transaction(wrong), None);
        }
    }
}
