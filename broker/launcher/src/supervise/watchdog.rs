//! Time limits of processes that start and end. They are counted in ticks of the launcher's own loop: while this process does not
//! run, as on a paused host, no time passes for others.
use super::{Launcher, TICK};
use crate::failure::{Failure, system};
use crate::slot::SlotState;
use bulkhead_plan::Slot;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

/// Nanoseconds of a tick.
pub(super) const TICK_NS: i64 = 100_000_000;

/// The tick. It runs only while something is timed, so that a launcher without work causes no wake-ups.
pub(super) struct Ticks {
    timer: OwnedFd,
    ticking: bool,
}

impl Ticks {
    /// A tick that does not run yet, as an event of `epoll`.
    pub(super) fn new(epoll: &OwnedFd) -> Result<Self, Failure> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags).map_err(system("timerfd_create"))?;
        epoll::add(epoll, &timer, EventData::new_u64(TICK), EventFlags::IN).map_err(system("epoll_ctl"))?;
        Ok(Self { timer, ticking: false })
    }

    fn run(&mut self, ticking: bool) -> Result<(), Failure> {
        if std::mem::replace(&mut self.ticking, ticking) == ticking {
            return Ok(());
        }
        let time = Timespec { tv_sec: 0, tv_nsec: if ticking { TICK_NS } else { 0 } };
        let spec = Itimerspec { it_interval: time, it_value: time };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)
            .map(drop)
            .map_err(system("timerfd_settime"))
    }
}

impl Launcher {
    /// Lets the tick run while something is timed.
    pub(super) fn arm(&mut self) -> Result<(), Failure> {
        let waits = self.pv.store.is_timed() || self.pv.changes.opening.is_timed();
        let timed = self.slots.iter().any(|s| s.is_timed(self.running)) || (self.running && waits);
        self.events.ticks.run(timed)
    }

    /// Handles a tick.
    pub(super) fn tick(&mut self) {
        // Several expirations count as one.
        let _ = rustix::io::read(&self.events.ticks.timer, &mut [0u8; 8]);
        let running = self.running;
        let due = |state: &mut SlotState| state.tick(running).then_some(state.slot);
        let retries: Vec<Slot> = self.slots.iter_mut().filter_map(due).collect();
        for slot in retries {
            self.retry(slot);
        }
        if running {
            self.tick_looks();
            self.tick_opening();
        }
    }
}
