//! A serial port that listens on a socket: one peer at a time, who may come and go.
use super::Backend;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

/// The socket and the peer, if there is one.
pub struct ListenBackend {
    listen: OwnedFd,
    peer: Option<OwnedFd>,
    /// Becomes ready when either does, so that whoever polls needs one descriptor only.
    ready: OwnedFd,
}

impl ListenBackend {
    /// Takes over a socket that listens and does not block.
    ///
    /// # Errors
    /// If the kernel has no room for another epoll instance.
    pub fn new(listen: OwnedFd) -> Result<Self, Errno> {
        let ready = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&ready, &listen, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { listen, peer: None, ready })
    }

    /// Polled for reading, edge-triggered.
    pub fn ready(&self) -> impl AsFd {
        &self.ready
    }

    /// Takes a peer if none is there.
    fn accept(&mut self) {
        // What has happened is looked at by trying, but must be taken for the next event to be seen.
        let mut events = Vec::with_capacity(4);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = epoll::wait(&self.ready, rustix::buffer::spare_capacity(&mut events), Some(&now));
        if self.peer.is_some() {
            return;
        }
        let Ok(peer) = accept_with(&self.listen, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) else { return };
        if epoll::add(&self.ready, &peer, EventData::new_u64(1), EventFlags::IN | EventFlags::OUT | EventFlags::ET)
            .is_ok()
        {
            self.peer = Some(peer);
        }
    }

    /// The peer has gone; the next one in the queue may come.
    fn gone(&mut self) {
        self.peer = None;
        self.accept();
    }
}

impl Backend for ListenBackend {
    fn write(&mut self, bytes: &[u8]) -> usize {
        self.accept();
        // Nobody is there: the characters go where an unplugged cable's go.
        let Some(peer) = &self.peer else { return bytes.len() };
        match rustix::net::send(peer, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.gone();
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
                self.gone();
                0
            }
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                self.gone();
                0
            }
        }
    }
}
