//! A slot: a process, its restarts, and the descriptors that are kept for it.
use crate::callers::Served;
use crate::errors::Code;
use crate::failure::{Failure, system};
use crate::phase::{Late, Phase, START_TICKS};
use crate::resource::{ReceiveFault, Resource, SendFault};
use bulkhead_plan::{FdUse, Kind, Picture, Slot, Starts, ToProcess};
use bulkhead_policy::{Ids, Spawned};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Restarts of a process that are allowed in [`RESTART_WINDOW`].
const RESTARTS: usize = 5;
/// See [`RESTARTS`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// Processes that may die in a row after they have read the same state. The next one starts from reset: the state may be the
/// cause, and a device that is reset is worth more to a guest than one that is gone.
const STATE_DEATHS: u32 = 2;
/// Ticks for the exit of a process that has closed its socket. Its own exit status says more than that it was killed.
const HANG_UP_TICKS: u32 = 10;
/// Ticks until it is said that a killed process does not end.
const EXIT_TICKS: u32 = 100;
/// Ticks until a process that could not be started is started once more.
const RETRY_TICKS: u32 = 10;

/// Shared memory and doorbells of a device's process.
#[derive(Debug)]
pub(crate) struct ChannelFds {
    pub(crate) request: OwnedFd,
    pub(crate) reply: OwnedFd,
    pub(crate) request_bell: OwnedFd,
    pub(crate) reply_bell: OwnedFd,
    pub(crate) sealed_by_device: bool,
    pub(crate) sealed_by_broker: bool,
}

/// A running process, and the launcher's socket to it.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) spawned: Spawned,
    pub(crate) resource: Resource,
    /// Its own RLIMIT_FSIZE.
    pub(crate) file_size: Option<u64>,
}

/// Why the launcher kills a process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KillReason {
    /// Nothing can be received from it.
    #[error(transparent)]
    Receive(ReceiveFault),
    /// It cannot be sent to.
    #[error("does not take messages: {0}")]
    Send(#[source] SendFault),
    /// It stops in a phase of its start.
    #[error(transparent)]
    Late(Late),
    /// The broker has waited for its answer.
    #[error("did not answer in time")]
    Deadline,
    /// The broker has read what no device may write.
    #[error("broke the protocol")]
    Protocol,
    /// /proc does not show what the process's profile asks for.
    #[error("not in its sandbox: {}", .0.join("; "))]
    Sandbox(Vec<String>),
    /// A request that is not this process's to make.
    #[error("asked for what it may not")]
    Forbidden,
    /// It is a back end, and has called `xenbus` or `grant` without end.
    #[error("made more calls to {0} than it may")]
    Overrun(String),
    /// Control asks for its restart.
    #[error("restart was asked for")]
    RestartRequest,
    /// Control hears of the devices when it starts.
    #[error("the devices have changed")]
    DevicesChanged,
    /// A viewer that is starting has the surface of the display's last process.
    #[error("the display was started again")]
    DisplayRestarted,
    /// The guest has ejected a device that was added.
    #[error("ejected by the guest")]
    Ejected,
    /// The guest has unplugged a network card.
    #[error("unplugged by the guest")]
    Unplugged,
    /// The toolstack has removed a PV disk.
    #[error("its disk was taken away")]
    DiskRemoved,
    /// A stub domain has released a PV disk for its guest.
    #[error("the disk is the guest's")]
    DiskHandedOff,
    /// Nothing runs without the machine.
    #[error("the machine ends")]
    MachineEnds,
}

impl KillReason {
    /// Whether the process has done nothing that ends it: others want it to end.
    pub(crate) fn is_wanted(&self) -> bool {
        match self {
            Self::Receive(_) | Self::Send(_) | Self::Sandbox(_) | Self::Late(_) => false,
            Self::Deadline | Self::Protocol | Self::Forbidden | Self::Overrun(_) => false,
            Self::RestartRequest | Self::DevicesChanged | Self::DisplayRestarted | Self::MachineEnds => true,
            Self::Ejected | Self::Unplugged | Self::DiskRemoved | Self::DiskHandedOff => true,
        }
    }
}

const _: () = assert!(START_TICKS as u64 * RESTARTS as u64 > RESTART_WINDOW.as_secs() * 10);

/// State of a slot.
#[derive(Debug)]
pub(crate) struct SlotState {
    pub(crate) slot: Slot,
    /// Unique name of the process, for logs and the process table.
    pub(crate) name: String,
    pub(crate) kind: &'static Kind,
    pub(crate) ids: Option<Ids>,
    /// Of a PV back end: the processes that it calls.
    pub(crate) served: Option<Served>,
    /// Of `xenbus` and `grant`: sockets to back ends' new processes, of which its own process has not been told.
    pub(crate) new_callers: Vec<(FdUse, OwnedFd)>,
    /// The served domain, if it is not the plan's: a stub domain's guest.
    pub(crate) domid: Option<u16>,
    /// The broker does not know the process: it is a back end that was added, or there is no broker.
    pub(crate) without_broker: bool,
    phase: Phase,
    pub(crate) life: Option<Life>,
    pub(crate) channel: Option<ChannelFds>,
    /// The surface of a display. It outlives the process, because viewers read it until the next process draws.
    pub(crate) surface: Option<OwnedFd>,
    /// The reply area of the last process that ran, which has the device's state. It is kept until a successor runs.
    previous_reply: Option<OwnedFd>,
    /// Its part of a saved machine, for the first process: if that does not take it, the machine does not start. Control's is kept until the
    /// machine goes on.
    pub(crate) saved: Option<OwnedFd>,
    /// Processes in a row that have read that state and died before they ran.
    state_deaths: u32,
    /// Descriptors that each process of this slot gets.
    pub(crate) kept: Vec<(FdUse, OwnedFd)>,
    pub(crate) log_read: OwnedFd,
    pub(crate) log_write: OwnedFd,
    /// Why the launcher kills the process; the first reason stays.
    pub(crate) reason: RefCell<Option<KillReason>>,
    /// Its connection died with control during its start: it gets another one when it runs.
    pub(crate) lacks_control: bool,
    restarts: VecDeque<Instant>,
    restarted: u32,
    /// The next restart is the launcher's own and does not count against the limit.
    planned: bool,
    /// It has closed its socket.
    hung_up: bool,
    /// Ticks in this phase, or since the process was killed or has closed its socket, or could not be started.
    ticks: Cell<u32>,
    /// Its process could not be started, and is to be started once more.
    unstarted: bool,
    /// Its process needs a connection to xenstored, and there is none now.
    awaits_xenstore: bool,
}

impl SlotState {
    pub(crate) fn new(
        slot: Slot,
        name: String,
        kind: &'static Kind,
        ids: Option<Ids>,
        kept: Vec<(FdUse, OwnedFd)>,
    ) -> Result<Self, Failure> {
        use rustix::pipe::PipeFlags;
        let (log_read, log_write) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(system("pipe"))?;
        Ok(Self {
            slot,
            name,
            kind,
            ids,
            served: None,
            new_callers: Vec::new(),
            domid: None,
            without_broker: false,
            phase: Phase::Starting,
            life: None,
            channel: None,
            surface: None,
            previous_reply: None,
            saved: None,
            state_deaths: 0,
            kept,
            log_read,
            log_write,
            reason: RefCell::new(None),
            lacks_control: false,
            restarts: VecDeque::new(),
            restarted: 0,
            planned: false,
            hung_up: false,
            ticks: Cell::new(0),
            unstarted: false,
            awaits_xenstore: false,
        })
    }

    /// Phase of the process.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Changes the phase. False, and no change, if `next` may not follow.
    pub(crate) fn enter(&mut self, next: Phase) -> bool {
        let may = self.phase.may_become(next);
        if may {
            self.phase = next;
            self.ticks.set(0);
            self.unstarted = false;
            if next == Phase::Running {
                // From now on its own area has the state.
                self.forget_state();
            }
        } else {
            crate::log::say(&format!("{}: {:?} does not follow {:?}", self.name, next, self.phase));
        }
        may
    }

    /// The area with the device's last state, for the next process.
    pub(crate) fn last_state(&self) -> Option<BorrowedFd<'_>> {
        self.previous_reply.as_ref().map(|area| area.as_fd())
    }

    /// Lets the next process start from reset.
    pub(crate) fn forget_state(&mut self) {
        self.previous_reply = None;
        self.state_deaths = 0;
    }

    /// Decides which state the successor of a process that has exited gets. Call it before the phase changes. A process that has
    /// not run leaves the state that it got; true if [`STATE_DEATHS`] processes have now died of it, or seem to have, so that it is
    /// given up. `wanted`: the launcher has ended the process for a reason that lies elsewhere.
    pub(crate) fn inherit_state(&mut self, wanted: bool) -> bool {
        let area = self.channel.take().map(|channel| channel.reply);
        match self.phase {
            Phase::Running => {
                self.previous_reply = area;
                self.state_deaths = 0;
            }
            Phase::Entering | Phase::Attaching if self.previous_reply.is_some() && !wanted => {
                self.state_deaths = self.state_deaths.saturating_add(1);
                if self.state_deaths >= STATE_DEATHS {
                    self.forget_state();
                    return true;
                }
            }
            _ => {}
        }
        false
    }

    /// Whether the process is a display.
    pub(crate) fn draws(&self) -> bool {
        self.kind.picture == Picture::Draws
    }

    /// Whether the process is a viewer: it reads a display's surface.
    pub(crate) fn looks(&self) -> bool {
        self.kind.picture == Picture::Looks
    }

    /// Whether back ends call the process: it is `xenbus` or `grant`.
    pub(crate) fn has_callers(&self) -> bool {
        self.kind.starts == Starts::WithBackEnds
    }

    /// Sends the process a message with descriptors; does nothing without a process. A process that does not take the message,
    /// because it has closed its socket or does not read, is killed, so that the launcher never waits for it.
    pub(crate) fn tell(&self, message: impl FnOnce(Vec<FdUse>) -> ToProcess, fds: &[(FdUse, BorrowedFd<'_>)]) {
        let Some(life) = &self.life else { return };
        let uses = fds.iter().map(|(u, _)| u.clone()).collect();
        let fds: Vec<_> = fds.iter().map(|(_, fd)| *fd).collect();
        if let Err(e) = life.resource.send(&message(uses), &fds) {
            self.kill(KillReason::Send(e));
        }
    }

    /// Notes whether its next process waits for a connection to xenstored. Returns whether that is new.
    pub(crate) fn await_xenstore(&mut self, waits: bool) -> bool {
        std::mem::replace(&mut self.awaits_xenstore, waits) != waits
    }

    /// Whether its next process waits for a connection to xenstored.
    pub(crate) fn awaits_xenstore(&self) -> bool {
        self.awaits_xenstore
    }

    /// The kept descriptors, borrowed for a message.
    pub(crate) fn kept(&self) -> Vec<(FdUse, BorrowedFd<'_>)> {
        self.kept.iter().map(|(u, fd)| (u.clone(), fd.as_fd())).collect()
    }

    /// Whether the process may be restarted now; counts the restart.
    pub(crate) fn allow_restart(&mut self) -> bool {
        if std::mem::take(&mut self.planned) {
            return true;
        }
        let may = self.allow_start(Instant::now());
        if may {
            self.restarted = self.restarted.saturating_add(1);
        }
        may
    }

    /// Whether a start at `now` keeps the limit of [`RESTARTS`]; counts the start if so.
    pub(crate) fn allow_start(&mut self, now: Instant) -> bool {
        while self.restarts.front().is_some_and(|t| now.duration_since(*t) > RESTART_WINDOW) {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= RESTARTS {
            return false;
        }
        self.restarts.push_back(now);
        true
    }

    /// Restarts the process so that it learns of changed devices.
    pub(crate) fn renew(&mut self) {
        self.planned = self.life.is_some();
        self.kill(KillReason::DevicesChanged);
    }

    /// Lets the next restart not count: its reason lies elsewhere.
    pub(crate) fn excuse(&mut self) {
        self.planned = true;
    }

    /// Number of restarts, those of the launcher's own not counted.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarted
    }

    /// Gives the slot its process, which is about to be told its first message.
    pub(crate) fn begin(&mut self, life: Life) {
        self.life = Some(life);
        self.enter(Phase::Starting);
        self.lacks_control = false;
        self.reason.take();
        self.hung_up = false;
        self.unstarted = false;
    }

    /// Notes that the process has closed its socket. It has a second to exit.
    pub(crate) fn closed(&mut self) {
        if !std::mem::replace(&mut self.hung_up, true) {
            self.ticks.set(0);
        }
    }

    /// Notes that no process could be started, so that [`Self::tick`] asks for it once more.
    pub(crate) fn not_started(&mut self) {
        self.unstarted = self.life.is_none();
        self.ticks.set(0);
    }

    /// Whether [`Self::tick`] has something to count. Before the machine is `running` the start as a whole has a time limit.
    pub(crate) fn is_timed(&self, running: bool) -> bool {
        if self.life.is_none() {
            return self.unstarted;
        }
        match self.reason.borrow().is_some() {
            true => self.ticks.get() < EXIT_TICKS,
            false => self.hung_up || (running && self.phase.late().is_some()),
        }
    }

    /// Counts a tick, and kills a process that is late. True if the slot's process is to be started once more.
    pub(crate) fn tick(&mut self, running: bool) -> bool {
        if !self.is_timed(running) {
            return false;
        }
        let ticks = self.ticks.get().saturating_add(1);
        self.ticks.set(ticks);
        let Some(life) = &self.life else {
            let due = ticks >= RETRY_TICKS;
            self.unstarted &= !due;
            return due;
        };
        if self.reason.borrow().is_some() {
            if ticks == EXIT_TICKS {
                // Nothing else can be done: two processes must not share a disk's image.
                let line =
                    format!("{} (pid {}): was killed, and the kernel does not end it", self.name, life.spawned.pid);
                crate::log::say(&Code::Late.line(format!("{line}; its device is away until then")));
            }
        } else if self.hung_up {
            if ticks >= HANG_UP_TICKS {
                self.kill(KillReason::Receive(ReceiveFault::Closed));
            }
        } else if let Some(late) = self.phase.late().filter(|_| ticks >= START_TICKS) {
            self.kill(KillReason::Late(late));
        }
        false
    }

    /// Kills the process.
    pub(crate) fn kill(&self, reason: KillReason) {
        if let Some(life) = &self.life {
            let mut first = self.reason.borrow_mut();
            if first.is_none() {
                *first = Some(reason);
                self.ticks.set(0);
            }
            let _ = rustix::process::pidfd_send_signal(&life.spawned.pidfd, rustix::process::Signal::KILL);
        }
    }
}

/// A new doorbell: an eventfd that nobody blocks on.
pub(crate) fn doorbell() -> Result<OwnedFd, Failure> {
    use rustix::event::EventfdFlags;
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(system("eventfd"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_plan::DeviceConfig;

    #[test]
    fn five_starts_in_a_minute_and_more_when_it_has_passed() {
        let mut slot = SlotState::new(2, "x".into(), DeviceConfig::Ps2.kind(), None, Vec::new()).unwrap();
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        assert!((0..5).all(|s| slot.allow_start(at(s))));
        assert!(!slot.allow_start(at(59)) && !slot.allow_start(at(60)));
        assert!(slot.allow_start(at(61)) && !slot.allow_start(at(61)));
    }

    /// A slot whose process has just begun its `phase`, with a channel of its own; returns the inode of its area.
    fn begins(slot: &mut SlotState, phase: Phase) -> u64 {
        let area = || bulkhead_ring::SharedArea::create("area", 4096).unwrap();
        let (request_bell, reply_bell) = (doorbell().unwrap(), doorbell().unwrap());
        let channel = ChannelFds {
            request: area(),
            reply: area(),
            request_bell,
            reply_bell,
            sealed_by_device: true,
            sealed_by_broker: true,
        };
        let inode = rustix::fs::fstat(&channel.reply).unwrap().st_ino;
        slot.channel = Some(channel);
        slot.phase = Phase::Starting;
        for next in [Phase::Entering, Phase::Attaching, Phase::Running] {
            if slot.phase != phase {
                slot.enter(next);
            }
        }
        inode
    }

    fn kept(slot: &SlotState) -> Option<u64> {
        slot.last_state().map(|area| rustix::fs::fstat(area).unwrap().st_ino)
    }

    /// The state was handed to the first successor alone, and died with it.
    #[test]
    fn a_process_that_dies_before_it_runs_leaves_the_last_state_to_the_next() {
        let mut slot = SlotState::new(2, "x".into(), DeviceConfig::Ps2.kind(), None, Vec::new()).unwrap();
        let ran = begins(&mut slot, Phase::Running);
        assert!(!slot.inherit_state(false) && kept(&slot) == Some(ran));
        for phase in [Phase::Starting, Phase::Entering, Phase::Starting] {
            begins(&mut slot, phase);
            assert!(!slot.inherit_state(false) && kept(&slot) == Some(ran), "{phase:?}");
        }
        // Once a successor runs, its own area is the state.
        let next = begins(&mut slot, Phase::Running);
        assert_eq!(kept(&slot), None);
        assert!(!slot.inherit_state(false) && kept(&slot) == Some(next));
    }

    #[test]
    fn a_state_of_which_two_processes_die_is_given_up() {
        let mut slot = SlotState::new(2, "x".into(), DeviceConfig::Ps2.kind(), None, Vec::new()).unwrap();
        begins(&mut slot, Phase::Running);
        slot.inherit_state(false);
        let mut dies = |phase, wanted| {
            begins(&mut slot, phase);
            (slot.inherit_state(wanted), kept(&slot).is_some())
        };
        // Neither one that has not read it, nor one that was to end.
        assert_eq!((dies(Phase::Starting, false), dies(Phase::Attaching, true)), ((false, true), (false, true)));
        assert_eq!(dies(Phase::Attaching, false), (false, true));
        assert_eq!(dies(Phase::Entering, false), (true, false));
        assert_eq!(dies(Phase::Entering, false), (false, false), "there is nothing left to give up");
        // The next one that runs has a state, of which two more may die.
        begins(&mut slot, Phase::Running);
        assert!(!slot.inherit_state(false));
        begins(&mut slot, Phase::Entering);
        assert!(!slot.inherit_state(false) && kept(&slot).is_some());
    }
}
