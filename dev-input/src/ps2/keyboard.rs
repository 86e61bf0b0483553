//! An AT keyboard with scan code sets 1 and 2.
use super::spec::{self, ACK, PASSED, RESEND};
use std::collections::VecDeque;

/// Bytes that wait to be read. A real keyboard has 16; key releases must not be lost.
const QUEUE: usize = 64;

/// The keyboard.
#[derive(Clone, Debug)]
pub(crate) struct Keyboard {
    pub(crate) queue: VecDeque<u8>,
    /// The command whose parameter comes next.
    pub(crate) pending: u8,
    pub(crate) enabled: bool,
    pub(crate) set: u8,
    pub(crate) leds: u8,
    pub(crate) rate: u8,
    /// Events that found no room.
    pub(crate) dropped: u64,
}

impl Keyboard {
    pub(crate) fn new() -> Self {
        Self { queue: VecDeque::new(), pending: 0, enabled: true, set: 2, leds: 0, rate: 0x2b, dropped: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.queue.len().saturating_add(bytes.len()) <= QUEUE {
            self.queue.extend(bytes);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Answers go in front of nothing and are never lost: a command empties the queue first.
    fn answer(&mut self, bytes: &[u8]) {
        if self.queue.len() > QUEUE.saturating_sub(8) {
            self.queue.clear();
        }
        self.queue.extend(bytes);
    }

    /// A byte from the controller.
    pub(crate) fn write(&mut self, value: u8) {
        match std::mem::take(&mut self.pending) {
            0xed => {
                self.leds = value & 7;
                return self.answer(&[ACK]);
            }
            0xf0 => {
                match value {
                    0 => {
                        let set = self.set;
                        self.answer(&[ACK, set]);
                    }
                    1..=3 => {
                        // Set 3 is not there; a driver that asks for it reads back what it got.
                        self.set = if value == 3 { 2 } else { value };
                        self.answer(&[ACK]);
                    }
                    _ => self.answer(&[RESEND]),
                }
                return;
            }
            0xf3 => {
                self.rate = value & 0x7f;
                return self.answer(&[ACK]);
            }
            _ => {}
        }
        match value {
            0xed | 0xf0 | 0xf3 => {
                self.pending = value;
                self.answer(&[ACK]);
            }
            0xee => self.answer(&[0xee]),
            0xf2 => self.answer(&[ACK, 0xab, 0x83]),
            0xf4 => {
                self.enabled = true;
                self.answer(&[ACK]);
            }
            0xf5 | 0xf6 => {
                let fresh = Self::new();
                self.queue.clear();
                (self.rate, self.set, self.leds) = (fresh.rate, fresh.set, fresh.leds);
                self.enabled = value == 0xf6;
                self.answer(&[ACK]);
            }
            0xf7..=0xfd => self.answer(&[ACK]),
            0xff => {
                *self = Self { dropped: self.dropped, ..Self::new() };
                self.answer(&[ACK, PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    /// A key goes down or up.
    pub(crate) fn key(&mut self, code: u16, down: bool) {
        if !self.enabled {
            return;
        }
        if code == 119 {
            // Pause has no release; it says everything when it goes down.
            if down {
                match self.set {
                    1 => self.push(&[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]),
                    _ => self.push(&[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77]),
                }
            }
            return;
        }
        let Some((extended, set1)) = spec::set1(code) else { return };
        let mut bytes = Vec::with_capacity(4);
        if extended {
            bytes.push(0xe0);
        }
        if self.set == 1 {
            bytes.push(if down { set1 } else { set1 | 0x80 });
        } else {
            if !down {
                bytes.push(0xf0);
            }
            bytes.push(spec::set2(set1));
        }
        self.push(&bytes);
    }
}
