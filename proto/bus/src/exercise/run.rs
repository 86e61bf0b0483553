//! One run: a device and its host go through the records of a script; after each one the invariants are checked.
use super::record::{ELEMENTS, Kind, LONGEST, Record, SETTINGS, Script};
use super::{Fetch, Host, Restart, RunMemory, Stage, Target};
use crate::{Access, Area, Clock, Context, Declaration, Device, InputEvent, MarkKeeper, Marks};
use crate::{Effects, Inspect, Ready, Reset, bus_read, bus_write};
use std::sync::{Arc, Mutex, PoisonError};

/// Most calls of `poll` until the work of one access must be complete.
const POLLS: usize = 100_000;
/// Most deadlines that are met in one [`Kind::Advance`].
const DEADLINES: usize = 64;
/// Most deadlines in a row for which no time passes: each timer may be due, and set another one.
const AT_ONCE: usize = 32;
/// Most pictures of a run: each costs as much as thousands of accesses.
const PICTURES: usize = 2;
/// Most bytes of a string access.
const STRING: usize = 4096;

/// What the guest, or the reader of a trace, sees of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The access as it was made, if there was one: a region's, or of a function's configuration space.
    pub access: Option<Made>,
    /// What a read has returned.
    pub answer: Vec<u8>,
    /// The levels of the device's lines afterwards: bit 0 is line 0.
    pub lines: u32,
    /// What the device has read of guest memory, if that is kept.
    pub fetches: Vec<Fetch>,
    /// The device has asked for the guest's restart or power-off: a machine is another one afterwards.
    pub ends: bool,
}

/// An access, with the region, the offset and the bytes that the device has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// A read of a region; the number of elements.
    Read(Access, usize),
    /// A write of these bytes.
    Write(Access, Vec<u8>),
    /// A read of a configuration space: function, offset, size.
    ConfigRead(u8, u8, u8),
    /// A write, with its value.
    ConfigWrite(u8, u8, u8, u32),
    /// Time has passed until then, in nanoseconds.
    Time(u64),
    /// The guest has written to its memory.
    Memory(u64, Vec<u8>),
    /// The machine was reset.
    Reset,
}

/// Marks that outlive their process.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<[Option<u64>; bulkhead_wire::MARKS]>>);

impl MarkKeeper for Kept {
    fn keep(&self, index: usize, value: u64) {
        if let Some(mark) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            *mark = Some(value & !(1 << 63));
        }
    }
}

/// A device, its host and its guest.
pub(super) struct Run<'a> {
    target: &'a Target,
    memory: Arc<RunMemory>,
    settings: [u8; SETTINGS],
    host: Box<dyn Host>,
    device: Box<dyn Device>,
    cx: Context,
    marks: Kept,
    declaration: Declaration,
    /// Restarts happen. Without, the same script must give the same answers.
    restarts: bool,
    /// What the device has last given for the state page, if restarts happen. A device that changes without saying so loses that.
    page: Option<Vec<u8>>,
    pictures: usize,
}

impl<'a> Run<'a> {
    pub(super) fn new(target: &'a Target, settings: [u8; SETTINGS], restarts: bool) -> Self {
        Self::with_memory(target, settings, restarts, RunMemory::new(target.memory))
    }

    pub(super) fn with_memory(target: &'a Target, settings: [u8; SETTINGS], restarts: bool, memory: RunMemory) -> Self {
        let memory = Arc::new(memory);
        let mut host = (target.make)(&Stage { memory: memory.clone(), settings });
        let mut device = host.device();
        let marks = Kept::default();
        let mut cx = Context::new(memory.clone());
        cx.marks = Marks::new(Default::default(), Box::new(marks.clone()));
        device.reset(Reset::Machine, &mut cx);
        let declaration = device.declaration();
        let page = device.checkpoint();
        Self { target, memory, settings, host, device, cx, marks, declaration, restarts, page, pictures: 0 }
    }

    /// Keeps what the device reads of guest memory; see [`Seen::fetches`].
    pub(super) fn keep_fetches(&self) {
        self.memory.keep_fetches();
    }

    /// Does what `record` says, and what follows from it.
    pub(super) fn step(&mut self, record: &Record) -> Result<Seen, String> {
        self.memory.take_work();
        let (access, answer) = self.act(record)?;
        self.settle()?;
        self.turn_ends();
        let (calls, _) = self.memory.take_work();
        // Each element of a string access may start work of its own.
        let elements = match &access {
            Some(Made::Write(at, bytes)) => bytes.len().checked_div(usize::from(at.size)).unwrap_or(1),
            Some(Made::Read(_, elements)) => *elements,
            _ => 1,
        };
        let most = self.target.work.saturating_mul(elements.max(1) as u64);
        if calls > most {
            return Err(format!("{:?} makes {calls} accesses to guest memory, more than {most}", record.kind));
        }
        let ends = self.holds()?;
        let lines = self.cx.lines.states().enumerate();
        let lines =
            lines.fold(0u32, |bits, (i, (level, _))| bits | u32::from(level).checked_shl(i as u32).unwrap_or(0));
        Ok(Seen { access, answer, lines, fetches: self.memory.take_fetches(), ends })
    }

    /// What holds at a run's end only, because it costs much.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.check()?;
        self.host.holds()
    }

    /// The pages of guest memory that were written.
    pub(super) fn pages(&self) -> Vec<(u64, Vec<u8>)> {
        self.memory.pages()
    }

    /// The guest memory that was written.
    pub(super) fn written(&self) -> Vec<u8> {
        self.memory.written()
    }

    /// The length of a region in bytes.
    fn len(&self, region: usize) -> u64 {
        self.declaration.regions.get(region).map_or(1, |r| match r.area {
            Area::Ports { len, .. } => u64::from(len),
            Area::Memory { len, .. } => len,
            Area::Bar { function, bar } => {
                let bars = self.declaration.functions.get(usize::from(function)).map(|f| f.bars);
                bars.and_then(|b| b.get(usize::from(bar)).copied().flatten()).map_or(1, |b| u64::from(b.size))
            }
        })
    }

    /// The place of an access to a region, if the device has regions.
    fn access(&self, record: &Record) -> Option<Access> {
        let region = usize::from(record.place).checked_rem(self.declaration.regions.len())?;
        let offset = u64::from(record.offset).checked_rem(self.len(region)).unwrap_or(0);
        Some(Access::new(region as u16, offset, record.width()))
    }

    /// The bytes of a string access.
    fn string(record: &Record, size: u8) -> Vec<u8> {
        let len = (record.value.min(ELEMENTS) as usize).saturating_mul(usize::from(size)).min(STRING);
        let mut bytes = vec![0; len];
        bytes.iter_mut().zip(record.data.iter().cycle()).for_each(|(to, from)| *to = *from);
        bytes
    }

    fn act(&mut self, record: &Record) -> Result<(Option<Made>, Vec<u8>), String> {
        let cx = &mut self.cx;
        let device = &mut *self.device;
        match record.kind {
            Kind::Read | Kind::Write | Kind::ReadString | Kind::WriteString => return Ok(self.region(record)),
            Kind::ConfigRead | Kind::ConfigWrite => {
                let functions = self.declaration.functions.len();
                let Some(function) = usize::from(record.place).checked_rem(functions) else {
                    return Ok((None, Vec::new()));
                };
                let (function, size) = (function as u8, record.width().min(4));
                let offset = record.offset as u8 & !size.wrapping_sub(1);
                if record.kind == Kind::ConfigRead {
                    let value = device.config_read(function, offset, size).to_le_bytes();
                    let answer = value.get(..usize::from(size)).unwrap_or_default().to_vec();
                    return Ok((Some(Made::ConfigRead(function, offset, size)), answer));
                }
                let value = record.value as u32 & low(size) as u32;
                device.config_write(function, offset, size, value, cx);
                return Ok((Some(Made::ConfigWrite(function, offset, size, value)), Vec::new()));
            }
            Kind::Advance => {
                let to = cx.now().saturating_add(record.value.min(LONGEST));
                let mut at_once = 0usize;
                for _ in 0..DEADLINES {
                    let Some(next) = cx.timers.next().filter(|next| *next <= to) else { break };
                    at_once = if next <= cx.now() { at_once.saturating_add(1) } else { 0 };
                    cx.clock = Clock::Driven(next.max(cx.now()));
                    let Some(timer) = cx.timers.take_due(cx.now()) else { break };
                    device.poll(Ready::Timer(timer), cx);
                }
                if at_once >= AT_ONCE {
                    return Err("its timers are due again and again while no time passes".into());
                }
                cx.clock = Clock::Driven(to);
                return Ok((Some(Made::Time(to)), Vec::new()));
            }
            Kind::Memory => {
                let len = if record.offset == 0 { record.data.len() } else { record.offset as usize % STRING };
                let bytes: Vec<u8> = record.data.iter().copied().cycle().take(len).collect();
                self.memory.guest_writes(record.value, &bytes);
                return Ok((Some(Made::Memory(record.value, bytes)), Vec::new()));
            }
            Kind::Pattern => self.memory.set_pattern(record.data.clone(), record.size),
            Kind::Event => {
                let [_, rest @ ..] = record.value.to_le_bytes();
                let [flag, x0, x1, y0, y1, z0, z1] = rest;
                let event =
                    InputEvent::from_bytes([(record.place % 5).wrapping_add(1), flag & 1, x0, x1, y0, y1, z0, z1]);
                if let Some((event, keys)) = event.zip(device.input_device()) {
                    keys.input(event, cx);
                }
            }
            Kind::Host => self.host.act(record.place, record.value, &record.data, device, cx),
            Kind::Reset => {
                device.reset(Reset::Machine, cx);
                return Ok((Some(Made::Reset), Vec::new()));
            }
            Kind::Unplug => drop(device.unplug(record.value as u16, cx)),
            Kind::StopAndRun => {
                // The guest of a stopped machine makes no accesses, and transfers in progress do not continue.
                device.running(false, cx);
                device.poll(Ready::Fd(0), cx);
                device.running(true, cx);
            }
            Kind::Screenshot if self.pictures < PICTURES => {
                self.pictures = self.pictures.saturating_add(1);
                drop(device.display().and_then(|d| d.screenshot()));
            }
            Kind::Screenshot => {}
            Kind::LostWrites => {
                let region = usize::from(record.place).checked_rem(self.declaration.regions.len()).unwrap_or(0);
                device.lost_writes(region as u16, u64::from(record.offset), cx);
            }
            Kind::Inspect => device.inspect(&mut Inspect::default()),
            Kind::HostileState => {
                let before = device.save();
                let mut state = before.clone();
                for change in record.data.as_chunks::<3>().0 {
                    let [at @ .., value] = *change;
                    let at = usize::from(u16::from_le_bytes(at)).checked_rem(state.len());
                    if let Some(byte) = at.and_then(|at| state.get_mut(at)) {
                        *byte = value;
                    }
                }
                if record.size & 2 != 0 {
                    state.truncate(record.offset as usize);
                }
                if let Err(e) = device.load(&state, cx)
                    && device.save() != before
                {
                    return Err(format!("a state is refused ({e}), and the device is another one"));
                }
            }
            Kind::Check => self.check()?,
            Kind::Restart if self.restarts => self.restart()?,
            Kind::Restart => {}
            Kind::Move => self.moves()?,
            Kind::Ready => device.poll(Ready::Fd(u32::from(record.place & 7)), cx),
        }
        Ok((None, Vec::new()))
    }

    fn region(&mut self, record: &Record) -> (Option<Made>, Vec<u8>) {
        let Some(at) = self.access(record) else { return (None, Vec::new()) };
        let (device, cx) = (&mut *self.device, &mut self.cx);
        let size = usize::from(at.size);
        match record.kind {
            Kind::Read => {
                let value = bus_read(device, at, cx).unwrap_or(u64::MAX).to_le_bytes();
                (Some(Made::Read(at, 1)), value.get(..size).unwrap_or_default().to_vec())
            }
            Kind::Write => {
                let value = record.value & low(at.size);
                let _ = bus_write(device, at, value, cx);
                (Some(Made::Write(at, value.to_le_bytes().get(..size).unwrap_or_default().to_vec())), Vec::new())
            }
            Kind::ReadString => {
                let mut bytes = Self::string(record, at.size);
                if device.read_string(at, &mut bytes, cx).is_err() {
                    bytes.fill(0xff);
                }
                (Some(Made::Read(at, bytes.len().checked_div(size).unwrap_or(0))), bytes)
            }
            _ => {
                let bytes = Self::string(record, at.size);
                let _ = device.write_string(at, &bytes, cx);
                (Some(Made::Write(at, bytes)), Vec::new())
            }
        }
    }

    /// Polls until the device has finished the work of an access, which must take a bounded number of calls.
    fn settle(&mut self) -> Result<(), String> {
        settle(&mut *self.device, &mut self.cx)
    }

    /// Saved, loaded into a new device and saved again, a state is the same.
    fn check(&self) -> Result<(), String> {
        let state = self.device.save();
        if state.len() > bulkhead_wire::SAVED {
            return Err("its state does not fit a section of a saved machine".into());
        }
        let again = super::loads_with(self.target, self.settings, &state)?;
        if again == state { Ok(()) } else { Err("a state that was loaded and saved is another one".into()) }
    }

    /// The state page is written, as at each turn's end.
    fn turn_ends(&mut self) {
        if self.restarts
            && let Some(state) = self.device.checkpoint()
        {
            self.page = Some(state);
        }
    }

    /// The process is killed between two accesses; another one continues with the state page and the marks.
    fn restart(&mut self) -> Result<(), String> {
        let state = self.page.clone();
        if state.as_ref().is_some_and(|s| s.len() > bulkhead_wire::STATE.saturating_sub(8)) {
            return Err("its state does not fit the state page".into());
        }
        self.go_on_elsewhere(state)
    }

    /// The machine is saved, and another one goes on with the whole state; or, without restarts, the same one.
    fn moves(&mut self) -> Result<(), String> {
        self.device.running(false, &mut self.cx);
        for _ in 0..POLLS {
            if self.device.at_rest() {
                break;
            }
            (0..4).for_each(|fd| self.device.poll(Ready::Fd(fd), &mut self.cx));
        }
        if !self.device.at_rest() {
            return Err("it does not come to rest".into());
        }
        if self.restarts {
            let state = self.device.save();
            self.go_on_elsewhere(Some(state))?;
        }
        self.device.running(true, &mut self.cx);
        // As the runtime does: what became ready meanwhile.
        (0..4).for_each(|fd| self.device.poll(Ready::Fd(fd), &mut self.cx));
        Ok(())
    }

    fn go_on_elsewhere(&mut self, state: Option<Vec<u8>>) -> Result<(), String> {
        let mut cx = Context::new(self.memory.clone());
        cx.clock = self.cx.clock;
        let former = *self.marks.0.lock().unwrap_or_else(PoisonError::into_inner);
        cx.marks = Marks::new(former, Box::new(self.marks.clone()));
        self.device = self.host.device();
        self.cx = cx;
        self.device.reset(Reset::Machine, &mut self.cx);
        if let Some(state) = state {
            self.device.load(&state, &mut self.cx).map_err(|e| format!("its own state is refused: {e}"))?;
        }
        self.cx.marks.forget();
        Ok(())
    }

    /// What must hold after each record; whether the machine ends.
    fn holds(&mut self) -> Result<bool, String> {
        let effects = std::mem::take(&mut self.cx.effects);
        let ends = effects.bits.reboot() || effects.bits.power_off();
        if !self.declaration.permissions.allow(effects.bits) {
            return Err(format!("it asks for {:?}, which it may not", effects.bits));
        }
        if effects != Effects::default() {
            self.host.effects(effects);
        }
        for (line, (level, edges)) in self.cx.lines.states().enumerate() {
            if line >= self.declaration.lines.len() && (level || edges != 0) {
                return Err(format!("it drives line {line}, which it does not have"));
            }
        }
        for (i, spec) in self.declaration.functions.iter().enumerate() {
            let space = self.device.config(i as u8).ok_or("a function without configuration space")?;
            for (number, bar) in spec.bars.iter().enumerate() {
                let register = 0x10u8.saturating_add((number as u8).saturating_mul(4));
                let Some(bar) = bar else { continue };
                // BARs are aligned by their size, whatever was written.
                if space.read(register, 4) & bar.size.wrapping_sub(1) & !0x0f != 0 {
                    return Err(format!("BAR {number} is {:#x}", space.read(register, 4)));
                }
            }
        }
        while self.cx.log.take().is_some() {}
        self.host.check()?;
        Ok(ends)
    }
}

/// The bits of an access of `size` bytes.
pub(super) fn low(size: u8) -> u64 {
    1u64.checked_shl(u32::from(size).saturating_mul(8)).map_or(u64::MAX, |end| end.wrapping_sub(1))
}

/// Polls until the device has finished its work, which must take a bounded number of calls.
pub(super) fn settle(device: &mut dyn Device, cx: &mut Context) -> Result<(), String> {
    for _ in 0..POLLS {
        let quiet = device.quiescent();
        let again = cx.take_again();
        if !quiet {
            for fd in 0..4 {
                device.poll(Ready::Fd(fd), cx);
            }
        }
        if again {
            device.poll(Ready::Again, cx);
        }
        if quiet && !again {
            return Ok(());
        }
    }
    Err("the work of one access has no end".into())
}

/// Runs a script. Returns what was seen at each record and the memory that was written, if `seen`.
fn run(target: &Target, script: &Script, restarts: bool, seen: bool) -> Result<(Vec<Seen>, Vec<u8>), String> {
    let mut run = Run::new(target, script.settings, restarts);
    let mut all = Vec::new();
    for (i, record) in script.records.iter().enumerate() {
        let one = run.step(record).map_err(|e| format!("record {i}, {:?}: {e}", record.kind))?;
        if seen {
            all.push(one);
        }
    }
    run.end()?;
    let written = if seen { run.written() } else { Vec::new() };
    Ok((all, written))
}

/// Runs a script. If it has restarts or moves, a guest must not see that a process was killed between two accesses, or that the machine was
/// saved: without them it sees the same.
pub(super) fn exercise(target: &Target, script: &Script) -> Result<(), String> {
    let has = |kind| script.records.iter().any(|r| r.kind == kind);
    let restarts = has(Kind::Restart) || has(Kind::Move);
    // Whatever a crash costs, a saved machine goes on as one that was stopped.
    let compared = restarts
        && (target.restart == Restart::Same || !has(Kind::Restart))
        && (target.moved == Restart::Same || !has(Kind::Move));
    let (with, with_memory) = run(target, script, restarts, compared)?;
    if !compared {
        return Ok(());
    }
    let (without, without_memory) = run(target, script, false, true)?;
    for (i, ((with, without), record)) in with.iter().zip(&without).zip(&script.records).enumerate() {
        if with != without {
            let kind = record.kind;
            return Err(format!(
                "record {i}, {kind:?}: after a restart or a move the guest sees {with:?}, without one {without:?}"
            ));
        }
    }
    let same = with_memory == without_memory;
    if same { Ok(()) } else { Err("after a restart guest memory is another one".into()) }
}
