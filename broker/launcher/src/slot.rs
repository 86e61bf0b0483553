//! A slot: the place of a process, what is kept for it, and the process that is in it now.
use crate::failure::{Failure, system};
use crate::resource::{ReceiveFault, Resource, SendFault};
use bulkhead_plan::{FdUse, Kind, Picture, Slot, ToProcess};
use bulkhead_policy::{Ids, Spawned};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Restarts that are allowed in [`RESTART_WINDOW`].
const RESTARTS: usize = 5;
/// See [`RESTARTS`].
const RESTART_WINDOW: Duration = Duration::from_secs(60);

/// How far the start of a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not started yet: what it needs is still another's.
    Waiting,
    /// Spawned; its areas are not sealed yet.
    Starting,
    /// It has what it needs and goes into its sandbox.
    Entering,
    /// In its sandbox; the broker does not use its channel yet.
    Attaching,
    /// It runs.
    Running,
    /// It is dead and stays so.
    Dead,
    /// The guest has unplugged the device: its process is ending, and stays so.
    Unplugged,
}

impl Phase {
    /// All of them.
    #[cfg(test)]
    const ALL: [Self; 7] =
        [Self::Waiting, Self::Starting, Self::Entering, Self::Attaching, Self::Running, Self::Dead, Self::Unplugged];

    /// Whether `next` may follow. What is not here would be a process that says a thing twice, or a device that is in two places.
    fn may_become(self, next: Self) -> bool {
        use Phase::{Attaching, Dead, Entering, Running, Starting, Unplugged, Waiting};
        match (self, next) {
            // What it needs is its own now; or it never was.
            (Waiting, Starting) | (Starting, Waiting) => true,
            // Control has no channel to wait for.
            (Starting, Entering | Running) => true,
            // The broker, control and back ends attach to nobody.
            (Entering, Attaching | Running) | (Attaching, Running) => true,
            // A life ends, at whatever point; the next begins.
            (Starting | Entering | Attaching | Running, Starting | Dead | Unplugged) => true,
            // A guest may unplug what is dead, and a disk may be taken away that has never begun.
            (Dead | Waiting, Unplugged) => true,
            // It ends, and may come again.
            (Unplugged, Unplugged | Waiting) => true,
            _ => false,
        }
    }
}

/// Shared memory and doorbells of one life of a device.
#[derive(Debug)]
pub(crate) struct ChannelFds {
    pub(crate) request: OwnedFd,
    pub(crate) reply: OwnedFd,
    pub(crate) request_bell: OwnedFd,
    pub(crate) reply_bell: OwnedFd,
    pub(crate) sealed_by_device: bool,
    pub(crate) sealed_by_broker: bool,
}

/// A running process.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) spawned: Spawned,
    pub(crate) resource: Resource,
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
    /// Control asks for its restart.
    #[error("restart was asked for")]
    RestartRequest,
    /// Control hears of the devices when it starts.
    #[error("the devices have changed")]
    DevicesChanged,
    /// A viewer holds the surface of the display's life before.
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

/// A slot.
#[derive(Debug)]
pub(crate) struct SlotState {
    pub(crate) slot: Slot,
    /// For people, unique.
    pub(crate) name: String,
    pub(crate) kind: &'static Kind,
    pub(crate) ids: Option<Ids>,
    /// The domain that it serves, if that is not the plan's.
    pub(crate) domid: Option<u16>,
    /// The broker knows nothing of it: it came later, and is not asked for accesses.
    pub(crate) without_broker: bool,
    phase: Phase,
    pub(crate) life: Option<Life>,
    pub(crate) channel: Option<ChannelFds>,
    /// What its process draws on, if it draws the picture. It outlives the process: viewers look at it until the next one draws.
    pub(crate) surface: Option<OwnedFd>,
    /// The reply area of the life before.
    pub(crate) previous_reply: Option<OwnedFd>,
    /// HandedOff to every life.
    pub(crate) kept: Vec<(FdUse, OwnedFd)>,
    pub(crate) log_read: OwnedFd,
    pub(crate) log_write: OwnedFd,
    /// Why it is being killed, if the launcher does it.
    pub(crate) reason: RefCell<Option<KillReason>>,
    /// Its connection went to a control that has died since: it gets another one when it runs.
    pub(crate) lacks_control: bool,
    restarts: VecDeque<Instant>,
    restarted: u32,
    /// The next start is the launcher's own wish and counts for nothing.
    planned: bool,
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
            domid: None,
            without_broker: false,
            phase: Phase::Starting,
            life: None,
            channel: None,
            surface: None,
            previous_reply: None,
            kept,
            log_read,
            log_write,
            reason: RefCell::new(None),
            lacks_control: false,
            restarts: VecDeque::new(),
            restarted: 0,
            planned: false,
        })
    }

    /// How far its process has come.
    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// The process has come to another phase; false, and nothing changes, if that cannot be.
    pub(crate) fn enter(&mut self, next: Phase) -> bool {
        let may = self.phase.may_become(next);
        if may {
            self.phase = next;
        } else {
            crate::supervise::say(&format!("{}: {:?} does not follow {:?}", self.name, next, self.phase));
        }
        may
    }

    /// Whether its process draws the picture.
    pub(crate) fn draws(&self) -> bool {
        self.kind.picture == Picture::Draws
    }

    /// Whether its process looks at the picture.
    pub(crate) fn looks(&self) -> bool {
        self.kind.picture == Picture::Looks
    }

    /// Sends the process a message with descriptors; nothing if there is no process. One that does not take it (it has
    /// closed its socket, or has not read for long) is of no use: it is killed, and nobody else suffers.
    pub(crate) fn tell(&self, message: impl FnOnce(Vec<FdUse>) -> ToProcess, fds: &[(FdUse, BorrowedFd<'_>)]) {
        let Some(life) = &self.life else { return };
        let uses = fds.iter().map(|(u, _)| u.clone()).collect();
        let fds: Vec<_> = fds.iter().map(|(_, fd)| *fd).collect();
        if let Err(e) = life.resource.send(&message(uses), &fds) {
            self.kill(KillReason::Send(e));
        }
    }

    /// What is kept, for a message.
    pub(crate) fn kept(&self) -> Vec<(FdUse, BorrowedFd<'_>)> {
        self.kept.iter().map(|(u, fd)| (u.clone(), fd.as_fd())).collect()
    }

    /// Whether the process may be started once more; counts it.
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

    /// Whether the process may be started at `now`; counts it for the next ones.
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

    /// Ends the process, so that another one takes its place which knows more.
    pub(crate) fn renew(&mut self) {
        self.planned = self.life.is_some();
        self.kill(KillReason::DevicesChanged);
    }

    /// How often the process was started again.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarted
    }

    /// Ends a process whose socket is closed: as a rule it is ending by itself, and how it did that is worth knowing.
    pub(crate) fn closed(&self) {
        if let Some(life) = &self.life {
            let ends = rustix::event::PollFd::new(&life.spawned.pidfd, rustix::event::PollFlags::IN);
            let patience = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if !matches!(rustix::event::poll(&mut [ends], Some(&patience)), Ok(n) if n > 0) {
                self.kill(KillReason::Receive(ReceiveFault::Closed));
            }
        }
    }

    /// Ends the process at once.
    pub(crate) fn kill(&self, reason: KillReason) {
        if let Some(life) = &self.life {
            self.reason.borrow_mut().get_or_insert(reason);
            let _ = rustix::process::pidfd_send_signal(&life.spawned.pidfd, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_plan::DeviceConfig;

    #[test]
    fn phases_follow_each_other_as_the_table_says() {
        use Phase::{Attaching, Dead, Entering, Running, Starting, Unplugged, Waiting};
        let mut allowed = vec![(Waiting, Starting), (Starting, Waiting), (Starting, Entering), (Starting, Running)];
        allowed.extend([(Entering, Attaching), (Entering, Running), (Attaching, Running)]);
        for alive in [Starting, Entering, Attaching, Running] {
            allowed.extend([(alive, Starting), (alive, Dead), (alive, Unplugged)]);
        }
        allowed.extend([(Dead, Unplugged), (Waiting, Unplugged), (Unplugged, Unplugged), (Unplugged, Waiting)]);
        for from in Phase::ALL {
            for to in Phase::ALL {
                let mut slot = SlotState::new(2, "x".into(), DeviceConfig::Ps2.kind(), None, Vec::new()).unwrap();
                slot.phase = from;
                let may = allowed.contains(&(from, to));
                assert_eq!(slot.enter(to), may, "{from:?} to {to:?}");
                assert_eq!(slot.phase(), if may { to } else { from });
            }
        }
    }

    #[test]
    fn five_starts_in_a_minute_and_more_when_it_has_passed() {
        let mut slot = SlotState::new(2, "x".into(), DeviceConfig::Ps2.kind(), None, Vec::new()).unwrap();
        let begin = Instant::now();
        let at = |s| begin + Duration::from_secs(s);
        assert!((0..5).all(|s| slot.allow_start(at(s))));
        assert!(!slot.allow_start(at(59)) && !slot.allow_start(at(60)));
        assert!(slot.allow_start(at(61)) && !slot.allow_start(at(61)));
    }
}
