//! The checks of a run find what they are for.
use super::*;
use bulkhead_bus::DriveCounters;
use bulkhead_bus::exercise::{Kind as RecordKind, Random, Recipe, Record};

fn side() -> Side {
    let settings = [0; SETTINGS];
    let memory = Arc::new(RunMemory::new(bulkhead_bus::exercise::MEMORY));
    Side { memory, settings, world: Arc::new(Mutex::new(furnished(&settings))) }
}

/// Reads or writes the first sector by programmed I/O, and settles.
fn sector(side: &Side, device: &mut dyn Device, code: u8) {
    let mut cx = Context::new(side.memory.clone());
    for (register, value) in [(6, 0xe0), (2, 1), (3, 0), (4, 0), (5, 0), (7, code)] {
        device.write(Access::new(0, register, 1), value.into(), &mut cx).unwrap();
    }
    device.poll(Ready::Fd(JOBS), &mut cx);
    if code == 0x30 {
        device.write_string(Access::new(0, 0, 2), &[7; 512], &mut cx).unwrap();
    } else {
        device.read_string(Access::new(0, 0, 2), &mut [0; 512], &mut cx).unwrap();
    }
    device.poll(Ready::Fd(JOBS), &mut cx);
}

fn change(side: &Side, how: impl FnOnce(&mut Disk)) {
    how(locked(&side.world).places[0].as_mut().unwrap().medium.as_mut().unwrap());
}

#[test]
fn a_device_that_does_what_it_says_holds() {
    let mut side = side();
    let mut device = side.device();
    sector(&side, &mut *device, 0x30);
    sector(&side, &mut *device, 0x20);
    assert_eq!(side.holds(), Ok(()));
}

#[test]
fn bytes_in_an_image_that_nobody_wrote_are_found() {
    for offset in [0, 1 << 19] {
        let mut side = side();
        let mut device = side.device();
        sector(&side, &mut *device, 0x30);
        change(&side, |disk| assert_eq!(rustix::io::pwrite(&disk.medium().unwrap(), &[1], offset), Ok(1)));
        assert!(side.holds().is_err(), "{offset:#x}");
    }
}

#[test]
fn a_sector_that_is_read_and_is_not_what_was_written_is_found() {
    let mut side = side();
    let mut device = side.device();
    change(&side, |disk| assert_eq!(rustix::io::pwrite(&disk.medium().unwrap(), &[1], 0), Ok(1)));
    sector(&side, &mut *device, 0x20);
    assert!(side.holds().is_err());
}

#[test]
fn jobs_that_a_drive_may_not_have_are_found() {
    use crate::backend::{Executor as _, Image, Job};
    let write = |offset| Job::Write { offset, data: vec![0; 512] };
    for (place, job) in [(0, write(1 << 20)), (0, write(1)), (1, write(0)), (2, write(0))] {
        let mut side = side();
        let image: Arc<Image> =
            Arc::new(locked(&side.world).places[place].as_ref().unwrap().medium.as_ref().unwrap().open(true).unwrap());
        let images = Images::default();
        locked(&images)[place] = Some(image.clone());
        let mut storage = Storage::new(side.world.clone(), images, side.memory.clone());
        storage.submit(0, image, job);
        assert!(side.holds().is_err(), "place {place}");
    }
}

/// Carries out accesses of a recipe; other records are left out.
fn play(side: &Side, device: &mut dyn Device, records: &[Record]) {
    let mut cx = Context::new(side.memory.clone());
    for r in records {
        let at = Access::new(u16::from(r.place), u64::from(r.offset), r.width());
        let mut bytes = vec![0; r.value as usize * usize::from(r.width())];
        bytes.iter_mut().zip(r.data.iter().cycle()).for_each(|(to, from)| *to = *from);
        match r.kind {
            RecordKind::Read => drop(device.read(at, &mut cx)),
            RecordKind::Write => drop(device.write(at, r.value, &mut cx)),
            RecordKind::ReadString => device.read_string(at, &mut bytes, &mut cx).unwrap(),
            RecordKind::WriteString => device.write_string(at, &bytes, &mut cx).unwrap(),
            RecordKind::Memory => side.memory.guest_writes(r.value, &r.data),
            _ => {}
        }
        for _ in 0..100 {
            device.poll(Ready::Fd(JOBS), &mut cx);
        }
    }
}

/// Most of what a recipe begins must come to its end, or it tests only refusals.
#[test]
fn recipes_reach_their_jobs() {
    let count = |recipe: Recipe, of: fn(&DriveCounters) -> u64| {
        (0..200u64)
            .filter(|seed| {
                let mut side = side();
                let mut device = side.device();
                let mut records = Vec::new();
                recipe(&mut Random::new(*seed), &mut records);
                play(&side, &mut *device, &records);
                device.drives().unwrap().facts().iter().any(|facts| of(&facts.counters) > 0)
            })
            .count()
    };
    let found = [
        ("read", count(commands::read, |c| c.reads)),
        ("write", count(commands::write, |c| c.writes)),
        ("trim", count(commands::trim, |c| c.trims)),
        ("settings", count(commands::settings, |c| c.flushes)),
        ("data", count(packets::data, |c| c.reads)),
    ];
    for ((name, n), least) in found.into_iter().zip([60, 50, 40, 8, 50]) {
        assert!(n >= least, "{name}: {n} of 200; {found:?}");
    }
}
