//! The other side of the cable.
//!
//! | file | what |
//! |---|---|
//! | `host.rs` | a tap or a packet socket of the host |
//! | `stream.rs` | a stream socket, as QEMU's and passt's |
//! | here | a cable in memory, for tests |
mod host;
mod stream;

pub use host::{Host, Receive};
pub use stream::Stream;

use crate::frame::Frame;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// What a back end can be left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// It completes checksums.
    pub checksum: bool,
    /// It cuts TCP into segments.
    pub segmentation: bool,
}

/// What a frame became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is gone.
    Done,
    /// There is no room now; the card tries again when the back end is writable.
    Full,
    /// The other side does not take it: it is lost, as on a cable.
    Lost,
}

/// Where frames come from and go to. Nothing waits.
pub trait Backend: Send {
    /// What may be left to it.
    fn abilities(&self) -> Abilities;
    /// Sends a frame.
    fn send(&mut self, frame: &Frame) -> Sent;
    /// The next frame that has come.
    fn receive(&mut self) -> Option<Frame>;
    /// Tries to send what it has kept of a frame; whether it still keeps something.
    fn pending(&mut self) -> bool {
        false
    }
}

#[derive(Debug, Default)]
struct Ends {
    /// What the card has sent.
    sent: VecDeque<Frame>,
    /// What it will receive.
    coming: VecDeque<Frame>,
}

/// A cable in memory, for tests: both ends are the same value, cloned.
#[derive(Clone, Debug, Default)]
pub struct Cable {
    ends: Arc<Mutex<Ends>>,
    /// What is left to it.
    abilities: Abilities,
    /// Frames that fit; 0 for any number.
    room: usize,
}

impl Cable {
    /// A cable to which this much is left, with room for so many frames.
    pub fn new(abilities: Abilities, room: usize) -> Self {
        Self { abilities, room, ..Self::default() }
    }

    /// Takes what the card has sent.
    pub fn take(&self) -> Option<Frame> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).sent.pop_front()
    }

    /// Puts a frame before the card.
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

/// A cable whose other end sends everything back, eight frames at most; for tests.
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
