//! What firmware does with fw_cfg, and what it should not do.
use crate::fw_cfg::region;
use crate::fw_cfg::spec::{Control, KEY_MARKS, KEYS, key};
use bulkhead_bus::exercise::{BUFFERS, HOLE, Kind, Random, Recipe, Record, home};

pub(super) const ALL: &[Recipe] = &[by_port, by_dma, by_dma, walk_directory, boot, interrupted];

const PORTS: u8 = region::PORTS as u8;
const DMA: u8 = region::DMA as u8;

fn any_key(random: &mut Random) -> u16 {
    let key = random.of(KEYS).map_or(0, |key| *key as u16);
    match random.below(16) {
        0 => key | random.of(&KEY_MARKS).copied().unwrap_or(0),
        1 => random.number(2) as u16,
        _ => key,
    }
}

/// A length at a border of an entry, or of a run's memory.
fn any_len(random: &mut Random) -> u32 {
    let borders = [0u32, 1, 4, 16, 64, 260, 512, 1024, 5000, 5120, 8120, 0x7000, 0x1_0000];
    let border = random.of(&borders).copied().unwrap_or(0);
    match random.below(8) {
        0 => border.saturating_sub(1),
        1 => border.saturating_add(1),
        2 => random.number(4) as u32,
        _ => border,
    }
}

fn select(key: u16) -> Record {
    Record::write(PORTS, 0, 2, key.into())
}

/// The next bytes of the data port.
fn data(len: u64) -> Record {
    Record { kind: Kind::ReadString, value: len, ..Record::read(PORTS, 1, 1) }
}

/// A descriptor at `at`, and the write that starts it.
fn transfer(at: u64, control: Control, len: u32, address: u64, to: &mut Vec<Record>) {
    let mut bytes = control.into_bits().to_be_bytes().to_vec();
    bytes.extend(len.to_be_bytes());
    bytes.extend(address.to_be_bytes());
    to.push(Record::memory(at, &bytes));
    to.push(Record::write(DMA, 4, 4, (at as u32).swap_bytes().into()));
}

fn by_port(random: &mut Random, to: &mut Vec<Record>) {
    to.push(select(any_key(random)));
    for _ in 0..=random.below(3) {
        to.push(if random.one_in(2) { Record::read(PORTS, 1, 1) } else { data(any_len(random).min(1024).into()) });
    }
    if random.one_in(8) {
        to.push(Record::write(PORTS, 1, 1, random.number(1)));
    }
}

fn by_dma(random: &mut Random, to: &mut Vec<Record>) {
    let mut control = Control::new().with_key(any_key(random));
    match random.below(8) {
        0..=3 => control = control.with_read(true).with_select(true),
        4 => control = control.with_read(true),
        5 => control = control.with_skip(true).with_select(random.one_in(2)),
        6 => control = control.with_write(true).with_select(random.one_in(2)),
        _ => control = Control::from_bits(random.bits() as u32),
    }
    let at = match random.below(8) {
        0 => random.number(2),
        1 => HOLE.start.saturating_sub(random.below(17)),
        n => home(0).saturating_add(n.saturating_mul(16)),
    };
    let address = match random.below(8) {
        0 => HOLE.start.saturating_sub(random.below(8)),
        1 => random.number(8),
        // Onto the descriptor.
        2 => at,
        _ => BUFFERS.saturating_add(random.below(0x100)),
    };
    if random.one_in(8) {
        to.push(Record::write(DMA, 0, 4, (random.below(3) as u32).swap_bytes().into()));
    }
    transfer(at, control, any_len(random), address, to);
    if random.one_in(2) {
        to.push(data(random.below(20)));
    }
    if random.one_in(8) {
        // The ROM repeats the write, because a restart may have lost it.
        to.push(Record::write(DMA, 4, 4, (at as u32).swap_bytes().into()));
    }
}

fn walk_directory(random: &mut Random, to: &mut Vec<Record>) {
    to.extend([select(key::FILES), data(4)]);
    for n in 0..random.below(6) {
        to.push(data(64));
        if random.one_in(2) {
            to.extend([select(key::FIRST_FILE.saturating_add(n as u16)), data(any_len(random).min(1024).into())]);
            to.extend([select(key::FILES), data(n.saturating_add(1).saturating_mul(64).saturating_add(4))]);
        }
    }
}

/// The boot ROM's order: each part's address and size, then its bytes.
fn boot(random: &mut Random, to: &mut Vec<Record>) {
    let parts = [
        (key::SETUP_SIZE, key::SETUP_DATA, 1024),
        (key::CMDLINE_SIZE, key::CMDLINE_DATA, 14),
        (key::KERNEL_SIZE, key::KERNEL_DATA, 5120),
        (key::INITRD_SIZE, key::INITRD_DATA, 5000),
    ];
    for (size, bytes, len) in parts {
        to.extend([select(size), data(4)]);
        let control = Control::new().with_select(true).with_read(true).with_key(bytes);
        let len = if random.one_in(8) { any_len(random) } else { len };
        transfer(home(0), control, len, BUFFERS.saturating_add(random.below(4).saturating_mul(0x400)), to);
    }
}

/// A restart, a stop or a reset between an entry's bytes.
fn interrupted(random: &mut Random, to: &mut Vec<Record>) {
    to.extend([select(any_key(random)), data(random.below(300))]);
    let kind = random.of(&[Kind::Restart, Kind::StopAndRun, Kind::Reset, Kind::Check]).copied();
    to.push(Record::new(kind.unwrap_or(Kind::Restart)));
    let skip = Control::new().with_skip(true);
    transfer(home(0), skip, any_len(random), 0, to);
    if random.one_in(2) {
        to.push(Record::new(Kind::Restart));
    }
    to.push(data(random.below(300)));
    if random.one_in(2) {
        // The high half of a descriptor's address survives a restart.
        to.extend([Record::write(DMA, 0, 4, random.number(4)), Record::new(Kind::Restart)]);
        to.push(Record::write(DMA, 4, 4, (home(0) as u32).swap_bytes().into()));
    }
}
