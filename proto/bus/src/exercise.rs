//! Turns bytes into accesses to a device and checks invariants after each: the body of every device's fuzz target and of its corpus
//! test. It knows a device by its declaration only.
use crate::InputEvent;
use crate::{
    Access, Area, Clock, Context, Declaration, Device, GuestMemory as _, Ready, Reset, StateError, fake::FakeMemory,
};
use std::sync::Arc;

/// Most steps of one run; the rest of the input is ignored.
const STEPS: usize = 2000;
/// Most calls of `poll` until the work of one access must be complete.
const POLLS: usize = 100_000;
/// Bytes of guest memory.
const MEMORY: usize = 1 << 20;

/// The unread bytes of a run.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl Input<'_> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn number(&mut self, bytes: u8) -> u64 {
        (0..bytes).fold(0, |n, i| n | u64::from(self.byte().unwrap_or(0)) << (u32::from(i) & 7).wrapping_mul(8))
    }

    /// A length byte and that many bytes, or fewer at the input's end.
    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        (0..self.byte().unwrap_or(0)).map_while(|_| self.byte()).collect()
    }
}

/// Runs a device of `make` through the accesses that `bytes` encode. `make` must build the same device at every call.
///
/// # Errors
/// The invariant that does not hold.
pub fn exercise(make: &dyn Fn(&Arc<FakeMemory>) -> Box<dyn Device>, bytes: &[u8]) -> Result<(), String> {
    let memory = FakeMemory::new(MEMORY);
    let mut cx = Context::new(memory.clone());
    let mut device = make(&memory);
    device.reset(Reset::Machine, &mut cx);
    let declaration = device.declaration();
    let mut input = Input(bytes);
    for _ in 0..STEPS {
        let Some(what) = input.byte() else { break };
        step(what, &mut input, &mut *device, &mut cx, &declaration, &memory);
        settle(&mut *device, &mut cx)?;
        holds(&*device, &mut cx, &declaration)?;
    }
    let first = loads(make, &device.save())?;
    let second = loads(make, &first)?;
    if first == second { Ok(()) } else { Err("a state that was loaded and saved is another one".into()) }
}

/// Loads `state` into a new device and saves it again. Loading and saving the result must not change it.
///
/// # Errors
/// The state is refused.
pub fn loads(make: &dyn Fn(&Arc<FakeMemory>) -> Box<dyn Device>, state: &[u8]) -> Result<Vec<u8>, String> {
    let memory = FakeMemory::new(MEMORY);
    let mut cx = Context::new(memory.clone());
    let mut device = make(&memory);
    device.reset(Reset::Machine, &mut cx);
    device.load(state, &mut cx).map_err(|e| format!("its own state is refused: {e}"))?;
    settle(&mut *device, &mut cx)?;
    Ok(device.save())
}

/// Loads `state` into a new device, which must refuse it and stay as it is. Returns the refusal.
///
/// # Errors
/// The state is taken, or a part of it is.
pub fn refuses(make: &dyn Fn(&Arc<FakeMemory>) -> Box<dyn Device>, state: &[u8]) -> Result<StateError, String> {
    let memory = FakeMemory::new(MEMORY);
    let mut cx = Context::new(memory.clone());
    let mut device = make(&memory);
    device.reset(Reset::Machine, &mut cx);
    let before = device.save();
    let error = device.load(state, &mut cx).err().ok_or("the state is taken")?;
    if device.save() == before {
        Ok(error)
    } else {
        Err(format!("it is refused ({error}), and the device is another one"))
    }
}

/// The files of a directory whose names begin with `prefix`.
pub(crate) fn files(directory: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|e| format!("{directory}: {e}"))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(prefix) {
            found.push((name, std::fs::read(entry.path()).map_err(|e| e.to_string())?));
        }
    }
    if found.is_empty() { Err(format!("{directory} holds nothing of this device")) } else { Ok(found) }
}

/// [`exercise`] with every file of a directory, of which there must be one at least.
///
/// # Errors
/// The file, and the invariant that does not hold.
pub fn seeds(make: &dyn Fn(&Arc<FakeMemory>) -> Box<dyn Device>, directory: &str) -> Result<(), String> {
    files(directory, "")?.iter().try_for_each(|(name, bytes)| exercise(make, bytes).map_err(|e| format!("{name}: {e}")))
}

/// The bits of a function's configuration space that a guest can change: offset and bits of each register of 32 bits that has some.
/// For tests that compare them with a data sheet.
pub fn changeable(device: &mut dyn Device, function: u8) -> Vec<(u8, u32)> {
    let mut cx = Context::new(FakeMemory::new(MEMORY));
    let mut after = |device: &mut dyn Device, at: u8, value: u32| {
        device.config_write(function, at, 4, value, &mut cx);
        device.config(function).map_or(0, |space| space.read(at, 4))
    };
    let registers = (0..=0xfcu8).step_by(4);
    registers
        .map(|at| {
            let ones = after(device, at, u32::MAX);
            (at, ones ^ after(device, at, 0))
        })
        .filter(|(_, bits)| *bits != 0)
        .collect()
}

/// Checks that every state in a directory whose name begins with `prefix` loads, and is saved again unchanged.
///
/// # Errors
/// The file, and why its state fails.
pub fn golden(make: &dyn Fn(&Arc<FakeMemory>) -> Box<dyn Device>, directory: &str, prefix: &str) -> Result<(), String> {
    files(directory, prefix)?.iter().try_for_each(|(name, state)| match loads(make, state) {
        Ok(again) if again == *state => Ok(()),
        Ok(_) => Err(format!("{name}: is saved as another state")),
        Err(e) => Err(format!("{name}: {e}")),
    })
}

fn step(
    what: u8,
    input: &mut Input<'_>,
    device: &mut dyn Device,
    cx: &mut Context,
    declaration: &Declaration,
    memory: &FakeMemory,
) {
    match what & 0x0f {
        0..=8 => {
            let index = input.byte().unwrap_or(0);
            let Some(region) = usize::from(index).checked_rem(declaration.regions.len()) else { return };
            let size = if what & 0x30 == 0x30 { 8 } else { 1u8 << (what >> 4 & 3) };
            let len = declaration.regions.get(region).map_or(1, |r| match r.area {
                Area::Ports { len, .. } => u64::from(len),
                Area::Memory { len, .. } => len,
                Area::Bar { function, bar } => {
                    let bars = declaration.functions.get(usize::from(function)).map(|f| f.bars);
                    bars.and_then(|b| b.get(usize::from(bar)).copied().flatten()).map_or(1, |b| u64::from(b.size))
                }
            });
            let offset = input.number(if len > 256 { 4 } else { 1 });
            let at = Access::new(region as u16, offset.checked_rem(len).unwrap_or(0), size);
            let mut data = vec![0; usize::from(input.byte().unwrap_or(0) & 0x7f).saturating_mul(usize::from(size))];
            match what & 0x0f {
                0..=2 => {
                    let _ = device.read(at, cx);
                }
                3..=6 => {
                    let _ = device.write(at, input.number(size), cx);
                }
                7 => {
                    let _ = device.read_string(at, &mut data, cx);
                }
                _ => {
                    let pattern = input.number(size).to_le_bytes();
                    for (to, from) in data.iter_mut().zip(pattern.iter().take(usize::from(size)).cycle()) {
                        *to = *from;
                    }
                    let _ = device.write_string(at, &data, cx);
                }
            }
        }
        9 | 10 => {
            let function = input.byte().unwrap_or(0);
            let Some(function) = usize::from(function).checked_rem(declaration.functions.len()) else { return };
            let (size, register) = (1u8 << (what >> 4).min(2), input.byte().unwrap_or(0));
            let register = register & !size.wrapping_sub(1);
            if what & 1 != 0 {
                let _ = device.config_read(function as u8, register, size);
            } else {
                device.config_write(function as u8, register, size, input.number(size) as u32, cx);
            }
        }
        11 => {
            cx.clock = Clock::Driven(cx.now().saturating_add(input.number(4).saturating_mul(100)));
            for _ in 0..64 {
                let Some(timer) = cx.timers.take_due(cx.now()) else { break };
                device.poll(Ready::Timer(timer), cx);
            }
        }
        12 => {
            let (address, len) = (input.number(3), input.byte().unwrap_or(0) & 0x1f);
            let data: Vec<u8> = (0..len).map(|_| input.byte().unwrap_or(0)).collect();
            let _ = memory.write(address, &data);
        }
        13 => {
            let n = input.number(2);
            let event = match what >> 4 & 3 {
                0 | 1 => InputEvent::Key { code: (n & 0x1ff) as u16, down: n & 0x8000 != 0 },
                2 => {
                    InputEvent::Move { dx: i32::from(n as i16), dy: i32::from((n >> 8) as i8), dz: i32::from(n as i8) }
                }
                _ => InputEvent::Button { button: (n & 7) as u8, down: n & 8 != 0 },
            };
            if let Some(keys) = device.input_device() {
                keys.input(event, cx);
            }
        }
        14 => match what >> 4 {
            0 => device.reset(Reset::Machine, cx),
            1 => drop(device.unplug(input.number(1) as u16, cx)),
            2 => {
                // The guest of a stopped machine makes no accesses, and transfers in progress do not continue.
                device.running(false, cx);
                device.poll(Ready::Fd(0), cx);
                device.running(true, cx);
            }
            3 => drop(device.display().and_then(|d| d.screenshot())),
            // A hostile broker reports lost writes at any time and for any region.
            4 => device.lost_writes(input.number(2) as u16, input.number(2), cx),
            _ => device.inspect(&mut crate::Inspect::default()),
        },
        _ => {
            // A hostile state: it must be refused or harmless.
            let len = input.number(1);
            let mut state = device.save();
            for _ in 0..len & 7 {
                let (at, value) = (input.number(2) as usize, input.byte().unwrap_or(0));
                if let Some(byte) = at.checked_rem(state.len()).and_then(|at| state.get_mut(at)) {
                    *byte = value;
                }
            }
            let before = device.save();
            if device.load(&state, cx).is_err() {
                let _ = device.load(&before, cx);
            }
        }
    }
}

/// Polls until the device has finished the work of an access, which must take a bounded number of calls.
fn settle(device: &mut dyn Device, cx: &mut Context) -> Result<(), String> {
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

fn holds(device: &dyn Device, cx: &mut Context, declaration: &Declaration) -> Result<(), String> {
    let effects = std::mem::take(&mut cx.effects);
    let bits = effects.bits;
    if !declaration.permissions.allow(bits) {
        return Err(format!("it asks for {bits:?}, which it may not"));
    }
    for (line, (level, edges)) in cx.lines.states().enumerate() {
        if line >= declaration.lines.len() && (level || edges != 0) {
            return Err(format!("it drives line {line}, which it does not have"));
        }
    }
    if device.save().len() > bulkhead_wire::STATE.saturating_sub(8) {
        return Err("its state does not fit the state page".into());
    }
    for (i, spec) in declaration.functions.iter().enumerate() {
        let space = device.config(i as u8).ok_or("a function without configuration space")?;
        for (number, bar) in spec.bars.iter().enumerate() {
            let register = 0x10u8.saturating_add((number as u8).saturating_mul(4));
            let Some(bar) = bar else { continue };
            // BARs are aligned by their size, whatever was written.
            if space.read(register, 4) & bar.size.wrapping_sub(1) & !0x0f != 0 {
                return Err(format!("BAR {number} is {:#x}", space.read(register, 4)));
            }
        }
    }
    while cx.log.take().is_some() {}
    Ok(())
}
