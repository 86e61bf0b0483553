//! Starting all processes, and watching them.
//!
//! | file | what |
//! |---|---|
//! | `prepare.rs` | what is opened, and for whom |
//! | `lives.rs` | a process's life: its start, its sandbox, its end, the next one |
//! | `asks.rs` | what processes ask for |
//! | `executable.rs` | where the processes' executable is |
//! | `placing.rs` | on which CPU |
//! | `media.rs`, `nics.rs`, `added.rs`, `back_ends.rs`, `later.rs` | what changes while the machine runs |
//! | `table.rs` | the process table |
mod back_ends;
mod disk_changes;
mod executable;
mod hot_plug;
mod lives;
pub(crate) mod media;
mod nics;
mod placing;
mod prepare;
mod refusal;
mod requests;
mod table;

use crate::argv::Parsed;
use crate::attach::Watch;
use crate::errors::Code;
use crate::failure::{Failure, system};
use crate::placement::Place;
use crate::slot::{ChannelFds, KillReason, Phase, SlotState};
use crate::slots::Slots;
use crate::stubdom::Stubdom;
use crate::unserved::Answers;
use bulkhead_plan::{CONTROL, Level, MachinePlan, Mode, Slot, ToProcess};
use bulkhead_policy::interface::Rules;
use bulkhead_policy::{Ids, verify};
use bulkhead_wire::Shape;
use bulkhead_xen::{Privcmd, Xenstore};
use bulkhead_xen_abi::Shutdown;
use disk_changes::DiskChanges;
pub(crate) use lives::eventfd;
use rustix::event::epoll;
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus};
use std::time::{Duration, Instant};

/// First user of the range in which every process gets its own; libxl's user takes its place if it gives one.
const FIRST_UID: u32 = 2_000_000_000;
/// Users of one guest.
const UIDS: u32 = 64;
/// How long the start may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const SIGNALS: u64 = u64::MAX;
/// xenstore, of a domain that is watched.
const WATCH: u64 = 1 << 33;
/// The broker says that the guest makes accesses.
const ACTIVITY: u64 = 1 << 34;
/// Pidfds have this bit, sockets have not.
const PIDFD: u64 = 1 << 32;
/// Files of screenshots.
const DUMP_DIR: &str = "/var/lib/bulkhead/dump";

/// Starts the machine and stays until it ends; whether it ended because somebody wanted it to. Otherwise `tell` is told why,
/// before the guest is reported crashed: what comes of that may end this process too.
pub fn run(parsed: Parsed, stubdom: Option<Stubdom>, tell: impl Fn(&str)) -> bool {
    let Parsed { machine, notes } = parsed;
    let signals = bulkhead_policy::end_signals().map_err(system("signals"));
    let mut launcher = match signals.and_then(|signals| Launcher::prepare(machine, stubdom, signals)) {
        Ok(launcher) => launcher,
        Err(failure) => {
            tell(&failure.line(Code::Start));
            return false;
        }
    };
    // After what can go wrong, so that an error is the first line.
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

/// libxl, a signal, or control wants the machine to end. (A machine that must end ends by a [`Failure`].)
struct End;

/// Why a machine has not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// Time is up.
    #[error("not ready after {} s: {}", START_TIMEOUT.as_secs(), .processes.join(", "))]
    NotReady {
        /// Who does not run yet.
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
    /// The process's own last line says why; control does not read logs before the machine runs.
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

/// How a process has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Exit {
    /// With this status.
    #[error("ended with status {0}")]
    Status(i32),
    /// By SIGSYS.
    #[error("killed by its system call filter (SIGSYS)")]
    Filter,
    /// By another signal.
    #[error("killed by signal {0}")]
    Signal(i32),
    /// The kernel does not say.
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
    /// libxl asks what the program can; there is no guest.
    probe: bool,
    /// Nothing is emulated: there is no broker.
    attach: bool,
    /// This is the stub domain's first process.
    stubdom: bool,
    /// libxl has taken its rights away (`dm_restrict`): nothing on the host can be opened, rules on interfaces stay as they are.
    restricted: bool,
}

/// What each start of a process needs.
struct Spawner {
    /// The file that has all roles.
    executable: OwnedFd,
    /// `/dev/null`.
    null: OwnedFd,
    /// Cells and areas of a device's channel.
    shape: Shape,
    /// This process, as the sandboxes are compared with it.
    own: verify::Observed,
    /// The user of all processes; `None`: each has one of its own.
    user: Option<Ids>,
}

/// What the machine keeps on the host until it ends.
struct Held {
    /// Slaves of pseudo terminals, a doorbell, the locked file with this process' number.
    open: Vec<OwnedFd>,
    /// Paths that are removed at the end: sockets, and that file.
    paths: Vec<String>,
    /// The rules on the interfaces of network cards, by slot.
    rules: Vec<(Slot, Rules)>,
}

/// This process' ends of Xen.
struct XenEnds {
    /// Restricted to the guest. Of a guest, not of a domain whose back ends alone are served.
    privcmd: Option<Privcmd>,
    /// Open only if it could not be opened later; until libxl has been told that the machine runs.
    xenstore: Option<Xenstore>,
    /// Nodes and their values, written in this order when all processes run.
    report: Vec<(String, String)>,
}

/// The domain's PV devices.
struct Pv {
    /// Watches the domain whose back ends are served.
    watched: Option<Watch>,
    /// Disks that are added and removed.
    changes: DiskChanges,
    /// A connection for answers to drivers that connect before their back end is served; held only if it could not be opened later.
    answers: Option<Answers>,
}

/// Requests of control's that are not answered yet.
struct Requests {
    /// Number of the next descriptor that a process is given.
    next_token: u32,
    /// A device that `device_add` asked for and that starts; the number of the request.
    hot_plug: Option<(Slot, u32)>,
}

/// What this process waits for.
struct Events {
    epoll: OwnedFd,
    /// Signals that end the machine.
    signals: OwnedFd,
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
    /// Where the data threads run; `None` leaves it to the scheduler.
    place: Option<Place>,
    /// What was opened, for the log.
    shown: Vec<String>,
    /// The start has succeeded.
    running: bool,
}

/// A line for the log, in one piece: others write there too.
pub fn say(line: &str) {
    let line = format!(
        "bulkhead-dm: {line}
"
    );
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

impl Launcher {
    /// Starts everything and waits until all run.
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
        if self.manner.attach {
            self.watch_domain()?;
        } else if self.plan.mode == Mode::Xen && !self.manner.probe && !self.manner.stubdom {
            // Without later disks the machine is whole.
            self.watch_domain().unwrap_or_else(|e| say(&format!("disks that come later will not be served: {e}")));
        }
        if self.plan.mode == Mode::Xen && !self.manner.probe && !self.plan.stopped {
            let mut xenstore = match self.xen.xenstore.take() {
                Some(open) => open,
                None => Xenstore::connect().map_err(Failure::Xenstore)?,
            };
            for (path, value) in &self.xen.report {
                xenstore.write(path, value).map_err(|source| Failure::Node { node: path.clone(), source })?;
            }
        }
        let level = match self.plan.level {
            Level::Strict => "strict".to_owned(),
            Level::Kernel => format!("kernel (Landlock ABI {}, strict needs 6)", bulkhead_policy::landlock_abi()),
        };
        say(&format!(
            "{} processes run, sandbox level {level}",
            self.slots.iter().filter(|s| s.phase() == Phase::Running).count()
        ));
        if let (true, Ok((free, total))) = (self.manner.stubdom, crate::stubdom::free()) {
            say(&format!("{free} of {total} kB are free now"));
        }
        Ok(())
    }

    /// From now on control copies the logs. Until then what a process says belongs to the message of a failed start.
    fn tell_running(&self) {
        if let Some(control) = self.slots.get(CONTROL) {
            control.tell(|_| ToProcess::Running, &[]);
        }
    }

    fn watch(&mut self) -> Result<(), Failure> {
        loop {
            let end = self.wait_once(self.pv.changes.wait(Instant::now()))?;
            if self.pv.changes.take_due(Instant::now()) {
                if self.pv.changes.take_disks() {
                    self.disks_changed();
                }
                self.answer_front_ends();
            }
            if let Some(End) = end {
                return Ok(());
            }
        }
    }

    /// The machine cannot go on: the guest must not be left hanging.
    fn crash(&self) {
        if let Some(Err(e)) = self.xen.privcmd.as_ref().map(|p| p.remote_shutdown(Shutdown::Crash)) {
            say(&format!("the guest could not be reported crashed: {e}"));
        }
    }

    /// Kills whatever is left, and waits for it.
    fn end(&mut self) {
        for slot in self.slots.iter_mut() {
            slot.kill(KillReason::MachineEnds);
        }
        for slot in self.slots.iter_mut() {
            if let Some(life) = slot.life.take() {
                let status = rustix::process::waitid(WaitId::PidFd(life.spawned.pidfd.as_fd()), WaitIdOptions::EXITED);
                // One that had ended before it was killed may be the cause of all.
                if let Some(status) = status.ok().flatten().filter(|s| s.terminating_signal() != Some(9)) {
                    say(&format!("{} (pid {}): {}", slot.name, life.spawned.pid, Exit::of(&status)));
                }
            }
            for line in read_log(slot) {
                eprintln!("{}: {line}", slot.name);
            }
        }
        for path in &self.held.paths {
            let _ = std::fs::remove_file(path);
        }
    }

    /// One wait, and what it brings.
    fn wait_once(&mut self, timeout: Option<Duration>) -> Result<Option<End>, Failure> {
        let timeout = timeout.and_then(|t| rustix::event::Timespec::try_from(t).ok());
        let mut events = Vec::with_capacity(16);
        match epoll::wait(&self.events.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(system("epoll_wait")(e)),
        }
        // What a process said before it died is heard before its death.
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

    /// Something has happened to a domain, or in the nodes of the one that is watched.
    fn domain_changed(&mut self) -> Option<End> {
        let watch = self.pv.watched.as_mut()?;
        match watch.changes() {
            Ok(seen) => {
                let end = seen.end;
                if seen.disks || seen.fronts {
                    self.pv.changes.notify(Instant::now(), seen.disks);
                }
                match end {
                    Some(line) => say(&line),
                    None => return None,
                }
            }
            // Not to know is no reason to take the back ends away.
            Err(e) => say(&format!("the domain cannot be watched any more: {e}")),
        }
        if let Some(watch) = self.pv.watched.take() {
            let _ = epoll::delete(&self.events.epoll, watch.as_fd());
        }
        None
    }
}

/// What a process has logged and nobody has read. Who wrote it may be hostile: printable characters only.
fn read_log(slot: &SlotState) -> Vec<String> {
    let mut bytes = [0; 8192];
    let n = rustix::io::read(&slot.log_read, &mut bytes).unwrap_or(0);
    let printable = |c: char| if c.is_control() { '?' } else { c };
    String::from_utf8_lossy(bytes.get(..n).unwrap_or_default())
        .lines()
        .map(|l| l.chars().map(printable).take(1000).collect())
        .collect()
}
