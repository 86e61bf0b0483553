//! A PS/2 keyboard with scan code sets 1 to 3 (IBM PS/2 Hardware Interface Technical Reference, Keyboard).
//!
//! A key that is held repeats when the viewer says so again, as viewers do, and not faster than the guest has set: a release that is late
//! on its way does not become a row of letters.
use super::spec::{self, ACK, PASSED, RESEND};
use bulkhead_bus::StateError;
use std::collections::VecDeque;

/// Bytes that wait to be read. A real keyboard has 16; key releases must not be lost.
const QUEUE: usize = 64;

/// What the keys of set 3 do beside going down, by their codes, a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kinds {
    /// They say that they are let go.
    release: [u8; 32],
    /// They repeat.
    repeat: [u8; 32],
}

impl Kinds {
    fn new() -> Self {
        let mut kinds = Self { release: [0; 32], repeat: [0xff; 32] };
        spec::RELEASED.iter().for_each(|code| kinds.set(*code, (true, false)));
        spec::MADE_ONLY.iter().for_each(|code| kinds.set(*code, (false, false)));
        kinds
    }

    fn all((release, repeat): (bool, bool)) -> Self {
        let bits = |on: bool| [if on { 0xff } else { 0 }; 32];
        Self { release: bits(release), repeat: bits(repeat) }
    }

    fn set(&mut self, code: u8, (release, repeat): (bool, bool)) {
        for (bits, on) in [(&mut self.release, release), (&mut self.repeat, repeat)] {
            if let Some(byte) = bits.get_mut(usize::from(code >> 3)) {
                let bit = 1 << (code & 7);
                *byte = *byte & !bit | if on { bit } else { 0 };
            }
        }
    }

    fn of(&self, code: u8) -> (bool, bool) {
        let bit = |bits: &[u8; 32]| bits.get(usize::from(code >> 3)).is_some_and(|b| b >> (code & 7) & 1 != 0);
        (bit(&self.release), bit(&self.repeat))
    }

    /// For a state: nothing if they are as after power-on.
    pub(crate) fn save(&self) -> Vec<u8> {
        if *self == Self::new() { Vec::new() } else { [self.release, self.repeat].concat() }
    }

    pub(crate) fn load(bytes: &[u8]) -> Result<Self, StateError> {
        match bytes.as_chunks::<32>() {
            ([], []) => Ok(Self::new()),
            ([release, repeat], []) => Ok(Self { release: *release, repeat: *repeat }),
            _ => Err(StateError::Value("kinds of keys")),
        }
    }
}

/// Nanoseconds before a key that is held repeats, and from one repetition to the next, as the guest has set them.
fn pace(rate: u8) -> (u64, u64) {
    let delay = (u64::from(rate >> 5 & 3).saturating_add(1)).saturating_mul(250_000_000);
    // (8 + bits 0-2) << bits 3-4, of 1/240 s.
    let period = u64::from(8u8.saturating_add(rate & 7))
        .wrapping_shl(u32::from(rate >> 3 & 3))
        .saturating_mul(1_000_000_000)
        .div_euclid(240);
    (delay, period)
}

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
    /// What keys do beside going down, in set 3.
    pub(crate) kinds: Kinds,
    /// The key that went down last, when, and when it was last said.
    held: Option<(u16, u64, u64)>,
    /// Events that found no room.
    pub(crate) dropped: u64,
}

impl Keyboard {
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            pending: 0,
            enabled: true,
            set: 2,
            leds: 0,
            rate: 0x2b,
            kinds: Kinds::new(),
            held: None,
            dropped: 0,
        }
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
                        self.set = value;
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
            // Keys are named until a command comes.
            pending @ 0xfb..=0xfd if value < 0xed => {
                self.kinds.set(value, kind(pending));
                self.pending = pending;
                return self.answer(&[ACK]);
            }
            _ => {}
        }
        match value {
            0xed | 0xf0 | 0xf3 | 0xfb..=0xfd => {
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
                (self.rate, self.set, self.leds, self.kinds) = (fresh.rate, fresh.set, fresh.leds, fresh.kinds);
                self.enabled = value == 0xf6;
                self.answer(&[ACK]);
            }
            0xf7..=0xfa => {
                self.kinds = Kinds::all(kind(value));
                self.answer(&[ACK]);
            }
            0xff => {
                *self = Self { dropped: self.dropped, ..Self::new() };
                self.answer(&[ACK, PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    /// Whether a key that goes down does so again without having been up, and whether that is to be said now.
    fn repeats(&mut self, code: u16, now: u64) -> (bool, bool) {
        let (delay, period) = pace(self.rate);
        match &mut self.held {
            Some((held, since, said)) if *held == code => {
                let due = now >= since.saturating_add(delay) && now >= said.saturating_add(period);
                if due {
                    *said = now;
                }
                (true, due)
            }
            _ => {
                self.held = Some((code, now, now));
                (false, true)
            }
        }
    }

    /// A key goes down or up.
    pub(crate) fn key(&mut self, code: u16, down: bool, now: u64) {
        if !self.enabled {
            self.held = None;
            return;
        }
        let mut again = false;
        if down {
            let (repeated, due) = self.repeats(code, now);
            if !due {
                return;
            }
            again = repeated;
        } else if self.held.is_some_and(|(held, ..)| held == code) {
            self.held = None;
        }
        if self.set == 3 {
            let Some(make) = spec::set3(code) else { return };
            let (release, repeat) = self.kinds.of(make);
            match down {
                true if repeat || !again => self.push(&[make]),
                false if release => self.push(&[0xf0, make]),
                _ => {}
            }
            return;
        }
        if code == 119 {
            // Pause has no release and does not repeat; it says everything when it goes down.
            if down && !again {
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

/// What the commands 0xf7 to 0xfa make all keys do, and 0xfb to 0xfd those that are named: say that they are let go, repeat.
fn kind(command: u8) -> (bool, bool) {
    match command {
        0xf7 | 0xfb => (false, true),
        0xf8 | 0xfc => (true, false),
        0xf9 | 0xfd => (false, false),
        _ => (true, true),
    }
}
