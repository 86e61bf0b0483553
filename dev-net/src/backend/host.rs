//! A tap, or a packet socket on an interface: frames with a struct virtio_net_hdr (Linux: TUNSETVNETHDRSZ 10, PACKET_VNET_HDR), or
//! without one, if a toolstack has opened the tap so. The opener states which offloads the kernel does, and how a frame is
//! received.
use super::{Abilities, Backend, Sent};
use crate::frame::{self, ETHERNET, Frame, Offload};
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::io::IoSlice;

/// Most malformed frames that one call skips.
const SKIPPED: usize = 16;

/// Receives one frame with its header into a buffer. Returns its length, and the VLAN tag that the kernel has removed from it (its
/// two halves, as in the frame).
pub type Receive = fn(BorrowedFd<'_>, &mut [u8]) -> Result<(usize, Option<[u16; 2]>), Errno>;

/// A back end on the host's interface; the descriptor is non-blocking.
#[derive(Debug)]
pub struct InterfaceBackend {
    fd: OwnedFd,
    receive: Receive,
    abilities: Abilities,
    /// Frames begin with a virtio_net_hdr.
    headers: bool,
    buffer: Vec<u8>,
    /// Number of malformed frames received.
    malformed: u64,
}

impl InterfaceBackend {
    /// A back end on an open tap or packet socket.
    pub fn new(fd: OwnedFd, abilities: Abilities, receive: Receive) -> Self {
        let buffer = vec![0; Offload::LEN.saturating_add(frame::MAX)];
        Self { fd, receive, abilities, headers: true, buffer, malformed: 0 }
    }

    /// A back end on an open tap whose frames have no header: it does no offloads.
    pub fn bare(fd: OwnedFd) -> Self {
        let host = Self::new(fd, Abilities::default(), |fd, to| Ok((rustix::io::read(fd, to)?, None)));
        Self { headers: false, ..host }
    }

    /// Number of malformed frames received.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn parse(bytes: &[u8], headers: bool, tag: Option<[u16; 2]>) -> Option<Frame> {
        if !headers {
            return (bytes.len() >= ETHERNET).then(|| Frame { bytes: bytes.to_vec(), offload: Offload::default() });
        }
        let (header, bytes) = bytes.split_first_chunk::<{ Offload::LEN }>()?;
        (bytes.len() >= ETHERNET).then_some(())?;
        let mut frame = Frame { bytes: bytes.to_vec(), offload: Offload::from_bytes(header, bytes.len())? };
        if let Some([kind, tag]) = tag {
            frame.bytes.splice(12..12, [kind.to_be_bytes(), tag.to_be_bytes()].concat());
            frame.offload = frame.offload.with_tag_inserted()?;
        }
        Some(frame)
    }
}

impl Backend for InterfaceBackend {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        let header = frame.offload.to_bytes();
        let header = if self.headers { header.as_slice() } else { &[] };
        loop {
            return match rustix::io::writev(&self.fd, &[IoSlice::new(header), IoSlice::new(&frame.bytes)]) {
                Ok(_) => Sent::Done,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Sent::Full,
                // The interface is down or deleted, its queue is full or a rule at its egress has dropped the frame (ENOBUFS for
                // both), or the kernel refuses the frame. A retry could repeat for ever.
                Err(_) => Sent::Lost,
            };
        }
    }

    fn receive(&mut self) -> Option<Frame> {
        for _ in 0..SKIPPED {
            let (n, tag) = match (self.receive)(self.fd.as_fd(), &mut self.buffer) {
                Ok((0, _)) => return None,
                Ok(got) => got,
                Err(Errno::INTR) => continue,
                Err(_) => return None,
            };
            match Self::parse(self.buffer.get(..n).unwrap_or_default(), self.headers, tag) {
                None => self.malformed = self.malformed.saturating_add(1),
                frame => return frame,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{GsoKind, Partial, Segmentation};
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    /// Stands for a packet socket: it preserves the boundaries of frames, as a tap does.
    fn pair() -> (InterfaceBackend, InterfaceBackend) {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
        let receive: Receive = |fd, to| Ok((rustix::io::read(fd, to)?, None));
        (
            InterfaceBackend::new(a, Abilities::default(), receive),
            InterfaceBackend::new(b, Abilities::default(), receive),
        )
    }

    #[test]
    fn a_tag_that_the_kernel_has_taken_out_is_put_back() {
        let (mut a, b) = pair();
        let mut b = InterfaceBackend { receive: |fd, to| Ok((rustix::io::read(fd, to)?, Some([0x8100, 0x2005]))), ..b };
        let offload = Offload {
            checksum: Some(Partial { start: 34, offset: 16 }),
            segmentation: Some(Segmentation { kind: GsoKind::Tcp4, size: 1440, headers: 54 }),
            verified: false,
        };
        a.send(&Frame { bytes: (0..60).collect(), offload });
        let got = b.receive().unwrap();
        assert_eq!(got.bytes[..18], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0x81, 0, 0x20, 5, 12, 13]);
        assert_eq!((got.offload.checksum.unwrap().start, got.offload.segmentation.unwrap().headers), (38, 58));
    }

    #[test]
    fn frames_keep_their_offloads() {
        let (mut a, mut b) = pair();
        let offload = Offload {
            checksum: Some(Partial { start: 34, offset: 16 }),
            segmentation: Some(Segmentation { kind: GsoKind::Tcp6, size: 1440, headers: 74 }),
            verified: false,
        };
        let frame = Frame { bytes: vec![7; 5000], offload };
        assert_eq!((a.send(&frame), b.receive(), b.receive()), (Sent::Done, Some(frame), None));
    }

    #[test]
    fn a_tap_without_headers_has_frames_and_nothing_else() {
        let (a, b) = pair();
        let (mut a, b) = (InterfaceBackend::bare(a.fd), b.fd);
        assert_eq!(a.abilities(), Abilities::default(), "nothing may be left to it");
        let frame = Frame { bytes: (0..60).collect(), offload: Offload::default() };
        assert_eq!(a.send(&frame), Sent::Done);
        let mut got = [0; 100];
        let n = rustix::io::read(&b, &mut got).unwrap();
        assert_eq!(got[..n], frame.bytes);
        rustix::io::write(&b, &frame.bytes).unwrap();
        assert_eq!(a.receive(), Some(frame));
    }

    #[test]
    fn a_full_interface_is_distinguished_from_a_removed_one() {
        let (mut a, b) = pair();
        let frame = Frame { bytes: vec![1; 1514], offload: Offload::default() };
        let full = (0..100_000).map(|_| a.send(&frame)).find(|s| *s != Sent::Done);
        assert_eq!(full, Some(Sent::Full));
        drop(b);
        // A signal is not wanted for a peer that is gone; a tap gives none.
        let _ = rustix::net::sockopt::socket_type(&a.fd);
    }

    proptest! {
        #[test]
        fn packets_that_are_no_frame_are_skipped(junk in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..10)) {
            let (a, mut b) = pair();
            let mut sent = 0;
            for bytes in &junk {
                rustix::io::write(&a.fd, bytes).unwrap();
                sent += 1;
            }
            let mut got = 0;
            while let Some(frame) = b.receive() {
                got += 1;
                prop_assert!(frame.bytes.len() >= 14);
            }
            prop_assert_eq!(got + b.malformed(), sent);
        }
    }
}
