//! What a device is given with each call.
use crate::GuestMemory;
use std::collections::VecDeque;
use std::sync::Arc;

/// Number of a device's timer, chosen by the device.
pub type TimerId = u8;

/// A device's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The machine's monotonic clock.
    Real,
    /// Moved by the simulated machine, in nanoseconds from its start.
    Driven(u64),
}

impl Clock {
    /// The time in nanoseconds. Asking costs something (a PV domain reads an emulated TSC): ask when it is needed.
    pub fn now(&self) -> u64 {
        match self {
            Self::Driven(now) => *now,
            Self::Real => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
            }
        }
    }
}

/// Most timers that a device can have.
const TIMERS: usize = 8;

/// Deadlines in nanoseconds of the device's clock.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    deadlines: [Option<u64>; TIMERS],
}

impl Timers {
    /// Sets timer `id` to `deadline`, or stops it.
    pub fn set(&mut self, id: TimerId, deadline: Option<u64>) {
        if let Some(slot) = self.deadlines.get_mut(usize::from(id)) {
            *slot = deadline;
        }
    }

    /// The deadline of timer `id`.
    pub fn get(&self, id: TimerId) -> Option<u64> {
        self.deadlines.get(usize::from(id)).copied().flatten()
    }

    /// The nearest deadline.
    pub fn next(&self) -> Option<u64> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Takes one timer whose deadline has come.
    pub fn take_due(&mut self, now: u64) -> Option<TimerId> {
        let (id, slot) = self
            .deadlines
            .iter_mut()
            .enumerate()
            .filter(|(_, d)| d.is_some_and(|d| d <= now))
            .min_by_key(|(_, d)| **d)?;
        *slot = None;
        u8::try_from(id).ok()
    }
}

/// The device's own interrupt lines.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    levels: [(bool, u32); bulkhead_wire::LINES],
    changed: bool,
}

impl Lines {
    /// Sets a line's level. A rise is counted, so that one is not lost if the line falls and rises again before the broker
    /// looks: levels alone would be the same as before.
    pub fn set(&mut self, line: usize, level: bool) {
        if let Some(slot) = self.levels.get_mut(line)
            && slot.0 != level
        {
            slot.0 = level;
            slot.1 = slot.1.wrapping_add(u32::from(level));
            self.changed = true;
        }
    }

    /// Gives a pulse: down if it is up, then up, then down. It is never lost, unlike two calls of [`Self::set`].
    pub fn pulse(&mut self, line: usize) {
        if let Some(slot) = self.levels.get_mut(line) {
            slot.1 = slot.1.wrapping_add(1);
            self.changed = true;
        }
    }

    /// A line's level.
    pub fn level(&self, line: usize) -> bool {
        self.levels.get(line).is_some_and(|l| l.0)
    }

    /// Level and count of pulses, by line.
    pub fn states(&self) -> impl Iterator<Item = (bool, u32)> + '_ {
        self.levels.iter().copied()
    }

    /// Whether a line changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

/// What the device asks of the broker; carried by the reply to the access that caused it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The wire's bits.
    pub bits: bulkhead_wire::Effects,
    /// The mask if `bits` asks for unplug, or ejects.
    pub mask: u32,
}

/// Text of the guest (debug ports), kept until the runtime takes it. What does not fit is dropped and counted.
#[derive(Clone, Debug, Default)]
pub struct GuestLog {
    lines: VecDeque<String>,
    line: String,
    /// Lines dropped since the last one that was kept.
    pub dropped: u64,
}

impl GuestLog {
    const LINE: usize = 200;
    const LINES: usize = 64;

    /// Adds a character that the guest wrote. Control characters are escaped, so the log stays text.
    pub fn push(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => {}
            b' '..=b'~' => self.line.push(char::from(byte)),
            _ => self.line.push_str(&format!("\\x{byte:02x}")),
        }
        if self.line.len() >= Self::LINE {
            self.end_line();
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if self.lines.len() < Self::LINES {
            self.lines.push_back(line);
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Takes the oldest complete line.
    pub fn take(&mut self) -> Option<String> {
        self.lines.pop_front()
    }
}

/// Where a mark goes at once.
pub trait MarkKeeper: Send {
    /// Keeps the mark with this number.
    fn keep(&self, index: usize, value: u64);
}

/// Where the device is in its rings. Each is kept at once, while the state page is written when a turn is over: a process that is
/// started again goes on where the dead one was, and not where it was a moment before.
#[derive(Default)]
pub struct Marks {
    former: [Option<u64>; bulkhead_wire::MARKS],
    keeper: Option<Box<dyn MarkKeeper>>,
}

impl Marks {
    /// Kept by `keeper`, after a life that has left `former`.
    pub fn new(former: [Option<u64>; bulkhead_wire::MARKS], keeper: Box<dyn MarkKeeper>) -> Self {
        Self { former, keeper: Some(keeper) }
    }

    /// Sets a mark; its highest bit is not kept.
    pub fn set(&mut self, index: usize, value: u64) {
        if let Some(keeper) = &self.keeper {
            keeper.keep(index, value);
        }
    }

    /// What the former life has left. It may be anything: that life may have been hostile.
    pub fn former(&self, index: usize) -> Option<u64> {
        self.former.get(index).copied().flatten()
    }

    /// The former life has been taken over: a state that comes later is of another one.
    pub fn forget(&mut self) {
        self.former = Default::default();
    }

    /// For tests: as after a life that has left this.
    pub fn after(&mut self, index: usize, value: u64) {
        if let Some(place) = self.former.get_mut(index) {
            *place = Some(value);
        }
    }
}

/// What a device is given with each call.
pub struct Context {
    /// Its interrupt lines.
    pub lines: Lines,
    /// Its timers.
    pub timers: Timers,
    /// The time.
    pub clock: Clock,
    /// Guest memory; devices without DMA get [`crate::NoMemory`].
    pub memory: Arc<dyn GuestMemory>,
    /// What it asks of the broker.
    pub effects: Effects,
    /// Text that the guest wrote to a debug port.
    pub log: GuestLog,
    /// Positions that outlive the process.
    pub marks: Marks,
    again: bool,
}

impl Context {
    /// A context around `memory`, with a driven clock at 0.
    pub fn new(memory: Arc<dyn GuestMemory>) -> Self {
        Self {
            lines: Lines::default(),
            timers: Timers::default(),
            clock: Clock::Driven(0),
            memory,
            effects: Effects::default(),
            log: GuestLog::default(),
            marks: Marks::default(),
            again: false,
        }
    }

    /// The time in nanoseconds of the device's clock.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Asks for a call of `poll` with [`crate::Ready::Again`] after other work had its turn.
    pub fn again(&mut self) {
        self.again = true;
    }

    /// Takes the wish of [`Self::again`].
    pub fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// Asks the broker to switch the guest off.
    pub fn power_off(&mut self) {
        self.effects.bits.set_power_off(true);
    }

    /// Asks the broker to restart the guest.
    pub fn reboot(&mut self) {
        self.effects.bits.set_reboot(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_come_in_the_order_of_their_deadlines() {
        let mut timers = Timers::default();
        timers.set(1, Some(20));
        timers.set(0, Some(30));
        timers.set(2, Some(10));
        timers.set(9, Some(1));
        assert_eq!(timers.next(), Some(10));
        assert_eq!((timers.take_due(25), timers.take_due(25), timers.take_due(25)), (Some(2), Some(1), None));
        assert_eq!(timers.next(), Some(30));
    }

    #[test]
    fn a_line_that_falls_and_rises_is_another_one() {
        let mut lines = Lines::default();
        lines.set(1, true);
        let before: Vec<_> = lines.states().collect();
        lines.set(1, true);
        assert_eq!(lines.states().collect::<Vec<_>>(), before, "nothing has happened");
        lines.set(1, false);
        lines.set(1, true);
        assert_ne!(lines.states().collect::<Vec<_>>(), before, "an edge was lost");
    }

    #[test]
    fn the_guest_log_is_bounded_and_escaped() {
        let mut log = GuestLog::default();
        for byte in b"a\x1b[2J\r\n" {
            log.push(*byte);
        }
        assert_eq!(log.take().as_deref(), Some("a\\x1b[2J"));
        for _ in 0..1_000_000 {
            log.push(b'x');
        }
        assert!(log.dropped > 4000);
        assert!(std::iter::from_fn(|| log.take()).map(|l| l.len()).sum::<usize>() < 20_000);
    }
}
