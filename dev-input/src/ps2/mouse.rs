//! A PS/2 mouse: three buttons, with wheel (IntelliMouse) and with five buttons (Explorer) after the knock sequences.
use super::keyboard::ANSWERS;
use super::spec::{ACK, PASSED, RESEND};
use std::collections::VecDeque;

/// Most queued steps: viewers send clicks in bursts, and a slow guest must not lose any.
pub(crate) const STEPS: usize = 32;

/// A movement, and the buttons after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) buttons: u8,
    pub(crate) dx: i32,
    pub(crate) dy: i32,
    pub(crate) dz: i32,
}

/// The mouse behind the controller's second port.
#[derive(Clone, Debug)]
pub(crate) struct Mouse {
    /// Answers to commands; the guest reads them before packets.
    pub(crate) answers: VecDeque<u8>,
    /// Packets of movement and buttons; the first has only its unread bytes.
    pub(crate) packets: VecDeque<VecDeque<u8>>,
    /// A part of the first has been read.
    pub(crate) started: bool,
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
    /// The last two sample rates, for the knock sequences.
    pub(crate) knock: [u8; 2],
    // Movement that has not been reported.
    pub(crate) dx: i32,
    pub(crate) dy: i32,
    pub(crate) dz: i32,
    pub(crate) changed: bool,
    /// The buttons of the last packet.
    pub(crate) reported: u8,
    /// Later movement and clicks, in order.
    pub(crate) steps: VecDeque<Step>,
}

impl Mouse {
    pub(crate) fn new() -> Self {
        Self {
            answers: VecDeque::new(),
            packets: VecDeque::new(),
            started: false,
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
            reported: 0,
            steps: VecDeque::new(),
        }
    }

    fn answer(&mut self, bytes: &[u8]) {
        if self.answers.len().saturating_add(bytes.len()) > ANSWERS {
            self.answers.clear();
        }
        self.answers.extend(bytes);
    }

    /// Discards unreported movement and unread packets.
    fn clear(&mut self) {
        self.packets.clear();
        self.started = false;
        (self.dx, self.dy, self.dz) = (0, 0, 0);
        self.changed = false;
        self.buttons = self.latest();
        // No packet reports a button that was pressed before.
        self.reported = self.buttons;
        self.steps.clear();
    }

    /// The current buttons, reported or not.
    fn latest(&self) -> u8 {
        self.steps.back().map_or(self.buttons, |step| step.buttons)
    }

    /// Handles a byte that the guest sends to the mouse.
    pub(crate) fn write(&mut self, value: u8) {
        if self.wrap && !matches!(value, 0xec | 0xff) {
            return self.answer(&[value]);
        }
        match std::mem::take(&mut self.pending) {
            // A command instead of a parameter is a command: no rate or resolution has such a value.
            _ if value >= 0xe6 => {}
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
                // Bit 0 is the right button, bit 1 the middle one, bit 2 the left one: not as in a packet.
                let [left, right, middle] = [0u8, 1, 2].map(|bit| self.latest() >> bit & 1);
                self.answer(&[ACK, flags | left << 2 | middle << 1 | right, self.resolution, self.rate]);
            }
            0xea => {
                self.remote = false;
                self.answer(&[ACK]);
            }
            0xeb => {
                self.answer(&[ACK]);
                let packet = self.packet();
                self.answer(&packet);
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
            // Earlier movement is not reported.
            0xf4 => {
                self.clear();
                self.reporting = true;
                self.answer(&[ACK]);
            }
            0xf5 => {
                self.clear();
                self.reporting = false;
                self.answer(&[ACK]);
            }
            0xf6 => {
                let (answers, buttons, kind) = (std::mem::take(&mut self.answers), self.latest(), self.kind);
                *self = Self { answers, buttons, reported: buttons, kind, ..Self::new() };
                self.answer(&[ACK]);
            }
            0xff => {
                let (answers, buttons) = (std::mem::take(&mut self.answers), self.latest());
                *self = Self { answers, buttons, reported: buttons, ..Self::new() };
                self.answer(&[ACK, PASSED, 0x00]);
            }
            _ => self.answer(&[RESEND]),
        }
    }

    /// The mouse has moved. `limit` is the most bytes of unread packets.
    pub(crate) fn motion(&mut self, (dx, dy, dz): (i32, i32, i32), limit: usize) {
        // y grows downwards on screens and upwards in packets. Unreported movement is bounded.
        let add = |a: &mut i32, b: i32| *a = a.saturating_add(b).clamp(-4096, 4096);
        self.open_step();
        let (x, y, z) = match self.steps.back_mut() {
            Some(step) => (&mut step.dx, &mut step.dy, &mut step.dz),
            None => (&mut self.dx, &mut self.dy, &mut self.dz),
        };
        add(x, dx);
        add(y, dy.saturating_neg());
        add(z, dz);
        self.changed = true;
        self.report(limit);
    }

    /// A button is pressed or released.
    pub(crate) fn button(&mut self, button: u8, down: bool, limit: usize) {
        let bit = 1u8.checked_shl(u32::from(button)).unwrap_or(0) & 0x1f;
        let buttons = if down { self.latest() | bit } else { self.latest() & !bit };
        self.open_step();
        match self.steps.back_mut() {
            Some(step) => step.buttons = buttons,
            None => self.buttons = buttons,
        }
        self.changed = true;
        self.report(limit);
    }

    /// Begins a new step if an earlier click has not been reported yet. A step is a movement and the buttons after it, which one
    /// packet reports.
    fn open_step(&mut self) {
        let mut states = self.steps.iter().rev().map(|step| step.buttons).chain([self.buttons, self.reported]);
        let clicked = states.next() != states.next();
        if clicked && self.reporting && !self.remote && self.steps.len() < STEPS {
            self.steps.push_back(Step { buttons: self.latest(), ..Step::default() });
        }
    }

    /// Bytes of a packet.
    fn size(&self) -> usize {
        if self.kind == 0 { 3 } else { 4 }
    }

    /// Bytes of unread packets.
    pub(crate) fn waiting(&self) -> usize {
        self.packets.iter().map(VecDeque::len).sum()
    }

    /// Nanoseconds from one packet to the next at the sample rate.
    pub(crate) fn period(&self) -> u64 {
        1_000_000_000u64.checked_div(u64::from(self.rate)).unwrap_or(10_000_000)
    }

    /// Whether a report is pending and the guest has read all packets.
    pub(crate) fn has_report(&self) -> bool {
        self.reporting && !self.remote && self.changed && self.packets.is_empty()
    }

    /// Queues packets while reports are pending and fit. Beyond the limit, movement is added up and clicks become steps.
    pub(crate) fn report(&mut self, limit: usize) {
        while self.reporting && !self.remote && self.changed {
            if self.waiting().saturating_add(self.size()) > limit {
                return;
            }
            let packet = self.packet();
            self.packets.push_back(packet.into());
        }
    }

    /// Begins the next step once everything before it has been reported.
    fn step(&mut self) {
        if self.changed || self.reported != self.buttons {
            return;
        }
        if let Some(Step { buttons, dx, dy, dz }) = self.steps.pop_front() {
            self.buttons = buttons;
            self.dx = dx;
            self.dy = dy;
            self.dz = dz;
            self.changed = true;
        }
    }

    /// The next byte of a packet.
    pub(crate) fn pop(&mut self) -> Option<u8> {
        let first = self.packets.front_mut()?;
        let byte = first.pop_front();
        self.started = !first.is_empty();
        if first.is_empty() {
            self.packets.pop_front();
        }
        byte
    }

    /// Withdraws packets that are completely unread. The buttons are reported later.
    pub(crate) fn withdraw(&mut self) {
        let keep = usize::from(self.started);
        self.changed |= self.packets.len() > keep;
        self.packets.truncate(keep);
    }

    fn packet(&mut self) -> Vec<u8> {
        let take = |value: &mut i32, limit: i32| {
            let part = (*value).clamp(limit.saturating_neg(), limit);
            *value = value.saturating_sub(part);
            part
        };
        let (dx, dy) = (take(&mut self.dx, 255), take(&mut self.dy, 255));
        let sign = |v: i32, bit: u8| u8::from(v < 0).wrapping_shl(u32::from(bit));
        let mut bytes = vec![8 | self.buttons & 7 | sign(dx, 4) | sign(dy, 5), dx as u8, dy as u8];
        match self.kind {
            // Positive is towards the user, as in the events. (Linux inverts the sign: its REL_WHEEL is positive away from the
            // user.)
            3 => bytes.push(take(&mut self.dz, 127) as u8),
            4 => bytes.push(take(&mut self.dz, 7) as u8 & 0x0f | (self.buttons & 0x18) << 1),
            _ => self.dz = 0,
        }
        self.changed = self.dx != 0 || self.dy != 0 || self.dz != 0;
        self.reported = self.buttons;
        self.step();
        bytes
    }
}
