//! Converts a viewer's keys and pointer to events of keyboard and mouse.
use super::layouts::Layout;
use super::typing::{Keyboard, Typing};
use bulkhead_bus::InputEvent;

/// With QEMU's pointer-motion-change the viewer sends movement, relative to this value.
const ORIGIN: i32 = 0x7fff;
/// RFB's button bits (RFC 6143, 7.5.5) and the mouse's button numbers: left, middle, right.
const BUTTONS: [(u8, u8); 3] = [(1, 0), (2, 2), (4, 1)];
/// RFB's bits for the wheel, and the steps: up and down.
const WHEEL: [(u8, i32); 2] = [(8, -1), (16, 1)];

/// The conversion of a viewer's pointer events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pointing {
    /// Absolute positions on a screen of this size, which the guest accepts.
    Places((usize, usize)),
    /// Absolute positions, whose differences the guest gets.
    Positions,
    /// Relative movement.
    Movement,
}

/// The state of a viewer's keys and buttons.
#[derive(Debug)]
pub(crate) struct Input {
    typing: Typing,
    buttons: u8,
    at: Option<(u16, u16)>,
}

impl Input {
    pub(crate) fn new(layout: &'static Layout) -> Self {
        Self { typing: Typing::new(layout), buttons: 0, at: None }
    }

    /// Modifiers that the viewer holds, as bits of [`Keyboard::others`].
    pub(crate) fn held(&self) -> u8 {
        self.typing.held()
    }

    /// Handles a key with its scancode.
    pub(crate) fn scancode(&mut self, number: u32, keysym: u32, down: bool, keyboard: &mut Keyboard<'_>) {
        self.typing.scancode(number, keysym, down, keyboard);
    }

    /// Handles a key by its keysym.
    pub(crate) fn keysym(&mut self, keysym: u32, down: bool, keyboard: &mut Keyboard<'_>) {
        self.typing.keysym(keysym, down, keyboard);
    }

    /// Handles a pointer event: pressed buttons, and a position or movement.
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

    /// Releases all keys and buttons, except modifiers that `others` hold.
    pub(crate) fn release(&mut self, others: u8, out: &mut Vec<InputEvent>) {
        self.typing.release(others, out);
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
    use super::super::locks::Locks;
    use super::*;

    #[test]
    fn held_keys_are_released_and_positions_become_movement() {
        let mut input = Input::new(Layout::named("en-us").unwrap());
        let (mut locks, mut out) = (Locks::default(), Vec::new());
        let mut keyboard = Keyboard { locks: &mut locks, others: 0, now: 0, out: &mut out };
        input.scancode(0x1d, 0, true, &mut keyboard);
        input.scancode(0xd3, 0, true, &mut keyboard);
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
        input.release(0, &mut out);
        input.release(0, &mut out);
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
