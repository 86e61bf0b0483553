//! Packets of CD-ROM drives (MMC-4), and changes of their media.
use super::super::spec::reg;
use super::Action;
use super::commands::Drive;
use crate::ata::spec::command;
use bulkhead_bus::exercise::{Kind, Random, Record};

/// Sends a packet; `bytes` is what the drive may answer. Returns whether by DMA.
fn send(drive: Drive, packet: [u8; 12], bytes: usize, writes: bool, random: &mut Random, to: &mut Vec<Record>) {
    let dma = random.one_in(3);
    if dma {
        drive.table(bytes, random, to);
    }
    drive.select(0, to);
    drive.write(reg::ERROR_FEATURES, u64::from(dma), to);
    let limits = [0xffff, 0xfffe, 2048, 512, 8, 3, 1, 0];
    let limit = random.of(&limits).copied().unwrap_or(2048);
    drive.write(reg::LBA_MID, limit & 0xff, to);
    drive.write(reg::LBA_HIGH, limit >> 8, to);
    let early = random.one_in(2);
    if dma && early {
        drive.start(!writes, random, to);
    }
    drive.write(reg::STATUS_COMMAND, command::PACKET.into(), to);
    let parts = if random.one_in(8) { vec![2u64, 4] } else { vec![6] };
    let mut rest = packet.as_slice();
    for words in parts {
        let (now, later) = rest.split_at(rest.len().min((words as usize) << 1));
        rest = later;
        let block = Record::read(drive.channel << 1, reg::DATA as u32, 2);
        to.push(Record { kind: Kind::WriteString, value: words, data: now.to_vec(), ..block });
    }
    if dma {
        if !early {
            drive.start(!writes, random, to);
        }
        drive.stop(to);
    } else if !writes {
        drive.data(false, bytes.min(4096), random, to);
    }
    for register in [reg::STATUS_COMMAND, reg::ERROR_FEATURES, reg::COUNT, reg::LBA_MID, reg::LBA_HIGH] {
        drive.read(register, to);
    }
}

fn simple(operation: u8, b1: u8, b4: u8) -> [u8; 12] {
    [operation, b1, 0, 0, b4, 0, 0, 0, 0, 0, 0, 0]
}

/// A length of an answer: of 16 bits in a packet's bytes 7 and 8.
fn allocation(random: &mut Random) -> [u8; 2] {
    let lengths: [u16; 8] = [0, 1, 4, 8, 12, 36, 255, 0xffff];
    random.of(&lengths).copied().unwrap_or(255).to_be_bytes()
}

/// A packet whose answer is computed.
pub(super) fn any(random: &mut Random, to: &mut Vec<Record>) {
    let drive = Drive::mostly(2, random);
    let [a0, a1] = allocation(random);
    let page = random.of(&[0x01, 0x2a, 0x3f, 0x0e, 0x41, 0x7f, 0xbf, 0xff, 0x6a]).copied().unwrap_or(1);
    let sub_page = if random.one_in(4) { 0xff } else { 0 };
    let bit = |random: &mut Random| random.below(2) as u8;
    let packet = match random.below(19) {
        0 => simple(0x03, 0, a1),
        1 => [0x12, bit(random), random.of(&[0, 0x80]).copied().unwrap_or(0), a0, a1, 0, 0, 0, 0, 0, 0, 0],
        2 => [0x1a, 0, page, sub_page, a1, 0, 0, 0, 0, 0, 0, 0],
        3 => [0x5a, 0, page, sub_page, 0, 0, 0, a0, a1, 0, 0, 0],
        4 => simple(0x25, 0, 0),
        5 => {
            let b1 = random.of(&[0, 2]).copied().unwrap_or(0);
            let (b2, format) = (random.of(&[0x40, 0]).copied().unwrap_or(0), random.below(4) as u8);
            [0x42, b1, b2, format, 0, 0, 0, a0, a1, 0, 0, 0]
        }
        6 => {
            let (b1, format) = (random.of(&[0, 2]).copied().unwrap_or(0), random.below(4) as u8);
            let start = random.of(&[0, 1, 2, 0xaa]).copied().unwrap_or(0);
            let old = random.of(&[0, 0x40, 0x80]).copied().unwrap_or(0);
            [0x43, b1, format, 0, 0, 0, start, a0, a1, old, 0, 0]
        }
        7 => {
            let feature = random.of(&[0, 1, 3, 0x10, 0x1e, 0x1f, 0x20]).copied().unwrap_or(0);
            [0x46, random.below(4) as u8, 0, feature, 0, 0, 0, a0, a1, 0, 0, 0]
        }
        8 => {
            let classes = random.of(&[0x10, 0x40, 0x50, 0, 0x02]).copied().unwrap_or(0x10);
            [0x4a, u8::from(!random.one_in(6)), 0, 0, classes, 0, 0, a0, a1, 0, 0, 0]
        }
        9 => [0x51, if random.one_in(4) { 1 } else { 0 }, 0, 0, 0, 0, 0, a0, a1, 0, 0, 0],
        10 => {
            let address = random.of(&[0, 1, 2, 255]).copied().unwrap_or(0);
            [0x52, random.below(4) as u8, 0, 0, 0, address, 0, a0, a1, 0, 0, 0]
        }
        11 => {
            let format = random.of(&[0, 1, 0xff, 4]).copied().unwrap_or(0);
            let (b1, layer) = (u8::from(random.one_in(8)), u8::from(random.one_in(8)));
            [0xad, b1, 0, 0, 0, 0, layer, format, a0, a1, 0, 0]
        }
        12 => [0xbd, 0, 0, 0, 0, 0, 0, 0, a0, a1, 0, 0],
        13 => [0x2b, 0, 0, 0, random.below(4) as u8, random.number(1) as u8, 0, 0, 0, 0, 0, 0],
        14 => simple(0xbb, 0, 0),
        15 => return mode_select(drive, random, to),
        16 => simple(0x00, 0, 0),
        17 => simple(0x1b, 0, random.below(4) as u8),
        _ => {
            let mut packet = [0; 12];
            packet.iter_mut().for_each(|byte| *byte = random.number(1) as u8);
            packet
        }
    };
    let bytes = usize::from(u16::from_be_bytes([a0, a1])).min(256);
    send(drive, packet, bytes, false, random, to);
}

/// MODE SELECT of pages with their current values.
fn mode_select(drive: Drive, random: &mut Random, to: &mut Vec<Record>) {
    let mut list = vec![0, 0, 0, 0, 0, 0, 0, 0];
    if !random.one_in(4) {
        list.extend([0x01, 6, 0x00, 5, 0, 0, 0, 0]);
    }
    if random.one_in(2) {
        let lock = random.of(&[0x29, 0x2b]).copied().unwrap_or(0x29);
        list.extend([0x2a, 20, 0x3b, 0, 0, 0, lock, 0, 2, 0xc2, 0, 0, 2, 0, 2, 0xc2, 0, 0, 0, 0, 0, 0]);
    }
    if random.one_in(4) {
        let at = random.below(list.len() as u64) as usize;
        list.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1);
    }
    let said = if random.one_in(6) { random.below(300) } else { list.len() as u64 };
    let [l0, l1] = (said as u16).to_be_bytes();
    let b1 = if random.one_in(8) { 0x11 } else { 0x10 };
    send(drive, [0x55, b1, 0, 0, 0, 0, 0, l0, l1, 0, 0, 0], list.len(), true, random, to);
    let words = (list.len() as u64).div_ceil(2);
    let block = Record::read(drive.channel << 1, reg::DATA as u32, 2);
    to.push(Record { kind: Kind::WriteString, value: words, data: list, ..block });
    drive.read(reg::STATUS_COMMAND, to);
}

/// A packet that reads sectors.
pub(super) fn data(random: &mut Random, to: &mut Vec<Record>) {
    let drive = Drive::mostly(2, random);
    let first = if random.one_in(6) { random.number(2) } else { random.below(16) } as u32;
    let count = if random.one_in(6) { random.below(600) } else { random.below(3).saturating_add(1) } as u32;
    let ([f0, f1, f2, f3], [n0, n1, n2, n3]) = (first.to_be_bytes(), count.to_be_bytes());
    let kind = if random.one_in(4) { random.below(8) as u8 } else { 0 } << 2;
    // Synchronisation, header, user data, codes; sub-header and error pointers.
    let parts = [0x10, 0xf8, 0x78, 0x38, 0x18, 0xa0, 0x20, 0x00, 0xb8, 0x90, 0x08, 0x12, 0x40];
    let what = random.of(&parts).copied().unwrap_or(0x10);
    let sub_channel = u8::from(random.one_in(8));
    let packet = match random.below(4) {
        0 => [0x28, 0, f0, f1, f2, f3, 0, n2, n3, 0, 0, 0],
        1 => [0xa8, 0, f0, f1, f2, f3, n0, n1, n2, n3, 0, 0],
        2 => [0xbe, kind, f0, f1, f2, f3, n1, n2, n3, what, sub_channel, 0],
        _ => {
            let frame = random.below(74) as u8;
            let second = if random.one_in(6) { random.below(70) as u8 } else { 2 };
            let last = frame.wrapping_add(count as u8);
            [0xb9, kind, 0, 0, second, frame, 0, second.wrapping_add(last / 75), last % 75, what, sub_channel, 0]
        }
    };
    let each = match (packet.first(), what) {
        (Some(0xbe | 0xb9), 0xf8) => 2352,
        (Some(0xbe | 0xb9), 0x78 | 0x38 | 0xb8) => 2340,
        (Some(0xbe | 0xb9), 0x18) => 2336,
        (Some(0xbe | 0xb9), 0xa0) => 16,
        (Some(0xbe | 0xb9), 0x20) => 4,
        _ => 2048,
    };
    if random.one_in(8) {
        to.push(Record::host(Action::Fail as u8, random.below(8), &random.bytes(2)));
    }
    send(drive, packet, (count.min(4) as usize).saturating_mul(each), false, random, to);
}

/// The medium comes and goes, and the drive is asked what has happened.
pub(super) fn media(random: &mut Random, to: &mut Vec<Record>) {
    let drive = Drive::mostly(2, random);
    let place = u64::from(drive.channel << 1 | u8::from(drive.second));
    for _ in 0..=random.below(4) {
        let packet = match random.below(9) {
            0 => simple(0x1e, 0, random.below(2) as u8),
            1 => simple(0x1b, 0, 2),
            2 => simple(0x1b, 0, 3),
            3 | 4 => {
                to.push(Record::host(Action::Eject as u8, place | random.below(2) << 2, &[]));
                continue;
            }
            5 => {
                to.push(Record::host(Action::Insert as u8, place | random.below(8) << 2, &[]));
                continue;
            }
            6 => simple(0x00, 0, 0),
            7 => simple(0x03, 0, 18),
            _ => [0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8, 0, 0, 0],
        };
        send(drive, packet, 18, false, random, to);
    }
}
