//! The launcher starts all processes and watches them.
//!
//! | file | what |
//! |---|---|
//! | `prepare.rs` | opens the resources of all processes |
//! | `lives.rs` | start, check of the sandbox, exit and restart of a process |
//! | `requests.rs`, `refusal.rs` | requests of processes, and why control's are refused |
//! | `executable.rs` | path of the processes' executable |
//! | `placing.rs` | CPU of the data threads |
//! | `grouping.rs` | control groups, and what is promised of the processes |
//! | `media.rs`, `nics.rs`, `hot_plug.rs` | media, network cards and the USB controller while the machine runs |
//! | `dumps.rs` | files of `screendump` |
//! | `back_ends.rs`, `disk_changes.rs`, `opening.rs` | PV back ends, PV disks that are added or removed, and their images |
//! | `looks.rs` | what is read in xenstore while the guest runs, and what becomes of it |
//! | `table.rs` | process table for control |
//! | `watchdog.rs` | time limits of processes that start and end |
mod back_ends;
mod disk_changes;
mod dumps;
pub(crate) mod executable;
mod grouping;
mod hot_plug;
mod lives;
mod looks;
pub(crate) mod media;
mod nics;
mod opening;
mod placing;
mod prepare;
mod refusal;
mod requests;
mod table;
#[cfg(test)]
mod tests;
mod watchdog;

use crate::argv::Parsed;
use crate::attach::Watch;
use crate::errors::Code;
use crate::failure::{Failure, system};
use crate::groups::{Groups, NoGroups};
use crate::log::say;
use crate::phase::Phase;
use crate::placement::Place;
use crate::slot::{ChannelFds, KillReason, SlotState};
use crate::slots::Slots;
use crate::store::{Store, Subject};
use crate::stubdom::Stubdom;
use bulkhead_bus::shown;
use bulkhead_plan::{CONTROL, Level, MachinePlan, Slot, ToProcess};
use bulkhead_policy::interface::Rules;
use bulkhead_policy::{FIRST_UID, Ids, Starter, Users};
use bulkhead_wire::Shape;
use bulkhead_xen::{Privcmd, XenError, Xenstore};
use bulkhead_xen_abi::Shutdown;
use disk_changes::DiskChanges;
use dumps::Dumps;
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus};
use std::rc::Rc;
use std::time::{Duration, Instant};
use watchdog::Ticks;

/// The users of a guest's processes: each slot has one of its own.
pub(crate) fn users(domid: u16) -> Users {
    /// How many each guest has.
    const COUNT: u32 = 64;
    Users { first: FIRST_UID.saturating_add(u32::from(domid).saturating_mul(COUNT)), count: COUNT }
}

/// Time until all processes must run.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const SIGNALS: u64 = u64::MAX;
/// epoll data of the connection to xenstored.
const WATCH: u64 = 1 << 33;
/// epoll data of the doorbell that the broker rings while the guest makes accesses.
const ACTIVITY: u64 = 1 << 34;
/// epoll data of the tick.
const TICK: u64 = 1 << 35;
/// epoll data of the process that looks into an image: of its socket and of its exit.
const LOOK: u64 = 1 << 37;
/// epoll data of the starter's exit.
const STARTER: u64 = 1 << 36;
/// Bit in the epoll data of a slot that tells its pidfd from its socket.
const PIDFD: u64 = 1 << 32;

/// Starts the machine and returns when it has ended: true if libxl, a signal or control ended it. Otherwise `tell` gets the line
/// with the reason before the guest is reported crashed, because the toolstack may then kill this process.
pub fn run(parsed: Parsed, stubdom: Option<Stubdom>, tell: impl Fn(&str)) -> bool {
    let Parsed { machine, notes } = parsed;
    let caged = bulkhead_policy::enter_cage(stubdom.is_some()).map_err(Failure::Cage);
    let signals = caged.and_then(|()| bulkhead_policy::end_signals().map_err(system("signals")));
    let mut launcher = match signals.and_then(|signals| Launcher::prepare(machine, stubdom, signals)) {
        Ok(launcher) => launcher,
        Err(failure) => {
            tell(&failure.line(Code::Start));
            return false;
        }
    };
    // libxl shows the first line, so an error must come before the notes.
    for note in notes.iter().chain(&launcher.shown) {
        say(note);
    }
    let started = launcher.start().map_err(|failure| (failure, Code::Start));
    let result = started.and_then(|()| launcher.watch().map_err(|failure| (failure, Code::Machine)));
    if let Err((failure, stage)) = &result {
        tell(&failure.line(*stage));
        if launcher.running {
            launcher.crash();
        }
    }
    launcher.end();
    result.is_ok()
}

/// libxl, a signal or control ends the machine. A machine that cannot go on returns a [`Failure`] instead.
struct End;

/// Why a machine has not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// The time for the start has passed.
    #[error("not ready after {} s: {}", START_TIMEOUT.as_secs(), .processes.join(", "))]
    NotReady {
        /// Names of the processes that do not run yet.
        processes: Vec<String>,
    },
    /// libxl or a signal has ended it.
    #[error("ended before it had started")]
    Interrupted,
    /// A process has exited.
    #[error("{}", .0.line())]
    Exited(EarlyExit),
}

/// A process that has exited before the machine ran.
#[derive(Debug)]
pub struct EarlyExit {
    name: String,
    pid: i32,
    cause: Cause,
    /// The last line of its log.
    last: Option<String>,
}

impl EarlyExit {
    /// Prefers the process's own last line, which has the reason. Nobody else prints it: control reads no logs before the machine
    /// runs.
    fn line(&self) -> String {
        let Self { name, pid, cause, last } = self;
        let line = last.as_ref().map_or_else(|| format!("{name} (pid {pid}): {cause}"), |l| format!("{name}: {l}"));
        format!("{line} (before the machine was ready)")
    }
}

/// Why a process has exited, and how.
#[derive(Debug)]
struct Cause {
    /// Why the launcher has killed it, if it has.
    reason: Option<KillReason>,
    exit: Exit,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.reason {
            Some(reason) => write!(f, "{reason} ({})", self.exit),
            None => self.exit.fmt(f),
        }
    }
}

impl Cause {
    /// The line about the process's end, with a number if the process stopped in its start.
    fn line(&self, name: &str, pid: i32) -> String {
        let line = format!("{name} (pid {pid}): {self}");
        if matches!(self.reason, Some(KillReason::Late(_))) { Code::Late.line(line) } else { line }
    }
}

/// How a process has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Exit {
    /// With this status.
    #[error("ended with status {0}")]
    Status(i32),
    /// By SIGSYS: the process made a system call that its profile does not list.
    #[error("killed by its system call filter (SIGSYS)")]
    Filter,
    /// By another signal.
    #[error("killed by signal {0}")]
    Signal(i32),
    /// The kernel reports neither a status nor a signal.
    #[error("ended")]
    Unknown,
}

impl Exit {
    fn of(status: &WaitIdStatus) -> Self {
        /// SIGSYS.
        const SYS: i32 = 31;
        match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Self::Status(code),
            (None, Some(SYS)) => Self::Filter,
            (None, Some(signal)) => Self::Signal(signal),
            (None, None) => Self::Unknown,
        }
    }
}

/// How this program was started.
#[derive(Clone, Copy, Debug)]
struct Manner {
    /// libxl asks for the program's capabilities; there is no guest.
    probe: bool,
    /// Only PV back ends are served: there is no broker.
    attach: bool,
    /// This is the stub domain's first process.
    stubdom: bool,
    /// libxl has asked for `dm_restrict`: after the start this process can open nothing on the host and change no rules on
    /// interfaces.
    restricted: bool,
    /// The settings name the control group in which the guest's are made: without it the machine does not start.
    groups_required: bool,
}

/// Data for the start of each process.
struct Spawner {
    /// Starts the processes.
    starter: Rc<Starter>,
    /// Layout of a device's channel.
    shape: Shape,
    /// The user of all processes (dm_restrict); `None`: each has its own.
    user: Option<Ids>,
}

/// Resources of the host that the machine holds until it ends.
struct Held {
    /// Slaves of pseudo terminals, the activity doorbell, the locked pid file.
    open: Vec<OwnedFd>,
    /// Paths that are removed at the end: sockets and the pid file.
    paths: Vec<String>,
    /// The rules on the interfaces of network cards, by slot.
    rules: Vec<(Slot, Rules)>,
}

/// This process's connections to Xen.
struct XenEnds {
    /// Restricted to the guest; `None` if only PV back ends are served.
    privcmd: Option<Privcmd>,
    /// Open from before the cage is closed until the machine's state is written.
    xenstore: Option<Xenstore>,
    /// Nodes with their values, to be written in this order when all processes run.
    report: Vec<(String, String)>,
    /// Makes a connection to xenstored for `xenbus`, without waiting.
    open_stream: Box<dyn Fn() -> Result<OwnedFd, XenError>>,
}

/// The domain's PV devices.
struct Pv {
    /// The domain, if it is watched.
    watched: Option<Watch>,
    /// PV disks that are added and removed.
    changes: DiskChanges,
    /// The connection to xenstored while the guest runs.
    store: Store,
}

/// Requests of control that are pending.
struct Requests {
    /// Token of the next descriptor that a process gets.
    next_token: u32,
    /// The device that `device_add` has started, and the request's number.
    hot_plug: Option<(Slot, u32)>,
    /// Files of `screendump`.
    dumps: Dumps,
}

/// Event sources of the main loop.
struct Events {
    epoll: OwnedFd,
    /// Signals that end the machine.
    signals: OwnedFd,
    ticks: Ticks,
}

struct Launcher {
    plan: MachinePlan,
    manner: Manner,
    slots: Slots,
    spawner: Spawner,
    events: Events,
    held: Held,
    xen: XenEnds,
    pv: Pv,
    requests: Requests,
    /// CPU of the data threads; `None` leaves it to the scheduler.
    place: Option<Place>,
    /// The processes' control groups in dom0, or why there are none.
    groups: Result<Groups, NoGroups>,
    /// What is promised of the processes, for an operator's check.
    promises: Option<OwnedFd>,
    /// Lines for the log about opened resources.
    shown: Vec<String>,
    /// All processes have come up.
    running: bool,
}

impl Launcher {
    /// Starts all processes and waits until they run.
    fn start(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        for slot in
            self.slots.iter().filter(|s| !s.looks() && s.phase() != Phase::Waiting).map(|s| s.slot).collect::<Vec<_>>()
        {
            self.spawn(slot)?;
        }
        while !self.slots.iter().all(|s| matches!(s.phase(), Phase::Running | Phase::Waiting)) {
            let left = START_TIMEOUT.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let late = self.slots.iter().filter(|s| s.phase() != Phase::Running).map(|s| s.name.clone());
                return Err(StartFault::NotReady { processes: late.collect() }.into());
            }
            if let Some(End) = self.wait_once(Some(left))? {
                return Err(StartFault::Interrupted.into());
            }
        }
        self.running = true;
        self.tell_running();
        self.pv.store.register(&self.events.epoll, WATCH).map_err(system("epoll_ctl"))?;
        // A disk that was added before is found by the watches' first events.
        self.pv.changes.reported.clone_from(&self.shown);
        if let Some(mut xenstore) = self.xen.xenstore.take() {
            for (path, value) in &self.xen.report {
                xenstore.write(path, value).map_err(|source| Failure::Node { node: path.clone(), source })?;
            }
        }
        let level = match self.plan.level {
            Level::Strict => "strict".to_owned(),
            Level::Kernel => format!("kernel (Landlock ABI {}, strict needs 6)", bulkhead_policy::landlock_abi()),
        };
        say(&format!(
            "{} processes run, sandbox level {level}{}",
            self.slots.iter().filter(|s| s.phase() == Phase::Running).count(),
            self.groups_in_words()
        ));
        if let (true, Ok((free, total))) = (self.manner.stubdom, crate::stubdom::free()) {
            say(&format!("{free} of {total} kB are free now"));
        }
        Ok(())
    }

    /// Tells control to copy the logs from now on. Before that the launcher needs a process's last line for the message of a failed
    /// start.
    fn tell_running(&self) {
        if let Some(control) = self.slots.get(CONTROL) {
            control.tell(|_| ToProcess::Running, &[]);
        }
    }

    fn watch(&mut self) -> Result<(), Failure> {
        loop {
            let end = self.wait_once(self.pv.changes.wait(Instant::now()))?;
            self.scan();
            if let Some(End) = end {
                return Ok(());
            }
        }
    }

    /// Reports the guest crashed, so that the toolstack does not wait for it.
    fn crash(&self) {
        if let Some(Err(e)) = self.xen.privcmd.as_ref().map(|p| p.remote_shutdown(Shutdown::Crash)) {
            say(&format!("the guest could not be reported crashed: {e}"));
        }
    }

    /// Kills all processes and waits for their exit.
    fn end(&mut self) {
        for slot in self.slots.iter_mut() {
            slot.kill(KillReason::MachineEnds);
        }
        for slot in self.slots.iter_mut() {
            if let Some(life) = slot.life.take() {
                let status = rustix::process::waitid(WaitId::PidFd(life.spawned.pidfd.as_fd()), WaitIdOptions::EXITED);
                // A process that exited before this kill may be the reason for the machine's end.
                if let Some(status) = status.ok().flatten().filter(|s| s.terminating_signal() != Some(9)) {
                    say(&format!("{} (pid {}): {}", slot.name, life.spawned.pid, Exit::of(&status)));
                }
            }
            for line in read_log(slot) {
                eprintln!("{}: {line}", slot.name);
            }
        }
        // The processes' groups first: the starter removes the guest's, which must be empty.
        self.groups = Err(NoGroups::Off);
        if !self.spawner.starter.end() {
            for path in &self.held.paths {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Says that no process can be started any more. The guest goes on as long as its processes do.
    fn starter_exited(&mut self) {
        if let Some(pidfd) = self.spawner.starter.pidfd() {
            let _ = epoll::delete(&self.events.epoll, pidfd);
        }
        self.spawner.starter.exited();
        // It connected to xenstored for this process.
        self.pv.store.keep_connection();
        say(&Code::Starter.line("the process that starts processes has ended: one that dies now stays dead, and no connection to xenstored is replaced"));
    }

    /// Waits for events once and handles them.
    fn wait_once(&mut self, timeout: Option<Duration>) -> Result<Option<End>, Failure> {
        let timeout = timeout.and_then(|t| rustix::event::Timespec::try_from(t).ok());
        self.arm()?;
        let mut events = Vec::with_capacity(16);
        match epoll::wait(&self.events.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(system("epoll_wait")(e)),
        }
        // A process's messages are handled before its exit: PIDFD makes the exit's number the larger one.
        events.sort_by_key(|e| e.data.u64());
        for event in events {
            let data = event.data.u64();
            let end = if data == SIGNALS {
                let _ = rustix::io::read(&self.events.signals, &mut [0u8; 128]);
                Some(End)
            } else if data == WATCH {
                self.domain_changed()
            } else if data == ACTIVITY {
                self.check_load();
                None
            } else if data == TICK {
                self.tick();
                None
            } else if data == STARTER {
                self.starter_exited();
                None
            } else if data == LOOK {
                self.look_came();
                None
            } else if data & PIDFD != 0 {
                self.exited((data & 0xff) as Slot)?
            } else {
                self.receive((data & 0xff) as Slot)?
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }

    /// Handles what xenstored has sent.
    fn domain_changed(&mut self) -> Option<End> {
        let fired = self.pv.store.hear();
        let watch = self.pv.watched.as_mut()?;
        match watch.changes(&fired) {
            Ok(seen) => {
                if seen.disks || seen.fronts {
                    self.pv.changes.notify(Instant::now(), seen.disks);
                }
                if seen.viewer {
                    self.pv.store.look(Subject::Viewer);
                }
                say(&seen.end?);
            }
            // The domain may still run, so its back ends stay.
            Err(e) => say(&format!("the domain cannot be watched any more: {e}")),
        }
        self.pv.watched = None;
        None
    }
}

/// Reads a process's log pipe. The process may be hostile.
fn read_log(slot: &SlotState) -> Vec<String> {
    let mut bytes = [0; 8192];
    let n = rustix::io::read(&slot.log_read, &mut bytes).unwrap_or(0);
    String::from_utf8_lossy(bytes.get(..n).unwrap_or_default()).lines().map(shown).collect()
}
