//! Starting all processes, and watching them.
mod added;
mod back_ends;
pub(crate) mod media;
mod nics;
mod prepare;
mod table;

use crate::budget;
use crate::resource::{CLOSED, Resource};
use crate::slot::{Channel, Life, Phase, SlotState};
use crate::attach::Watch;
use crate::stubdom::Stubdom;
use back_ends::Later;
use bulkhead_bus::plan::{
    Ask, BROKER, CONTROL, Death, DeviceConfig, FIRST_DEVICE, FdUse, FromProcess, Level, MachinePlan, Mode, Slot, ToProcess,
};
use bulkhead_policy::interface::Rules;
use crate::argv::Parsed;
use crate::errors::{Code, Coded as _};
use bulkhead_policy::{Ids, Spec, verify};
use bulkhead_ring::{BrokerEnd, SharedArea};
use bulkhead_wire::Shape;
use bulkhead_xen::{Privcmd, Xenstore};
use bulkhead_xen_abi::Shutdown;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};
use std::time::{Duration, Instant};

/// First user of the range in which every process gets its own; libxl's user takes its place if it gives one.
const FIRST_UID: u32 = 2_000_000_000;
/// Users of one guest.
const UIDS: u32 = 64;
/// How long the start may take.
const START: Duration = Duration::from_secs(30);
/// Nanoseconds of a device's time slice.
const SLICE: u64 = 100_000;
/// A device's nice value: enough that it pre-empts the broker that has woken it, not so much that one which loops takes
/// more than its share of a processor (1.6 times the weight of others).
const NICE: i32 = -2;
const SIGNALS: u64 = u64::MAX;
/// xenstore, of a domain that is watched.
const WATCH: u64 = 1 << 33;
/// Pidfds have this bit, sockets have not.
const PIDFD: u64 = 1 << 32;
/// Whether a process of this role looks at the display's surface.
fn looks(role: &str) -> bool {
    matches!(role, "fbdev" | "vnc")
}
/// Whether a process of this role draws on a surface.
fn draws(role: &str) -> bool {
    matches!(role, "vga" | "vfb")
}
/// Files of screenshots.
const DUMP_DIR: &str = "/var/lib/bulkhead/dump";

/// Starts the machine and stays until it ends; whether it ended because somebody wanted it to. Otherwise `tell` is told why,
/// before the guest is reported crashed: what comes of that may end this process too.
pub fn run(parsed: Parsed, stubdom: Option<Stubdom>, tell: impl Fn(&str)) -> bool {
    let Parsed { machine, notes } = parsed;
    let signals = bulkhead_policy::end_signals().map_err(|e| format!("signals: {e}"));
    let mut launcher = match signals.and_then(|signals| Launcher::prepare(machine, stubdom, signals)) {
        Ok(launcher) => launcher,
        Err(line) => {
            tell(&Code::Start.line(line));
            return false;
        }
    };
    // After what can go wrong, so that an error is the first line.
    for note in notes.iter().chain(&launcher.shown) {
        say(note);
    }
    let result = launcher.start().coded(Code::Start).and_then(|()| launcher.watch().coded(Code::Machine));
    if let Err(line) = &result {
        tell(line);
        if launcher.running {
            launcher.crash();
        }
    }
    launcher.end();
    result.is_ok()
}

/// Why the machine ends.
enum End {
    /// libxl, a signal, or control wants it.
    Wanted,
    /// Something without which the machine cannot be.
    Failed(String),
}

struct Launcher {
    plan: MachinePlan,
    shape: Shape,
    probe: bool,
    /// Nothing is emulated: there is no broker.
    attach: bool,
    /// The domain whose back ends are served, watched.
    watched: Option<Watch>,
    /// Disks that come and go.
    later: Later,
    executable: OwnedFd,
    slots: Vec<SlotState>,
    epoll: OwnedFd,
    signals: OwnedFd,
    privcmd: Option<Privcmd>,
    /// Slaves of pseudo terminals.
    _keep: Vec<OwnedFd>,
    sockets: Vec<String>,
    own: verify::Observed,
    null: OwnedFd,
    /// The user of all processes, if it is not one for each.
    user: Option<Ids>,
    /// What the display of now draws on, for the viewer.
    surface: Option<OwnedFd>,
    /// What is written to xenstore when all run, in this order: nodes and values.
    report: Vec<(String, String)>,
    /// This is the stub domain's first process.
    stubdom: bool,
    running: bool,
    next_token: u32,
    /// A device that was asked for and is being started; the number of the request.
    plugging: Option<(Slot, u32)>,
    /// libxl took its rights away: rules on interfaces stay as they are.
    restricted: bool,
    /// What was opened, for the log.
    shown: Vec<String>,
    /// Open only if it could not be opened later; until libxl has been told that the machine runs.
    xenstore: Option<Xenstore>,
    /// The rules on the interfaces of network cards, by slot.
    rules: Vec<(Slot, Rules)>,
}

fn say(line: &str) {
    eprintln!("bulkhead-dm: {line}");
}

impl Launcher {
    fn phase(&self, slot: Slot) -> Option<Phase> {
        self.slots.iter().find(|s| s.slot == slot).map(|s| s.phase)
    }

    fn slot(&mut self, slot: Slot) -> Option<&mut SlotState> {
        self.slots.iter_mut().find(|s| s.slot == slot)
    }

    /// Starts everything and waits until all run.
    fn start(&mut self) -> Result<(), String> {
        let deadline = Instant::now().checked_add(START).ok_or("clock")?;
        for slot in self.slots.iter().filter(|s| !looks(s.role) && s.phase != Phase::Waiting).map(|s| s.slot).collect::<Vec<_>>() {
            self.spawn(slot)?;
        }
        while !self.slots.iter().all(|s| matches!(s.phase, Phase::Running | Phase::Waiting)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let late: Vec<_> = self.slots.iter().filter(|s| s.phase != Phase::Running).map(|s| s.name.as_str()).collect();
                return Err(format!("not ready after {} s: {}", START.as_secs(), late.join(", ")));
            }
            match self.turn(Some(left))? {
                None => {}
                Some(End::Wanted) => return Err("ended before it had started".into()),
                Some(End::Failed(e)) => return Err(e),
            }
        }
        self.running = true;
        self.tell_running();
        if self.attach {
            self.watch_domain()?;
        } else if self.plan.mode == Mode::Xen && !self.probe && !self.stubdom && !self.restricted {
            // Without later disks the machine is whole.
            self.watch_domain().unwrap_or_else(|e| say(&format!("disks that come later will not be served: {e}")));
        }
        if self.plan.mode == Mode::Xen && !self.probe && !self.plan.stopped {
            let mut xenstore = match self.xenstore.take() {
                Some(open) => open,
                None => Xenstore::connect().coded(Code::Xenstore)?,
            };
            for (path, value) in &self.report {
                xenstore.write(path, value).map_err(|e| Code::Xenstore.line(format!("{path}: {e}")))?;
            }
        }
        let level = match self.plan.level {
            Level::Strict => "strict".to_owned(),
            Level::Kernel => format!("kernel (Landlock ABI {}, strict needs 6)", bulkhead_policy::landlock_abi()),
        };
        say(&format!("{} processes run, sandbox level {level}", self.slots.iter().filter(|s| s.phase == Phase::Running).count()));
        if let (true, Ok((free, total))) = (self.stubdom, crate::stubdom::free()) {
            say(&format!("{free} of {total} kB are free now"));
        }
        Ok(())
    }

    /// From now on control copies the logs. Until then what a process says belongs to the message of a failed start.
    fn tell_running(&self) {
        if let Some(control) = self.slots.iter().find(|s| s.slot == CONTROL) {
            control.tell(|_| ToProcess::Running, &[]);
        }
    }

    fn watch(&mut self) -> Result<(), String> {
        loop {
            let end = self.turn(self.later.wait(Instant::now()))?;
            if self.later.take_due(Instant::now()) {
                self.disks_changed();
            }
            match end {
                None => {}
                Some(End::Wanted) => return Ok(()),
                Some(End::Failed(e)) => return Err(e),
            }
        }
    }

    /// The machine cannot go on: the guest must not be left hanging.
    fn crash(&self) {
        if let Some(Err(e)) = self.privcmd.as_ref().map(|p| p.remote_shutdown(Shutdown::Crash)) {
            say(&format!("the guest could not be reported crashed: {e}"));
        }
    }

    /// Kills whatever is left, and waits for it.
    fn end(&mut self) {
        for slot in &mut self.slots {
            slot.kill("the machine ends");
        }
        for slot in &mut self.slots {
            if let Some(life) = slot.life.take() {
                let status = rustix::process::waitid(WaitId::PidFd(life.spawned.pidfd.as_fd()), WaitIdOptions::EXITED);
                // One that had ended before it was killed may be the cause of all.
                if let Some(status) = status.ok().flatten().filter(|s| s.terminating_signal() != Some(9)) {
                    say(&format!("{} (pid {}): {}", slot.name, life.spawned.pid, describe(&status)));
                }
            }
            for line in drain(slot) {
                eprintln!("{}: {line}", slot.name);
            }
        }
        for path in &self.sockets {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Puts a new process into a slot.
    fn spawn(&mut self, number: Slot) -> Result<(), String> {
        let (mut plan, shape, stubdom) = (self.plan.clone(), self.shape, self.stubdom);
        let watches = self.slots.iter().any(|s| s.slot == number && looks(s.role));
        let view = self.surface.as_ref().filter(|_| watches).map(rustix::io::dup).transpose().map_err(|e| e.to_string())?;
        let executable = rustix::io::dup(&self.executable).map_err(|e| e.to_string())?;
        let epoll = rustix::io::dup(&self.epoll).map_err(|e| e.to_string())?;
        let null = rustix::io::dup(&self.null).map_err(|e| e.to_string())?;
        let Some(state) = self.slot(number) else { return Err(format!("no slot {number}")) };
        plan.domid = state.domid.unwrap_or(plan.domid);
        let fail = |e: rustix::io::Errno| e.to_string();
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).map_err(fail)?;
        let spec = Spec { executable: executable.as_fd(), role: state.role, socket: theirs, log: state.log_write.as_fd(), null: null.as_fd(), ids: state.ids, outlives: number == BROKER };
        let spawned = bulkhead_policy::spawn(spec).map_err(|e| format!("starting {}: {e}", state.name))?;
        let pid = spawned.pid;
        if stubdom {
            budget::set(pid, &state.name, state.role, number)?;
        } else if number >= FIRST_DEVICE {
            // Not essential: without the right to it, or on another scheduler, an access costs a switch more.
            let _ = bulkhead_policy::set_schedule(pid, SLICE, NICE).or_else(|_| bulkhead_policy::set_schedule(pid, SLICE, 0));
        }
        epoll::add(&epoll, &spawned.pidfd, EventData::new_u64(u64::from(number) | PIDFD), EventFlags::IN).map_err(fail)?;
        epoll::add(&epoll, &ours, EventData::new_u64(u64::from(number)), EventFlags::IN).map_err(fail)?;
        state.life = Some(Life { spawned, resource: Resource::new(ours) });
        state.phase = Phase::Starting;
        state.unserved = false;
        state.reason.take();
        let mut served = None;
        let mut channel = None;
        if number != CONTROL {
            served = Some(control_pair()?);
        }
        if number >= FIRST_DEVICE {
            let area = |name, len| SharedArea::create(name, len).map_err(|e| e.to_string());
            channel = Some(Channel {
                request: area("request", shape.request_len())?,
                reply: area("reply", shape.reply_len())?,
                request_bell: eventfd()?,
                reply_bell: eventfd()?,
                sealed_by_device: false,
                sealed_by_broker: false,
            });
        }
        let apart = state.apart;
        if apart && let Some(channel) = &mut channel {
            // Nobody will ever ask anything on it; the device looks whether it is as it should be.
            let area = SharedArea::map_writer(&channel.request, shape.request_len()).map_err(|e| e.to_string())?;
            BrokerEnd::greet(&area);
            channel.sealed_by_broker = true;
        }
        let mut fds = state.kept();
        if let Some((_, theirs)) = &served {
            fds.push((FdUse::Control(number), theirs.as_fd()));
        }
        if let Some(channel) = &channel {
            fds.push((FdUse::OwnArea, channel.reply.as_fd()));
            fds.push((FdUse::RequestBell, channel.request_bell.as_fd()));
            fds.push((FdUse::ReplyBell, channel.reply_bell.as_fd()));
        }
        let surface = match state.role {
            role if draws(role) => Some(SharedArea::create("surface", bulkhead_wire::surface::LEN).map_err(|e| e.to_string())?),
            _ => None,
        };
        if let Some(surface) = &surface {
            fds.push((FdUse::Surface, surface.as_fd()));
        }
        if let Some(view) = &view {
            fds.push((FdUse::SurfaceView, view.as_fd()));
        }
        if let Some(old) = &state.old {
            fds.push((FdUse::OldArea, old.as_fd()));
        }
        let start = |fds| ToProcess::Start { slot: number, plan: Box::new(plan), fds };
        state.tell(start, &fds);
        state.old = None;
        state.channel = channel;
        if surface.is_some() {
            self.surface = surface;
        }
        if self.slots.iter().any(|s| s.slot == BROKER && s.phase == Phase::Running) {
            self.offer_channel(number);
        }
        if let Some((ours, _)) = served {
            // Kept by control only; until it runs, here.
            self.client(number, pid, ours);
        }
        Ok(())
    }

    /// Tells control of the process in a slot. If control does not run yet, it hears of all of them when it does.
    fn client(&mut self, slot: Slot, pid: i32, fd: OwnedFd) {
        let Some(control) = self.slot(CONTROL) else { return };
        if control.phase == Phase::Running {
            let message = |fds| ToProcess::Client { slot, pid: pid.unsigned_abs(), fds };
            control.tell(message, &[(FdUse::Control(slot), fd.as_fd())]);
        } else {
            // One that a control which died in the meantime was to get is of no use to anybody.
            control.kept.retain(|(what, _)| *what != FdUse::Control(slot));
            control.kept.push((FdUse::Control(slot), fd));
        }
    }

    /// Gives the broker the near end of a device's channel.
    fn offer_channel(&self, slot: Slot) {
        let Some(channel) = self.slots.iter().find(|s| s.slot == slot && !s.apart).and_then(|s| s.channel.as_ref()) else { return };
        let fds = [
            (FdUse::OwnArea, channel.request.as_fd()),
            (FdUse::RequestBell, channel.request_bell.as_fd()),
            (FdUse::ReplyBell, channel.reply_bell.as_fd()),
        ];
        if let Some(broker) = self.slots.iter().find(|s| s.slot == BROKER) {
            broker.tell(|fds| ToProcess::NewChannel { slot, fds }, &fds);
        }
    }

    /// One wait, and what it brings.
    fn turn(&mut self, timeout: Option<Duration>) -> Result<Option<End>, String> {
        let timeout = timeout.and_then(|t| rustix::event::Timespec::try_from(t).ok());
        let mut events = Vec::with_capacity(16);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.to_string()),
        }
        // What a process said before it died is heard before its death.
        events.sort_by_key(|e| e.data.u64());
        for event in events {
            let data = event.data.u64();
            let end = if data == SIGNALS {
                let _ = rustix::io::read(&self.signals, &mut [0u8; 128]);
                Some(End::Wanted)
            } else if data == WATCH {
                self.look()
            } else if data & PIDFD != 0 {
                self.ended((data & 0xff) as Slot)?
            } else {
                self.said((data & 0xff) as Slot)?
            };
            if end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }

    /// Something has happened to a domain, or in the nodes of the one that is watched.
    fn look(&mut self) -> Option<End> {
        let watch = self.watched.as_mut()?;
        match watch.look() {
            Ok(seen) => {
                let end = seen.end;
                if seen.disks {
                    self.later.news(Instant::now());
                }
                match end {
                    Some(line) => say(&line),
                    None => return None,
                }
            }
            // Not to know is no reason to take the back ends away.
            Err(e) => say(&format!("the domain cannot be watched any more: {e}")),
        }
        if let Some(watch) = self.watched.take() {
            let _ = epoll::delete(&self.epoll, watch.as_fd());
        }
        None
    }

    /// A process has written to its socket.
    fn said(&mut self, number: Slot) -> Result<Option<End>, String> {
        for _ in 0..16 {
            let Some(state) = self.slot(number) else { return Ok(None) };
            let Some(life) = &state.life else { return Ok(None) };
            match life.resource.receive() {
                Ok(Some((message, fd))) => {
                    if let Some(end) = self.asked(number, &message, fd)? {
                        return Ok(Some(end));
                    }
                }
                Ok(None) => return Ok(None),
                Err(why) => {
                    // Its end is on its way, or must be made to come.
                    if why == CLOSED { state.closed(why) } else { state.kill(why) }
                    if let Some(life) = &self.slots.iter().find(|s| s.slot == number).and_then(|s| s.life.as_ref()) {
                        let _ = epoll::delete(&self.epoll, &life.resource);
                    }
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    fn asked(&mut self, number: Slot, message: &FromProcess, fd: Option<OwnedFd>) -> Result<Option<End>, String> {
        match (message.ask, number) {
            (Ask::Sealed, BROKER) if message.arg == BROKER => {
                if let Some(broker) = self.slot(BROKER) {
                    broker.phase = Phase::Entering;
                }
            }
            (Ask::Sealed, BROKER) => self.sealed(message.arg, |c| c.sealed_by_broker = true),
            (Ask::Sealed, CONTROL) => {}
            // Once each in a life; a process that says so again is out of its mind.
            (Ask::Sealed, _) if self.phase(number) == Some(Phase::Starting) => self.sealed(number, |c| c.sealed_by_device = true),
            (Ask::Ready, CONTROL) if self.phase(number) == Some(Phase::Starting) => self.ready(number)?,
            (Ask::Ready, _) if self.phase(number) == Some(Phase::Entering) => self.ready(number)?,
            (Ask::Attached, BROKER) => {
                if let Some(state) = self.slot(message.arg).filter(|s| s.phase == Phase::Attaching) {
                    state.phase = Phase::Running;
                    self.plugged(message.arg, Ok(0));
                }
            }
            (Ask::ChannelDead, BROKER) => {
                let reason = if message.extra == Death::Deadline as u64 { "did not answer in time" } else { "broke the protocol" };
                if let Some(state) = self.slot(message.arg).filter(|s| s.slot >= FIRST_DEVICE) {
                    state.kill(reason);
                }
            }
            (Ask::VramAt, BROKER) => {
                for device in &mut self.plan.devices {
                    if let DeviceConfig::Vga { gfn, .. } = &mut device.config {
                        *gfn = message.extra;
                    }
                }
            }
            (Ask::Restart, CONTROL) => {
                let known = self.slot(message.arg).filter(|s| s.slot >= FIRST_DEVICE).map(|s| s.kill("restart was asked for"));
                self.answer(message.serial, known.map(|()| 0).ok_or_else(|| "there is no such device".to_owned()));
            }
            (Ask::Stop, CONTROL) => {
                let reason = match message.arg {
                    1 => Some(Shutdown::PowerOff),
                    2 => Some(Shutdown::Reboot),
                    _ => None,
                };
                match (reason, &self.privcmd) {
                    (Some(reason), Some(privcmd)) => privcmd.remote_shutdown(reason).map_err(|e| e.to_string())?,
                    (Some(_), None) => {}
                    (None, _) => return Ok(Some(End::Wanted)),
                }
                self.answer(message.serial, Ok(0));
            }
            (Ask::Processes, CONTROL) => {
                let (rows, serial) = (self.table(), message.serial);
                if let Some(control) = self.slot(CONTROL) {
                    control.tell(|_| ToProcess::Processes { serial, rows }, &[]);
                }
            }
            (Ask::GiveFd, CONTROL) => {
                let result = fd.ok_or_else(|| "no descriptor came with the request".to_owned()).and_then(|fd| self.give(message.arg, fd.as_fd()));
                self.answer(message.serial, result);
            }
            (Ask::Medium, CONTROL) => {
                let result = self.medium(message.arg, message.extra, fd);
                self.answer(message.serial, result);
            }
            (Ask::Disks, CONTROL) if self.stubdom => self.disks(message.serial, message.extra),
            (Ask::Nic, CONTROL) => {
                let result = self.set_nic(message.arg, &message.name).map(|()| 0);
                self.answer(message.serial, result);
            }
            (Ask::Dropped, CONTROL) => self.dropped(message.serial, message.arg),
            (Ask::Plug, CONTROL) => self.plug(message.serial, message.arg),
            (Ask::Ejected, BROKER) => self.ejected(message.arg),
            (Ask::Unplugged, BROKER) if message.extra == 0 => self.unplugged(message.arg),
            (Ask::Unplugged, BROKER) => self.disks_unplugged(message.arg, message.extra),
            (Ask::Dump, CONTROL) => {
                let result = self.dump(&message.name).and_then(|fd| self.give(message.arg, fd.as_fd()));
                self.answer(message.serial, result);
            }
            _ => {
                let name = self.slot(number).map_or_else(String::new, |s| s.name.clone());
                say(&format!("{name}: asked for {:?}, which it may not", message.ask));
                if let Some(state) = self.slot(number) {
                    state.kill("asked for what it may not");
                }
            }
        }
        Ok(None)
    }

    fn answer(&mut self, serial: u32, result: Result<u32, String>) {
        if let Some(control) = self.slot(CONTROL) {
            control.tell(|_| ToProcess::Answer { serial, result }, &[]);
        }
    }

    /// Hands a descriptor to a process; it is known by the token then.
    fn give(&mut self, slot: Slot, fd: BorrowedFd<'_>) -> Result<u32, String> {
        let token = self.next_token;
        self.next_token = self.next_token.wrapping_add(1);
        let state = self.slot(slot).filter(|s| s.slot >= FIRST_DEVICE && s.phase == Phase::Running);
        let state = state.ok_or_else(|| "that process does not run".to_owned())?;
        state.tell(|_| ToProcess::Token { token }, &[(FdUse::LogFile, fd)]);
        Ok(token)
    }

    /// A new file in the dump directory. The name is one component of harmless characters.
    fn dump(&self, name: &[u8; 64]) -> Result<OwnedFd, String> {
        let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let name = std::str::from_utf8(name.get(..len).unwrap_or_default()).unwrap_or("");
        let harmless = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if name.is_empty() || name.starts_with('.') || !harmless {
            return Err("a file name of letters, digits, '.', '-' and '_'".into());
        }
        std::fs::create_dir_all(DUMP_DIR).map_err(|e| format!("{DUMP_DIR}: {e}"))?;
        let path = format!("{DUMP_DIR}/{name}");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path.as_str(), flags, FileMode::from_raw_mode(0o600)).map_err(|e| format!("{path}: {}", std::io::Error::from(e)))
    }

    /// An area of a device's channel is sealed; when both are, the device gets the broker's.
    fn sealed(&mut self, slot: Slot, mark: impl FnOnce(&mut Channel)) {
        let Some(state) = self.slot(slot) else { return };
        let Some(channel) = &mut state.channel else { return };
        mark(channel);
        if channel.sealed_by_device && channel.sealed_by_broker && state.phase == Phase::Starting {
            state.phase = Phase::Entering;
            if let Some(channel) = &state.channel {
                state.tell(|fds| ToProcess::Peer { fds }, &[(FdUse::PeerArea, channel.request.as_fd())]);
            }
        }
    }

    /// A process says that it is in its sandbox: look, and let it go on.
    fn ready(&mut self, number: Slot) -> Result<(), String> {
        let own = self.own.clone();
        let Some(state) = self.slot(number) else { return Ok(()) };
        let Some(pid) = state.life.as_ref().map(|l| l.spawned.pid) else { return Ok(()) };
        let profile = bulkhead_policy::profile(state.role).ok_or_else(|| format!("no profile for {}", state.role))?;
        let wrong = match verify::observe(pid) {
            Ok(observed) => verify::check(&observed, &own, profile),
            Err(e) => vec![format!("/proc/{pid}: {e}")],
        };
        if !wrong.is_empty() {
            // At the start this ends the machine; later it costs the guest this device and nothing else.
            state.kill(format!("not in its sandbox: {}", wrong.join("; ")));
            return Ok(());
        }
        state.phase = if number >= FIRST_DEVICE && !state.apart { Phase::Attaching } else { Phase::Running };
        state.tell(|_| ToProcess::Go, &[]);
        if std::mem::take(&mut state.unserved) {
            self.serve(number, pid)?;
        }
        if number == CONTROL && self.running {
            self.tell_running();
        }
        let display = self.slot(number).is_some_and(|s| draws(s.role));
        if display {
            self.view()?;
        }
        match number {
            BROKER => {
                for slot in self.slots.iter().map(|s| s.slot).filter(|s| *s >= FIRST_DEVICE).collect::<Vec<_>>() {
                    self.offer_channel(slot);
                }
            }
            CONTROL => {
                let clients: Vec<_> = match self.slot(CONTROL) {
                    Some(c) => {
                        let (clients, kept) = std::mem::take(&mut c.kept).into_iter().partition(|(u, _)| matches!(u, FdUse::Control(_)));
                        c.kept = kept;
                        clients
                    }
                    None => Vec::new(),
                };
                for (what, fd) in clients {
                    if let FdUse::Control(slot) = what {
                        let pid = self.slots.iter().find(|s| s.slot == slot).and_then(|s| s.life.as_ref()).map_or(0, |l| l.spawned.pid);
                        self.client(slot, pid, fd);
                    }
                }
            }
            slot => {
                let Some(reply) = self.slots.iter().find(|s| s.slot == slot && !s.apart).and_then(|s| s.channel.as_ref()).map(|c| c.reply.as_fd()) else {
                    return Ok(());
                };
                if let Some(broker) = self.slots.iter().find(|s| s.slot == BROKER) {
                    broker.tell(|fds| ToProcess::Online { slot, fds }, &[(FdUse::PeerArea, reply)]);
                }
            }
        }
        Ok(())
    }

    /// The display is ready: the viewer begins, or goes on with the surface of this life.
    fn view(&mut self) -> Result<(), String> {
        let surface = self.surface.as_ref().map(rustix::io::dup).transpose().map_err(|e| e.to_string())?;
        let Some(viewer) = self.slots.iter_mut().find(|s| looks(s.role) && s.phase != Phase::Dead) else { return Ok(()) };
        if viewer.life.is_some() {
            match surface.filter(|_| viewer.phase == Phase::Running) {
                Some(surface) => viewer.tell(|_| ToProcess::Surface, &[(FdUse::SurfaceView, surface.as_fd())]),
                // It has the surface of the life before in its hands.
                None => viewer.kill("the display was started again"),
            }
            return Ok(());
        }
        let (number, name) = (viewer.slot, viewer.name.clone());
        match self.spawn(number) {
            // The guest goes on without somebody looking.
            Err(e) if self.running => say(&format!("{name}: {e}")),
            other => return other,
        }
        Ok(())
    }

    /// A process has ended.
    fn ended(&mut self, number: Slot) -> Result<Option<End>, String> {
        // What it said last.
        if let Some(end) = self.said(number)? {
            return Ok(Some(end));
        }
        let running = self.running;
        let epoll = rustix::io::dup(&self.epoll).map_err(|e| e.to_string())?;
        let Some(state) = self.slot(number) else { return Ok(None) };
        let Some(life) = state.life.take() else { return Ok(None) };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(life.spawned.pidfd.as_fd()), options).ok().flatten();
        if status.is_none() {
            // The event was about an earlier life.
            state.life = Some(life);
            return Ok(None);
        }
        // By hand: a child that has not called exec yet holds copies, and closing ours would leave the entries.
        let _ = epoll::delete(&epoll, &life.spawned.pidfd);
        let _ = epoll::delete(&epoll, &life.resource);
        let how = status.map_or("ended".to_owned(), |s| describe(&s));
        let reason = state.reason.take().map_or(how.clone(), |r| format!("{r} ({how})"));
        let line = format!("{} (pid {}): {reason}", state.name, life.spawned.pid);
        if running {
            say(&line);
        }
        if !running {
            // Its last line says why; control does not read logs before the machine runs.
            let said = drain(state);
            let line = said.last().map_or(line, |said| format!("{}: {said}", state.name));
            return Ok(Some(End::Failed(format!("{line} (before the machine was ready)"))));
        }
        match number {
            BROKER => Ok(Some(End::Failed("the broker is dead: the guest is reported crashed".into()))),
            CONTROL => self.restart_control(),
            _ => self.restart_device(number, &reason),
        }
    }

    fn restart_device(&mut self, number: Slot, reason: &str) -> Result<Option<End>, String> {
        let Some(state) = self.slot(number) else { return Ok(None) };
        let unplugged = state.phase == Phase::Unplugged;
        let restart = !unplugged && state.may_restart();
        // Its last state is in the area that it wrote.
        state.old = state.channel.take().map(|c| c.reply);
        state.phase = match (restart, unplugged) {
            (true, _) => Phase::Starting,
            (false, false) => Phase::Dead,
            (false, true) => Phase::Unplugged,
        };
        let (name, apart) = (state.name.clone(), state.apart);
        let disk = state.role == "qdisk" || apart;
        // For control an unplugged device is no dead one; it is told below.
        for other in [(!apart).then_some(BROKER), (!unplugged).then_some(CONTROL)].into_iter().flatten() {
            let reason = reason.to_owned();
            if let Some(other) = self.slot(other) {
                other.tell(|_| ToProcess::Offline { slot: number, restart, reason }, &[]);
            }
        }
        let blind = self.slots.iter().any(|s| draws(s.role) && !matches!(s.phase, Phase::Attaching | Phase::Running));
        let viewer = self.slots.iter().any(|s| s.slot == number && looks(s.role));
        if restart && viewer && blind {
            // It is started when the display is ready.
        } else if restart {
            self.reconnect(number);
            if let Err(e) = self.spawn(number) {
                say(&format!("{name}: {e}"));
            }
        } else if unplugged && disk {
            self.forget(number);
        } else if unplugged {
            self.may_come_again(number);
            if let Some(control) = self.slot(CONTROL) {
                control.tell(|_| ToProcess::Unplugged { slot: number }, &[]);
            }
        } else {
            say(&format!("{name}: died too often; it stays dead"));
            self.plugged(number, Err(format!("{name}: died too often")));
        }
        Ok(None)
    }

    fn restart_control(&mut self) -> Result<Option<End>, String> {
        if !self.slot(CONTROL).is_some_and(SlotState::may_restart) {
            // The guest does not need it. Signals still end the machine.
            say("control died too often; it stays dead, the guest goes on without QMP");
            if let Some(control) = self.slot(CONTROL) {
                control.phase = Phase::Dead;
            }
            return Ok(None);
        }
        if let Some(control) = self.slot(CONTROL) {
            control.phase = Phase::Starting;
        }
        // The old connections ended in the middle of something; every process gets a new one.
        for slot in self.slots.iter().filter(|s| s.slot != CONTROL && matches!(s.phase, Phase::Running | Phase::Attaching)).map(|s| s.slot).collect::<Vec<_>>() {
            self.serve(slot, 0)?;
        }
        // One that is just being started was told of to the control that has died; it takes a connection once it runs.
        for state in self.slots.iter_mut().filter(|s| s.slot != CONTROL && matches!(s.phase, Phase::Starting | Phase::Entering)) {
            state.unserved = true;
        }
        self.spawn(CONTROL)?;
        Ok(None)
    }

    /// Gives the process in a slot a connection to control, in place of one that control has taken with it.
    fn serve(&mut self, slot: Slot, pid: i32) -> Result<(), String> {
        let (ours, theirs) = control_pair()?;
        if let Some(state) = self.slot(slot) {
            state.tell(|_| ToProcess::Serve, &[(FdUse::Control(slot), theirs.as_fd())]);
        }
        self.client(slot, pid, ours);
        Ok(())
    }
}

/// A connection between control and a process.
fn control_pair() -> Result<(OwnedFd, OwnedFd), String> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(|e| e.to_string())
}

fn eventfd() -> Result<OwnedFd, String> {
    use rustix::event::EventfdFlags;
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| e.to_string())
}

fn describe(status: &rustix::process::WaitIdStatus) -> String {
    if let Some(code) = status.exit_status() {
        return format!("ended with status {code}");
    }
    match status.terminating_signal() {
        Some(31) => "killed by its system call filter (SIGSYS)".to_owned(),
        Some(signal) => format!("killed by signal {signal}"),
        None => "ended".to_owned(),
    }
}

/// What a process has logged and nobody has read. Who wrote it may be hostile: printable characters only.
fn drain(slot: &SlotState) -> Vec<String> {
    let mut bytes = [0; 8192];
    let n = rustix::io::read(&slot.log_read, &mut bytes).unwrap_or(0);
    let printable = |c: char| if c.is_control() { '?' } else { c };
    String::from_utf8_lossy(bytes.get(..n).unwrap_or_default()).lines().map(|l| l.chars().map(printable).take(1000).collect()).collect()
}
