//! Tablet, mouse and keyboard (HID 1.11): what they say of themselves, and their reports.
use bulkhead_bus::{InputEvent, UsbDevice};
use std::collections::VecDeque;

/// Reports that wait; then movement is put together and the oldest is lost.
const QUEUE: usize = 32;

/// A pointer with five buttons, an absolute position (0 to 0x7fff) and a wheel.
const TABLET: &[u8] = &[
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1,
    0x00, // Generic Desktop, Mouse: Application, Pointer: Physical
    0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25, 0x01, 0x95, 0x05, 0x75, 0x01, 0x81, 0x02, // Buttons 1-5
    0x95, 0x01, 0x75, 0x03, 0x81, 0x01, // three bits of nothing
    0x05, 0x01, 0x09, 0x30, 0x09, 0x31, 0x15, 0x00, 0x26, 0xff, 0x7f, 0x35, 0x00, 0x46, 0xff, 0x7f, 0x75, 0x10, 0x95,
    0x02, 0x81, 0x02, // X, Y
    0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x35, 0x00, 0x45, 0x00, 0x75, 0x08, 0x95, 0x01, 0x81, 0x06, // Wheel
    0xc0, 0xc0,
];
/// A pointer with five buttons, movement and a wheel; its first three bytes are the boot protocol's.
const MOUSE: &[u8] = &[
    0x05, 0x01, 0x09, 0x02, 0xa1, 0x01, 0x09, 0x01, 0xa1, 0x00, 0x05, 0x09, 0x19, 0x01, 0x29, 0x05, 0x15, 0x00, 0x25,
    0x01, 0x95, 0x05, 0x75, 0x01, 0x81, 0x02, 0x95, 0x01, 0x75, 0x03, 0x81, 0x01, 0x05, 0x01, 0x09, 0x30, 0x09, 0x31,
    0x09, 0x38, 0x15, 0x81, 0x25, 0x7f, 0x75, 0x08, 0x95, 0x03, 0x81, 0x06, 0xc0, 0xc0,
];
/// Modifiers, lights, six keys: the boot protocol's report (HID 1.11, appendix B.1).
const KEYBOARD: &[u8] = &[
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95,
    0x08, 0x81, 0x02, 0x95, 0x01, 0x75, 0x08, 0x81, 0x01, 0x95, 0x05, 0x75, 0x01, 0x05, 0x08, 0x19, 0x01, 0x29, 0x05,
    0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x01, 0x95, 0x06, 0x75, 0x08, 0x15, 0x00, 0x26, 0xff, 0x00, 0x05, 0x07,
    0x19, 0x00, 0x2a, 0xff, 0x00, 0x81, 0x00, 0xc0,
];

/// Usages of the keyboard page (HID Usage Tables, 10) by evdev code; 0: none.
const USAGES: [u8; 128] = {
    let mut t = [0u8; 128];
    const KEYS: &[(usize, u8)] = &[
        (1, 0x29),
        (2, 0x1e),
        (3, 0x1f),
        (4, 0x20),
        (5, 0x21),
        (6, 0x22),
        (7, 0x23),
        (8, 0x24),
        (9, 0x25),
        (10, 0x26),
        (11, 0x27),
        (12, 0x2d),
        (13, 0x2e),
        (14, 0x2a),
        (15, 0x2b),
        (16, 0x14),
        (17, 0x1a),
        (18, 0x08),
        (19, 0x15),
        (20, 0x17),
        (21, 0x1c),
        (22, 0x18),
        (23, 0x0c),
        (24, 0x12),
        (25, 0x13),
        (26, 0x2f),
        (27, 0x30),
        (28, 0x28),
        (29, 0xe0),
        (30, 0x04),
        (31, 0x16),
        (32, 0x07),
        (33, 0x09),
        (34, 0x0a),
        (35, 0x0b),
        (36, 0x0d),
        (37, 0x0e),
        (38, 0x0f),
        (39, 0x33),
        (40, 0x34),
        (41, 0x35),
        (42, 0xe1),
        (43, 0x31),
        (44, 0x1d),
        (45, 0x1b),
        (46, 0x06),
        (47, 0x19),
        (48, 0x05),
        (49, 0x11),
        (50, 0x10),
        (51, 0x36),
        (52, 0x37),
        (53, 0x38),
        (54, 0xe5),
        (55, 0x55),
        (56, 0xe2),
        (57, 0x2c),
        (58, 0x39),
        (59, 0x3a),
        (60, 0x3b),
        (61, 0x3c),
        (62, 0x3d),
        (63, 0x3e),
        (64, 0x3f),
        (65, 0x40),
        (66, 0x41),
        (67, 0x42),
        (68, 0x43),
        (69, 0x53),
        (70, 0x47),
        (71, 0x5f),
        (72, 0x60),
        (73, 0x61),
        (74, 0x56),
        (75, 0x5c),
        (76, 0x5d),
        (77, 0x5e),
        (78, 0x57),
        (79, 0x59),
        (80, 0x5a),
        (81, 0x5b),
        (82, 0x62),
        (83, 0x63),
        (86, 0x64),
        (87, 0x44),
        (88, 0x45),
        (89, 0x87),
        (92, 0x8a),
        (93, 0x88),
        (94, 0x8b),
        (96, 0x58),
        (97, 0xe4),
        (98, 0x54),
        (99, 0x46),
        (100, 0xe6),
        (102, 0x4a),
        (103, 0x52),
        (104, 0x4b),
        (105, 0x50),
        (106, 0x4f),
        (107, 0x4d),
        (108, 0x51),
        (109, 0x4e),
        (110, 0x49),
        (111, 0x4c),
        (113, 0x7f),
        (114, 0x81),
        (115, 0x80),
        (116, 0x66),
        (119, 0x48),
        (121, 0x85),
        (124, 0x89),
        (125, 0xe3),
        (126, 0xe7),
        (127, 0x65),
    ];
    let mut i = 0;
    #[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // evaluated by the compiler
    while i < KEYS.len() {
        t[KEYS[i].0] = KEYS[i].1;
        i += 1;
    }
    t
};

/// A pointer's report that waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pointed {
    buttons: u8,
    x: i32,
    y: i32,
    wheel: i32,
}

/// A human interface device.
#[derive(Clone, Debug)]
pub(crate) struct Hid {
    pub(crate) kind: UsbDevice,
    /// 0: the boot protocol.
    pub(crate) protocol: u8,
    pub(crate) idle: u8,
    /// Num Lock, Caps Lock, Scroll Lock and so on (HID Usage Tables, 11).
    pub(crate) leds: u8,
    pointed: VecDeque<Pointed>,
    now: Pointed,
    keys: VecDeque<(u8, bool)>,
    /// Modifiers, then keys that are down, in the order in which they went down.
    modifiers: u8,
    down: Vec<u8>,
}

impl Hid {
    pub(crate) fn new(kind: UsbDevice) -> Self {
        Self {
            kind,
            protocol: 1,
            idle: 0,
            leds: 0,
            pointed: VecDeque::new(),
            now: Pointed::default(),
            keys: VecDeque::new(),
            modifiers: 0,
            down: Vec::new(),
        }
    }

    /// The report descriptor.
    pub(crate) fn report_descriptor(&self) -> &'static [u8] {
        match self.kind {
            UsbDevice::Tablet => TABLET,
            UsbDevice::Mouse => MOUSE,
            UsbDevice::Keyboard => KEYBOARD,
        }
    }

    /// Subclass and protocol of the interface: what a BIOS may use by the boot protocol.
    pub(crate) fn interface(&self) -> (u8, u8) {
        match self.kind {
            UsbDevice::Tablet => (0, 0),
            UsbDevice::Mouse => (1, 2),
            UsbDevice::Keyboard => (1, 1),
        }
    }

    /// As after a reset of the bus.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.kind);
    }

    /// Takes an event that is for this kind of device.
    pub(crate) fn input(&mut self, event: InputEvent) {
        let mut next = Pointed { wheel: 0, ..self.now };
        if self.kind == UsbDevice::Mouse {
            (next.x, next.y) = (0, 0);
        }
        match (self.kind, event) {
            (UsbDevice::Keyboard, InputEvent::Key { code, down }) => {
                let usage = USAGES.get(usize::from(code)).copied().unwrap_or(0);
                if usage != 0 && self.keys.len() < QUEUE.saturating_mul(2) {
                    self.keys.push_back((usage, down));
                }
                return;
            }
            (UsbDevice::Tablet, InputEvent::At { x, y }) => (next.x, next.y) = (i32::from(x), i32::from(y)),
            (UsbDevice::Mouse, InputEvent::Move { dx, dy, dz }) => {
                (next.x, next.y, next.wheel) = (dx, dy, dz.saturating_neg())
            }
            (UsbDevice::Tablet, InputEvent::Move { dz, .. }) if dz != 0 => next.wheel = dz.saturating_neg(),
            (UsbDevice::Tablet | UsbDevice::Mouse, InputEvent::Button { button: button @ 0..=4, down }) => {
                let bit = 1u8 << button;
                next.buttons = if down { next.buttons | bit } else { next.buttons & !bit };
            }
            _ => return,
        }
        self.now = Pointed { wheel: 0, ..next };
        let moves = self.kind == UsbDevice::Mouse;
        match self.pointed.back_mut() {
            Some(last) if last.buttons == next.buttons && last.wheel == 0 && next.wheel == 0 => {
                // Only movement: the last word, or the sum.
                let limit = |v: i32| v.clamp(-0x7fff, 0x7fff);
                (last.x, last.y) = if moves {
                    (limit(last.x.saturating_add(next.x)), limit(last.y.saturating_add(next.y)))
                } else {
                    (next.x, next.y)
                };
            }
            _ => {
                if self.pointed.len() >= QUEUE {
                    self.pointed.pop_front();
                }
                self.pointed.push_back(next);
            }
        }
    }

    /// The next report, if there is one that has not been told.
    pub(crate) fn poll(&mut self) -> Option<Vec<u8>> {
        if self.kind == UsbDevice::Keyboard {
            let (usage, down) = self.keys.pop_front()?;
            self.press(usage, down);
            return Some(self.report());
        }
        let next = self.pointed.pop_front()?;
        if self.kind == UsbDevice::Tablet {
            return Some(Self::tablet(next));
        }
        // A report moves by 127 at most: what is left comes with the next one.
        let step = |v: i32| v.clamp(-127, 127);
        let rest = Pointed {
            x: next.x.saturating_sub(step(next.x)),
            y: next.y.saturating_sub(step(next.y)),
            wheel: 0,
            ..next
        };
        if rest.x != 0 || rest.y != 0 {
            self.pointed.push_front(rest);
        }
        let bytes = [next.buttons, step(next.x) as u8, step(next.y) as u8, step(next.wheel) as u8];
        // The boot protocol has no wheel (HID 1.11, appendix B.2).
        Some(bytes.get(..if self.protocol == 0 { 3 } else { 4 }).unwrap_or_default().to_vec())
    }

    fn tablet(p: Pointed) -> Vec<u8> {
        let ([x0, x1], [y0, y1]) = ((p.x as u16).to_le_bytes(), (p.y as u16).to_le_bytes());
        vec![p.buttons, x0, x1, y0, y1, p.wheel.clamp(-127, 127) as u8]
    }

    fn press(&mut self, usage: u8, down: bool) {
        if let Some(bit) = usage.checked_sub(0xe0).filter(|b| *b < 8) {
            self.modifiers = if down { self.modifiers | 1 << bit } else { self.modifiers & !(1 << bit) };
            return;
        }
        self.down.retain(|u| *u != usage);
        if down && self.down.len() < QUEUE {
            self.down.push(usage);
        }
    }

    /// The report as things are.
    pub(crate) fn report(&self) -> Vec<u8> {
        match self.kind {
            UsbDevice::Tablet => Self::tablet(self.now),
            UsbDevice::Mouse => vec![self.now.buttons, 0, 0, 0],
            UsbDevice::Keyboard => {
                let mut report = vec![self.modifiers, 0];
                // More than six: ErrorRollOver in all places.
                report.extend(if self.down.len() > 6 { vec![1; 6] } else { self.down.clone() });
                report.resize(8, 0);
                report
            }
        }
    }

    /// Something waits to be asked for.
    pub(crate) fn waits(&self) -> bool {
        !self.pointed.is_empty() || !self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablet_tells_places_and_puts_movement_together() {
        let mut t = Hid::new(UsbDevice::Tablet);
        assert_eq!(t.poll(), None);
        for i in 0..100 {
            t.input(InputEvent::At { x: i, y: 0x7fff });
        }
        t.input(InputEvent::Button { button: 0, down: true });
        t.input(InputEvent::Move { dx: 5, dy: 5, dz: -1 });
        t.input(InputEvent::Button { button: 0, down: false });
        let all: Vec<_> = std::iter::from_fn(|| t.poll()).collect();
        assert_eq!(
            all,
            [
                [0, 99, 0, 0xff, 0x7f, 0],
                [1, 99, 0, 0xff, 0x7f, 0],
                [1, 99, 0, 0xff, 0x7f, 1],
                [0, 99, 0, 0xff, 0x7f, 0]
            ]
        );
        for i in 0..1000u16 {
            t.input(InputEvent::Button { button: (i % 5) as u8, down: i % 2 == 0 });
        }
        assert_eq!(std::iter::from_fn(|| t.poll()).count(), QUEUE);
    }

    #[test]
    fn a_mouse_moves_in_steps_and_its_boot_protocol_has_no_wheel() {
        let mut m = Hid::new(UsbDevice::Mouse);
        m.input(InputEvent::Move { dx: 200, dy: -10, dz: 0 });
        m.input(InputEvent::Move { dx: 50, dy: 0, dz: 0 });
        m.input(InputEvent::Move { dx: 0, dy: 0, dz: 1 });
        let all: Vec<_> = std::iter::from_fn(|| m.poll()).collect();
        assert_eq!(all, [[0, 127, 246, 0], [0, 123, 0, 0], [0, 0, 0, 255]]);
        m.protocol = 0;
        m.input(InputEvent::Button { button: 2, down: true });
        assert_eq!(m.poll(), Some(vec![4, 0, 0]));
    }

    #[test]
    fn a_keyboard_reports_six_keys_and_says_when_there_are_more() {
        let mut k = Hid::new(UsbDevice::Keyboard);
        for code in [42, 30, 48] {
            k.input(InputEvent::Key { code, down: true });
        }
        assert_eq!(
            (k.poll(), k.poll(), k.poll()),
            (
                Some(vec![2, 0, 0, 0, 0, 0, 0, 0]),
                Some(vec![2, 0, 4, 0, 0, 0, 0, 0]),
                Some(vec![2, 0, 4, 5, 0, 0, 0, 0])
            )
        );
        for (codes, report) in [
            (2..=5, [2, 0, 4, 5, 0x1e, 0x1f, 0x20, 0x21]),
            (6..=6, [2, 0, 1, 1, 1, 1, 1, 1]),
            (7..=7, [2, 0, 1, 1, 1, 1, 1, 1]),
        ] {
            for code in codes {
                k.input(InputEvent::Key { code, down: true });
            }
            assert_eq!(std::iter::from_fn(|| k.poll()).last().unwrap(), report);
        }
        for code in [2, 3, 4, 5, 6, 7, 30, 48, 42] {
            k.input(InputEvent::Key { code, down: false });
        }
        assert_eq!(std::iter::from_fn(|| k.poll()).last().unwrap(), [0; 8]);
        k.input(InputEvent::Key { code: 500, down: true });
        assert!(!k.waits());
    }
}
