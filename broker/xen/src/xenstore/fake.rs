//! A xenstored for tests, at the other end of a connection. It does its work when a test says so, and may be silent, stop in the middle
//! of an answer, or refuse calls.
use bulkhead_xen_abi::xenstore::{self, Header};
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use zerocopy::{FromBytes as _, IntoBytes as _};

/// A connection of such a xenstored.
#[derive(Debug)]
pub struct FakeXenstored {
    socket: UnixStream,
    received: Vec<u8>,
    /// Values of nodes by path.
    pub nodes: BTreeMap<String, String>,
    /// The writes of open transactions, by number.
    pub open: BTreeMap<u32, Vec<(String, String)>>,
    started: u32,
    /// Paths and tokens of watches.
    pub watches: Vec<(String, String)>,
    /// It takes and sends nothing.
    pub silent: bool,
    /// Names of errors that answer the next calls of a kind (XS_*), each one.
    pub errors: Vec<(u32, &'static str)>,
    /// Number of calls so far.
    pub calls: u32,
    /// It sends half of each message, and the rest with the next one.
    pub halves: bool,
    rest: Vec<u8>,
}

impl FakeXenstored {
    /// A xenstored without nodes, and the other end of its connection.
    ///
    /// # Errors
    /// The kernel makes no pair of sockets.
    pub fn pair() -> std::io::Result<(Self, OwnedFd)> {
        let (socket, far) = UnixStream::pair()?;
        socket.set_nonblocking(true)?;
        let fake = Self {
            socket,
            received: Vec::new(),
            nodes: BTreeMap::new(),
            open: BTreeMap::new(),
            started: 0,
            watches: Vec::new(),
            silent: false,
            errors: Vec::new(),
            calls: 0,
            halves: false,
            rest: Vec::new(),
        };
        Ok((fake, far.into()))
    }

    /// Sets a node, and fires the watches of it and of the nodes above.
    pub fn put(&mut self, path: &str, value: &str) {
        self.nodes.insert(path.to_owned(), value.to_owned());
        let above = |watch: &str| path.strip_prefix(watch).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let tokens: Vec<String> = self.watches.iter().filter(|(w, _)| above(w)).map(|(_, t)| t.clone()).collect();
        tokens.iter().for_each(|token| self.fire(token));
    }

    /// Sends the event of a watch.
    pub fn fire(&mut self, token: &str) {
        self.send(xenstore::XS_WATCH_EVENT, 0, 0, format!("/x\0{token}\0").as_bytes());
    }

    fn send(&mut self, kind: u32, serial: u32, transaction: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let header = Header { kind, req_id: serial, tx_id: transaction, len };
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(payload);
        if self.halves {
            self.rest = bytes.split_off(bytes.len().wrapping_div(2));
        }
        // A connection that is closed takes nothing.
        let _ = self.socket.write_all(&bytes);
    }

    /// Answers what it has been asked. Returns whether that was anything.
    pub fn work(&mut self) -> bool {
        let before = self.calls;
        while self.work_once() {}
        self.calls != before
    }

    /// Answers one call. Returns whether there was one.
    pub fn work_once(&mut self) -> bool {
        if self.silent {
            return false;
        }
        if !self.halves {
            let rest = std::mem::take(&mut self.rest);
            let _ = self.socket.write_all(&rest);
        }
        let mut bytes = [0; 4096];
        while let Ok(n @ 1..) = self.socket.read(&mut bytes) {
            self.received.extend_from_slice(bytes.get(..n).unwrap_or_default());
        }
        let Ok((header, rest)) = Header::read_from_prefix(&self.received) else { return false };
        let Some(payload) = rest.get(..header.len as usize).map(<[u8]>::to_vec) else { return false };
        self.received.drain(..size_of::<Header>().saturating_add(payload.len()));
        self.calls = self.calls.saturating_add(1);
        match self.answer(&header, &payload) {
            Ok(value) => self.send(header.kind, header.req_id, header.tx_id, value.as_bytes()),
            Err(name) => {
                let name = format!("{name}\0");
                self.send(xenstore::XS_ERROR, header.req_id, header.tx_id, name.as_bytes());
            }
        }
        true
    }

    fn answer(&mut self, header: &Header, payload: &[u8]) -> Result<String, &'static str> {
        let text = String::from_utf8_lossy(payload).into_owned();
        let (first, second) = text.split_once('\0').unwrap_or((&text, ""));
        let (first, second) = (first.to_owned(), second.trim_end_matches('\0').to_owned());
        if let Some(at) = self.errors.iter().position(|(kind, _)| *kind == header.kind) {
            return Err(self.errors.remove(at).1);
        }
        let good = Ok("OK\0".to_owned());
        match header.kind {
            xenstore::XS_READ => self.nodes.get(&first).cloned().ok_or("ENOENT"),
            xenstore::XS_DIRECTORY => {
                let below = |path: &String| {
                    let name = path.strip_prefix(&first)?.strip_prefix('/')?.split('/').next()?;
                    Some(format!("{name}\0"))
                };
                let mut names: Vec<String> = self.nodes.keys().filter_map(below).collect();
                names.dedup();
                if names.is_empty() { Err("ENOENT") } else { Ok(names.concat()) }
            }
            xenstore::XS_WRITE if header.tx_id == 0 => {
                self.put(&first, &second);
                good
            }
            xenstore::XS_WRITE => {
                self.open.get_mut(&header.tx_id).ok_or("ENOENT")?.push((first, second));
                good
            }
            xenstore::XS_TRANSACTION_START => {
                self.started = self.started.saturating_add(1);
                self.open.insert(self.started, Vec::new());
                Ok(format!("{}\0", self.started))
            }
            xenstore::XS_TRANSACTION_END => {
                let writes = self.open.remove(&header.tx_id).ok_or("ENOENT")?;
                writes.into_iter().filter(|_| first == "T").for_each(|(path, value)| self.put(&path, &value));
                good
            }
            xenstore::XS_WATCH => {
                let watch = (first, second);
                if self.watches.contains(&watch) {
                    return Err("EEXIST");
                }
                self.fire(&watch.1);
                self.watches.push(watch);
                good
            }
            _ => Err("ENOSYS"),
        }
    }
}
