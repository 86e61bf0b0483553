//! What a viewer types and points at, as events of keyboard and mouse.
use super::keys::{Key, Layout, code, scancode};
use bulkhead_bus::InputEvent;
use std::collections::BTreeSet;

/// With QEMU's pointer-motion-change the viewer sends movement, from this value on.
const ORIGIN: i32 = 0x7fff;
/// RFB's buttons (RFC 6143, 7.5.5) as a mouse has them: left, middle, right.
const BUTTONS: [(u8, u8); 3] = [(1, 0), (2, 2), (4, 1)];
/// Wheel up and down.
const WHEEL: [(u8, i32); 2] = [(8, -1), (16, 1)];

/// What a viewer's pointer events mean to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pointing {
    /// Places on a screen of this size, which the guest takes.
    Places((usize, usize)),
    /// Places, of which the guest takes the differences.
    Positions,
    /// Movement.
    Movement,
}

/// Keys and buttons of a viewer.
#[derive(Debug)]
pub(crate) struct Input {
    layout: &'static Layout,
    pressed: BTreeSet<u16>,
    caps: bool,
    buttons: u8,
    at: Option<(u16, u16)>,
}

impl Input {
    pub(crate) fn new(layout: &'static Layout) -> Self {
        Self { layout, pressed: BTreeSet::new(), caps: false, buttons: 0, at: None }
    }

    /// Caps Lock, as the guest's keyboard shows it.
    pub(crate) fn caps(&mut self, on: bool) {
        self.caps = on;
    }

    fn key(&mut self, code: u16, down: bool, out: &mut Vec<InputEvent>) {
        if down {
            self.pressed.insert(code);
            self.caps ^= code == code::CAPS_LOCK;
        } else {
            self.pressed.remove(&code);
        }
        out.push(InputEvent::Key { code, down });
    }

    /// A key by its place.
    pub(crate) fn scancode(&mut self, number: u32, keysym: u32, down: bool, out: &mut Vec<InputEvent>) {
        match scancode(number) {
            Some(code) => self.key(code, down, out),
            None => self.keysym(keysym, down, out),
        }
    }

    /// A key by what it means. If the modifiers are not those that the character needs, it gets them for a moment.
    pub(crate) fn keysym(&mut self, keysym: u32, down: bool, out: &mut Vec<InputEvent>) {
        let Some((code, level)): Option<Key> = self.layout.keysym(keysym) else { return };
        if !down || self.pressed.contains(&code) {
            return self.key(code, down, out);
        }
        let held = |codes: &[u16]| codes.iter().copied().find(|c| self.pressed.contains(c));
        let (shift, alt_gr) = (held(&[code::SHIFT, code::SHIFT_RIGHT]), held(&[code::ALT_GR]));
        let letter = char::from_u32(keysym).is_some_and(char::is_alphabetic);
        let mut around = Vec::new();
        match level {
            Some(1) if shift.is_none() && !(letter && self.caps) => around.push((code::SHIFT, true)),
            Some(0) if !(letter && self.caps) => around.extend(shift.map(|s| (s, false))),
            Some(2) if alt_gr.is_none() => around.push((code::ALT_GR, true)),
            _ => {}
        }
        out.extend(around.iter().map(|(code, down)| InputEvent::Key { code: *code, down: *down }));
        self.key(code, true, out);
        out.extend(around.iter().rev().map(|(code, down)| InputEvent::Key { code: *code, down: !*down }));
    }

    /// The pointer: which buttons are pressed, and where it is or how far it went.
    pub(crate) fn pointer(&mut self, buttons: u8, x: u16, y: u16, pointing: Pointing, out: &mut Vec<InputEvent>) {
        let far = |a: u16, b: u16| i32::from(a).saturating_sub(i32::from(b));
        let before = self.at.replace((x, y));
        if let Pointing::Places((width, height)) = pointing
            && before != self.at
        {
            out.push(crate::sinks::place(usize::from(x), usize::from(y), (width, height)));
        }
        let (dx, dy) = match before {
            _ if matches!(pointing, Pointing::Places(_)) => (0, 0),
            _ if pointing == Pointing::Movement => {
                (i32::from(x).saturating_sub(ORIGIN), i32::from(y).saturating_sub(ORIGIN))
            }
            Some(before) => (far(x, before.0), far(y, before.1)),
            None => (0, 0),
        };
        if dx != 0 || dy != 0 {
            out.push(InputEvent::Move { dx, dy, dz: 0 });
        }
        let changed = self.buttons ^ buttons;
        for (mask, button) in BUTTONS {
            if changed & mask != 0 {
                out.push(InputEvent::Button { button, down: buttons & mask != 0 });
            }
        }
        for (mask, dz) in WHEEL {
            if changed & buttons & mask != 0 {
                out.push(InputEvent::Move { dx: 0, dy: 0, dz });
            }
        }
        self.buttons = buttons;
    }

    /// Everything is let go.
    pub(crate) fn release(&mut self, out: &mut Vec<InputEvent>) {
        out.extend(std::mem::take(&mut self.pressed).into_iter().map(|code| InputEvent::Key { code, down: false }));
        for (mask, button) in BUTTONS {
            if self.buttons & mask != 0 {
                out.push(InputEvent::Button { button, down: false });
            }
        }
        self.buttons = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(layout: &str, keys: &[(u32, bool)]) -> Vec<(u16, bool)> {
        let (mut input, mut out) = (Input::new(Layout::named(layout).unwrap()), Vec::new());
        keys.iter().for_each(|(k, down)| input.keysym(*k, *down, &mut out));
        out.into_iter().map(|e| if let InputEvent::Key { code, down } = e { (code, down) } else { panic!() }).collect()
    }

    #[test]
    fn a_character_gets_the_modifiers_that_it_needs() {
        let a = 'A' as u32;
        // Who holds Shift gets nothing more.
        assert_eq!(typed("en-us", &[(0xffe1, true), (a, true), (a, false)]), [(42, true), (30, true), (30, false)]);
        assert_eq!(typed("en-us", &[(a, true), (a, false)]), [(42, true), (30, true), (42, false), (30, false)]);
        assert_eq!(typed("de", &[(0x40, true)]), [(100, true), (16, true), (100, false)]);
        // A French 1 without Shift, a digit that a viewer's other layout has plain while it holds Shift.
        assert_eq!(typed("fr", &[(0x31, true)]), [(42, true), (2, true), (42, false)]);
        assert_eq!(typed("en-us", &[(0xffe1, true), (0x37, true)]), [(42, true), (42, false), (8, true), (42, true)]);
        // Caps Lock is the guest's too.
        assert_eq!(
            typed("en-us", &[(0xffe5, true), (0xffe5, false), (a, true)]),
            [(58, true), (58, false), (30, true)]
        );
        // A key that repeats is pressed again.
        assert_eq!(typed("en-us", &[(0x61, true), (0x61, true), (0x61, false)]), [(30, true), (30, true), (30, false)]);
    }

    #[test]
    fn what_is_held_is_let_go_and_positions_are_movement() {
        let (mut input, mut out) = (Input::new(Layout::named("en-us").unwrap()), Vec::new());
        input.scancode(0x1d, 0, true, &mut out);
        input.scancode(0xd3, 0, true, &mut out);
        input.pointer(0, 100, 100, Pointing::Positions, &mut out);
        input.pointer(1, 90, 130, Pointing::Positions, &mut out);
        input.pointer(1 | 8, 90, 130, Pointing::Positions, &mut out);
        input.pointer(1, 0x7fff + 3, 0x7fff - 4, Pointing::Movement, &mut out);
        input.pointer(1, 639, 0, Pointing::Places((640, 480)), &mut out);
        out.drain(..2);
        let moved = |dx, dy, dz| InputEvent::Move { dx, dy, dz };
        assert_eq!(
            out,
            [
                moved(-10, 30, 0),
                InputEvent::Button { button: 0, down: true },
                moved(0, 0, -1),
                moved(3, -4, 0),
                InputEvent::At { x: 0x7fff, y: 0 }
            ]
        );
        out.clear();
        input.release(&mut out);
        input.release(&mut out);
        assert_eq!(
            out,
            [
                InputEvent::Key { code: 29, down: false },
                InputEvent::Key { code: 111, down: false },
                InputEvent::Button { button: 0, down: false }
            ]
        );
    }
}
