//! A device's interfaces to its surroundings, passed with each call.
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
    /// The same, so many nanoseconds ahead: the clock of a machine that was saved on another host.
    Shifted(i64),
    /// Set by the simulated machine, in nanoseconds from its start.
    Driven(u64),
}

impl Clock {
    /// The clock of a machine that is so many nanoseconds ahead of its host.
    pub fn ahead(nanoseconds: i64) -> Self {
        if nanoseconds == 0 { Self::Real } else { Self::Shifted(nanoseconds) }
    }

    /// Whether it is the host's clock that goes on.
    pub fn is_real(&self) -> bool {
        !matches!(self, Self::Driven(_))
    }

    /// The time in nanoseconds. Reading it is expensive (a PV domain has an emulated TSC), so read it only when needed.
    pub fn now(&self) -> u64 {
        match self {
            Self::Driven(now) => *now,
            Self::Shifted(ahead) => Self::Real.now().saturating_add_signed(*ahead),
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

    /// The deadline of timer `id`; `None` if it is stopped.
    pub fn get(&self, id: TimerId) -> Option<u64> {
        self.deadlines.get(usize::from(id)).copied().flatten()
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<u64> {
        self.deadlines.iter().flatten().min().copied()
    }

    /// Stops one timer whose deadline is at or before `now`, and returns its number.
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
    /// Sets a line's level. Rises are counted: if the line falls and rises again before the broker reads it, the level alone would
    /// hide the edge.
    pub fn set(&mut self, line: usize, level: bool) {
        if let Some(slot) = self.levels.get_mut(line)
            && slot.0 != level
        {
            slot.0 = level;
            slot.1 = slot.1.wrapping_add(u32::from(level));
            self.changed = true;
        }
    }

    /// Gives a pulse: down if it is up, then up, then down. Pulses are counted, so none is lost, unlike two calls of [`Self::set`].
    pub fn pulse(&mut self, line: usize) {
        if let Some(slot) = self.levels.get_mut(line) {
            slot.1 = slot.1.wrapping_add(1);
            self.changed = true;
        }
    }

    /// A line's level: true is asserted.
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

/// Actions that the device requests of the broker; the reply to the access that caused them carries them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// The requested actions.
    pub bits: bulkhead_wire::Effects,
    /// The unplug mask, or a bit for each PCI device to eject, if `bits` requests one of these.
    pub mask: u32,
}

/// Text that the guest writes to debug ports, kept until the runtime takes it. Lines that do not fit are dropped and counted.
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

    /// Adds a character that the guest has written. Control characters are escaped, so the log stays text.
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

/// Stores marks outside of the process at once.
pub trait MarkKeeper: Send {
    /// Stores the mark with this number.
    fn keep(&self, index: usize, value: u64);
}

/// The device's positions in its rings. A mark is stored at once, while the state page is written only at the end of a turn: a
/// restarted process continues at the dead one's exact position, not at that of its last complete turn.
#[derive(Default)]
pub struct Marks {
    former: [Option<u64>; bulkhead_wire::MARKS],
    keeper: Option<Box<dyn MarkKeeper>>,
}

impl Marks {
    /// Marks that `keeper` stores. `former` are the marks of the previous process.
    pub fn new(former: [Option<u64>; bulkhead_wire::MARKS], keeper: Box<dyn MarkKeeper>) -> Self {
        Self { former, keeper: Some(keeper) }
    }

    /// Sets a mark. The highest bit of `value` is not stored.
    pub fn set(&mut self, index: usize, value: u64) {
        if let Some(keeper) = &self.keeper {
            keeper.keep(index, value);
        }
    }

    /// A mark of the previous process. That process may have been hostile, so any value is possible.
    pub fn former(&self, index: usize) -> Option<u64> {
        self.former.get(index).copied().flatten()
    }

    /// Discards the previous process's marks once they have been used: a state that is loaded later does not belong to them.
    pub fn forget(&mut self) {
        self.former = Default::default();
    }

    /// For tests: sets a mark of the previous process.
    pub fn after(&mut self, index: usize, value: u64) {
        if let Some(place) = self.former.get_mut(index) {
            *place = Some(value);
        }
    }
}

/// A device's interfaces to its surroundings, passed with each call.
pub struct Context {
    /// The device's interrupt lines.
    pub lines: Lines,
    /// The device's timers.
    pub timers: Timers,
    /// The device's clock, real or driven.
    pub clock: Clock,
    /// Guest memory; devices without DMA get [`crate::NoMemory`].
    pub memory: Arc<dyn GuestMemory>,
    /// Actions that the device requests of the broker.
    pub effects: Effects,
    /// Text that the guest has written to a debug port.
    pub log: GuestLog,
    /// Positions that survive the process.
    pub marks: Marks,
    /// Numbers of back ends that have made more calls than they may: the launcher is asked to kill them.
    pub overruns: Vec<u8>,
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
            overruns: Vec::new(),
            again: false,
        }
    }

    /// The time in nanoseconds of the device's clock.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Requests a call of `poll` with [`crate::Ready::Again`] after other pending work.
    pub fn again(&mut self) {
        self.again = true;
    }

    /// Whether [`Self::again`] was called since the last call.
    pub fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// Asks the broker to power the guest off.
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
