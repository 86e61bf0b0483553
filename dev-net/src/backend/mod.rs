//! Back ends: the host's side of a card's link.
//!
//! | file | what |
//! |---|---|
//! | `host.rs` | a tap or a packet socket of the host |
//! | `stream.rs` | a stream socket, as QEMU's and passt's |
//! | here | a cable in memory, for tests |
mod host;
mod stream;

pub use host::{InterfaceBackend, Receive};
pub use stream::Stream;

use crate::frame::Frame;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// The offloads that a back end does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// It completes checksums.
    pub checksum: bool,
    /// It splits large TCP packets into segments.
    pub segmentation: bool,
}

/// The result of sending a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The back end has accepted it.
    Done,
    /// The back end is full; the card tries again when it is writable.
    Full,
    /// The back end refuses it: the frame is lost, as on a cable.
    Lost,
}

/// Sends and receives frames without blocking.
pub trait Backend: Send {
    /// The offloads that it does.
    fn abilities(&self) -> Abilities;
    /// Sends a frame.
    fn send(&mut self, frame: &Frame) -> Sent;
    /// The next received frame, if there is one.
    fn receive(&mut self) -> Option<Frame>;
    /// Tries to send the rest of a partly sent frame. Returns whether a rest is left.
    fn pending(&mut self) -> bool {
        false
    }
}

#[derive(Debug, Default)]
struct Ends {
    /// Frames that the card has sent.
    sent: VecDeque<Frame>,
    /// Frames for the card.
    coming: VecDeque<Frame>,
}

/// A back end in memory, for tests: a clone is the other end.
#[derive(Clone, Debug, Default)]
pub struct Cable {
    ends: Arc<Mutex<Ends>>,
    /// The offloads that it does.
    abilities: Abilities,
    /// Most frames that it holds; 0 for any number.
    room: usize,
}

impl Cable {
    /// A cable with these offloads that holds `room` frames.
    pub fn new(abilities: Abilities, room: usize) -> Self {
        Self { abilities, room, ..Self::default() }
    }

    /// Takes the next frame that the card has sent.
    pub fn take(&self) -> Option<Frame> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).sent.pop_front()
    }

    /// Queues a frame for the card.
    pub fn put(&self, frame: Frame) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).coming.push_back(frame);
    }
}

impl Backend for Cable {
    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if self.room != 0 && ends.sent.len() >= self.room {
            return Sent::Full;
        }
        ends.sent.push_back(frame.clone());
        Sent::Done
    }

    fn receive(&mut self) -> Option<Frame> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).coming.pop_front()
    }
}

/// A back end that returns every frame, at most eight at once; for tests.
#[derive(Clone, Debug, Default)]
pub struct Echo(VecDeque<Frame>);

impl Backend for Echo {
    fn abilities(&self) -> Abilities {
        Abilities { checksum: true, segmentation: true }
    }

    fn send(&mut self, frame: &Frame) -> Sent {
        if self.0.len() >= 8 {
            return Sent::Lost;
        }
        self.0.push_back(frame.clone());
        Sent::Done
    }

    fn receive(&mut self) -> Option<Frame> {
        self.0.pop_front()
    }
}
