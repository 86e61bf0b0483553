//! A PS/2 keyboard with scan code sets 1 to 3 (IBM PS/2 Hardware Interface Technical Reference, Keyboard).
//!
//! A held key repeats when the viewer sends it again, as viewers do, and not faster than the guest has set: a release that arrives
//! late does not cause repetitions.
//!
//! While the guest does not read, keys are queued, and only the first few are encoded as bytes: see [`LIMIT`].
use super::keys::{self, Form, Modifiers};
use super::spec::{ACK, PASSED, RESEND};
use bulkhead_bus::StateError;
use std::collections::VecDeque;

/// Most bytes of input at the keyboard and in the output buffer together. It leaves room for a packet of the mouse.
pub(crate) const LIMIT: usize = 12;
/// Most keys that are queued for encoding; further presses are lost. A release is queued beyond the limit if its press was queued
/// or sent.
const WAITING: usize = 64;
/// Most unread bytes of answers; older bytes are dropped.
pub(crate) const ANSWERS: usize = 16;

/// Which keys report their release and repeat in set 3: a bit for each code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kinds {
    /// Keys that report their release.
    release: [u8; 32],
    /// Keys that repeat while they are held.
    repeat: [u8; 32],
}

impl Kinds {
    fn new() -> Self {
        let mut kinds = Self { release: [0; 32], repeat: [0xff; 32] };
        keys::RELEASED.iter().for_each(|code| kinds.set(*code, (true, false)));
        keys::MADE_ONLY.iter().for_each(|code| kinds.set(*code, (false, false)));
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

    /// The bytes of a saved state; empty if all bits have their power-on values.
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

/// Nanoseconds until a held key repeats, and between repetitions, as the guest has set them.
fn pace(rate: u8) -> (u64, u64) {
    let delay = (u64::from(rate >> 5 & 3).saturating_add(1)).saturating_mul(250_000_000);
    // (8 + bits 0-2) << bits 3-4, of 1/240 s.
    let period = u64::from(8u8.saturating_add(rate & 7))
        .wrapping_shl(u32::from(rate >> 3 & 3))
        .saturating_mul(1_000_000_000)
        .div_euclid(240);
    (delay, period)
}

/// A key whose press has been encoded, and whose release has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) key: u16,
    pub(crate) form: Form,
}

/// The keyboard behind the controller's first port.
#[derive(Clone, Debug)]
pub(crate) struct Keyboard {
    /// Answers to commands; the guest reads them before input.
    pub(crate) answers: VecDeque<u8>,
    /// Encoded input, always whole keys.
    pub(crate) input: VecDeque<u8>,
    /// Keys that are not encoded yet because `input` is full, and whether they were pressed.
    pub(crate) waiting: VecDeque<(u16, bool)>,
    /// Keys that are down according to the bytes that are or were in `input`.
    pub(crate) down: Vec<Held>,
    /// The command whose parameter is expected; 0 if none is.
    pub(crate) pending: u8,
    pub(crate) enabled: bool,
    pub(crate) set: u8,
    pub(crate) leds: u8,
    pub(crate) rate: u8,
    /// Which keys report their release and repeat in set 3.
    pub(crate) kinds: Kinds,
    /// The last pressed key, the time of its press, and the time of its last code.
    pub(crate) typematic: Option<(u16, u64, u64)>,
    /// Number of keys lost because the queue was full.
    pub(crate) dropped: u64,
}

impl Keyboard {
    pub(crate) fn new() -> Self {
        Self {
            answers: VecDeque::new(),
            input: VecDeque::new(),
            waiting: VecDeque::new(),
            down: Vec::new(),
            pending: 0,
            enabled: true,
            set: 2,
            leds: 0,
            rate: 0x2b,
            kinds: Kinds::new(),
            typematic: None,
            dropped: 0,
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len().saturating_add(bytes.len()) > ANSWERS {
            self.answers.clear();
        }
        self.answers.extend(bytes);
    }

    /// Discards input, as the commands that clear the output buffer do. Releases of keys that are down for the guest are still
    /// sent.
    fn clear(&mut self) {
        self.input.clear();
        let waiting = std::mem::take(&mut self.waiting);
        let up = |key: u16| waiting.iter().rev().find(|(k, _)| *k == key).is_some_and(|(_, down)| !down);
        self.waiting = self.down.iter().map(|h| h.key).filter(|key| up(*key)).map(|key| (key, false)).collect();
    }

    /// Returns to the power-on state, except whether it is enabled.
    fn defaults(&mut self) {
        let fresh = Self::new();
        self.clear();
        (self.rate, self.set) = (fresh.rate, fresh.set);
        (self.leds, self.kinds) = (fresh.leds, fresh.kinds);
    }

    /// Handles a byte that the guest sends to the keyboard.
    pub(crate) fn write(&mut self, value: u8) {
        match std::mem::take(&mut self.pending) {
            // A command instead of a parameter is a command, and the pending command has no effect.
            0xed | 0xf0 | 0xf3 if value >= 0xed => {}
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
            // Codes of keys follow until a command arrives.
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
                self.defaults();
                self.enabled = value == 0xf6;
                self.answer(&[ACK]);
            }
            0xf7..=0xfa => {
                self.kinds = Kinds::all(kind(value));
                self.answer(&[ACK]);
            }
            0xff => {
                self.defaults();
                self.enabled = true;
                self.typematic = None;
                self.answer(&[ACK, PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    /// Whether a press repeats the key that was pressed last without a release, and whether its code is due.
    fn repeats(&mut self, key: u16, now: u64) -> (bool, bool) {
        let (delay, period) = pace(self.rate);
        match &mut self.typematic {
            Some((held, since, said)) if *held == key => {
                // A saved state may come from a machine with another clock.
                (*since, *said) = ((*since).min(now), (*said).min(now));
                let due = now >= since.saturating_add(delay) && now >= said.saturating_add(period);
                if due {
                    *said = now;
                }
                (true, due)
            }
            _ => {
                self.typematic = Some((key, now, now));
                (false, true)
            }
        }
    }

    /// The state of a key according to the queue of unencoded keys; `None` if the key is not in it.
    fn queued(&self, key: u16) -> Option<bool> {
        self.waiting.iter().rev().find(|(k, _)| *k == key).map(|(_, down)| *down)
    }

    /// A key is pressed or released. `limit` is the most bytes of `input`.
    pub(crate) fn key(&mut self, key: u16, down: bool, now: u64, limit: usize) {
        if keys::code(key).is_none() {
            return;
        }
        if down { self.press(key, now, limit) } else { self.release(key, limit) }
    }

    fn press(&mut self, key: u16, now: u64, limit: usize) {
        if !self.enabled {
            self.typematic = None;
            return;
        }
        let (repeated, due) = self.repeats(key, now);
        if !due || self.queued(key) == Some(true) {
            return;
        }
        let again = repeated && self.queued(key).is_none() && self.down.iter().any(|h| h.key == key);
        if self.waiting.is_empty() && self.encode(key, true, again, limit) || again {
            // Repetitions are not queued.
            return;
        }
        if self.waiting.len() < WAITING {
            self.waiting.push_back((key, true));
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    fn release(&mut self, key: u16, limit: usize) {
        if self.typematic.is_some_and(|(held, ..)| held == key) {
            self.typematic = None;
        }
        let known = self.queued(key).unwrap_or_else(|| self.down.iter().any(|h| h.key == key));
        if self.enabled && self.waiting.is_empty() && self.encode(key, false, false, limit) {
            return;
        }
        // The release of a key that is or will be down for the guest is queued without a limit: each has a press, so their number
        // is bounded.
        if known {
            self.waiting.push_back((key, false));
        }
    }

    /// Encodes a key into `input`, as a whole or not at all.
    fn encode(&mut self, key: u16, down: bool, again: bool, limit: usize) -> bool {
        let modifiers = Modifiers::of(self.down.iter().map(|h| h.key));
        let now = keys::form(key, modifiers, self.leds & 2 != 0);
        let before = self.down.iter().find(|h| h.key == key).map(|h| h.form);
        // A repeated press keeps its form, even if the viewer's release was lost.
        let form = before.unwrap_or(now);
        let bytes = match (self.set, keys::set3(key)) {
            (3, None) => Vec::new(),
            (3, Some(code)) => {
                let once = matches!(keys::code(key), Some(keys::Code::Once(_)));
                match (down, self.kinds.of(code)) {
                    (true, (_, repeat)) if !again || repeat && !once => vec![code],
                    (false, (true, _)) if !once => vec![0xf0, code],
                    _ => Vec::new(),
                }
            }
            (set, _) if down => keys::make(key, set, form, modifiers, again),
            (set, _) => keys::release(key, set, form, modifiers),
        };
        if self.input.len().saturating_add(bytes.len()) > limit {
            return false;
        }
        self.input.extend(bytes);
        self.down.retain(|h| h.key != key);
        if down {
            self.down.push(Held { key, form });
        }
        true
    }

    /// Whether keys can be encoded now: the guest has read all input, and keys are queued.
    pub(crate) fn can_encode(&self) -> bool {
        self.enabled && self.input.is_empty() && !self.waiting.is_empty()
    }

    /// Encodes queued keys as far as they fit.
    pub(crate) fn refill(&mut self, limit: usize) {
        while self.enabled
            && let Some((key, down)) = self.waiting.front().copied()
            && self.encode(key, down, false, limit)
        {
            self.waiting.pop_front();
        }
    }
}

/// Whether keys report their release, and whether they repeat: 0xf7 to 0xfa set it for all keys, 0xfb to 0xfd for the keys that
/// follow.
fn kind(command: u8) -> (bool, bool) {
    match command {
        0xf7 | 0xfb => (false, true),
        0xf8 | 0xfc => (true, false),
        0xf9 | 0xfd => (false, false),
        _ => (true, true),
    }
}
