//! Caps Lock and Num Lock of the guest, as far as its viewers' server knows: by the keyboard's lights, and until they follow by what is pressed.
use super::keys::code;

/// Bits of the keyboard's lights.
const NUM: u8 = 2;
const CAPS: u8 = 4;
/// Nanoseconds that the lights have to follow a key. Until then they may still show what was before it.
const FOLLOWS: u64 = 3_000_000_000;

/// The locks of the guest's keyboard.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    caps: bool,
    num: Option<bool>,
    shown: Option<u8>,
    /// The guest has lit one of these lights: then they say what is, also when a key did not do what it does elsewhere.
    lit: bool,
    /// Until then what was pressed counts, not the lights.
    follows: Option<u64>,
}

impl Locks {
    /// Whether Caps Lock is on.
    pub(crate) fn caps(&self) -> bool {
        self.caps
    }

    /// Whether Num Lock is on, if that is known.
    pub(crate) fn num(&self) -> Option<bool> {
        self.num
    }

    /// The keyboard's lights.
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

    /// Time has gone by: a key that the lights have not followed has locked nothing.
    pub(crate) fn settle(&mut self, now: u64) {
        if self.follows.is_some_and(|until| now >= until) {
            self.follows = None;
            if let Some(leds) = self.shown.filter(|_| self.lit) {
                self.adopt(leds);
            }
        }
    }

    /// A key has gone down that was up.
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
        // A guest without lights: what was pressed is all that is known.
        locks.pressed(code::CAPS_LOCK, 0);
        locks.settle(2 * FOLLOWS);
        assert_eq!((locks.caps(), locks.num()), (true, None));
        locks.lights(NUM, 2 * FOLLOWS);
        assert_eq!((locks.caps(), locks.num()), (false, Some(true)));
        // A light that is late does not undo what was pressed since.
        locks.pressed(code::CAPS_LOCK, 2 * FOLLOWS);
        locks.pressed(code::NUM_LOCK, 2 * FOLLOWS);
        locks.lights(NUM | CAPS, 2 * FOLLOWS + 1);
        assert_eq!((locks.caps(), locks.num()), (true, Some(false)));
        locks.lights(CAPS, 2 * FOLLOWS + 2);
        locks.lights(NUM, 2 * FOLLOWS + 3);
        assert_eq!((locks.caps(), locks.num()), (false, Some(true)), "the guest itself");
        // A guest whose Caps Lock is another key shows no light.
        locks.pressed(code::CAPS_LOCK, 3 * FOLLOWS);
        assert!(locks.caps());
        locks.settle(4 * FOLLOWS);
        assert!(!locks.caps());
    }
}
