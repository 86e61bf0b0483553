//! The device for its fuzz target and its corpus test.
mod recipes;

use super::schedule::STRUCTURES;
use super::{BATCH, LATEST, Uhci, spec};
use bulkhead_bus::exercise::{Host, Restart, SETTINGS, Stage, Target, home};
use bulkhead_bus::{Context, Device, InputEvent, Ready, UsbDevice};
use rustix::fd::OwnedFd;
use rustix::pipe::{PipeFlags, pipe_with};

/// The devices that are plugged in at the start, by setting 0.
const PLUGGED: &[&[UsbDevice]] = &[
    &[UsbDevice::Tablet, UsbDevice::Keyboard],
    &[UsbDevice::Mouse, UsbDevice::Keyboard],
    &[UsbDevice::Keyboard, UsbDevice::Tablet],
    &[UsbDevice::Tablet, UsbDevice::Mouse],
    &[UsbDevice::Mouse],
    &[UsbDevice::Keyboard],
    &[UsbDevice::Tablet],
    &[],
];
/// Names of devices that come and go.
const NAMES: &[&str] = &["one", "two", "three", ""];

/// Deadlines that one advance of the time meets at most.
const DEADLINES: u64 = 64;
/// A structure is read; a transaction reads and writes its buffer, and writes its descriptor and its queue.
const CALLS: u64 = 5;
/// The frames of one advance: a process that did not run makes up for so many, then there is one batch at each deadline.
const WORK: u64 = (LATEST + (DEADLINES - 1) * BATCH) * (1 + CALLS * STRUCTURES as u64);

/// What happens outside.
#[repr(u8)]
enum Action {
    /// Viewers' records, 8 bytes each, come by the pipe.
    Input,
    /// Records come that are cut off or wrong.
    Hostile,
    /// A device is plugged in: its kind is in the low byte of `value`, its name is the data, or one of [`NAMES`].
    PlugIn,
    /// The device of that name is plugged out.
    PlugOut,
    /// Keys are pressed and released: each byte of the data is one, the next byte's lowest bit tells which.
    Keys,
    /// What viewers are told is taken from its pipe.
    Taken,
}
const ACTIONS: u8 = Action::Taken as u8 + 1;

struct Outside {
    devices: &'static [UsbDevice],
    /// Both ends of the pipe for input.
    input: Option<(OwnedFd, OwnedFd)>,
    /// Both ends of the pipe for accepted kinds of input.
    taken: Option<(OwnedFd, OwnedFd)>,
}

impl Outside {
    fn new(settings: [u8; SETTINGS]) -> Self {
        // Input comes by a pipe, unless bit 0 of setting 1 is set; bit 1: the viewers are told what is accepted.
        let [devices, pipes, ..] = settings;
        let devices = usize::from(devices).checked_rem(PLUGGED.len()).and_then(|i| PLUGGED.get(i)).copied();
        let pipe = |wanted: bool| wanted.then(|| pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()).flatten();
        Self { devices: devices.unwrap_or_default(), input: pipe(pipes & 1 == 0), taken: pipe(pipes & 2 != 0) }
    }

    fn send(&self, bytes: &[u8], device: &mut dyn Device, cx: &mut Context) {
        if let Some((_, to)) = &self.input {
            let _ = rustix::io::write(to, bytes);
            device.poll(Ready::Fd(super::INPUT), cx);
        }
    }
}

impl Host for Outside {
    fn device(&mut self) -> Box<dyn Device> {
        let input = self.input.as_ref().and_then(|(from, _)| from.try_clone().ok());
        let taken = self.taken.as_ref().and_then(|(_, to)| to.try_clone().ok());
        Box::new(Uhci::new((1, 2), self.devices, input, taken))
    }

    fn act(&mut self, action: u8, value: u64, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        let name = std::str::from_utf8(data).ok().filter(|name| !name.is_empty());
        let [kind, which, ..] = value.to_le_bytes();
        let name = name.or_else(|| NAMES.get(usize::from(which & 3)).copied()).unwrap_or_default();
        match action % ACTIONS {
            a if a == Action::Hostile as u8 => self.send(data, device, cx),
            a if a == Action::PlugIn as u8 => {
                let kind = match kind % 3 {
                    0 => UsbDevice::Tablet,
                    1 => UsbDevice::Mouse,
                    _ => UsbDevice::Keyboard,
                };
                let _ = device.usb_bus().map(|bus| bus.plug_usb(name, Some(kind), cx));
            }
            a if a == Action::PlugOut as u8 => drop(device.usb_bus().map(|bus| bus.plug_usb(name, None, cx))),
            a if a == Action::Keys as u8 => {
                let keys = data.as_chunks::<2>().0.iter();
                let keys = keys.flat_map(|[code, down]| {
                    InputEvent::Key { code: u16::from(*code), down: down & 1 != 0 }.to_bytes()
                });
                self.send(&keys.collect::<Vec<u8>>(), device, cx);
            }
            a if a == Action::Taken as u8 => {
                if let Some((from, _)) = &self.taken {
                    while rustix::io::read(from, &mut [0; 512]).is_ok_and(|n| n != 0) {}
                }
            }
            _ => {
                let mut records = data.as_chunks::<8>().0.to_vec();
                for [kind, flag, ..] in &mut records {
                    // The records' kinds and flags are made valid ones.
                    *kind = (*kind).checked_rem(5).unwrap_or(0).saturating_add(1);
                    *flag &= u8::from(matches!(*kind, 1 | 3));
                }
                self.send(&records.concat(), device, cx);
            }
        }
    }
}

/// A frame list without frames, as words of a link that ends it.
const NO_FRAMES: [u8; 4096] = {
    let mut list = [0; 4096];
    let mut i = 0;
    #[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)] // evaluated by the compiler
    while i < list.len() {
        list[i] = 1;
        i += 4;
    }
    list
};

fn make(stage: &Stage) -> Box<dyn Host> {
    // In zeroed memory each frame is a loop of descriptors, which takes all the time of a run. Both places that a frame list has
    // without further ado are none.
    for at in [0, home(spec::shape::FRAME_LIST)] {
        stage.memory.guest_writes(at, &NO_FRAMES);
    }
    Box::new(Outside::new(stage.settings))
}

/// A controller with devices that come and go.
pub static TARGET: Target = Target {
    work: WORK,
    registers: spec::REGISTERS,
    shapes: spec::SHAPES,
    actions: ACTIONS,
    recipes: recipes::ALL,
    restart: Restart::Same,
    ..Target::new("usb", make)
};
