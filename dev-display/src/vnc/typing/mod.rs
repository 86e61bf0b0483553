//! Converts a viewer's keys to keys of the guest, so that the guest types the viewer's character, independent of modifiers and
//! locks on either side.
use super::keys::{Lock, Meaning, Place, Typed, code, meaning, scancode};
use super::layouts::Layout;
use super::locks::Locks;
use bulkhead_bus::InputEvent;
use std::collections::BTreeMap;

/// The keysym Alt_R.
const ALT_RIGHT: u32 = 0xffea;

/// The reason of a key press that has not been released.
#[derive(Clone, Copy, Debug)]
struct Held {
    keysym: u32,
    /// The scancode that the viewer has sent.
    number: Option<u32>,
    /// For a character: the modifiers at its press; with others the viewer's key has another keysym.
    modifiers: Option<u8>,
}

/// The modifiers that a key press needs. `None`: unchanged.
#[derive(Clone, Copy, Debug, Default)]
struct Need {
    shift: Option<bool>,
    alt_gr: Option<bool>,
    /// Without Ctrl and Alt, which viewers on Windows send together for AltGr.
    alone: bool,
    /// One of these is needed; the first is pressed if neither is held.
    either: Option<[u16; 2]>,
}

/// One viewer's use of the guest's keyboard.
#[derive(Debug)]
pub(crate) struct Typing {
    layout: &'static Layout,
    pressed: BTreeMap<u16, Held>,
}

/// Modifiers, those of characters first. Bit n of a mask stands for the one with index n.
const MODIFIERS: [u16; 8] = [
    code::SHIFT,
    code::SHIFT_RIGHT,
    code::ALT_GR,
    code::CTRL,
    code::CTRL_RIGHT,
    code::ALT,
    code::SUPER,
    code::SUPER_RIGHT,
];

/// Whether the mask `others` has the modifier `code`.
fn held_by(others: u8, code: u16) -> bool {
    MODIFIERS.iter().zip(0..).any(|(c, bit)| *c == code && others >> bit & 1 != 0)
}

/// The server's state that typing uses.
pub(crate) struct Keyboard<'a> {
    pub(crate) locks: &'a mut Locks,
    /// Mask of the modifiers that other viewers hold: the guest has one keyboard.
    pub(crate) others: u8,
    pub(crate) now: u64,
    /// The resulting key events.
    pub(crate) out: &'a mut Vec<InputEvent>,
}

impl Keyboard<'_> {
    fn send(&mut self, code: u16, down: bool) {
        self.out.push(InputEvent::Key { code, down });
    }

    fn others_hold(&self, code: u16) -> bool {
        held_by(self.others, code)
    }

    /// Presses Caps Lock if needed to turn it on or off.
    fn caps(&mut self, on: bool) {
        if self.locks.caps() != on {
            self.locks.pressed(code::CAPS_LOCK, self.now);
            self.send(code::CAPS_LOCK, true);
            self.send(code::CAPS_LOCK, false);
        }
    }
}

impl Typing {
    pub(crate) fn new(layout: &'static Layout) -> Self {
        Self { layout, pressed: BTreeMap::new() }
    }

    fn holds(&self, codes: &[u16]) -> bool {
        codes.iter().any(|c| self.pressed.contains_key(c))
    }

    fn shift(&self) -> bool {
        self.holds(&[code::SHIFT, code::SHIFT_RIGHT])
    }

    /// Mask of the modifiers that this viewer holds, as in [`Keyboard::others`].
    pub(crate) fn held(&self) -> u8 {
        MODIFIERS.iter().rev().fold(0, |all, code| all << 1 | u8::from(self.holds(&[*code])))
    }

    /// Whether a key is down in the guest.
    fn guest_has(&self, code: u16, keyboard: &Keyboard<'_>) -> bool {
        self.holds(&[code]) || keyboard.others_hold(code)
    }

    /// Whether Shift is down in the guest.
    fn shifted(&self, keyboard: &Keyboard<'_>) -> bool {
        self.guest_has(code::SHIFT, keyboard) || self.guest_has(code::SHIFT_RIGHT, keyboard)
    }

    /// Whether a modifier is held that makes keys commands instead of characters.
    fn commands(&self) -> bool {
        self.holds(&[code::CTRL, code::CTRL_RIGHT, code::ALT, code::SUPER, code::SUPER_RIGHT]) || self.right_alt()
    }

    /// Whether the key of AltGr is held as another Alt.
    fn right_alt(&self) -> bool {
        let alt = |held: &Held| !matches!(held.keysym, 0xfe03 | 0xff7e);
        !self.layout.has_alt_gr() && self.pressed.get(&code::ALT_GR).is_some_and(alt)
    }

    fn modifiers(&self, locks: &Locks) -> u8 {
        let bits = [self.shift(), self.holds(&[code::ALT_GR]), locks.caps(), locks.num() == Some(true)];
        bits.iter().fold(0, |all, bit| all << 1 | u8::from(*bit))
    }

    /// Handles a key with its scancode. If the locks of guest and viewer agree, the guest gets the same key; if not, the keysym
    /// counts.
    pub(crate) fn scancode(&mut self, number: u32, keysym: u32, down: bool, keyboard: &mut Keyboard<'_>) {
        let Some(code) = scancode(number) else { return self.keysym(keysym, down, keyboard) };
        if !down {
            let codes: Vec<u16> =
                self.pressed.iter().filter(|(_, h)| h.number == Some(number)).map(|(code, _)| *code).collect();
            return match codes.as_slice() {
                [] => self.up(code, keyboard),
                codes => codes.iter().for_each(|code| self.up(*code, keyboard)),
            };
        }
        keyboard.locks.settle(keyboard.now);
        let held = Held { keysym, number: Some(number), modifiers: None };
        let otherwise = match meaning(keysym, self.shift()) {
            Some(Meaning::Digit(..)) => keyboard.locks.num().is_some_and(|num| num == self.shifted(keyboard)),
            Some(Meaning::Move(..)) => keyboard.locks.num().is_some_and(|num| num != self.shifted(keyboard)),
            Some(Meaning::Character(c)) => {
                let letter = |p: Place| p.code == code && p.lock == Lock::Inverts;
                matches!(self.layout.character(c), Some(Typed::One(place)) if letter(place))
            }
            _ => false,
        };
        match otherwise {
            true => self.press(held, keyboard),
            false => self.down(code, held, Need::default(), keyboard),
        }
    }

    /// Handles a key by its keysym.
    pub(crate) fn keysym(&mut self, keysym: u32, down: bool, keyboard: &mut Keyboard<'_>) {
        keyboard.locks.settle(keyboard.now);
        let held = Held { keysym, number: None, modifiers: None };
        match down {
            true => self.press(held, keyboard),
            false => self.release_keysym(keysym, keyboard),
        }
    }

    fn press(&mut self, held: Held, keyboard: &mut Keyboard<'_>) {
        match meaning(held.keysym, self.shift()) {
            Some(Meaning::Key(code)) => self.down(code, held, Need::default(), keyboard),
            Some(Meaning::With(code, either)) => {
                self.down(code, held, Need { either: Some(either), ..Need::default() }, keyboard);
            }
            Some(Meaning::Digit(code, c)) => self.digit(code, c, held, keyboard),
            Some(Meaning::Move(code, beside)) => {
                // Shift with Num Lock differs between X11 and Windows; the keys beside the keypad depend on neither.
                let as_it_is = self.commands() || keyboard.locks.num() == Some(false) && !self.shifted(keyboard);
                self.down(if as_it_is { code } else { beside }, held, Need::default(), keyboard);
            }
            Some(Meaning::Centre) => {
                let shift = keyboard.locks.num().filter(|_| !self.commands());
                self.down(76, held, Need { shift, ..Need::default() }, keyboard);
            }
            Some(Meaning::Space) => {
                let alt_gr = Some(false).filter(|_| !self.right_alt());
                self.down(57, held, Need { alt_gr, ..Need::default() }, keyboard);
            }
            Some(Meaning::Character(c)) => self.character(c, held, keyboard),
            Some(Meaning::Dead(accent)) => self.typed(self.layout.dead(accent), held, keyboard),
            None => {}
        }
    }

    /// Types a digit without changing Num Lock: if the guest's Num Lock is off or unknown, it uses the row above the letters. With
    /// Alt, only the keypad enters characters by number (Windows).
    fn digit(&mut self, code: u16, c: char, held: Held, keyboard: &mut Keyboard<'_>) {
        let sign = !c.is_ascii_digit();
        match keyboard.locks.num() {
            _ if self.commands() => self.down(code, held, Need::default(), keyboard),
            Some(true) if !sign || c == self.layout.decimal => {
                self.down(code, held, Need { shift: Some(false), ..Need::default() }, keyboard);
            }
            _ => self.character(c, held, keyboard),
        }
    }

    fn character(&mut self, c: char, held: Held, keyboard: &mut Keyboard<'_>) {
        self.typed(self.layout.character(c), held, keyboard);
    }

    fn typed(&mut self, typed: Option<Typed>, held: Held, keyboard: &mut Keyboard<'_>) {
        let held = Held { modifiers: Some(self.modifiers(keyboard.locks)), ..held };
        match typed {
            Some(Typed::One(place)) => {
                let need = self.need(place, keyboard);
                self.down(place.code, held, need, keyboard);
            }
            // Pressed and released at once, because a composed character cannot be held.
            Some(Typed::Two(dead, letter)) => {
                for place in [dead, letter] {
                    let need = self.need(place, keyboard);
                    self.down(place.code, held, need, keyboard);
                    self.up(place.code, keyboard);
                }
            }
            None => {}
        }
    }

    /// The modifiers for a character; sets Caps Lock as needed.
    fn need(&self, place: Place, keyboard: &mut Keyboard<'_>) -> Need {
        let (shift, alt_gr) = (place.level & 1 != 0, place.level & 2 != 0);
        let caps = keyboard.locks.caps();
        let commands = self.commands();
        let shift = match place.lock {
            Lock::Inverts if caps && commands => None,
            Lock::Inverts => Some(shift ^ caps),
            _ => Some(shift),
        };
        // A held Caps Lock does not toggle when it is pressed again.
        if matches!(place.lock, Lock::Off | Lock::On) && !commands && !self.holds(&[code::CAPS_LOCK]) {
            keyboard.caps(place.lock == Lock::On);
        }
        let windows = self.holds(&[code::CTRL, code::CTRL_RIGHT])
            && (self.holds(&[code::ALT]) || self.pressed.get(&code::ALT_GR).is_some_and(|h| h.keysym == ALT_RIGHT));
        let alt_gr_or_alt = Some(alt_gr).filter(|on| *on || !self.right_alt());
        Need { shift, alt_gr: alt_gr_or_alt, alone: alt_gr && windows, either: None }
    }

    /// Presses a key, with the needed modifiers around the press. A key that is already down is pressed again, because viewers
    /// repeat held keys.
    fn down(&mut self, code: u16, held: Held, need: Need, keyboard: &mut Keyboard<'_>) {
        let mut around = Vec::new();
        let shifts = [code::SHIFT, code::SHIFT_RIGHT];
        for (codes, on) in [(shifts.as_slice(), need.shift), (&[code::ALT_GR], need.alt_gr)] {
            match on {
                Some(true) if !codes.iter().any(|c| self.guest_has(*c, keyboard)) => {
                    around.extend(codes.first().map(|c| (*c, true)))
                }
                Some(false) => {
                    around.extend(codes.iter().filter(|c| self.guest_has(**c, keyboard)).map(|c| (*c, false)));
                }
                _ => {}
            }
        }
        if need.alone {
            let others = [code::CTRL, code::CTRL_RIGHT, code::ALT];
            around.extend(others.iter().filter(|c| self.holds(&[**c])).map(|c| (*c, false)));
        }
        around.extend(need.either.filter(|codes| !self.holds(codes)).map(|[first, _]| (first, true)));
        around.iter().for_each(|(code, down)| keyboard.send(*code, *down));
        if self.pressed.insert(code, held).is_none() {
            keyboard.locks.pressed(code, keyboard.now);
        }
        keyboard.send(code, true);
        around.iter().rev().for_each(|(code, down)| keyboard.send(*code, !*down));
    }

    fn up(&mut self, code: u16, keyboard: &mut Keyboard<'_>) {
        self.pressed.remove(&code);
        if !keyboard.others_hold(code) {
            keyboard.send(code, false);
        }
    }

    /// Releases the key of a keysym. The keysym may differ from that of the press, if Shift was released first or a lock has
    /// changed.
    fn release_keysym(&mut self, keysym: u32, keyboard: &mut Keyboard<'_>) {
        let pressed = |which: &dyn Fn(&Held) -> bool| -> Vec<u16> {
            self.pressed.iter().filter(|(_, held)| which(held)).map(|(code, _)| *code).collect()
        };
        let pad = |keysym| match meaning(keysym, false) {
            Some(Meaning::Digit(code, _) | Meaning::Move(code, _)) => Some(code),
            _ => None,
        };
        let mut codes = pressed(&|held| held.keysym == keysym);
        if codes.is_empty() && pad(keysym).is_some() {
            codes = pressed(&|held| pad(held.keysym) == pad(keysym));
        }
        let meaning = meaning(keysym, self.shift());
        let usual = match meaning {
            Some(Meaning::Key(c) | Meaning::With(c, _) | Meaning::Digit(c, _) | Meaning::Move(c, _)) => Some(c),
            Some(Meaning::Centre) => Some(76),
            Some(Meaning::Space) => Some(57),
            Some(Meaning::Character(c)) => match self.layout.character(c) {
                Some(Typed::One(place)) => Some(place.code),
                _ => None,
            },
            Some(Meaning::Dead(accent)) => match self.layout.dead(accent) {
                Some(Typed::One(place)) => Some(place.code),
                _ => None,
            },
            None => None,
        };
        if codes.is_empty() {
            codes.extend(usual.filter(|code| self.pressed.contains_key(code)));
        }
        if codes.is_empty() && !matches!(meaning, Some(Meaning::Key(_) | Meaning::With(..))) {
            let now = self.modifiers(keyboard.locks);
            codes = pressed(&|held| held.number.is_none() && held.modifiers.is_some_and(|then| then != now));
        }
        if codes.is_empty() {
            codes.extend(usual);
        }
        codes.into_iter().for_each(|code| self.up(code, keyboard));
    }

    /// Releases all keys, except modifiers that `others` hold.
    pub(crate) fn release(&mut self, others: u8, out: &mut Vec<InputEvent>) {
        let pressed = std::mem::take(&mut self.pressed).into_keys().filter(|code| !held_by(others, *code));
        out.extend(pressed.map(|code| InputEvent::Key { code, down: false }));
    }
}

#[cfg(test)]
mod tests;
