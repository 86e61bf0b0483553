//! The device for its fuzz target and its corpus test.
mod recipes;

use super::{Ps2, spec};
use bulkhead_bus::exercise::{Host, Restart, SETTINGS, Stage, Target};
use bulkhead_bus::{Context, Device, InputEvent, Ready};
use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, pipe_with};

/// Bit of setting 0: input comes by a pipe from viewers too.
const PIPED: u8 = 1;
/// Bit of setting 0: the viewers' process is told the LEDs. It needs [`PIPED`], as in the product.
const TOLD: u8 = 2;

/// What happens outside.
#[repr(u8)]
enum Action {
    /// Viewers' records, 8 bytes each, come by the pipe; without a pipe they come one by one.
    Input,
    /// Records come that are cut off or wrong.
    Hostile,
    /// The viewers' process takes the LEDs that it was told.
    Lights,
    /// Keys are pressed and released: each byte of the data is one, the next byte's lowest bit tells which.
    Keys,
    /// The pointer moves in large steps, `value` many.
    Moves,
}
const ACTIONS: u8 = Action::Moves as u8 + 1;

/// A viewers' process.
struct Viewers {
    /// Both ends of the pipe for input.
    input: Option<(OwnedFd, OwnedFd)>,
    /// Both ends of the pipe for LEDs.
    lights: Option<(OwnedFd, OwnedFd)>,
    /// What is wrong with what was received.
    wrong: Option<String>,
}

impl Viewers {
    fn new(settings: [u8; SETTINGS]) -> Self {
        let [first, ..] = settings;
        let pipe = |bits: u8| {
            let wanted = first & bits == bits;
            wanted.then(|| pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()).flatten()
        };
        let (input, lights) = (pipe(PIPED), pipe(PIPED | TOLD));
        Self { input, lights, wrong: None }
    }

    fn send(&self, bytes: &[u8], device: &mut dyn Device, cx: &mut Context) {
        match &self.input {
            Some((_, to)) => {
                let _ = rustix::io::write(to, bytes);
                device.poll(Ready::Fd(0), cx);
            }
            None => {
                for event in bytes.as_chunks().0.iter().filter_map(|record| InputEvent::from_bytes(*record)) {
                    if let Some(input) = device.input_device() {
                        input.input(event, cx);
                    }
                }
            }
        }
    }

    /// What was received last must be the LEDs, because the pipe is never full here.
    fn take_lights(&mut self, device: &mut dyn Device) {
        let Some((from, _)) = &self.lights else { return };
        let mut bytes = [0; 4096];
        let received = rustix::io::read(from, &mut bytes).ok().filter(|n| *n < bytes.len());
        let last = received.and_then(|n| n.checked_sub(1)).and_then(|n| bytes.get(n)).copied();
        let now = device.input_device().and_then(|input| input.lights());
        if last.is_some() && last != now {
            self.wrong = Some(format!("viewers know the LEDs {last:?}, the keyboard has {now:?}"));
        }
    }
}

impl Host for Viewers {
    fn device(&mut self) -> Box<dyn Device> {
        let end = |fd: &OwnedFd| fd.try_clone().ok();
        let lights = self.lights.as_ref().and_then(|(_, to)| end(to));
        match self.input.as_ref().and_then(|(from, _)| end(from)) {
            Some(viewer) => Box::new(Ps2::with_viewer(viewer, lights)),
            None => Box::new(Ps2::new()),
        }
    }

    fn act(&mut self, action: u8, value: u64, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        let bytes: Vec<u8> = match action % ACTIONS {
            a if a == Action::Hostile as u8 => data.to_vec(),
            a if a == Action::Lights as u8 => return self.take_lights(device),
            a if a == Action::Keys as u8 => {
                let keys = data.as_chunks::<2>().0.iter();
                keys.flat_map(|[code, down]| InputEvent::Key { code: u16::from(*code), down: down & 1 != 0 }.to_bytes())
                    .collect()
            }
            a if a == Action::Moves as u8 => {
                let step = InputEvent::Move {
                    dx: value as i16 as i32,
                    dy: (value >> 16) as i16 as i32,
                    dz: (value >> 32) as i8 as i32,
                };
                (0..=value & 7).flat_map(|_| step.to_bytes()).collect()
            }
            _ => {
                // The records' kinds and flags are made valid ones.
                let mut records = data.as_chunks::<8>().0.to_vec();
                for [kind, flag, ..] in &mut records {
                    *kind = (*kind).checked_rem(5).unwrap_or(0).saturating_add(1);
                    *flag &= u8::from(matches!(*kind, 1 | 3));
                }
                records.concat()
            }
        };
        self.send(&bytes, device, cx);
    }

    fn holds(&mut self) -> Result<(), String> {
        self.wrong.take().map_or(Ok(()), Err)
    }
}

fn make(stage: &Stage) -> Box<dyn Host> {
    Box::new(Viewers::new(stage.settings))
}

/// The keyboard controller with its two devices. It has no DMA.
pub static TARGET: Target = Target {
    registers: spec::REGISTERS,
    actions: ACTIONS,
    recipes: recipes::ALL,
    restart: Restart::Same,
    ..Target::new("ps2", make)
};
