//! Commands of disks, and what happens beside them.
use super::super::spec::{LAST, bus_master, reg};
use super::Action;
use crate::ata::spec::{SECTOR, command};
use bulkhead_bus::exercise::{BUFFERS, Kind, Random, Record, home};

/// The registers of the drive to which a recipe writes.
#[derive(Clone, Copy)]
pub(super) struct Drive {
    /// 0 or 1.
    pub(super) channel: u8,
    pub(super) second: bool,
}

impl Drive {
    /// The drive at a place, most often this one.
    pub(super) fn mostly(place: u8, random: &mut Random) -> Self {
        let place = if random.one_in(4) { random.below(4) as u8 } else { place };
        Self { channel: place >> 1, second: place & 1 != 0 }
    }

    fn block(self) -> u8 {
        self.channel << 1
    }

    fn master(self) -> u32 {
        u32::from(self.channel).wrapping_mul(bus_master::CHANNEL)
    }

    pub(super) fn write(self, register: u64, value: u64, to: &mut Vec<Record>) {
        to.push(Record::write(self.block(), register as u32, 1, value));
    }

    pub(super) fn read(self, register: u64, to: &mut Vec<Record>) {
        to.push(Record::read(self.block(), register as u32, 1));
    }

    pub(super) fn control(self, value: u64, to: &mut Vec<Record>) {
        to.push(Record::write(self.block() | 1, 0, 1, value));
    }

    /// Selects the drive.
    pub(super) fn select(self, bits: u64, to: &mut Vec<Record>) {
        self.write(reg::DEVICE, 0xa0 | u64::from(self.second) << 4 | bits, to);
    }

    /// `bytes` bytes by the data register, from the drive or to it.
    pub(super) fn data(self, writes: bool, bytes: usize, random: &mut Random, to: &mut Vec<Record>) {
        let mut left = bytes;
        let size = if random.one_in(6) { 4u8 } else { 2 };
        while left > 0 {
            let most = if random.one_in(8) { random.below(2049) as usize } else { SECTOR };
            let n = left.min(most).max(usize::from(size));
            left = left.saturating_sub(n);
            let value = n.div_ceil(usize::from(size)) as u64;
            let data = if writes { random.bytes(16) } else { Vec::new() };
            let kind = if writes { Kind::WriteString } else { Kind::ReadString };
            to.push(Record { kind, value, data, ..Record::read(self.block(), reg::DATA as u32, size) });
            if random.one_in(6) {
                self.read(reg::STATUS_COMMAND, to);
            }
        }
    }

    /// A table of physical regions for `bytes` bytes, which is wrong now and then, and its address.
    pub(super) fn table(self, bytes: usize, random: &mut Random, to: &mut Vec<Record>) {
        let bytes = match random.below(10) {
            0 => bytes.saturating_sub(2),
            1 => bytes.saturating_add(random.below(600) as usize),
            _ => bytes,
        };
        let at = home(0).wrapping_add(random.below(4) << 3);
        let (mut table, mut left) = (Vec::new(), bytes);
        while left > 0 && table.len() < 31 * 8 {
            let n = if random.one_in(2) { left } else { left.min((random.below(700) as usize & !1).saturating_add(2)) };
            let n = n.min(0x1_0000);
            left = left.saturating_sub(n);
            let address = if random.one_in(16) { random.number(4) } else { BUFFERS.wrapping_add(random.below(0x4000)) };
            let last = left == 0 && !random.one_in(12);
            table.extend((address as u32).to_le_bytes());
            table.extend((n as u16).to_le_bytes());
            table.extend(if last { LAST } else { 0 }.to_le_bytes());
        }
        to.push(Record::memory(at, &table));
        to.push(Record::write(4, self.master().wrapping_add(bus_master::TABLE), 4, at));
    }

    /// The bus master's start, in the right direction most often.
    pub(super) fn start(self, to_memory: bool, random: &mut Random, to: &mut Vec<Record>) {
        let direction = if to_memory != random.one_in(8) { 8 } else { 0 };
        to.push(Record::write(4, self.master().wrapping_add(bus_master::COMMAND), 1, 1 | direction));
    }

    /// The end of a command with DMA.
    pub(super) fn stop(self, to: &mut Vec<Record>) {
        to.push(Record::read(4, self.master().wrapping_add(bus_master::STATUS), 1));
        self.read(reg::STATUS_COMMAND, to);
        to.push(Record::write(4, self.master().wrapping_add(bus_master::COMMAND), 1, 0));
        to.push(Record::write(4, self.master().wrapping_add(bus_master::STATUS), 1, 0x66));
    }
}

/// Count and address of `count` sectors, in one of the three ways.
fn address(drive: Drive, ext: bool, count: u64, random: &mut Random, to: &mut Vec<Record>) {
    let ends: [u64; 6] = [0, 2048u64.saturating_sub(count), 2047, 63, 1 << 28, 16_514_064];
    let lba = match random.below(3) {
        0 => random.of(&ends).copied().unwrap_or(0),
        1 if random.one_in(4) => random.number(6),
        _ => random.below(128),
    };
    let byte = |n: u32| lba >> n & 0xff;
    if ext {
        drive.select(0x40, to);
        for (register, before, now) in [
            (reg::COUNT, count >> 8, count & 0xff),
            (reg::LBA_LOW, byte(24), byte(0)),
            (reg::LBA_MID, byte(32), byte(8)),
            (reg::LBA_HIGH, byte(40), byte(16)),
        ] {
            drive.write(register, before, to);
            drive.write(register, now, to);
        }
        return;
    }
    let cylinders = random.one_in(5);
    drive.select(if cylinders { random.below(17) & 15 } else { 0x40 | lba >> 24 & 15 }, to);
    let low = if cylinders { random.below(63).saturating_add(1) } else { byte(0) };
    for (register, value) in [
        (reg::COUNT, count & 0xff),
        (reg::LBA_LOW, low),
        (reg::LBA_MID, if cylinders { random.below(3) } else { byte(8) }),
        (reg::LBA_HIGH, if cylinders { 0 } else { byte(16) }),
    ] {
        drive.write(register, value, to);
    }
}

/// How a command moves its sectors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Pio,
    Dma,
    /// Nothing is moved.
    None,
}

fn transfer(code: u8, ext: bool, by: By, writes: bool, random: &mut Random, to: &mut Vec<Record>) {
    let drive = Drive::mostly(0, random);
    let count = if random.one_in(10) { random.below(300) } else { random.below(4).saturating_add(1) };
    let bytes = (count.min(8) as usize).saturating_mul(SECTOR);
    if matches!(
        code,
        command::READ_MULTIPLE | command::READ_MULTIPLE_EXT | command::WRITE_MULTIPLE | command::WRITE_MULTIPLE_EXT
    ) && !random.one_in(8)
    {
        drive.select(0, to);
        drive.write(reg::COUNT, random.of(&[1, 2, 4, 8, 16]).copied().unwrap_or(2), to);
        drive.write(reg::STATUS_COMMAND, command::SET_MULTIPLE.into(), to);
    }
    if random.one_in(8) {
        let action = [Action::Fail, Action::Late].get(random.below(2) as usize).copied().unwrap_or(Action::Fail);
        to.push(Record::host(action as u8, random.below(8), &random.bytes(3)));
    }
    if by == By::Dma {
        drive.table(bytes, random, to);
    }
    address(drive, ext, count, random, to);
    let early = random.one_in(2);
    if by == By::Dma && early {
        drive.start(!writes, random, to);
    }
    drive.write(reg::STATUS_COMMAND, code.into(), to);
    if random.one_in(12) {
        to.push(Record::new(
            random.of(&[Kind::Restart, Kind::Check, Kind::StopAndRun]).copied().unwrap_or(Kind::Check),
        ));
    }
    match by {
        By::Dma => {
            if !early {
                drive.start(!writes, random, to);
            }
            drive.stop(to);
        }
        By::Pio => {
            let moved = if random.one_in(8) { random.below(bytes as u64) as usize } else { bytes };
            drive.data(writes, moved, random, to);
            drive.read(reg::STATUS_COMMAND, to);
        }
        By::None => drive.read(reg::STATUS_COMMAND, to),
    }
}

/// A command that reads or verifies sectors.
pub(super) fn read(random: &mut Random, to: &mut Vec<Record>) {
    use command::*;
    let all = [
        (READ_SECTORS, false, By::Pio),
        (READ_SECTORS_NORETRY, false, By::Pio),
        (READ_SECTORS_EXT, true, By::Pio),
        (READ_MULTIPLE, false, By::Pio),
        (READ_MULTIPLE_EXT, true, By::Pio),
        (READ_DMA, false, By::Dma),
        (READ_DMA_NORETRY, false, By::Dma),
        (READ_DMA_EXT, true, By::Dma),
        (READ_VERIFY, false, By::None),
        (READ_VERIFY_EXT, true, By::None),
    ];
    let (code, ext, by) = random.of(&all).copied().unwrap_or((READ_SECTORS, false, By::Pio));
    transfer(code, ext, by, false, random, to);
}

/// A command that writes sectors.
pub(super) fn write(random: &mut Random, to: &mut Vec<Record>) {
    use command::*;
    let all = [
        (WRITE_SECTORS, false, By::Pio),
        (WRITE_SECTORS_NORETRY, false, By::Pio),
        (WRITE_SECTORS_EXT, true, By::Pio),
        (WRITE_MULTIPLE, false, By::Pio),
        (WRITE_MULTIPLE_EXT, true, By::Pio),
        (WRITE_DMA, false, By::Dma),
        (WRITE_DMA_NORETRY, false, By::Dma),
        (WRITE_DMA_EXT, true, By::Dma),
    ];
    let (code, ext, by) = random.of(&all).copied().unwrap_or((WRITE_SECTORS, false, By::Pio));
    transfer(code, ext, by, true, random, to);
}

/// A command without sectors, with its data if it has some.
pub(super) fn settings(random: &mut Random, to: &mut Vec<Record>) {
    use command::*;
    let place = random.below(3) as u8;
    let drive = Drive::mostly(place, random);
    drive.select(random.of(&[0, 0x40, 0x4f, 0x07]).copied().unwrap_or(0), to);
    let all = [
        SET_FEATURES,
        SET_FEATURES,
        SET_MULTIPLE,
        INITIALIZE_PARAMETERS,
        IDENTIFY,
        IDENTIFY_PACKET,
        CHECK_POWER,
        STANDBY,
        IDLE,
        SLEEP,
        RECALIBRATE,
        SEEK,
        FLUSH,
        FLUSH_EXT,
        READ_NATIVE_MAX,
        READ_NATIVE_MAX_EXT,
    ];
    let code = random.of(&all).copied().unwrap_or(IDENTIFY);
    if code == SET_FEATURES {
        let features = [0x02, 0x03, 0x03, 0x55, 0x66, 0x82, 0xaa, 0xcc, 0x10];
        drive.write(reg::ERROR_FEATURES, random.of(&features).copied().unwrap_or(3), to);
    }
    let counts = [0, 1, 0x08, 0x0c, 0x0d, 0x20, 0x22, 0x23, 0x40, 0x45, 0x46, 63, 255];
    drive.write(reg::COUNT, random.of(&counts).copied().unwrap_or(1), to);
    drive.write(reg::STATUS_COMMAND, code.into(), to);
    if matches!(code, IDENTIFY | IDENTIFY_PACKET) {
        drive.data(false, SECTOR, random, to);
    }
    for register in [reg::STATUS_COMMAND, reg::ERROR_FEATURES, reg::COUNT] {
        drive.read(register, to);
    }
}

/// Any command with any registers.
pub(super) fn any(random: &mut Random, to: &mut Vec<Record>) {
    let place = random.below(3) as u8;
    let drive = Drive::mostly(place, random);
    for register in reg::ERROR_FEATURES..=reg::LBA_HIGH {
        if random.one_in(2) {
            drive.write(register, random.number(1), to);
        }
    }
    drive.select(random.below(0x80) & !0x10, to);
    let commands =
        super::spec::REGISTERS.iter().find(|r| r.offset == reg::STATUS_COMMAND as u32).map_or(&[][..], |r| r.words);
    drive.write(reg::STATUS_COMMAND, random.of(commands).copied().unwrap_or(0), to);
    let (writes, bytes) = (random.one_in(2), random.below(1024) as usize);
    drive.data(writes, bytes, random, to);
}

/// DATA SET MANAGEMENT with TRIM.
pub(super) fn trim(random: &mut Random, to: &mut Vec<Record>) {
    let drive = Drive::mostly(0, random);
    let mut ranges = Vec::new();
    for _ in 0..=random.below(5) {
        let (first, count) = (random.below(2050), random.of(&[0, 1, 8, 9, 100, 0xffff]).copied().unwrap_or(1));
        ranges.extend((first | count << 48).to_le_bytes());
    }
    to.push(Record::memory(home(3), &ranges));
    let mut entry = (home(3) as u32).to_le_bytes().to_vec();
    entry.extend([0, 2, 0, 0x80]);
    to.push(Record::memory(home(0), &entry));
    to.push(Record::write(4, drive.master().wrapping_add(bus_master::TABLE), 4, home(0)));
    drive.select(0x40, to);
    drive.write(reg::ERROR_FEATURES, u64::from(!random.one_in(8)), to);
    drive.write(reg::COUNT, if random.one_in(8) { 2 } else { 1 }, to);
    drive.write(reg::STATUS_COMMAND, command::DATA_SET_MANAGEMENT.into(), to);
    drive.start(false, random, to);
    drive.stop(to);
}

/// Resets, the interrupt's mask, the registers' previous contents.
pub(super) fn resets(random: &mut Random, to: &mut Vec<Record>) {
    let place = random.below(4) as u8;
    let drive = Drive::mostly(place, random);
    match random.below(6) {
        0 => {
            drive.control(4, to);
            drive.read(reg::STATUS_COMMAND, to);
            if random.one_in(3) {
                to.push(Record::new(Kind::Restart));
            }
            drive.control(random.of(&[0, 2, 0x80]).copied().unwrap_or(0), to);
        }
        1 => drive.write(reg::STATUS_COMMAND, command::DEVICE_RESET.into(), to),
        2 => drive.write(reg::STATUS_COMMAND, command::EXECUTE_DIAGNOSTIC.into(), to),
        3 => {
            drive.control(0x80, to);
            (reg::COUNT..=reg::LBA_HIGH).for_each(|register| drive.read(register, to));
        }
        4 => drive.control(random.of(&[0, 2]).copied().unwrap_or(0), to),
        _ => to.push(Record::write(4, drive.master().wrapping_add(bus_master::COMMAND), 1, random.below(16))),
    }
    drive.select(0, to);
    drive.read(reg::STATUS_COMMAND, to);
    to.push(Record::read(drive.block() | 1, 0, 1));
}

/// A command, and what the guest and others do before its job has ended.
pub(super) fn while_it_works(random: &mut Random, to: &mut Vec<Record>) {
    use command::*;
    let drive = Drive::mostly(0, random);
    let (block, control) = (drive.block() << 4, (drive.block() | 1) << 4);
    let codes = [READ_SECTORS, READ_DMA, WRITE_DMA, READ_VERIFY, FLUSH, WRITE_SECTORS, READ_SECTORS_EXT];
    let code = random.of(&codes).copied().unwrap_or(READ_SECTORS);
    drive.table(SECTOR * 2, random, to);
    let select = 0xe0 | u8::from(drive.second) << 4;
    let mut data = vec![block | 6, select, block | 2, 2, block | 3, random.below(64) as u8, block | 4, 0, block | 5, 0];
    let master = 0x40 | drive.channel << 3;
    let direction = if code == WRITE_DMA { 1 } else { 9 };
    if random.one_in(2) {
        data.extend([master, direction]);
    }
    data.extend([block | 7, code, master, direction]);
    if code == WRITE_SECTORS {
        data.extend([block, 7]);
    }
    for _ in 0..=random.below(5) {
        let more: &[u8] = match random.below(15) {
            0 => &[control, 4, control, 0],
            1 => &[block | 6, select ^ 0x10, block | 15, 0],
            2 => &[block | 7, DEVICE_RESET],
            3 => &[block | 7, EXECUTE_DIAGNOSTIC],
            4 => &[master, 0, master | 2, 6],
            5 => &[master, 0, master, direction],
            6 => &[0x70, 0, 0x82, 0, 0x70, 1],
            7 => &[0x90, 1],
            8 => &[0x80, 0],
            9 => &[0xc0, 6],
            10 => &[0xd0, 0],
            11 => &[0xf0, 0],
            12 => &[0xf1, 0],
            13 => &[block | 7, READ_SECTORS],
            _ => &[0xa0, 6, 0xb0, 2],
        };
        data.extend(more);
    }
    to.push(Record::host(Action::During as u8, 0, &data));
    drive.stop(to);
}
