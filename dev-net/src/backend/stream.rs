//! QEMU's and passt's framing on a stream socket: a length of four bytes in network order before each frame (QEMU: -netdev stream).
use super::{Abilities, Backend, Sent};
use crate::frame::{self, ETHERNET, Frame, Offload};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::collections::VecDeque;

/// Most bytes that are read at once, and most unsent bytes.
const CHUNK: usize = 1 << 16;
/// Most malformed frames that one call skips.
const SKIPPED: usize = 16;

/// A connected, non-blocking stream socket.
#[derive(Debug)]
pub struct Stream {
    fd: OwnedFd,
    coming: VecDeque<u8>,
    /// The unsent rest of a frame.
    rest: Vec<u8>,
    /// The peer has broken the framing; its data is ignored from then on.
    broken: bool,
}

impl Stream {
    /// A back end on a connected socket.
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, coming: VecDeque::new(), rest: Vec::new(), broken: false }
    }

    /// Whether the peer's framing is still valid.
    pub fn is_alive(&self) -> bool {
        !self.broken
    }

    /// Sends the rest of the last frame.
    fn flush(&mut self) -> Sent {
        while !self.rest.is_empty() {
            match rustix::net::send(&self.fd, &self.rest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(n) => drop(self.rest.drain(..n.min(self.rest.len()))),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Sent::Full,
                Err(_) => {
                    self.rest.clear();
                    self.broken = true;
                    return Sent::Lost;
                }
            }
        }
        Sent::Done
    }

    /// The next complete frame. `Err`: its length is impossible.
    fn whole(&mut self) -> Result<Option<Vec<u8>>, ()> {
        let mut head = [0; 4];
        if self.coming.len() < head.len() {
            return Ok(None);
        }
        for (to, from) in head.iter_mut().zip(&self.coming) {
            *to = *from;
        }
        let len = u32::from_be_bytes(head) as usize;
        if len == 0 || len > frame::MAX {
            return Err(());
        }
        if self.coming.len().saturating_sub(head.len()) < len {
            return Ok(None);
        }
        Ok(Some(self.coming.drain(..len.saturating_add(head.len())).skip(head.len()).collect()))
    }
}

impl Backend for Stream {
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        if self.broken {
            return Sent::Lost;
        }
        // One frame is sent at a time, because a part of it may have been sent already.
        match self.flush() {
            Sent::Done => {}
            other => return other,
        }
        self.rest = u32::try_from(frame.bytes.len()).unwrap_or(0).to_be_bytes().to_vec();
        self.rest.extend_from_slice(&frame.bytes);
        let whole = self.rest.len();
        match self.flush() {
            Sent::Lost => Sent::Lost,
            // Nothing of it has left: the port keeps it, and forgets it when the link goes or other rules come.
            Sent::Full if self.rest.len() == whole => {
                self.rest.clear();
                Sent::Full
            }
            // The unsent rest is kept here.
            Sent::Done | Sent::Full => Sent::Done,
        }
    }

    fn pending(&mut self) -> bool {
        self.flush() == Sent::Full
    }

    fn receive(&mut self) -> Option<Frame> {
        for _ in 0..SKIPPED {
            if self.broken {
                return None;
            }
            match self.whole() {
                Ok(Some(bytes)) if bytes.len() < ETHERNET => continue,
                Ok(Some(bytes)) => return Some(Frame { bytes, offload: Offload::default() }),
                Ok(None) => {}
                Err(()) => {
                    self.broken = true;
                    return None;
                }
            }
            let mut chunk = [0; CHUNK];
            match rustix::io::read(&self.fd, &mut chunk[..]) {
                Ok(n) if n > 0 => self.coming.extend(chunk.get(..n).unwrap_or_default()),
                Ok(_) => self.broken = true,
                Err(Errno::INTR) => {}
                Err(_) => return None,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (Stream, Stream) {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None).unwrap();
        (Stream::new(a), Stream::new(b))
    }

    fn frame(n: usize) -> Frame {
        Frame { bytes: (0..n).map(|i| i as u8).collect(), offload: Offload::default() }
    }

    #[test]
    fn a_frame_in_pieces_is_one_frame_and_a_full_socket_loses_none() {
        let (mut a, mut b) = pair();
        let (mut sent, mut got, mut full) = (0, 0, 0);
        while sent < 400 || got < 400 {
            if sent < 400 {
                match a.send(&frame(9000 + sent)) {
                    Sent::Done => sent += 1,
                    Sent::Full => full += 1,
                    Sent::Lost => panic!("lost"),
                }
            } else {
                a.flush();
            }
            if full % 7 == 6 || sent == 400 {
                while let Some(f) = b.receive() {
                    assert_eq!(f, frame(9000 + got));
                    got += 1;
                }
                full += 1;
            }
        }
        assert!(full > 10);
    }

    #[test]
    fn a_frame_of_which_nothing_has_left_is_not_taken() {
        let (mut a, b) = pair();
        let mut taken = 0;
        while a.send(&frame(100)) == Sent::Done {
            taken += 1;
        }
        // The peer has the beginning of each frame that was taken.
        let mut bytes = vec![0; 1 << 22];
        let mut got = 0;
        while let Ok(n) = rustix::io::read(&b.fd, &mut bytes[got..]) {
            got += n;
        }
        assert!(taken > 10);
        assert_eq!(got.div_ceil(104), taken);
    }

    #[test]
    fn a_length_that_no_frame_has_ends_it() {
        let (a, mut b) = pair();
        rustix::io::write(&a.fd, &[0xff; 8]).unwrap();
        assert!(b.receive().is_none() && !b.is_alive());
        assert_eq!(b.send(&frame(60)), Sent::Lost);
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..3000), small: bool) {
            let (a, mut b) = pair();
            let bytes: Vec<u8> = if small { bytes.iter().map(|b| b & 1).collect() } else { bytes };
            if !bytes.is_empty() {
                rustix::io::write(&a.fd, &bytes).unwrap();
            }
            for _ in 0..100 {
                if let Some(f) = b.receive() {
                    prop_assert!((14..=frame::MAX).contains(&f.bytes.len()));
                }
            }
        }
    }
}
