//! The real back ends at one end of a socket, and the network at the other.
use super::settings::{Medium, Setup};
use super::wire::Wire;
use crate::backend::{Abilities, Backend, InterfaceBackend, Receive, Stream};
use crate::frame::{self, ETHERNET, Frame, Offload};
use bulkhead_bus::nic::NicSettings;
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

/// Most frames that are looked at in one turn.
const LOOKS: usize = 4096;

/// A socket with a card at its other end.
pub(super) struct Socket {
    medium: Medium,
    abilities: Abilities,
    echo: bool,
    /// The card's end, for the process that takes a dead one's place.
    card: OwnedFd,
    peer: OwnedFd,
    /// Bytes of a stream that are no whole frame yet.
    bytes: Vec<u8>,
    /// The settings when the frame in `bytes` began to be sent, if they have changed since.
    begun: Option<NicSettings>,
    /// Cards that were made at it.
    cards: u32,
}

impl Socket {
    pub(super) fn new(setup: &Setup) -> Option<Self> {
        let kind = if setup.medium == Medium::Stream { SocketType::STREAM } else { SocketType::SEQPACKET };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (card, peer) = socketpair(AddressFamily::UNIX, kind, flags, None).ok()?;
        let (medium, abilities, echo) = (setup.medium, setup.abilities, setup.echo);
        Some(Self { medium, abilities, echo, card, peer, bytes: Vec::new(), begun: None, cards: 0 })
    }

    /// Other settings will hold. All that has left until now was drained.
    pub(super) fn change(&mut self, former: &NicSettings) {
        if !self.bytes.is_empty() {
            self.begun.get_or_insert_with(|| former.clone());
        }
    }

    /// A back end at it.
    pub(super) fn backend(&mut self) -> Option<Box<dyn Backend>> {
        let fd = self.card.try_clone().ok()?;
        self.cards = self.cards.saturating_add(1);
        let plain: Receive = |fd, to| Ok((rustix::io::read(fd, to)?, None));
        let untagged: Receive = |fd, to| Ok((rustix::io::read(fd, to)?, Some([0x8100, 0x2005])));
        Some(match self.medium {
            Medium::Memory | Medium::Stream => Box::new(Stream::new(fd)),
            Medium::Interface => Box::new(InterfaceBackend::new(fd, self.abilities, plain)),
            Medium::Untagged => Box::new(InterfaceBackend::new(fd, self.abilities, untagged)),
            Medium::Bare => Box::new(InterfaceBackend::bare(fd)),
        })
    }

    /// Bytes for the card, as they are.
    pub(super) fn write(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let _ = send(&self.peer, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }

    /// A frame for the card.
    pub(super) fn put(&self, frame: &Frame) {
        let head = match self.medium {
            Medium::Stream | Medium::Memory => u32::try_from(frame.bytes.len()).unwrap_or(0).to_be_bytes().to_vec(),
            Medium::Interface | Medium::Untagged => frame.offload.to_bytes().to_vec(),
            Medium::Bare => Vec::new(),
        };
        self.write(&[&head[..], &frame.bytes].concat());
    }

    /// Looks at all that the card has sent.
    pub(super) fn drain(&mut self, wire: &Wire) {
        let mut buffer = vec![0; frame::MAX.saturating_add(64)];
        for _ in 0..LOOKS {
            let Ok(n) = rustix::io::read(&self.peer, &mut buffer[..]) else { return };
            let got = buffer.get(..n).unwrap_or_default();
            if got.is_empty() {
                return;
            }
            match self.medium {
                Medium::Stream | Medium::Memory => {
                    self.bytes.extend(got);
                    self.stream(wire);
                }
                Medium::Bare => self.one(Some(Frame { bytes: got.to_vec(), offload: Offload::default() }), wire),
                Medium::Interface | Medium::Untagged => {
                    let parts = got.split_first_chunk::<{ Offload::LEN }>();
                    let frame = parts.and_then(|(header, bytes)| {
                        let offload = Offload::from_bytes(header, bytes.len())?;
                        Some(Frame { bytes: bytes.to_vec(), offload })
                    });
                    self.one(frame, wire);
                }
            }
        }
    }

    /// The whole frames of a stream. After a card that died in the middle of a frame nothing can be said of the rest.
    fn stream(&mut self, wire: &Wire) {
        while self.cards < 2
            && let Some((head, rest)) = self.bytes.split_first_chunk::<4>()
            && let Some(frame) = rest.get(..u32::from_be_bytes(*head) as usize)
        {
            let (bytes, used) = (frame.to_vec(), frame.len().saturating_add(4));
            self.bytes.drain(..used);
            let frame = Frame { bytes, offload: Offload::default() };
            // The rest of a frame has to follow its beginning, whatever has changed meanwhile.
            match self.begun.take() {
                Some(former) => wire.look_as(&frame, &former),
                None => wire.look(&frame),
            }
            self.echo(&frame);
        }
        if self.cards >= 2 {
            self.bytes.clear();
        }
    }

    fn one(&self, frame: Option<Frame>, wire: &Wire) {
        let Some(frame) = frame else { return wire.broken() };
        wire.look(&frame);
        self.echo(&frame);
    }

    fn echo(&self, frame: &Frame) {
        if self.echo && frame.bytes.len() >= ETHERNET {
            self.put(frame);
        }
    }
}
