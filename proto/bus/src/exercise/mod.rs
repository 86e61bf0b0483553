//! Takes a device through accesses, DMA, time, restarts and the acts of its host, and checks invariants: the body of every device's fuzz
//! target and of its corpus test. It knows a device by its declaration and by a [`Target`].
//!
//! | file | what |
//! |---|---|
//! | `record.rs` | the input: settings and records |
//! | `run.rs` | carries records out and checks what must hold |
//! | `memory.rs` | guest memory that is filled when it is read |
//! | `hints.rs` | registers and structures, as the specification has them |
//! | `mutate.rs` | changes inputs by whole operations |
mod hints;
mod memory;
mod mutate;
mod record;
mod run;

pub use hints::{BUFFERS, Field, Holds, Register, Shape, home};
pub use memory::{Fetch, HOLE, MEMORY, RunMemory};
pub use mutate::{Mutator, Random};
pub use record::{ELEMENTS, HEAD, Kind, LONGEST, RECORDS, Record, SETTINGS, Script};
pub use run::{Made, Seen};

use crate::{Context, Device, Effects, GuestMemory, Reset, StateError};
use std::sync::Arc;

/// What a device under test is made of.
pub struct Stage {
    /// Guest memory.
    pub memory: Arc<RunMemory>,
    /// The input's settings.
    pub settings: [u8; SETTINGS],
}

impl Stage {
    /// Guest memory, as a device takes it.
    pub fn guest_memory(&self) -> Arc<dyn GuestMemory> {
        self.memory.clone()
    }
}

/// Most bytes of an input of [`grown`], and the number of inputs of which it makes others.
const LONGEST_GROWN: usize = 4096;
const GROWN: u64 = 64;

/// What is on the host's side of a device: a wire, an image, a viewer.
pub trait Host {
    /// A device at this host. The second call is for a process that takes the place of a dead one.
    fn device(&mut self) -> Box<dyn Device>;

    /// Does something that the guest has not asked for. Numbers and meanings are the host's own.
    fn act(&mut self, action: u8, value: u64, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        let _ = (action, value, data, device, cx);
    }

    /// The device asks the broker for something, and may.
    fn effects(&mut self, effects: Effects) {
        let _ = effects;
    }

    /// Checks what must hold after each record.
    ///
    /// # Errors
    /// What does not hold.
    fn check(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Checks what the host has received, at a run's end.
    ///
    /// # Errors
    /// What is wrong with it.
    fn holds(&mut self) -> Result<(), String> {
        Ok(())
    }
}

/// A host at which nothing happens.
impl<F: FnMut() -> Box<dyn Device>> Host for F {
    fn device(&mut self) -> Box<dyn Device> {
        self()
    }
}

/// What a guest may see of a process that was killed between two accesses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Nothing.
    Same,
    /// What the device's README says, such as an error of the command in progress.
    Documented,
}

/// A recipe: records that belong together, such as a command's registers.
pub type Recipe = fn(&mut Random, &mut Vec<Record>);

/// A device under test, with what its mutator knows.
pub struct Target {
    /// Its name, which is that of its fuzz target.
    pub name: &'static str,
    /// Builds the host with the settings of an input. The same settings must make the same device.
    pub make: fn(&Stage) -> Box<dyn Host>,
    /// Bytes of guest memory.
    pub memory: usize,
    /// Most calls to guest memory that follow from one record.
    pub work: u64,
    /// Its registers.
    pub registers: &'static [Register],
    /// The structures that it reads from guest memory.
    pub shapes: &'static [Shape],
    /// Number of its host's actions.
    pub actions: u8,
    /// Operations that single records do not reach.
    pub recipes: &'static [Recipe],
    /// What the guest may see of a restart.
    pub restart: Restart,
    /// What it may see when the machine is saved and goes on elsewhere.
    pub moved: Restart,
}

impl Target {
    /// A target without hints.
    pub const fn new(name: &'static str, make: fn(&Stage) -> Box<dyn Host>) -> Self {
        Self {
            name,
            make,
            memory: MEMORY,
            work: 0,
            registers: &[],
            shapes: &[],
            actions: 0,
            recipes: &[],
            restart: Restart::Documented,
            moved: Restart::Same,
        }
    }
}

/// Takes a target through the records that `bytes` encode.
///
/// # Errors
/// The record, and the invariant that does not hold after it.
pub fn exercise(target: &Target, bytes: &[u8]) -> Result<(), String> {
    run::exercise(target, &Script::of(bytes))
}

/// [`exercise`] with `runs` inputs that the mutator makes of an empty one and of each other, the same at each call.
///
/// # Errors
/// The invariant that does not hold, and the file that has the input.
pub fn grown(target: &Target, runs: u64) -> Result<(), String> {
    let (mutator, mut random) = (Mutator::new(target), Random::new(1));
    let mut kept = vec![Vec::new()];
    for seed in 0..runs {
        let from = random.of(&kept).cloned().unwrap_or_default();
        let input = match random.of(&kept).filter(|_| seed.is_multiple_of(5)) {
            Some(other) => mutator.cross(&from, other, LONGEST_GROWN, seed),
            None => mutator.mutate(&from, LONGEST_GROWN, seed),
        };
        exercise(target, &input).map_err(|e| {
            let file = std::env::temp_dir().join(format!("{}-{seed}", target.name));
            let _ = std::fs::write(&file, &input);
            format!("{}: {e}", file.display())
        })?;
        match kept.get_mut(random.below(GROWN) as usize) {
            Some(old) => *old = input,
            None => kept.push(input),
        }
    }
    Ok(())
}

/// What a guest with `memory` bytes of RAM sees of each record, with what the device has read of guest memory, and the pages of memory
/// that were written in the end. Addresses are those of the guest: none is folded. A violation ends it early. A display's memory is its
/// video RAM, of the target's own size.
pub fn trace(target: &Target, script: &Script, memory: usize) -> (Vec<Seen>, Vec<(u64, Vec<u8>)>) {
    let memory = RunMemory::bounded(if target.memory == MEMORY { memory } else { target.memory });
    let mut run = run::Run::with_memory(target, script.settings, true, memory);
    run.keep_fetches();
    let seen = script.records.iter().map_while(|record| run.step(record).ok()).collect();
    (seen, run.pages())
}

/// A new device of the target, after a reset, with its surroundings.
fn fresh(target: &Target, settings: [u8; SETTINGS]) -> (Box<dyn Host>, Box<dyn Device>, Context) {
    let memory = Arc::new(RunMemory::new(target.memory));
    let mut host = (target.make)(&Stage { memory: memory.clone(), settings });
    let mut device = host.device();
    let mut cx = Context::new(memory);
    device.reset(Reset::Machine, &mut cx);
    (host, device, cx)
}

/// Loads `state` into a new device and saves it again. Loading and saving the result must not change it.
///
/// # Errors
/// The state is refused.
pub fn loads(target: &Target, state: &[u8]) -> Result<Vec<u8>, String> {
    loads_with(target, [0; SETTINGS], state)
}

fn loads_with(target: &Target, settings: [u8; SETTINGS], state: &[u8]) -> Result<Vec<u8>, String> {
    let (_host, mut device, mut cx) = fresh(target, settings);
    device.load(state, &mut cx).map_err(|e| format!("its own state is refused: {e}"))?;
    // Before it goes on with its work: that changes the state, rightly.
    let again = device.save();
    run::settle(&mut *device, &mut cx)?;
    Ok(again)
}

/// Loads `state` into a new device, which must refuse it and stay as it is. Returns the refusal.
///
/// # Errors
/// The state is taken, or a part of it is.
pub fn refuses(target: &Target, state: &[u8]) -> Result<StateError, String> {
    let (_host, mut device, mut cx) = fresh(target, [0; SETTINGS]);
    let before = device.save();
    let error = device.load(state, &mut cx).err().ok_or("the state is taken")?;
    if device.save() == before {
        Ok(error)
    } else {
        Err(format!("it is refused ({error}), and the device is another one"))
    }
}

/// The files of a directory whose names begin with `prefix`.
fn files(directory: &str, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, String> {
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
pub fn seeds(target: &Target, directory: &str) -> Result<(), String> {
    files(directory, "")?
        .iter()
        .try_for_each(|(name, bytes)| exercise(target, bytes).map_err(|e| format!("{name}: {e}")))
}

/// The bits of a function's configuration space that a guest can change: offset and bits of each register of 32 bits that has some.
/// For tests that compare them with a data sheet.
pub fn changeable(device: &mut dyn Device, function: u8) -> Vec<(u8, u32)> {
    let mut cx = Context::new(Arc::new(RunMemory::new(MEMORY)));
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
pub fn golden(target: &Target, directory: &str, prefix: &str) -> Result<(), String> {
    files(directory, prefix)?.iter().try_for_each(|(name, state)| match loads(target, state) {
        Ok(again) if again == *state => Ok(()),
        Ok(_) => Err(format!("{name}: is saved as another state")),
        Err(e) => Err(format!("{name}: {e}")),
    })
}

#[cfg(test)]
mod tests;
