//! The back end of a serial port with a listening socket: one peer at a time.
use super::Backend;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

/// Most connections that are tried at once.
const ACCEPTED: usize = 16;

/// The socket and the peer, if there is one.
pub struct ListenBackend {
    listen: OwnedFd,
    peer: Option<OwnedFd>,
    /// An epoll instance for both, so that the event loop polls one descriptor.
    ready: OwnedFd,
}

impl ListenBackend {
    /// A back end for a listening, non-blocking socket.
    ///
    /// # Errors
    /// The kernel cannot create another epoll instance.
    pub fn new(listen: OwnedFd) -> Result<Self, Errno> {
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&ready, &listen, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { listen, peer: None, ready })
    }

    /// The descriptor to poll for reading, edge-triggered.
    pub fn ready(&self) -> impl AsFd {
        &self.ready
    }

    /// Accepts a peer if none is connected.
    fn accept(&mut self) {
        // The events are not evaluated, because all sockets are tried; they are fetched so that the next edge is reported.
        let mut events = Vec::with_capacity(4);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = epoll::wait(&self.ready, rustix::buffer::spare_capacity(&mut events), Some(&now));
        if self.peer.is_some() {
            return;
        }
        for _ in 0..ACCEPTED {
            let peer = match accept_with(&self.listen, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(peer) => peer,
                Err(Errno::AGAIN) => return,
                // It is that connection's. If the kernel is short of descriptors or memory, the next access tries again.
                Err(_) => continue,
            };
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::ET;
            if epoll::add(&self.ready, &peer, EventData::new_u64(1), flags).is_ok() {
                self.peer = Some(peer);
                return;
            }
        }
    }

    /// Disconnects the peer and accepts the next one.
    fn disconnect(&mut self) {
        self.peer = None;
        self.accept();
    }
}

impl Backend for ListenBackend {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.accept();
        // Without a peer, characters are discarded, as with an unplugged cable.
        let Some(peer) = &self.peer else { return bytes.len() };
        match rustix::net::send(peer, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.disconnect();
                bytes.len()
            }
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> usize {
        self.accept();
        if bytes.is_empty() {
            return 0;
        }
        let Some(peer) = &self.peer else { return 0 };
        match rustix::io::read(peer, bytes) {
            Ok(0) => {
                self.disconnect();
                0
            }
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.disconnect();
                0
            }
        }
    }
}
