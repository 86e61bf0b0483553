//! The broker's event loop: event channels, doorbells, the tick, the launcher, control.
use crate::channel::ServedDevice;
use crate::dispatcher::{Action, Dispatcher};
use crate::edge::{Edge, SimEdge, XenEdge};
use crate::state::Domain;
use crate::turns::{Next, Turns};
use bulkhead_bus::{GuestMemory, NoMemory};
use bulkhead_plan::{Activity, Ask, FdUse, Mode, Slot, ToProcess};
use bulkhead_ring::{BrokerEnd, DirtyMap, SharedArea};
use bulkhead_runtime::{
    Call, Called, ControlHandle, ControlRequest, Done, FacetError, Facts, Fds, ForeignMemory, LinkError, LoadError,
    LoggedMemory, MemfdMemory, Process, StartError, read_saved, serve_control,
};
use bulkhead_wire::{Op, Shape};
use bulkhead_xen::XenError;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

const EVENTS: u64 = u64::MAX;
const LINK: u64 = u64::MAX - 1;
const CONTROL: u64 = u64::MAX - 2;
const TICK: u64 = u64::MAX - 3;
const COMMAND: u64 = u64::MAX - 4;

/// The launcher's doorbell for accesses is rung after at least this many ticks…
const ACTIVE_TICKS: u32 = 5;
/// …and this many wake-ups.
const ACTIVE_WAKEUPS: u64 = 128;

/// Nanoseconds of a tick.
const TICK_NS: i64 = 100_000_000;
const NOT_AT_ALL: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
/// How often a stop looks whether devices have taken their posted writes.
const SOON: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// Runs the broker. `describe` builds the devices' descriptions from the plan, and takes the ROMs from the descriptors.
pub fn run<E: Error + Send + Sync + 'static>(
    describe: impl FnOnce(&bulkhead_plan::MachinePlan, &mut Fds) -> Result<Vec<ServedDevice>, E>,
) -> Result<(), StartError> {
    let mut process = Process::start("broker")?;
    let plan = process.plan.clone();
    let shape = Shape::new(usize::from(plan.vcpus)).ok_or(StartError::Vcpus)?;
    let devices = describe(&plan, &mut process.fds).map_err(|why| StartError::Device(Box::new(why)))?;
    let control_socket = process.fds.require(&FdUse::Control(process.slot))?;
    match plan.mode {
        Mode::Xen => {
            let privcmd = process.fds.require(&FdUse::Privcmd)?;
            let evtchn = process.fds.require(&FdUse::Evtchn)?;
            let memory = Arc::new(ForeignMemory::new(rustix::io::dup(&privcmd)?, plan.domid));
            let edge = XenEdge::new(plan.domid, plan.vcpus, privcmd, evtchn).map_err(refused)?;
            let log = Log::open(&mut process, memory)?;
            let dispatcher = Dispatcher::new(edge, plan.vcpus, shape, log.memory.clone(), devices);
            start(process, log.into(dispatcher), control_socket, None)
        }
        Mode::Sim => {
            let pages = process.fds.require(&FdUse::SimIoreq)?;
            let kick = process.fds.require(&FdUse::SimKick)?;
            let trace = process.fds.require(&FdUse::SimTrace)?;
            let commands = rustix::io::dup(&trace)?;
            let memory: Arc<dyn GuestMemory> = match process.fds.take(&FdUse::SimMemory) {
                Some(fd) => {
                    let len = usize::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
                    Arc::new(MemfdMemory::new(SharedArea::map_fixed(&fd, len, true)?))
                }
                None => Arc::new(NoMemory),
            };
            let edge = SimEdge::new(pages, kick, trace).map_err(refused)?;
            let log = Log::open(&mut process, memory)?;
            let dispatcher = Dispatcher::new(edge, plan.vcpus, shape, log.memory.clone(), devices);
            start(process, log.into(dispatcher), control_socket, Some(commands))
        }
    }
}

/// The maps of written pages, and the memory whose writes the broker's own has.
struct Log {
    memory: Arc<dyn GuestMemory>,
    maps: Vec<(Slot, Arc<DirtyMap>)>,
}

impl Log {
    fn open(process: &mut Process, memory: Arc<dyn GuestMemory>) -> Result<Self, StartError> {
        let mut maps = Vec::new();
        for slot in process.plan.devices.iter().map(|d| d.slot).chain([process.slot]) {
            if let Some(map) = process.fds.take(&FdUse::DirtyMap(slot)) {
                maps.push((slot, Arc::new(DirtyMap::map(map)?)));
            }
        }
        let memory = match maps.iter().find(|(slot, _)| *slot == process.slot) {
            Some((_, own)) => Arc::new(LoggedMemory::new(memory, own.clone())),
            None => memory,
        };
        Ok(Self { memory, maps })
    }

    fn into<E: Edge>(self, mut dispatcher: Dispatcher<E>) -> Dispatcher<E> {
        dispatcher.logs(self.maps);
        dispatcher
    }
}

fn refused(why: XenError) -> StartError {
    StartError::Hypervisor(Box::new(why))
}

fn start<E: Edge>(
    mut process: Process,
    mut dispatcher: Dispatcher<E>,
    control_socket: OwnedFd,
    commands: Option<OwnedFd>,
) -> Result<(), StartError> {
    let activity = process.fds.take(&FdUse::Activity);
    let saved = process.fds.take(&FdUse::SavedState);
    process.fds = Fds::default();
    process.request(Ask::ChannelSealed { slot: process.slot })?;
    let report = process.confine()?;
    let control = serve_control("broker")?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let timer =
        rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    epoll::add(&epoll, dispatcher.edge.wait_fd(), EventData::new_u64(EVENTS), EventFlags::IN)?;
    epoll::add(&epoll, &process.link, EventData::new_u64(LINK), EventFlags::IN)?;
    epoll::add(&epoll, &control.bell, EventData::new_u64(CONTROL), EventFlags::IN | EventFlags::ET)?;
    epoll::add(&epoll, &timer, EventData::new_u64(TICK), EventFlags::IN)?;
    if let Some(commands) = &commands {
        epoll::add(&epoll, commands, EventData::new_u64(COMMAND), EventFlags::IN)?;
    }
    dispatcher.domain = Domain { boot: process.plan.boot.clone(), domid: process.plan.domid };
    process.seal()?;
    control.connect(control_socket);
    if let Some(state) = saved {
        dispatcher.load(&read_saved(&state)?)?;
    }
    dispatcher.stop(process.plan.paused);
    process.ready()?;
    tracing::info!(landlock = report.landlock, "in the sandbox");
    let mut broker = Broker {
        process,
        dispatcher,
        control,
        epoll,
        timer,
        ticking: false,
        commands,
        opening: HashMap::new(),
        reply_bells: HashMap::new(),
        wakeups: 0,
        activity,
        stopping: Vec::new(),
        ticks: 0,
        wakeups_reported: 0,
    };
    broker.run()
}

/// A channel whose device is not ready yet.
struct Opening {
    request: SharedArea,
    request_bell: OwnedFd,
    reply_bell: OwnedFd,
}

struct Broker<E> {
    process: Process,
    dispatcher: Dispatcher<E>,
    control: ControlHandle,
    epoll: OwnedFd,
    timer: OwnedFd,
    ticking: bool,
    commands: Option<OwnedFd>,
    opening: HashMap<Slot, Opening>,
    /// The doorbells of the devices that are online, by slot.
    reply_bells: HashMap<Slot, OwnedFd>,
    wakeups: u64,
    /// The launcher's doorbell, rung while the guest makes accesses.
    activity: Option<OwnedFd>,
    /// Stops that are answered when the dispatcher is at rest.
    stopping: Vec<Done>,
    /// Ticks since `activity` was rung last.
    ticks: u32,
    /// `wakeups` when `activity` was rung last.
    wakeups_reported: u64,
}

impl<E: Edge> Broker<E> {
    fn run(&mut self) -> Result<(), StartError> {
        let mut events = Vec::with_capacity(32);
        let mut turns = Turns::default();
        loop {
            // A device may have answered meanwhile; checking costs no system call.
            let idle = self.dispatcher.work();
            for action in self.dispatcher.take_actions() {
                match action {
                    Action::Dead(slot, death) => self.process.request(Ask::ChannelDead { slot, death })?,
                    Action::Unplugged(slot) => self.process.request(Ask::Unplugged { slot })?,
                    Action::Ejected(slot) => self.process.request(Ask::Ejected { slot })?,
                    Action::PartsUnplugged(slot, mask) => self.process.request(Ask::PartUnplugged { slot, mask })?,
                    Action::VideoRamAt(gfn) => self.process.request(Ask::VramAt { gfn })?,
                }
            }
            if let (Some(value), Some(commands)) = (self.dispatcher.take_broadcast(), &self.commands) {
                let _ = rustix::io::write(commands, format!("result {value}").as_bytes());
            }
            if self.dispatcher.at_rest() {
                for answer in self.stopping.drain(..) {
                    let _ = answer.send(());
                }
            }
            self.arm(!idle)?;
            self.dispatcher.edge.unmask();
            let next = turns.next(idle, idle && self.dispatcher.may_sleep());
            if next == Next::Work {
                continue;
            }
            events.clear();
            let timeout = match next {
                // A device that takes the last posted write does not ring.
                Next::Sleep if !self.stopping.is_empty() => Some(&SOON),
                Next::Sleep => None,
                _ => Some(&NOT_AT_ALL),
            };
            if next == Next::Sleep {
                self.dispatcher.rests();
                self.wakeups = self.wakeups.saturating_add(1);
            }
            let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout);
            match waited {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &events {
                match event.data.u64() {
                    EVENTS => self.dispatcher.edge.pending(),
                    LINK if !self.link()? => return Ok(()),
                    LINK => {}
                    CONTROL => self.control(),
                    TICK => {
                        // Several expirations count as one tick, because a paused machine must not run into deadlines.
                        let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
                        self.dispatcher.tick();
                        self.report_activity();
                        if !self.dispatcher.outstanding() {
                            self.set_timer(0)?;
                            self.ticking = false;
                        }
                    }
                    COMMAND if !self.command() => {
                        return Err(StartError::SimulationGone);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Rings the launcher's doorbell on a tick that runs anyway, so that a guest with few accesses causes no wake-ups.
    fn report_activity(&mut self) {
        self.ticks = self.ticks.saturating_add(1);
        if self.ticks < ACTIVE_TICKS || self.wakeups.saturating_sub(self.wakeups_reported) < ACTIVE_WAKEUPS {
            return;
        }
        self.ticks = 0;
        self.wakeups_reported = self.wakeups;
        if let Some(bell) = &self.activity {
            let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
        }
    }

    /// Starts the tick if something is outstanding, or if the broker is `busy` without an end. The first tick without outstanding
    /// work stops it: starting and stopping it for every access would cost two system calls each.
    fn arm(&mut self, busy: bool) -> Result<(), StartError> {
        if self.ticking || !(busy || self.dispatcher.outstanding()) {
            return Ok(());
        }
        self.ticking = true;
        self.set_timer(TICK_NS)
    }

    fn set_timer(&self, ns: i64) -> Result<(), StartError> {
        let time = Timespec { tv_sec: 0, tv_nsec: ns };
        let spec = Itimerspec { it_interval: time, it_value: time };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }

    /// Handles the launcher's messages. False if the launcher has exited, after the guest has been reported crashed.
    fn link(&mut self) -> Result<bool, StartError> {
        match self.process.link.receive(false) {
            Ok(None) => Ok(true),
            Ok(Some((ToProcess::NewChannel { slot, fds: uses }, fds))) => {
                let mut all = Fds::default();
                all.add(uses, fds);
                let request =
                    SharedArea::map_writer(all.require(&FdUse::OwnArea)?, self.dispatcher.shape().request_len())?;
                BrokerEnd::greet(&request);
                let opening = Opening {
                    request,
                    request_bell: all.require(&FdUse::RequestBell)?,
                    reply_bell: all.require(&FdUse::ReplyBell)?,
                };
                self.opening.insert(slot, opening);
                self.process.request(Ask::ChannelSealed { slot })?;
                Ok(true)
            }
            Ok(Some((ToProcess::Online { slot, fds: uses }, fds))) => {
                let mut all = Fds::default();
                all.add(uses, fds);
                let reply = SharedArea::map_reader(all.require(&FdUse::PeerArea)?, self.dispatcher.shape().reply_len());
                if let (Some(opening), Ok(reply)) = (self.opening.remove(&slot), reply) {
                    let end = BrokerEnd::new(opening.request, reply, self.dispatcher.shape());
                    let data = EventData::new_u64(u64::from(slot));
                    epoll::add(&self.epoll, opening.reply_bell.as_fd(), data, EventFlags::IN | EventFlags::ET)?;
                    self.dispatcher.online(slot, end, opening.request_bell);
                    // Closing the doorbell of the previous process removes its entry in epoll.
                    self.reply_bells.insert(slot, opening.reply_bell);
                    self.process.request(Ask::Attached { slot })?;
                }
                Ok(true)
            }
            Ok(Some((ToProcess::Offline { slot, restart, reason }, _))) => {
                tracing::warn!("slot {slot}: {reason}{}", if restart { "; it will be restarted" } else { "" });
                self.dispatcher.offline(slot);
                Ok(true)
            }
            Ok(Some((ToProcess::Serve, fds))) => {
                if let Some(fd) = fds.into_iter().next() {
                    self.control.connect(fd);
                }
                Ok(true)
            }
            Ok(Some(_)) => Ok(true),
            Err(LinkError::Closed) => {
                tracing::error!("the launcher has exited: the guest is crashed");
                self.dispatcher.edge.shutdown(bulkhead_xen_abi::Shutdown::Crash);
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Carries out a command of the simulated machine: `deadline`, `advance NS`, `reset`. Returns false if the simulated machine
    /// has exited.
    fn command(&mut self) -> bool {
        let Some(commands) = &self.commands else { return true };
        let mut bytes = [0; 64];
        let n = match rustix::io::read(commands, &mut bytes) {
            Ok(0) => return false,
            Ok(n) => n,
            Err(_) => 0,
        };
        let line = String::from_utf8_lossy(bytes.get(..n).unwrap_or_default()).into_owned();
        let mut words = line.split(' ');
        let _ = match (words.next(), words.next().and_then(|w| w.parse().ok())) {
            (Some("deadline"), _) => self.dispatcher.broadcast(Op::NextDeadline, 0),
            (Some("advance"), Some(now)) => self.dispatcher.broadcast(Op::Advance, now),
            (Some("reset"), _) => {
                self.dispatcher.reset_decoding();
                self.dispatcher.broadcast(Op::Reset, 0)
            }
            _ => false,
        };
        true
    }

    fn control(&mut self) {
        while let Some(request) = self.control.take() {
            match request {
                ControlRequest::Ping(answer) => drop(answer.send(())),
                ControlRequest::Running(true, answer) => {
                    self.stopping.clear();
                    self.dispatcher.stop(false);
                    let _ = answer.send(());
                }
                ControlRequest::Running(false, answer) => {
                    if !self.dispatcher.at_rest() {
                        self.dispatcher.stop(true);
                    }
                    // Who asks again waits for its earlier answer no more.
                    self.stopping.retain(|earlier| !earlier.is_closed());
                    self.stopping.push(answer);
                }
                ControlRequest::Reset(answer) => {
                    self.dispatcher.reset_decoding();
                    self.dispatcher.broadcast(Op::Reset, 0);
                    let _ = answer.send(());
                }
                ControlRequest::Inspect(answer) => {
                    let mut out = bulkhead_bus::Inspect::default();
                    self.dispatcher.inspect(&mut out);
                    let _ = answer.send(out.items);
                }
                ControlRequest::Statistics(answer) => {
                    let mut items = self.dispatcher.statistics();
                    items.push(("wake-ups", self.wakeups));
                    let _ = answer.send(items);
                }
                ControlRequest::Save(answer) => drop(answer.send(self.dispatcher.save())),
                ControlRequest::Load(_, answer) => drop(answer.send(Err(LoadError::Broker))),
                ControlRequest::Facts(answer) => {
                    let functions = self.dispatcher.functions();
                    let (posted, wakeups) = (self.dispatcher.posted(), self.wakeups);
                    let activity = Activity { posted, wakeups, ..Activity::default() };
                    let _ = answer.send(Facts { functions, activity, ..Facts::default() });
                }
                ControlRequest::Call(Call::LogDirty(on), answer) => {
                    self.dispatcher.log_dirty(on);
                    let _ = answer.send(Ok(Called::Done));
                }
                ControlRequest::Call(_, answer) => drop(answer.send(Err(FacetError::Broker))),
                ControlRequest::GuestLogLines(_) => {}
            }
        }
    }
}
