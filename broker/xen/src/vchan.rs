//! The server's side of a vchan (public/io/libxenvchan.h) of one page. The client is another domain and may be hostile: counts are
//! copied and checked at each use.
use crate::{Mapping, Result};
use bulkhead_xen_abi::vchan as at;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering, fence};
use rustix::fd::BorrowedFd;

/// The client has violated the protocol: a ring's counts exceed its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the vchan's counts are impossible")]
pub struct Broken;

/// The shared page. Left (client to server) has 1024 bytes, right 2048.
#[derive(Debug)]
pub struct VchanServer {
    page: Mapping,
}

/// The client's state in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// No client has connected since the last one disconnected.
    NotYet,
    /// A new client has connected, which was not reported before.
    New,
    /// The same client is connected.
    Known,
    /// The client has disconnected.
    Gone,
}

const LEFT_SIZE: u32 = 1 << at::SMALL_ORDER;
const RIGHT_SIZE: u32 = 1 << at::LARGE_ORDER;

impl VchanServer {
    /// Maps the page of `fd` (gntalloc, or a memfd in tests) and starts a new connection in it.
    pub fn new(fd: BorrowedFd<'_>) -> Result<Self> {
        let server = Self { page: Mapping::new(fd, 1)? };
        server.half(at::ORDERS).store(at::SMALL_ORDER, Ordering::Relaxed);
        server.half(at::ORDERS.wrapping_add(2)).store(at::LARGE_ORDER, Ordering::Relaxed);
        server.restart();
        // A client of a previous process counts as new.
        let _ =
            server.byte(at::CLI_LIVE).compare_exchange(at::KNOWN, at::CONNECTED, Ordering::AcqRel, Ordering::Acquire);
        Ok(server)
    }

    /// Empties both rings for the next client. A client that has connected already stays connected.
    pub fn restart(&self) {
        for ring in [at::LEFT, at::RIGHT] {
            self.word(ring).store(0, Ordering::Relaxed);
            self.word(ring.wrapping_add(4)).store(0, Ordering::Relaxed);
        }
        self.byte(at::CLI_NOTIFY).store(at::NOTIFY_WRITE, Ordering::Relaxed);
        self.byte(at::SRV_LIVE).store(at::CONNECTED, Ordering::Release);
        let _ = self.byte(at::CLI_LIVE).compare_exchange(at::EXITED, at::NOT_YET, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Closes the connection. The client disconnects then; [`Self::restart`] accepts the next one.
    pub fn hang_up(&self) {
        self.byte(at::SRV_LIVE).store(at::EXITED, Ordering::Release);
    }

    /// The client's state. A new client is reported once as [`Client::New`].
    pub fn client(&self) -> Client {
        let state = self.byte(at::CLI_LIVE);
        if state.compare_exchange(at::CONNECTED, at::KNOWN, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return Client::New;
        }
        match state.load(Ordering::Acquire) {
            at::NOT_YET => Client::NotYet,
            at::KNOWN => Client::Known,
            // A client has connected between the two reads.
            at::CONNECTED => Client::NotYet,
            _ => Client::Gone,
        }
    }

    /// Drops the bytes that a client has left in both rings.
    pub fn discard(&self) {
        let (taken, given) = (self.word(at::LEFT), self.word(at::RIGHT.wrapping_add(4)));
        taken.store(self.word(at::LEFT.wrapping_add(4)).load(Ordering::Acquire), Ordering::Release);
        given.store(self.word(at::RIGHT).load(Ordering::Acquire), Ordering::Release);
    }

    /// Requests a signal when the client writes, and if `space` when it reads. The caller must check the rings again afterwards.
    pub fn request_signal(&self, space: bool) {
        self.byte(at::CLI_NOTIFY)
            .fetch_or(at::NOTIFY_WRITE | if space { at::NOTIFY_READ } else { 0 }, Ordering::SeqCst);
    }

    /// Whether the client has requested a signal for a write (`wrote`) or read; called once after each.
    pub fn signal(&self, wrote: bool) -> bool {
        let bit = if wrote { at::NOTIFY_WRITE } else { at::NOTIFY_READ };
        fence(Ordering::SeqCst);
        self.byte(at::SRV_NOTIFY).fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    /// Whether bytes can be read.
    pub fn readable(&self) -> core::result::Result<bool, Broken> {
        self.read(&mut []).map(|_| ())?;
        let (cons, prod) = (self.word(at::LEFT), self.word(at::LEFT.wrapping_add(4)));
        Ok(cons.load(Ordering::Relaxed) != prod.load(Ordering::Acquire))
    }

    /// Whether bytes can be written.
    pub fn writable(&self) -> core::result::Result<bool, Broken> {
        let (cons, prod) = (self.word(at::RIGHT), self.word(at::RIGHT.wrapping_add(4)));
        let unread = prod.load(Ordering::Relaxed).wrapping_sub(cons.load(Ordering::Acquire));
        RIGHT_SIZE.checked_sub(unread).map(|room| room > 0).ok_or(Broken)
    }

    /// Reads bytes that the client has written. Returns their number.
    pub fn read(&self, to: &mut [u8]) -> core::result::Result<usize, Broken> {
        let (cons, prod) = (self.word(at::LEFT), self.word(at::LEFT.wrapping_add(4)));
        let from = cons.load(Ordering::Relaxed);
        let there = prod.load(Ordering::Acquire).wrapping_sub(from);
        if there > LEFT_SIZE {
            return Err(Broken);
        }
        let mut n = 0u32;
        for (byte, i) in to.iter_mut().zip(0..there) {
            let place = from.wrapping_add(i) & LEFT_SIZE.wrapping_sub(1);
            *byte = self.byte(at::SMALL_AT.wrapping_add(place as usize)).load(Ordering::Relaxed);
            n = i.wrapping_add(1);
        }
        cons.store(from.wrapping_add(n), Ordering::Release);
        Ok(n as usize)
    }

    /// Writes as many bytes as fit. Returns their number.
    pub fn write(&self, from: &[u8]) -> core::result::Result<usize, Broken> {
        let (cons, prod) = (self.word(at::RIGHT), self.word(at::RIGHT.wrapping_add(4)));
        let to = prod.load(Ordering::Relaxed);
        let unread = to.wrapping_sub(cons.load(Ordering::Acquire));
        let room = RIGHT_SIZE.checked_sub(unread).ok_or(Broken)?;
        let mut n = 0u32;
        for (byte, i) in from.iter().zip(0..room) {
            let place = to.wrapping_add(i) & RIGHT_SIZE.wrapping_sub(1);
            self.byte(at::LARGE_AT.wrapping_add(place as usize)).store(*byte, Ordering::Relaxed);
            n = i.wrapping_add(1);
        }
        prod.store(to.wrapping_add(n), Ordering::Release);
        Ok(n as usize)
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        self.page.at(offset & 0xfff).unwrap_or(&NOWHERE8)
    }
    fn half(&self, offset: usize) -> &AtomicU16 {
        self.page.at(offset & 0xffe).unwrap_or(&NOWHERE16)
    }
    fn word(&self, offset: usize) -> &AtomicU32 {
        self.page.at(offset & 0xffc).unwrap_or(&NOWHERE32)
    }
}

// Offsets are masked to the page, so these are never used; without them each access would have to be fallible.
static NOWHERE8: AtomicU8 = AtomicU8::new(0);
static NOWHERE16: AtomicU16 = AtomicU16::new(0);
static NOWHERE32: AtomicU32 = AtomicU32::new(0);

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    fn pair() -> (VchanServer, Mapping) {
        let fd = rustix::fs::memfd_create("vchan", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        (VchanServer::new(fd.as_fd()).unwrap(), Mapping::new(fd.as_fd(), 1).unwrap())
    }

    #[test]
    fn bytes_go_both_ways_and_around_the_end() {
        let (server, client) = pair();
        assert_eq!(server.client(), Client::NotYet);
        client.at::<AtomicU8>(at::CLI_LIVE).unwrap().store(1, Ordering::Release);
        assert_eq!(server.client(), Client::New);
        let (prod, cons) = (client.at::<AtomicU32>(at::LEFT + 4).unwrap(), client.at::<AtomicU32>(at::RIGHT).unwrap());
        for round in 0..50u32 {
            for i in 0..100 {
                let place = (round * 100 + i) as usize & 1023;
                client.at::<AtomicU8>(at::SMALL_AT + place).unwrap().store((round + i) as u8, Ordering::Relaxed);
            }
            prod.fetch_add(100, Ordering::Release);
            let mut bytes = [0; 300];
            assert_eq!(server.read(&mut bytes), Ok(100));
            assert!(bytes.iter().take(100).enumerate().all(|(i, b)| *b == (round as usize + i) as u8));
            assert_eq!(server.write(&bytes), Ok(300));
            cons.fetch_add(300, Ordering::Release);
        }
        assert_eq!(server.write(&[0; 3000]), Ok(2048), "no more than there is room for");
        assert_eq!(server.write(&[0; 1]), Ok(0));
    }

    #[test]
    fn impossible_counts_are_an_error() {
        let (server, client) = pair();
        client.at::<AtomicU32>(at::LEFT + 4).unwrap().store(1025, Ordering::Release);
        assert_eq!(server.read(&mut [0; 10]), Err(Broken));
        client.at::<AtomicU32>(at::RIGHT).unwrap().store(1, Ordering::Release);
        assert_eq!(server.write(&[0; 10]), Err(Broken));
        server.hang_up();
        client.at::<AtomicU8>(at::CLI_LIVE).unwrap().store(0, Ordering::Release);
        server.restart();
        assert_eq!(server.client(), Client::NotYet);
        assert_eq!((server.read(&mut [0; 10]), server.write(&[0; 10])), (Ok(0), Ok(10)));
    }

    #[test]
    fn signals_are_wanted_once() {
        let (server, client) = pair();
        assert!(!server.signal(true));
        client.at::<AtomicU8>(at::SRV_NOTIFY).unwrap().store(3, Ordering::Release);
        assert!(server.signal(true) && !server.signal(true) && server.signal(false));
    }

    #[test]
    fn a_client_is_new_once_and_another_is_told_from_it() {
        let (server, client) = pair();
        let live = client.at::<AtomicU8>(at::CLI_LIVE).unwrap();
        assert_eq!(server.client(), Client::NotYet);
        for _ in 0..2 {
            live.store(at::CONNECTED, Ordering::Release);
            assert_eq!((server.client(), server.client()), (Client::New, Client::Known));
        }
        // The exit of this client is missed.
        assert_eq!(server.write(b"left over"), Ok(9));
        live.store(at::EXITED, Ordering::Release);
        live.store(at::CONNECTED, Ordering::Release);
        assert_eq!(server.client(), Client::New);
        server.discard();
        assert_eq!(server.write(&[0; 3000]), Ok(2048), "nothing is left of the last one");
        live.store(at::EXITED, Ordering::Release);
        assert_eq!(server.client(), Client::Gone);
        server.restart();
        assert_eq!(server.client(), Client::NotYet);
    }
}
