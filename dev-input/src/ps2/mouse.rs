//! A PS/2 mouse: three buttons, with wheel (IntelliMouse) and with five buttons (Explorer) after the knock sequences.
use super::spec::{ACK, PASSED, RESEND};
use std::collections::VecDeque;

/// Bytes that wait: 16 packets.
const QUEUE: usize = 64;

/// The mouse.
#[derive(Clone, Debug)]
pub(crate) struct Mouse {
    pub(crate) queue: VecDeque<u8>,
    pub(crate) pending: u8,
    pub(crate) reporting: bool,
    pub(crate) remote: bool,
    pub(crate) wrap: bool,
    pub(crate) scaling: bool,
    pub(crate) resolution: u8,
    pub(crate) rate: u8,
    /// 0 plain, 3 wheel, 4 five buttons.
    pub(crate) kind: u8,
    pub(crate) buttons: u8,
    /// The last two sample rates.
    pub(crate) knock: [u8; 2],
    // Movement that has not been reported.
    dx: i32,
    dy: i32,
    dz: i32,
    changed: bool,
}

impl Mouse {
    pub(crate) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            pending: 0,
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            rate: 100,
            kind: 0,
            buttons: 0,
            knock: [0; 2],
            dx: 0,
            dy: 0,
            dz: 0,
            changed: false,
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.queue.len() > QUEUE.saturating_sub(8) {
            self.queue.clear();
        }
        self.queue.extend(bytes);
    }

    /// A byte from the controller.
    pub(crate) fn write(&mut self, value: u8) {
        if self.wrap && !matches!(value, 0xec | 0xff) {
            return self.answer(&[value]);
        }
        match std::mem::take(&mut self.pending) {
            0xe8 => {
                self.resolution = value & 3;
                return self.answer(&[ACK]);
            }
            0xf3 => {
                match (self.knock, value) {
                    ([200, 100], 80) => self.kind = 3,
                    ([200, 200], 80) if self.kind == 3 => self.kind = 4,
                    _ => {}
                }
                self.knock = [self.knock[1], value];
                self.rate = value;
                return self.answer(&[ACK]);
            }
            _ => {}
        }
        match value {
            0xe6 | 0xe7 => {
                self.scaling = value == 0xe7;
                self.answer(&[ACK]);
            }
            0xe8 | 0xf3 => {
                self.pending = value;
                self.answer(&[ACK]);
            }
            0xe9 => {
                let flags = u8::from(self.remote) << 6 | u8::from(self.reporting) << 5 | u8::from(self.scaling) << 4;
                let (buttons, resolution, rate) = (self.buttons & 7, self.resolution, self.rate);
                self.answer(&[ACK, flags | buttons, resolution, rate]);
            }
            0xea => {
                self.remote = false;
                self.answer(&[ACK]);
            }
            0xeb => {
                self.answer(&[ACK]);
                self.packet();
            }
            0xec => {
                self.wrap = false;
                self.answer(&[ACK]);
            }
            0xee => {
                self.wrap = true;
                self.answer(&[ACK]);
            }
            0xf0 => {
                self.remote = true;
                self.answer(&[ACK]);
            }
            0xf2 => {
                let kind = self.kind;
                self.answer(&[ACK, kind]);
            }
            0xf4 => {
                self.reporting = true;
                self.answer(&[ACK]);
            }
            0xf5 => {
                self.reporting = false;
                self.answer(&[ACK]);
            }
            0xf6 => {
                let (queue, buttons, kind) = (std::mem::take(&mut self.queue), self.buttons, self.kind);
                *self = Self { queue, buttons, kind, ..Self::new() };
                self.answer(&[ACK]);
            }
            0xff => {
                let buttons = self.buttons;
                *self = Self { buttons, ..Self::new() };
                self.answer(&[ACK, PASSED, 0x00]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    pub(crate) fn motion(&mut self, dx: i32, dy: i32, dz: i32) {
        // Screens grow downwards, mice upwards. What cannot be reported is bounded.
        let add = |a: i32, b: i32| a.saturating_add(b).clamp(-4096, 4096);
        (self.dx, self.dy, self.dz) = (add(self.dx, dx), add(self.dy, dy.saturating_neg()), add(self.dz, dz));
        self.changed = true;
        self.report();
    }

    pub(crate) fn button(&mut self, button: u8, down: bool) {
        let bit = 1u8.checked_shl(u32::from(button)).unwrap_or(0) & 0x1f;
        self.buttons = if down { self.buttons | bit } else { self.buttons & !bit };
        self.changed = true;
        self.report();
    }

    /// Puts packets into the queue as long as there is something to say and room.
    pub(crate) fn report(&mut self) {
        while self.reporting && !self.remote && self.changed && self.queue.len() <= QUEUE.saturating_sub(16) {
            self.packet();
        }
    }

    fn packet(&mut self) {
        let take = |value: &mut i32, limit: i32| {
            let part = (*value).clamp(limit.saturating_neg(), limit);
            *value = value.saturating_sub(part);
            part
        };
        let (dx, dy) = (take(&mut self.dx, 255), take(&mut self.dy, 255));
        let sign = |v: i32, bit: u8| u8::from(v < 0).wrapping_shl(u32::from(bit));
        let mut bytes = vec![8 | self.buttons & 7 | sign(dx, 4) | sign(dy, 5), dx as u8, dy as u8];
        match self.kind {
            // Towards the user is positive, as in the events. (Linux turns it round: its REL_WHEEL counts up.)
            3 => bytes.push(take(&mut self.dz, 127) as u8),
            4 => bytes.push(take(&mut self.dz, 7) as u8 & 0x0f | (self.buttons & 0x18) << 1),
            _ => self.dz = 0,
        }
        self.changed = self.dx != 0 || self.dy != 0 || self.dz != 0;
        self.queue.extend(bytes);
    }
}
