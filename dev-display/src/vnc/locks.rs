//! The server's knowledge of the guest's Caps Lock and Num Lock: from the keyboard's LEDs, and until they follow, from pressed
//! keys.
use super::keys::code;

/// Bits of the keyboard's LEDs.
const NUM: u8 = 2;
const CAPS: u8 = 4;
/// Nanoseconds in which the LEDs must follow a key. Until then they may still show the previous state.
const FOLLOWS: u64 = 3_000_000_000;

/// The locks of the guest's keyboard.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    caps: bool,
    num: Option<bool>,
    shown: Option<u8>,
    /// The guest has lit one of these LEDs, so they are valid, even if a key has had another effect than usual.
    lit: bool,
    /// Until this time pressed keys count, not the LEDs.
    follows: Option<u64>,
}

impl Locks {
    /// Whether Caps Lock is on.
    pub(crate) fn caps(&self) -> bool {
        self.caps
    }

    /// Whether Num Lock is on; `None` if that is unknown.
    pub(crate) fn num(&self) -> Option<bool> {
        self.num
    }

    /// Handles a change of the keyboard's LEDs.
    pub(crate) fn lights(&mut self, leds: u8, now: u64) {
        self.shown = Some(leds);
        self.lit |= leds & (CAPS | NUM) != 0;
        let same = (leds & CAPS != 0) == self.caps && self.num.is_none_or(|num| num == (leds & NUM != 0));
        if same || self.follows.is_none_or(|until| now >= until) {
            self.adopt(leds);
        }
    }

    fn adopt(&mut self, leds: u8) {
        self.caps = leds & CAPS != 0;
        self.num = Some(leds & NUM != 0);
        self.follows = None;
    }

    /// Handles elapsed time: a key that the LEDs have not followed has had no effect.
    pub(crate) fn settle(&mut self, now: u64) {
        if self.follows.is_some_and(|until| now >= until) {
            self.follows = None;
            if let Some(leds) = self.shown.filter(|_| self.lit) {
                self.adopt(leds);
            }
        }
    }

    /// Handles a key press that is no repetition.
    pub(crate) fn pressed(&mut self, key: u16, now: u64) {
        match key {
            code::CAPS_LOCK => self.caps ^= true,
            code::NUM_LOCK => self.num = self.num.map(|on| !on),
            _ => return,
        }
        self.follows = Some(now.saturating_add(FOLLOWS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lights_count_and_until_they_follow_what_was_pressed() {
        let mut locks = Locks::default();
        assert_eq!((locks.caps(), locks.num()), (false, None));
        // A guest that sets no LEDs: only pressed keys are known.
        locks.pressed(code::CAPS_LOCK, 0);
        locks.settle(2 * FOLLOWS);
        assert_eq!((locks.caps(), locks.num()), (true, None));
        locks.lights(NUM, 2 * FOLLOWS);
        assert_eq!((locks.caps(), locks.num()), (false, Some(true)));
        // A late LED does not undo later key presses.
        locks.pressed(code::CAPS_LOCK, 2 * FOLLOWS);
        locks.pressed(code::NUM_LOCK, 2 * FOLLOWS);
        locks.lights(NUM | CAPS, 2 * FOLLOWS + 1);
        assert_eq!((locks.caps(), locks.num()), (true, Some(false)));
        locks.lights(CAPS, 2 * FOLLOWS + 2);
        locks.lights(NUM, 2 * FOLLOWS + 3);
        assert_eq!((locks.caps(), locks.num()), (false, Some(true)), "the guest itself");
        // A guest whose Caps Lock is another key lights no LED.
        locks.pressed(code::CAPS_LOCK, 3 * FOLLOWS);
        assert!(locks.caps());
        locks.settle(4 * FOLLOWS);
        assert!(!locks.caps());
    }
}
