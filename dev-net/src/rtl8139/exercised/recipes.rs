//! What drivers do with the card: whole sequences of accesses, with mistakes.
use super::super::spec::{BUFFER_HOME, Command, PlusCommand, RECEIVE_HOME, Rcr, TRANSMIT_HOME, reg};
use crate::exercised::frames::{self, Plan};
use crate::exercised::{Action, arrivals, outside};
use bulkhead_bus::exercise::{BUFFERS, Kind, Random, Recipe, Record};

/// Bytes of a transmit buffer's place.
const PLACE: u64 = 0x800;
/// Where received frames go in C+ mode.
const RECEIVE: u64 = 0xd000;

/// All of them.
pub(super) const ALL: &[Recipe] = &[
    transmit,
    transmit,
    receive,
    receive,
    classic_send,
    classic_receive,
    classic_receive,
    lease,
    ruled,
    to_itself,
    full,
    addresses,
    tally,
    configuration,
    eeprom,
    timer,
    media,
    resets,
];

fn write(to: &mut Vec<Record>, register: usize, size: u8, value: u32) {
    to.push(Record::write(1, register as u32, size, value.into()));
}

fn read(to: &mut Vec<Record>, register: usize, size: u8) {
    to.push(Record::read(1, register as u32, size));
}

/// One in eight times another number.
fn mostly(random: &mut Random, value: u32) -> u32 {
    if random.one_in(8) { random.number(4) as u32 } else { value }
}

/// Both directions, or one of them.
fn enable(random: &mut Random, to: &mut Vec<Record>) {
    let command = Command::new().with_transmit(!random.one_in(12)).with_receive(!random.one_in(12));
    write(to, reg::CR, 1, command.into_bits().into());
}

/// C+ mode.
fn plus(random: &mut Random, to: &mut Vec<Record>) {
    let command = PlusCommand::new().with_transmit(!random.one_in(12)).with_receive(!random.one_in(12));
    let command = command.with_checksums(random.one_in(2)).with_vlan(random.one_in(2));
    write(to, reg::CPCR, 2, command.into_bits().into());
    enable(random, to);
}

/// Receive configuration with any filters and buffer.
fn filters(random: &mut Random, to: &mut Vec<Record>) {
    let mut on = || random.one_in(2);
    let rcr = Rcr::new().with_all(on()).with_own(on() | on()).with_multicast(on()).with_broadcast(on()).with_wrap(on());
    write(to, reg::RCR, 4, rcr.with_buffer(random.below(4) as u8).into_bits());
}

/// A descriptor: two words, and a buffer.
fn descriptor(word: u32, tag: u32, buffer: u64) -> Vec<u8> {
    [&word.to_le_bytes()[..], &tag.to_le_bytes(), &buffer.to_le_bytes()].concat()
}

/// Sends packets by a ring of C+ mode.
fn send(plans: &[Plan], random: &mut Random, to: &mut Vec<Record>) {
    let (poll, base) = if random.one_in(3) { (0x80u32, reg::THPDS) } else { (0x40, reg::TNPDS) };
    let mut ring = Vec::new();
    for (i, plan) in plans.iter().enumerate() {
        let at = BUFFERS.saturating_add(PLACE.saturating_mul(i as u64));
        let bytes = plan.bytes();
        frames::put(at, &bytes, to);
        let len = match random.below(24) {
            0 => random.below(70) as u32,
            1 => random.number(2) as u32,
            2 => 0xffff,
            _ => bytes.len() as u32,
        };
        let flags = match random.below(5) {
            0 => 0,
            1 => 0x0007_0000 & random.bits() as u32,
            2 => 0x0005_0000,
            // A large send, with the size of its segments.
            _ => 0x0800_0000 | random.of(&[1460u32, 536, 64, 200, 63, 0]).copied().unwrap_or(1460) << 16,
        };
        let tag = if random.one_in(4) { 0x0002_0000 | random.below(0x1_0000) as u32 } else { 0 };
        let pieces = 1u32.saturating_add(random.below(3) as u32);
        let piece = len.checked_div(pieces).unwrap_or(len);
        for i in 0..pieces {
            let from = piece.saturating_mul(i);
            let last = i.saturating_add(1) == pieces;
            let part = if last { len.saturating_sub(from) } else { piece } & 0xffff;
            let place = if i == 0 { 0x2000_0000 } else { 0 } | if last { 0x1000_0000 } else { 0 };
            let word = mostly(random, 0x8000_0000 | place | flags | part);
            ring.extend(descriptor(word, tag, at.saturating_add(from.into())));
        }
    }
    // The last one ends the ring at times.
    let last = ring.len().saturating_sub(13);
    if random.one_in(3) {
        ring.iter_mut().skip(last).take(1).for_each(|b| *b |= 0x40);
    }
    for (i, part) in ring.chunks(128).enumerate() {
        to.push(Record::memory(TRANSMIT_HOME.saturating_add(i.saturating_mul(128) as u64), part));
    }
    write(to, base, 4, mostly(random, TRANSMIT_HOME as u32));
    if random.one_in(4) {
        write(to, base.saturating_add(4), 4, mostly(random, 0));
    }
    write(to, reg::TPPOLL, 1, if random.one_in(8) { 0xc1 } else { poll });
    read(to, reg::ISR, 2);
}

fn guests(most: u64, random: &mut Random) -> Vec<Plan> {
    (0..=random.below(most)).map(|_| Plan::of_the_guest(random)).collect()
}

fn transmit(random: &mut Random, to: &mut Vec<Record>) {
    plus(random, to);
    write(to, reg::IMR, 2, mostly(random, 0xffff));
    let plans = guests(2, random);
    send(&plans, random, to);
    if random.one_in(3) {
        write(to, reg::TPPOLL, 1, 0x40);
        write(to, reg::IMR, 4, u32::MAX);
    }
}

/// Sets up the receive ring of C+ mode.
fn listen(random: &mut Random, to: &mut Vec<Record>) {
    plus(random, to);
    filters(random, to);
    write(to, reg::RDSAR, 4, mostly(random, RECEIVE_HOME as u32));
    let size = random.of(&[1536u32, 1536, 1536, 256, 64, 16, 0x1fff]).copied().unwrap_or(1536);
    let size = mostly(random, size) & 0x1fff;
    let entries = 1u32.saturating_add(random.below(16) as u32);
    let given = descriptor(0x8000_0000 | size, 0, RECEIVE);
    to.push(Record { offset: entries.saturating_mul(16), ..Record::memory(RECEIVE_HOME, &given) });
    if !random.one_in(4) {
        let at = RECEIVE_HOME.saturating_add(u64::from(entries).saturating_sub(1).saturating_mul(16));
        to.push(Record::memory(at, &descriptor(0xc000_0000 | size, 0, RECEIVE)));
    }
}

fn receive(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::IMR, 2, mostly(random, 0xffff));
    listen(random, to);
    arrivals(random, to);
    write(to, reg::ISR, 2, mostly(random, 0xffff));
    arrivals(random, to);
}

/// C mode's four buffers.
fn classic_send(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::CPCR, 2, 0);
    enable(random, to);
    if random.one_in(4) {
        write(to, reg::TCR, 4, mostly(random, 0x0006_0000));
    }
    for plan in guests(3, random) {
        let index = random.below(4) as usize;
        let at = BUFFERS.saturating_add(PLACE.saturating_mul(index as u64));
        let bytes = plan.bytes();
        frames::put(at, &bytes, to);
        write(to, reg::TSAD.saturating_add(index.saturating_mul(4)), 4, mostly(random, at as u32));
        let size = match random.below(12) {
            0 => 1793,
            1 => random.number(2) as u32,
            _ => bytes.len() as u32,
        };
        write(to, reg::TSD.saturating_add(index.saturating_mul(4)), 4, size & 0x1fff);
        read(to, reg::TSD.saturating_add(index.saturating_mul(4)), 4);
    }
    read(to, reg::TSAD_ALL, 2);
}

/// C mode's one buffer, until it is full and further, with the driver's reading.
fn classic_receive(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::CPCR, 2, 0);
    write(to, reg::RBSTART, 4, mostly(random, BUFFER_HOME as u32));
    write(to, reg::IMR, 2, 0xffff);
    enable(random, to);
    filters(random, to);
    for _ in 0..=random.below(4) {
        let value = random.of(&[0u64, 0x1800, 0x1820, 0x1840, 0x1b40]).copied().unwrap_or(0x1840);
        to.push(Action::Arrive.record(value, &[]));
        if random.one_in(3) {
            arrivals(random, to);
        }
        read(to, reg::CR, 1);
        let reading = random.below(0x2000) as u32 & !3;
        write(to, reg::CAPR, 2, if random.one_in(2) { reading.wrapping_sub(16) } else { 0xfff0 });
        write(to, reg::ISR, 2, 0xffff);
    }
    read(to, reg::CBR, 2);
}

/// A DHCP client, with room for the answer.
fn lease(random: &mut Random, to: &mut Vec<Record>) {
    listen(random, to);
    let kind = frames::Kind::Dhcp(random.of(&[1, 1, 3, 3, 3, 8, 2, 4]).copied().unwrap_or(1));
    let plan = Plan { kind, ..Plan::of_the_guest(random) };
    send(&[plan], random, to);
}

/// Frames under rules.
fn ruled(random: &mut Random, to: &mut Vec<Record>) {
    let rules = random.of(&[1u64, 3, 7, 7, 7, 11, 16, 23, 2, 6]).copied().unwrap_or(7);
    to.push(Action::Rules.record(rules, &[]));
    plus(random, to);
    let plans: Vec<Plan> = (0..3).map(|_| Plan { payload: 40, ..Plan::of_the_guest(random) }).collect();
    send(&plans, random, to);
}

/// Sent frames are received.
fn to_itself(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::TCR, 4, 0x0006_0000);
    if random.one_in(3) {
        classic_receive(random, to);
        classic_send(random, to);
    } else {
        listen(random, to);
        let plans = guests(2, random);
        send(&plans, random, to);
    }
}

/// The back end has no room.
fn full(random: &mut Random, to: &mut Vec<Record>) {
    to.push(Action::Take.record(random.below(32), &[]));
    for _ in 0..=random.below(2) {
        transmit(random, to);
    }
    to.push(Record::advance(random.below(4_000_000)));
    outside(random, to);
    to.push(Action::Take.record(random.below(256), &[]));
    to.push(Record::advance(2_000_000));
}

/// The card's address and the table of groups.
fn addresses(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::EECR, 1, mostly(random, 0xc0));
    write(to, reg::IDR, 4, mostly(random, 0x0000_0002));
    write(to, reg::IDR.saturating_add(4), 4, mostly(random, 0x9900));
    write(to, reg::MAR, 4, random.number(4) as u32);
    write(to, reg::MAR.saturating_add(4), 4, random.number(4) as u32);
    listen(random, to);
    let groups = random.of(&[0x300u64, 0x400, 0x500, 0x600, 0x700]).copied().unwrap_or(0x300);
    to.push(Action::Arrive.record(random.below(128) | groups, &[]));
    to.push(Action::Arrive.record(random.below(128) | 4 << 8, &[]));
}

/// The counters go to memory.
fn tally(random: &mut Random, to: &mut Vec<Record>) {
    plus(random, to);
    write(to, reg::DTCCR.saturating_add(4), 4, mostly(random, 0));
    write(to, reg::DTCCR, 4, mostly(random, RECEIVE as u32 | random.clone().below(16) as u32));
    read(to, reg::DTCCR, 4);
}

/// The lock of the configuration.
fn configuration(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::EECR, 1, if random.one_in(2) { 0xc0 } else { random.below(256) as u32 });
    for register in [reg::CONFIG0, reg::CONFIG1, reg::CONFIG3, reg::CONFIG4, reg::CONFIG5] {
        write(to, register, 1, random.below(256) as u32);
        read(to, register, 1);
    }
    write(to, reg::EECR, 1, 0);
    write(to, reg::CONFIG1, 1, random.below(256) as u32);
}

/// A word of the EEPROM.
fn eeprom(random: &mut Random, to: &mut Vec<Record>) {
    let command = if random.one_in(8) { random.below(512) } else { 0b110 << 6 | random.below(64) };
    write(to, reg::EECR, 1, 0x80);
    for bit in (0..9u32).rev() {
        let data = if command >> bit & 1 != 0 { 0x8a } else { 0x88 };
        write(to, reg::EECR, 1, data);
        write(to, reg::EECR, 1, data | 4);
    }
    for _ in 0..random.below(20) {
        write(to, reg::EECR, 1, 0x88);
        write(to, reg::EECR, 1, 0x8c);
        read(to, reg::EECR, 1);
    }
}

fn timer(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::IMR, 2, 0xffff);
    write(to, reg::TCTR, 4, 0);
    write(to, reg::TIMER_INT, 4, mostly(random, random.clone().below(100_000) as u32));
    to.push(Record::advance(random.below(5_000_000)));
    read(to, reg::TCTR, 4);
    write(to, reg::ISR, 2, 0x4000);
    to.push(Record::advance(random.below(200_000_000_000)));
}

fn media(random: &mut Random, to: &mut Vec<Record>) {
    for register in [reg::BMCR, reg::BMSR, reg::ANAR, reg::ANLPAR, reg::ANER] {
        if random.one_in(2) {
            write(to, register, 2, random.number(2) as u32);
        }
        read(to, register, 2);
    }
    to.push(Action::Link.record(if random.one_in(2) { random.below(2) } else { 1 }, &[]));
    read(to, reg::MSR, 1);
}

/// A reset in the middle of something.
fn resets(random: &mut Random, to: &mut Vec<Record>) {
    if random.one_in(2) {
        write(to, reg::CR, 1, Command::new().with_reset(true).into_bits().into());
    }
    outside(random, to);
    to.push(Record::new(if random.one_in(2) { Kind::Restart } else { Kind::Check }));
}
