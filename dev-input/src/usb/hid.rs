//! Tablet, mouse and keyboard (HID 1.11): their report descriptors and reports.
use super::usages::USAGES;
use bulkhead_bus::{InputEvent, UsbDevice};
use std::collections::VecDeque;

/// Most queued reports of a pointer; beyond it movement is merged, and the oldest report is lost.
pub(super) const QUEUE: usize = 32;
/// Most queued keys; further presses are lost. A release is queued beyond the limit if its press was queued or reported.
const KEYS: usize = 64;
/// Milliseconds of one unit of the idle rate (HID 1.11, 7.2.4).
const IDLE_STEP: u32 = 4;
/// The longest idle period in milliseconds; time beyond it is not counted.
const LONGEST_IDLE: u32 = 255 * IDLE_STEP;

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
/// Modifiers, LEDs, six keys: the boot protocol's report (HID 1.11, appendix B.1).
const KEYBOARD: &[u8] = &[
    0x05, 0x01, 0x09, 0x06, 0xa1, 0x01, 0x05, 0x07, 0x19, 0xe0, 0x29, 0xe7, 0x15, 0x00, 0x25, 0x01, 0x75, 0x01, 0x95,
    0x08, 0x81, 0x02, 0x95, 0x01, 0x75, 0x08, 0x81, 0x01, 0x95, 0x05, 0x75, 0x01, 0x05, 0x08, 0x19, 0x01, 0x29, 0x05,
    0x91, 0x02, 0x95, 0x01, 0x75, 0x03, 0x91, 0x01, 0x95, 0x06, 0x75, 0x08, 0x15, 0x00, 0x26, 0xff, 0x00, 0x05, 0x07,
    0x19, 0x00, 0x2a, 0xff, 0x00, 0x81, 0x00, 0xc0,
];

/// A queued report of a pointer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pointed {
    pub(super) buttons: u8,
    pub(super) x: i32,
    pub(super) y: i32,
    pub(super) wheel: i32,
}

/// A human interface device.
#[derive(Clone, Debug)]
pub(crate) struct Hid {
    pub(crate) kind: UsbDevice,
    /// 0: the boot protocol.
    pub(crate) protocol: u8,
    /// Idle rate in units of 4 ms: the period after which the last report is repeated; 0: only changes are reported (HID 1.11,
    /// 7.2.4).
    pub(crate) idle: u8,
    /// Milliseconds since the last report.
    pub(super) quiet: u32,
    /// Num Lock, Caps Lock, Scroll Lock and so on (HID Usage Tables, 11).
    pub(crate) leds: u8,
    pub(super) pointed: VecDeque<Pointed>,
    pub(super) now: Pointed,
    /// Queued keys: usage, and whether it was pressed.
    pub(super) keys: VecDeque<(u8, bool)>,
    /// Reported modifiers, as bits; `down` has the other reported keys in the order of their presses.
    pub(super) modifiers: u8,
    pub(super) down: Vec<u8>,
}

impl Hid {
    pub(crate) fn new(kind: UsbDevice) -> Self {
        Self {
            kind,
            protocol: 1,
            idle: 0,
            quiet: 0,
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

    /// Subclass and protocol of the interface; nonzero for devices that a BIOS can use by the boot protocol.
    pub(crate) fn interface(&self) -> (u8, u8) {
        match self.kind {
            UsbDevice::Tablet => (0, 0),
            UsbDevice::Mouse => (1, 2),
            UsbDevice::Keyboard => (1, 1),
        }
    }

    /// Resets the device, as a reset of the bus does.
    pub(crate) fn reset(&mut self) {
        *self = Self::new(self.kind);
    }

    /// Handles an event, if it is for this kind of device.
    pub(crate) fn input(&mut self, event: InputEvent) {
        let limit = |v: i32| v.clamp(-0x7fff, 0x7fff);
        let mut next = Pointed { wheel: 0, ..self.now };
        if self.kind == UsbDevice::Mouse {
            (next.x, next.y) = (0, 0);
        }
        match (self.kind, event) {
            (UsbDevice::Keyboard, InputEvent::Key { code, down }) => {
                let usage = USAGES.get(usize::from(code)).copied().unwrap_or(0);
                // Events without a change (viewers repeat held keys) are not reported.
                if usage != 0 && self.will_be_down(usage) != down && (!down || self.keys.len() < KEYS) {
                    self.keys.push_back((usage, down));
                }
                return;
            }
            (UsbDevice::Tablet, InputEvent::At { x, y }) => (next.x, next.y) = (i32::from(x), i32::from(y)),
            (UsbDevice::Mouse, InputEvent::Move { dx, dy, dz }) => {
                (next.x, next.y, next.wheel) = (limit(dx), limit(dy), dz.saturating_neg())
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
                // Only movement: the last position, or the sum of movements.
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

    /// Counts elapsed frames of a millisecond each.
    pub(crate) fn pass(&mut self, frames: u64) {
        let frames = u32::try_from(frames).unwrap_or(LONGEST_IDLE);
        self.quiet = self.quiet.saturating_add(frames).min(LONGEST_IDLE);
    }

    /// The report for an IN: the next queued one, or the last one again if the idle period has elapsed.
    pub(crate) fn poll(&mut self) -> Option<Vec<u8>> {
        let again = self.idle != 0 && self.quiet >= u32::from(self.idle).saturating_mul(IDLE_STEP);
        let report = self.next().or_else(|| again.then(|| self.report()))?;
        self.quiet = 0;
        Some(report)
    }

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.kind == UsbDevice::Keyboard {
            let (usage, down) = self.keys.pop_front()?;
            self.press(usage, down);
            return Some(self.report());
        }
        let next = self.pointed.pop_front()?;
        if self.kind == UsbDevice::Tablet {
            return Some(Self::tablet(next));
        }
        // A report moves by at most 127; the rest follows in the next report.
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
        Some(self.mouse([next.buttons, step(next.x) as u8, step(next.y) as u8, step(next.wheel) as u8]))
    }

    /// The boot protocol has no wheel (HID 1.11, appendix B.2).
    fn mouse(&self, bytes: [u8; 4]) -> Vec<u8> {
        bytes.get(..if self.protocol == 0 { 3 } else { 4 }).unwrap_or_default().to_vec()
    }

    fn tablet(p: Pointed) -> Vec<u8> {
        let ([x0, x1], [y0, y1]) = ((p.x as u16).to_le_bytes(), (p.y as u16).to_le_bytes());
        vec![p.buttons, x0, x1, y0, y1, p.wheel.clamp(-127, 127) as u8]
    }

    fn modifier(usage: u8) -> Option<u8> {
        usage.checked_sub(0xe0).filter(|b| *b < 8)
    }

    /// Whether a key is down for the host after all queued reports.
    fn will_be_down(&self, usage: u8) -> bool {
        let waits = self.keys.iter().rev().find(|(u, _)| *u == usage).map(|(_, down)| *down);
        waits.unwrap_or_else(|| match Self::modifier(usage) {
            Some(bit) => self.modifiers >> bit & 1 != 0,
            None => self.down.contains(&usage),
        })
    }

    fn press(&mut self, usage: u8, down: bool) {
        if let Some(bit) = Self::modifier(usage) {
            self.modifiers = if down { self.modifiers | 1 << bit } else { self.modifiers & !(1 << bit) };
            return;
        }
        self.down.retain(|u| *u != usage);
        if down {
            self.down.push(usage);
        }
    }

    /// The report of the current state.
    pub(crate) fn report(&self) -> Vec<u8> {
        match self.kind {
            UsbDevice::Tablet => Self::tablet(self.now),
            UsbDevice::Mouse => self.mouse([self.now.buttons, 0, 0, 0]),
            UsbDevice::Keyboard => {
                let mut report = vec![self.modifiers, 0];
                // More than six keys: ErrorRollOver in all six fields.
                report.extend(if self.down.len() > 6 { vec![1; 6] } else { self.down.clone() });
                report.resize(8, 0);
                report
            }
        }
    }

    /// Whether a report is queued.
    pub(crate) fn waits(&self) -> bool {
        !self.pointed.is_empty() || !self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablet_reports_positions_and_merges_movement() {
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
