//! The device for its fuzz target and its corpus test.
//!
//! | file | what |
//! |---|---|
//! | `disks.rs` | the images, and what must be in them |
//! | `world.rs` | the host's side: carries jobs out, late or with errors |
//! | `watched.rs` | compares sectors that a guest moves by programmed I/O with the image |
//! | `commands.rs`, `packets.rs` | recipes: commands of disks, packets of CD-ROM drives |
//!
//! | settings | what |
//! |---|---|
//! | byte 0, 1 | a digit for each place: [`At`], from the ordinary one on |
//! | byte 2, 3 | a digit for each place: its size |
//! | byte 4 | two bits for each place: its identity |
//! | byte 5 | bit 0: of two jobs the last one ends first |
mod commands;
mod disks;
mod packets;
#[cfg(test)]
mod tests;
mod watched;
mod world;

use super::{BUS_MASTER, DriveSpec, Ide, Identity, JOBS, spec};
use bulkhead_bus::exercise::{Host, RunMemory, SETTINGS, Stage, Target};
use bulkhead_bus::{Access, Context, Device, Ready};
use disks::{Disk, Kind};
use rustix::io::Errno;
use std::cell::RefCell;
use std::sync::{Arc, Mutex, Weak};
use watched::Watched;
use world::{Images, Place, Shared, Storage, World, locked};

/// What is at a place. The index is a digit of the settings plus that of the place's ordinary one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// A disk.
    Disk,
    /// A disk that may not be written.
    ReadOnly,
    /// A CD-ROM drive with a medium.
    Cd,
    /// Nothing.
    Nothing,
    /// A CD-ROM drive without a medium.
    EmptyCd,
    /// A CD-ROM drive with more sectors than a CD has.
    Dvd,
    /// A disk with a qcow2 image.
    Tables,
    /// The same, which may not be written.
    ReadOnlyTables,
}

const AT: [At; 8] = [At::Disk, At::ReadOnly, At::Cd, At::Nothing, At::EmptyCd, At::Dvd, At::Tables, At::ReadOnlyTables];

/// Bytes of a disk; the first is the ordinary one. An odd number of sectors, one sector, one track, more than cylinders address, more
/// than 28 bits address, less than a cylinder.
const DISKS: [u64; 8] =
    [1 << 20, (1 << 20) - 512, 512, 63 * 512, 16_514_065 * 512, (1 << 37) + 1024, 16 * 63 * 512 - 512, 3 * 4096];
/// Bytes of a CD: also one whose last sector is not whole, and one that is smaller than a sector.
const CDS: [u64; 4] = [1 << 20, (1 << 20) + 1024, 2048, 64 * 2048];
/// Bytes of a DVD: more than 80 minutes.
const DVD: u64 = (80 * 60 * 75 + 1) * 2048;

/// The most calls to guest memory of one access. A PRD table has at most 8192 entries (64 KiB) that are read in pieces of 64, or one by
/// one where a piece meets the end of RAM, which is at most a piece. Each entry is one segment. A job takes at most 1 MiB at once, and
/// a copy from a CD's buffer at most 128 KiB; each border of these splits a segment.
const WORK: u64 = 8192 / 64 + 2 * 64 + 8192 + 512;

/// What the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// The next jobs fail: each byte of `data` is one, 0 lets it succeed; without data the next one, with `value`.
    Fail,
    /// The next job takes `value` polls.
    Late,
    /// The guest and others act while jobs wait: [`Side::during`] with `data`.
    During,
    /// The image of place `value` becomes shorter, by the upper bits.
    Truncate,
    /// The medium of place `value` is ejected; bit 2: by force.
    Eject,
    /// A medium is inserted at place `value`; the upper bits say which.
    Insert,
    /// An error for one job, and its drive is asked for by a person.
    FailAndInspect,
}

impl Action {
    const ALL: [Self; 7] =
        [Self::Fail, Self::Late, Self::During, Self::Truncate, Self::Eject, Self::Insert, Self::FailAndInspect];
}

/// Errors of jobs.
const ERRORS: [Errno; 8] =
    [Errno::IO, Errno::NOSPC, Errno::BADF, Errno::FAULT, Errno::DQUOT, Errno::FBIG, Errno::INVAL, Errno::ROFS];

thread_local! {
    /// The world of this thread's run. A device that is built for a comparison is at the same host: it must find the same media.
    static LIVE: RefCell<(Weak<Mutex<World>>, [u8; SETTINGS])> = const { RefCell::new((Weak::new(), [0; SETTINGS])) };
}

struct Side {
    memory: Arc<RunMemory>,
    settings: [u8; SETTINGS],
    world: Shared,
}

fn make(stage: &Stage) -> Box<dyn Host> {
    let settings = stage.settings;
    let world = LIVE.with(|live| {
        let (world, of) = &*live.borrow();
        world.upgrade().filter(|_| *of == settings)
    });
    let world = world.unwrap_or_else(|| {
        let world = Arc::new(Mutex::new(furnished(&settings)));
        LIVE.with(|live| *live.borrow_mut() = (Arc::downgrade(&world), settings));
        world
    });
    Box::new(Side { memory: stage.memory.clone(), settings, world })
}

/// A digit of four bits of the settings from `byte` on.
fn digit(settings: &[u8; SETTINGS], byte: usize, place: usize) -> usize {
    let pair = settings.get(byte.saturating_add(place >> 1)).copied().unwrap_or(0);
    usize::from(if place & 1 == 0 { pair & 0x0f } else { pair >> 4 })
}

fn at(settings: &[u8; SETTINGS], place: usize) -> At {
    AT.get(digit(settings, 0, place).wrapping_add(place) & 7).copied().unwrap_or(At::Nothing)
}

/// The drives and media that the settings name.
fn furnished(settings: &[u8; SETTINGS]) -> World {
    let mut world = World::default();
    world.newest_first = settings.get(5).is_some_and(|b| b & 1 != 0);
    for (number, place) in world.places.iter_mut().enumerate() {
        let size = digit(settings, 2, number);
        let disk = DISKS.get(size & 7).copied().unwrap_or(512);
        let cd = CDS.get(size & 3).copied().unwrap_or(2048);
        let (medium, read_only, cdrom) = match at(settings, number) {
            At::Disk => (Disk::new(Kind::Raw, disk), false, false),
            At::ReadOnly => (Disk::new(Kind::Raw, disk), true, false),
            At::Cd => (Disk::new(Kind::Raw, cd), true, true),
            At::Nothing => continue,
            At::EmptyCd => (None, true, true),
            At::Dvd => (Disk::new(Kind::Raw, DVD), true, true),
            // Its one table of level 1 has room for so much.
            At::Tables => (Disk::new(Kind::Tables, disk.min(1 << 20)), false, false),
            At::ReadOnlyTables => (Disk::new(Kind::Tables, disk.min(1 << 20)), true, false),
        };
        *place = Some(Place { medium, read_only, cdrom });
    }
    world
}

/// One of four identities: none, a geometry, one that cannot be, strings.
fn identity(settings: &[u8; SETTINGS], place: usize) -> Identity {
    let kind = settings.get(4).copied().unwrap_or(0) >> (place << 1) & 3;
    let geometry = match kind {
        1 => Some((16, 4, 17)),
        2 => Some((1, 0, 63)),
        _ => None,
    };
    let text = |text: &str| (kind == 3).then(|| text.to_owned());
    Identity {
        geometry,
        serial: text("a serial number that is too long"),
        version: text("\u{e9}\t1"),
        model: text("model"),
    }
}

impl Host for Side {
    fn device(&mut self) -> Box<dyn Device> {
        let mut drives = Vec::new();
        for (index, place) in (0u8..).zip(&locked(&self.world).places) {
            let Some(Place { medium, read_only, cdrom }) = place else { continue };
            let identity = identity(&self.settings, usize::from(index));
            let image = medium.as_ref().and_then(|disk| disk.open(!*read_only));
            drives.push(DriveSpec { index, cdrom: *cdrom, read_only: *read_only, image, identity });
        }
        let images = Images::default();
        let storage = Storage::new(self.world.clone(), images.clone(), self.memory.clone());
        Box::new(Watched::new(Ide::new(drives, Box::new(storage)), self.world.clone(), images))
    }

    fn act(&mut self, action: u8, value: u64, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        let Some(action) = usize::from(action).checked_rem(Action::ALL.len()).and_then(|i| Action::ALL.get(i)) else {
            return;
        };
        let drive = value as u8 & 3;
        match action {
            Action::Fail | Action::FailAndInspect => {
                let one = [(value as u8).saturating_add(1)];
                let which = if data.is_empty() { &one } else { data };
                let error = |byte: &u8| ERRORS.get(usize::from(byte.checked_sub(1)? & 7)).copied();
                locked(&self.world).fail(which.iter().map(error));
                if *action == Action::FailAndInspect {
                    device.inspect(&mut bulkhead_bus::Inspect::default());
                    let _ = device.drives().map(|drives| drives.facts());
                    let _ = device.checkpoint();
                }
            }
            Action::Late => locked(&self.world).delay(value as u8),
            Action::During => {
                locked(&self.world).held = true;
                self.during(data, device, cx);
                locked(&self.world).held = false;
            }
            Action::Truncate => {
                let mut world = locked(&self.world);
                world.changes = world.changes.wrapping_add(1);
                let place = world.places.get_mut(usize::from(drive)).and_then(Option::as_mut);
                if let Some(disk) = place.and_then(|place| place.medium.as_mut()) {
                    disk.truncate(value >> 2 << 9);
                }
            }
            Action::Eject => self.eject(drive, value & 4 != 0, device, cx),
            Action::Insert => self.insert(drive, value >> 2, device, cx),
        }
    }

    fn holds(&mut self) -> Result<(), String> {
        locked(&self.world).holds()
    }
}

impl Side {
    fn eject(&mut self, drive: u8, force: bool, device: &mut dyn Device, cx: &mut Context) {
        let Some(drives) = device.drives() else { return };
        let gone = drives.eject(drive, force, cx).is_ok();
        let mut world = locked(&self.world);
        if let Some(place) = world.places.get_mut(usize::from(drive)).and_then(Option::as_mut).filter(|_| gone) {
            place.medium.take().into_iter().for_each(Disk::keep);
        }
    }

    fn insert(&mut self, drive: u8, kind: u64, device: &mut dyn Device, cx: &mut Context) {
        let Some(drives) = device.drives() else { return };
        let bytes = match kind & 7 {
            6 => DVD,
            // Less than a sector, which is no medium.
            7 => 1024,
            kind => CDS.get(kind as usize & 3).copied().unwrap_or(2048),
        };
        let Some(disk) = Disk::new(Kind::Raw, bytes) else { return };
        let Some(file) = disk.medium() else { return };
        let taken = drives.insert(drive, file, cx).is_ok();
        let mut world = locked(&self.world);
        match world.places.get_mut(usize::from(drive)).and_then(Option::as_mut).filter(|_| taken) {
            Some(place) => place.medium = Some(disk),
            None => disk.keep(),
        }
    }

    /// Accesses and other events, two bytes each, between which jobs do not end by themselves. The first byte's high digit is a region
    /// or what else happens, its low digit a register; bit 3 of a command block's register, and bit 7 of others, make it a read.
    fn during(&mut self, data: &[u8], device: &mut dyn Device, cx: &mut Context) {
        for pair in data.as_chunks::<2>().0 {
            let [what, value] = *pair;
            let (low, wide) = (what & 0x0f, u64::from(value));
            let region = u16::from(what >> 4);
            match what >> 4 {
                0 | 2 if low & 8 != 0 => drop(device.read(Access::new(region, u64::from(low & 7), 1), cx)),
                0 | 2 if u64::from(low) == spec::reg::DATA => {
                    let _ = device.write_string(Access::new(region, spec::reg::DATA, 2), &[value; 512], cx);
                }
                0 | 2 => drop(device.write(Access::new(region, u64::from(low), 1), wide, cx)),
                1 | 3 if low & 8 != 0 => drop(device.read(Access::new(region, 0, 1), cx)),
                1 | 3 => drop(device.write(Access::new(region, 0, 1), wide, cx)),
                4 => drop(device.write(Access::new(BUS_MASTER, u64::from(low), 1), wide, cx)),
                5 => drop(device.read(Access::new(BUS_MASTER, u64::from(low), 1), cx)),
                6 => drop(device.read_string(Access::new(u16::from(low & 2), 0, 2), &mut [0; 512], cx)),
                7 => device.running(value & 1 != 0, cx),
                8 => {
                    // The jobs that wait are carried out.
                    locked(&self.world).held = false;
                    (0..=low).for_each(|_| device.poll(Ready::Fd(JOBS), cx));
                    locked(&self.world).held = true;
                }
                9 => drop(device.unplug(u16::from(value & 7), cx)),
                10 => self.eject(value & 3, value & 4 != 0, device, cx),
                11 => self.insert(value & 3, wide >> 2, device, cx),
                12 => device.lost_writes(u16::from(low).checked_rem(5).unwrap_or(0), wide & 7, cx),
                13 => device.reset(bulkhead_bus::Reset::Machine, cx),
                14 => locked(&self.world).delay(value),
                _ => {
                    let state = device.save();
                    if low & 1 != 0
                        && let Err(e) = device.load(&state, cx)
                    {
                        locked(&self.world).wrong(format!("its own state is refused: {e}"));
                    }
                }
            }
            let (calls, _) = self.memory.take_work();
            // A poll may begin the next job, and string accesses may finish one.
            if calls > WORK.saturating_mul(2) {
                locked(&self.world).wrong(format!("one of several accesses makes {calls} accesses to guest memory"));
            }
        }
        device.running(true, cx);
    }
}

/// Two disks and a CD of 1 MiB, unless the settings say otherwise. A process that takes over aborts the command in progress: the guest
/// sees its error, as README.md says.
pub static TARGET: Target = Target {
    work: WORK,
    registers: spec::REGISTERS,
    shapes: spec::SHAPES,
    actions: Action::ALL.len() as u8,
    recipes: &[
        commands::read,
        commands::write,
        commands::any,
        commands::settings,
        commands::trim,
        commands::resets,
        commands::while_it_works,
        packets::any,
        packets::data,
        packets::media,
    ],
    ..Target::new("ide", make)
};
