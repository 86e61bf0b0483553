//! The data thread of a device process.
//!
//! | file | what |
//! |---|---|
//! | `accesses.rs` | the guest's accesses |
//! | `requests.rs` | control's requests |
//! | `callers.rs` | the sockets of back ends that the device serves |
mod accesses;
mod callers;
mod requests;

use crate::process::ring;
use crate::trace::Trace;
use crate::{
    ControlHandle, Fds, ForeignMemory, LoggedMemory, MemfdMemory, Process, StartError, memory, read_saved,
    serve_control,
};
use bulkhead_bus::{Clock, Context, Device, GuestMemory, MarkKeeper, Marks, NoMemory, Ready, Reset, Shadows, Surface};
use bulkhead_plan::{Ask, DeviceConfig, FdUse, Memory, Mode, Picture, ToProcess, VideoRam};
use bulkhead_ring::{DeviceEnd, DirtyMap, MarkWriter, SharedArea, SurfaceWriter, Work};
use bulkhead_wire::{self as wire, Op, Request, Shape};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

/// A device's resources: descriptors of the launcher, and guest memory.
pub struct Resources {
    /// The guest's domain id.
    pub domid: u16,
    /// Descriptors of the device's back end.
    pub fds: Fds,
    /// Guest memory, video RAM by offset, or [`NoMemory`].
    pub memory: Arc<dyn GuestMemory>,
}

/// The second half of a device's construction: it returns the device, in its power-on state.
pub type Build<E> = Box<dyn FnOnce() -> Result<Box<dyn Device>, E>>;

/// A device whose threads and descriptors exist, and which is built behind the system call filter.
pub struct Prepared<E> {
    /// Ready number and descriptor; polled edge-triggered, for reading and writing.
    pub polled: Vec<(u32, OwnedFd)>,
    /// Builds the device. It runs behind the filter, so all that an image or another process has written is read here.
    pub build: Build<E>,
}

impl<E> Prepared<E> {
    /// A device whose construction reads nothing.
    pub fn device(device: impl Device + 'static, polled: Vec<(u32, OwnedFd)>) -> Self {
        Self { polled, build: Box::new(|| Ok(Box::new(device))) }
    }
}

/// Most requests that are handled before timers and descriptors.
const BUDGET: usize = 64;

const REQUEST_BELL: u64 = u64::MAX;
const LINK: u64 = u64::MAX - 1;
const CONTROL: u64 = u64::MAX - 2;
const FRAME_BELL: u64 = u64::MAX - 3;
/// Least nanoseconds between two pictures, however often viewers request one.
const FRAME: u64 = 15_000_000;

/// Runs the device of `prepare`. Returns when the launcher has exited, or with an error.
///
/// Threads are created and descriptors are taken before the filter. Images, a kernel and the state of a dead process are read
/// behind it.
pub fn run_device<E: Error + Send + Sync + 'static>(
    role: &'static str,
    prepare: impl FnOnce(&DeviceConfig, Resources) -> Result<Prepared<E>, E>,
) -> Result<(), StartError> {
    let mut process = Process::start(role)?;
    let config = process.device().ok_or(StartError::NoDevice)?.config.clone();
    if config.kind().role != role {
        return Err(StartError::OtherRole(config.kind().role));
    }
    let shape = Shape::new(usize::from(process.plan.vcpus)).ok_or(StartError::Vcpus)?;
    let own = SharedArea::map_writer(process.fds.require(&FdUse::OwnArea)?, shape.reply_len())?;
    process.request(Ask::Sealed)?;
    process.await_peer()?;
    let peer = SharedArea::map_reader(process.fds.require(&FdUse::PeerArea)?, shape.request_len())?;
    let old = process.fds.take(&FdUse::OldArea).map(|fd| SharedArea::map_reader(fd, shape.reply_len())).transpose()?;
    let saved = process.fds.take(&FdUse::SavedState);
    let request_bell = process.fds.require(&FdUse::RequestBell)?;
    let reply_bell = process.fds.require(&FdUse::ReplyBell)?;
    let control_socket = process.fds.require(&FdUse::Control(process.slot))?;
    let memory = memory_of(&mut process, &config)?;
    let draws = config.kind().picture == Picture::Draws;
    let frame_bell = if draws { process.fds.take(&FdUse::FrameBell) } else { None };
    let surface = process.fds.take(&FdUse::Surface).map(SurfaceWriter::new).transpose()?.map(SurfaceArea);

    let report = process.confine()?;
    let control = serve_control(role)?;
    let resources =
        Resources { domid: process.plan.domid, fds: std::mem::take(&mut process.fds), memory: memory.clone() };
    let refused = |why: E| StartError::Device(Box::new(why));
    let Prepared { polled, build } = prepare(&config, resources).map_err(refused)?;
    let mut cx = Context::new(memory);
    if process.plan.mode == Mode::Xen || !config.kind().guest_visible {
        cx.clock = Clock::ahead(process.plan.clock);
    }

    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let edge = EventFlags::IN | EventFlags::ET;
    epoll::add(&epoll, &request_bell, EventData::new_u64(REQUEST_BELL), edge)?;
    epoll::add(&epoll, &process.link, EventData::new_u64(LINK), EventFlags::IN)?;
    epoll::add(&epoll, &control.bell, EventData::new_u64(CONTROL), edge)?;
    if let Some(bell) = &frame_bell {
        epoll::add(&epoll, bell, EventData::new_u64(FRAME_BELL), edge)?;
    }
    for (number, fd) in &polled {
        // A regular file is always ready, and epoll refuses it.
        match epoll::add(&epoll, fd, EventData::new_u64(u64::from(*number)), edge | EventFlags::OUT) {
            Ok(()) | Err(rustix::io::Errno::PERM) => {}
            Err(e) => return Err(e.into()),
        }
    }
    process.seal()?;
    control.connect(control_socket);
    let device = build().map_err(refused)?;
    let declaration = device.declaration();
    let shadows = declaration
        .regions
        .iter()
        .flat_map(|r| &r.shadows)
        .map(|(_, _, i)| usize::from(*i).saturating_add(1))
        .max()
        .unwrap_or(0);
    let (process_paused, arrived) = (process.plan.paused, process.plan.clock != 0);
    let mut data = Data {
        channel: DeviceEnd::new(peer, own, shape),
        functions: declaration.functions.len(),
        device,
        cx,
        reply_bell,
        control,
        process,
        surface,
        frame_wanted: None,
        drawn: 0,
        _frame_bell: frame_bell,
        epoll,
        polled,
        shadows: vec![None; shadows],
        fresh: vec![None; shadows],
        stale: true,
        config_dirty: true,
        deferred: Vec::new(),
        tokens: HashMap::new(),
        running: !(process_paused && config.kind().stops),
        // Its clock is another one's. (A card that dies before it has run here has no saved state any more.)
        arriving: process_paused && arrived,
        stops: config.kind().stops,
        stopping: Vec::new(),
        counters: Counters::default(),
        log_limit: LogLimit { per_second: 100, second: 0, used: 0 },
        trace: None,
    };
    data.channel.hello()?;
    let keeper = Box::new(AreaMarks(data.channel.marks()));
    data.cx.marks = Marks::new(old.as_ref().map(MarkWriter::left).unwrap_or_default(), keeper);
    data.device.reset(Reset::Machine, &mut data.cx);
    if let Some(state) = old.and_then(|area| last_state(&area)) {
        match data.device.load(&state, &mut data.cx) {
            Ok(()) => tracing::info!(bytes = state.len(), "restored the state of the previous process"),
            Err(e) => tracing::warn!("the state of the previous process is refused, starting from reset: {e}"),
        }
    }
    if let Some(saved) = saved {
        // Nothing of it begins before `cont`.
        data.device.running(data.running, &mut data.cx);
        let state = read_saved(&saved)?;
        data.device.load(&state, &mut data.cx)?;
        tracing::info!(bytes = state.len(), "goes on from its saved state");
    }
    data.cx.marks.forget();
    if !data.running {
        data.device.running(false, &mut data.cx);
    }
    data.publish();
    data.process.ready()?;
    tracing::info!(landlock = report.landlock, "in the sandbox");
    data.run()
}

/// The last state in the area of a dead process. That process may have been hostile, so every field is checked.
fn last_state(area: &SharedArea) -> Option<Vec<u8>> {
    let half = match area.load_u32(wire::reply::STATE_HALF) {
        half @ (1 | 2) => half.wrapping_sub(1) as usize,
        _ => return None,
    };
    let at = wire::reply::STATE_AT.checked_add(half.checked_mul(wire::STATE)?)?;
    let len = area.load_u32(at) as usize;
    let mut bytes = vec![0; len.min(wire::STATE.wrapping_sub(8))];
    (bytes.len() == len && area.copy_out(at.checked_add(8)?, &mut bytes)).then_some(bytes)
}

fn memory_of(process: &mut Process, config: &DeviceConfig) -> Result<Arc<dyn GuestMemory>, StartError> {
    let memory = plain_memory_of(process, config)?;
    match process.fds.take(&FdUse::DirtyMap(process.slot)) {
        Some(map) => Ok(Arc::new(LoggedMemory::new(memory, Arc::new(DirtyMap::map(map)?)))),
        None => Ok(memory),
    }
}

fn plain_memory_of(process: &mut Process, config: &DeviceConfig) -> Result<Arc<dyn GuestMemory>, StartError> {
    let domid = process.plan.domid;
    let fixed = |fd: OwnedFd| -> Result<Arc<dyn GuestMemory>, StartError> {
        let len = usize::try_from(rustix::fs::fstat(&fd)?.st_size).unwrap_or(0);
        Ok(Arc::new(MemfdMemory::new(SharedArea::map_fixed(&fd, len, true)?)))
    };
    if let Some(fd) = process.fds.take(&FdUse::SimVram).or_else(|| process.fds.take(&FdUse::SimMemory)) {
        return fixed(fd);
    }
    match config.kind().memory {
        Memory::VideoRam => {
            // The descriptor is closed here: the display keeps no access to the guest but this mapping.
            let Some(privcmd) = process.fds.take(&FdUse::Privcmd) else { return Ok(Arc::new(NoMemory)) };
            let VideoRam { gfn, bytes } = config.facets().video_ram.ok_or(StartError::NoVideoRam)?;
            let area = memory::map_video_ram(privcmd.as_fd(), domid, gfn, bytes)?;
            Ok(Arc::new(MemfdMemory::new(area)))
        }
        Memory::Guest => match process.fds.take(&FdUse::Privcmd) {
            Some(privcmd) => Ok(Arc::new(ForeignMemory::new(privcmd, domid))),
            None => Ok(Arc::new(NoMemory)),
        },
        // A back end has no memory of its own choice: it maps the frames or the grants that the domain names.
        Memory::None | Memory::Granted | Memory::Frames => Ok(Arc::new(NoMemory)),
    }
}

/// Stores the device's marks in the reply area.
struct AreaMarks(MarkWriter);

impl MarkKeeper for AreaMarks {
    fn keep(&self, index: usize, value: u64) {
        self.0.write(index, value);
    }
}

/// The device's interface to the surface.
struct SurfaceArea(SurfaceWriter);

impl Surface for SurfaceArea {
    fn begin(&mut self, width: usize, height: usize) -> bool {
        self.0.begin(width, height)
    }
    fn line(&mut self, y: usize, pixels: &[u32]) {
        self.0.line(y, pixels);
    }
    fn end(&mut self) {
        self.0.end();
    }
}

#[derive(Debug, Default)]
struct Counters {
    requests: u64,
    /// Requests that are register accesses.
    accesses: u64,
    posted: u64,
    wakeups: u64,
    doorbells: u64,
    refused: u64,
    guest_lines: u64,
    guest_lines_dropped: u64,
    control_calls: u64,
    frames: u64,
}

/// Limits the lines of guest text per second.
#[derive(Debug)]
struct LogLimit {
    per_second: u32,
    second: u64,
    used: u32,
}

struct Data {
    channel: DeviceEnd,
    functions: usize,
    device: Box<dyn Device>,
    cx: Context,
    reply_bell: OwnedFd,
    control: ControlHandle,
    process: Process,
    surface: Option<SurfaceArea>,
    /// Earliest time of a picture that a viewer has requested, by the host's clock, in the simulated machine too.
    frame_wanted: Option<u64>,
    /// Time of the last picture that was drawn for a viewer.
    drawn: u64,
    _frame_bell: Option<OwnedFd>,
    epoll: OwnedFd,
    polled: Vec<(u32, OwnedFd)>,
    /// The published shadows, and a buffer for the next ones.
    shadows: Vec<Option<u32>>,
    fresh: Vec<Option<u32>>,
    /// The device was called after the last publication.
    stale: bool,
    config_dirty: bool,
    /// Requests with a deferred answer: cell and request.
    deferred: Vec<(usize, Request)>,
    tokens: HashMap<u32, OwnedFd>,
    running: bool,
    /// The guest comes from elsewhere, and has not run here.
    arriving: bool,
    /// The device stands still while the machine is stopped.
    stops: bool,
    /// Stops that are answered when the device is at rest.
    stopping: Vec<crate::Done>,
    counters: Counters,
    log_limit: LogLimit,
    trace: Option<Trace>,
}

impl Data {
    fn run(&mut self) -> Result<(), StartError> {
        let mut events = Vec::with_capacity(16);
        let mut asked = false;
        loop {
            let seen = self.channel.bell();
            let mut busy = false;
            for _ in 0..BUDGET {
                match self.channel.take()? {
                    Some(Work::Request(cell, what)) => self.request(cell, what),
                    Some(Work::Posted(what)) => self.posted(what),
                    None => break,
                }
                busy = true;
            }
            self.due();
            if std::mem::take(&mut asked) {
                // After the posted writes, so that a picture shows their effect.
                self.control();
            }
            if self.frame_wanted.is_some_and(|due| Clock::Real.now() >= due) {
                self.frame_wanted = None;
                self.drawn = Clock::Real.now();
                if let (Some(surface), Some(display)) = (&mut self.surface, self.device.display()) {
                    display.refresh(surface);
                    self.counters.frames = self.counters.frames.saturating_add(1);
                }
            }
            if self.works() && self.cx.take_again() {
                self.device.poll(Ready::Again, &mut self.cx);
                (busy, self.stale) = (true, true);
            }
            self.retry_deferred();
            self.flush();
            self.rest();
            while let Some(caller) = self.cx.overruns.pop() {
                self.process.request(Ask::Overrun { caller })?;
            }
            if busy || !self.channel.may_sleep(seen) {
                continue;
            }
            events.clear();
            let timeout = self.timeout();
            self.counters.wakeups = self.counters.wakeups.saturating_add(1);
            let waited = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref());
            self.channel.awake();
            match waited {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &events {
                match event.data.u64() {
                    REQUEST_BELL => {}
                    LINK if !self.link()? => return Ok(()),
                    LINK => {}
                    CONTROL => asked = true,
                    FRAME_BELL => {
                        let due = self.drawn.saturating_add(FRAME);
                        self.frame_wanted = self.frame_wanted.or(Some(due));
                    }
                    number if self.works() => {
                        self.device.poll(Ready::Fd(number as u32), &mut self.cx);
                        self.stale = true;
                    }
                    // When the machine runs again all of them are polled.
                    _ => {}
                }
            }
        }
    }

    /// Time until the next timer; `None` while stopped or with a driven clock.
    fn timeout(&self) -> Option<rustix::event::Timespec> {
        let timer = self.cx.timers.next().filter(|_| self.running && self.cx.clock.is_real());
        // A timer's deadline is one of the machine's clock.
        let timer = timer.map(|due| due.saturating_sub(self.cx.now()));
        let frame = self.frame_wanted.map(|due| due.saturating_sub(Clock::Real.now()));
        let left = [timer, frame].into_iter().flatten().min()?;
        // Rounded up to milliseconds, epoll's unit.
        let ns = left.div_ceil(1_000_000).saturating_mul(1_000_000);
        Some(rustix::event::Timespec {
            tv_sec: i64::try_from(ns.div_euclid(1_000_000_000)).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns.rem_euclid(1_000_000_000)).unwrap_or(0),
        })
    }

    fn due(&mut self) {
        if self.cx.timers.next().is_none() || !self.running {
            return;
        }
        let now = self.cx.now();
        for _ in 0..BUDGET {
            let Some(timer) = self.cx.timers.take_due(now) else { break };
            self.device.poll(Ready::Timer(timer), &mut self.cx);
            self.stale = true;
        }
    }

    fn ring(&mut self) {
        self.counters.doorbells = self.counters.doorbells.saturating_add(1);
        ring(&self.reply_bell);
    }

    /// Publishes the lines, shadows, configuration spaces and state that have changed.
    fn publish(&mut self) -> bool {
        self.stale = false;
        let lines = self.cx.lines.take_changed();
        if lines {
            for (i, (level, edges)) in self.cx.lines.states().enumerate() {
                self.channel.set_line(i, level, edges);
            }
        }
        if !self.shadows.is_empty() {
            self.fresh.fill(None);
            self.device.shadows(&mut Shadows { registers: &mut self.fresh });
            for (i, (new, old)) in self.fresh.iter().zip(&mut self.shadows).enumerate() {
                if new != old {
                    *old = *new;
                    self.channel.set_shadow(i, *new);
                }
            }
        }
        if std::mem::take(&mut self.config_dirty) {
            for function in 0..self.functions {
                if let Some(space) = self.device.config(function as u8) {
                    self.channel.set_config(function, space.bytes());
                }
            }
        }
        if let Some(state) = self.device.checkpoint()
            && !self.channel.set_state(&state)
        {
            tracing::error!(bytes = state.len(), "the state does not fit the state page");
        }
        lines
    }

    /// Publishes changes that no access caused, and logs the guest's text.
    fn flush(&mut self) {
        if self.stale && self.publish() && self.channel.publish() {
            self.ring();
        }
        while let Some(line) = self.cx.log.take() {
            let second = self.cx.now().div_euclid(1_000_000_000);
            if second != self.log_limit.second {
                self.log_limit = LogLimit { second, used: 0, ..self.log_limit };
            }
            if self.log_limit.used < self.log_limit.per_second {
                self.log_limit.used = self.log_limit.used.saturating_add(1);
                self.counters.guest_lines = self.counters.guest_lines.saturating_add(1);
                tracing::info!("guest: {line}");
            } else {
                self.counters.guest_lines_dropped = self.counters.guest_lines_dropped.saturating_add(1);
            }
        }
    }

    fn retry_deferred(&mut self) {
        let mut i = 0;
        while let Some((cell, what)) = self.deferred.get(i).copied() {
            let done = if what.op == Op::Invalidate as u8 {
                let quiet = self.device.quiescent();
                if quiet {
                    self.cx.memory.invalidate();
                }
                quiet
            } else {
                self.stale = true;
                self.device.unplug(what.data as u16, &mut self.cx)
            };
            if done {
                self.deferred.swap_remove(i);
                self.config_dirty = true;
                self.answer(cell, 0, &[]);
            } else {
                i = i.saturating_add(1);
            }
        }
    }

    /// Handles the launcher's messages; false if it has closed the socket.
    fn link(&mut self) -> Result<bool, StartError> {
        match self.process.link.receive(false) {
            Ok(Some((ToProcess::Token { token }, fds))) => {
                if self.tokens.len() < 8 {
                    self.tokens.extend(fds.into_iter().next().map(|fd| (token, fd)));
                }
                Ok(true)
            }
            Ok(Some((ToProcess::Surface, fds))) => {
                if let (Some(fd), Some(viewers)) = (fds.into_iter().next(), self.device.viewers()) {
                    viewers.set_surface(fd);
                }
                Ok(true)
            }
            Ok(Some((ToProcess::Life { caller }, fds))) => {
                if let (Some(socket), Some(callers)) = (fds.into_iter().next(), self.device.callers()) {
                    callers::begin_life((&self.epoll, &mut self.polled), callers, caller, socket, &mut self.cx)?;
                    self.stale = true;
                }
                Ok(true)
            }
            Ok(Some((ToProcess::Serve, fds))) => {
                if let Some(fd) = fds.into_iter().next() {
                    self.control.connect(fd);
                }
                Ok(true)
            }
            Ok(_) => Ok(true),
            Err(crate::LinkError::Closed) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}
