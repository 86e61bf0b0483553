//! What drivers do with the card: whole sequences of accesses, with mistakes.
use super::super::spec::{Ctrl, Eecd, Mdic, RECEIVE_HOME, Rctl, TRANSMIT_HOME, Tctl, cause, reg};
use super::super::{REGISTERS, WINDOW, phy};
use crate::exercised::frames::{self, Plan};
use crate::exercised::{Action, arrivals, outside};
use bulkhead_bus::exercise::{BUFFERS, Kind, Random, Recipe, Record};

/// Bytes of a transmit buffer's place.
const PLACE: u64 = 0x800;
/// Where received frames go.
const RECEIVE: u64 = 0xd000;

/// All of them.
pub(super) const ALL: &[Recipe] = &[
    transmit, transmit, receive, receive, lease, ruled, to_itself, full, addresses, tags, interrupts, eeprom, media,
    statistics, resets, window,
];

fn write(to: &mut Vec<Record>, register: u32, value: u32) {
    to.push(Record::write(REGISTERS as u8, register, 4, value.into()));
}

fn read(to: &mut Vec<Record>, register: u32) {
    to.push(Record::read(REGISTERS as u8, register, 4));
}

/// One in eight times another number.
fn mostly(random: &mut Random, value: u32) -> u32 {
    if random.one_in(8) { random.number(4) as u32 } else { value }
}

/// The second word of a descriptor for `plan`, without the commands of one that is not the last.
struct Descriptor(u64, u64);

/// The descriptors of one packet at `at`: a legacy one, or a context with data, in pieces.
fn packet(plan: &Plan, len: u64, at: u64, random: &mut Random, to: &mut Vec<Descriptor>) {
    let (start, field) = plan.above();
    let (start, field, headers) = (start as u64, field as u64, plan.headers() as u64);
    let vlan = if random.one_in(4) { 0x4000_0000 | random.below(0x1000) << 48 } else { 0 };
    let delay = if random.one_in(4) { 0x8000_0000 } else { 0 };
    let report = if random.one_in(4) { 0 } else { 0x0800_0000 };
    let end = 0x0300_0000u64;
    let kind = random.below(6);
    let mut flags = vlan | delay | report;
    // Legacy: none or its own checksum. Extended: data alone, checksums, segments.
    match kind {
        0 => {}
        1 => flags |= 0x0400_0000 | field << 16 | start << 40,
        2 => flags |= 0x2010_0000,
        _ => {
            let (ip, tcp) = if plan.is_ipv4() { (0x0200_0000, 0x0100_0000) } else { (0, 0x0100_0000) };
            let segment = if kind > 3 { 0x0400_0000 } else { 0 };
            let size = random.of(&[1460u64, 536, 64, 200, 63, 0]).copied().unwrap_or(1460);
            let (start, field) = if random.one_in(8) { (random.below(40), random.below(60)) } else { (start, field) };
            let ip_end = if random.one_in(3) { 0 } else { 33 };
            let low = 14 | 24 << 8 | ip_end << 16 | start << 32 | field << 40;
            let payload = len.saturating_sub(headers) & 0xf_ffff;
            to.push(Descriptor(low, payload | 0x2000_0000 | ip | tcp | segment | headers << 40 | size << 48));
            flags |= 0x2010_0000 | segment | random.below(4) << 40;
        }
    }
    let pieces = 1u64.saturating_add(random.below(3));
    let piece = len.checked_div(pieces).unwrap_or(len);
    for i in 0..pieces {
        let from = piece.saturating_mul(i);
        let last = i.saturating_add(1) == pieces;
        let part = if last { len.saturating_sub(from) } else { piece };
        to.push(Descriptor(at.saturating_add(from), part | flags | if last { end } else { 0 }));
    }
}

/// Writes descriptors at the ring's begin.
fn ring(at: u64, all: &[Descriptor], to: &mut Vec<Record>) {
    for (i, part) in all.chunks(8).enumerate() {
        let bytes: Vec<u8> = part.iter().flat_map(|d| [d.0.to_le_bytes(), d.1.to_le_bytes()]).flatten().collect();
        to.push(Record::memory(at.saturating_add(i.saturating_mul(128) as u64), &bytes));
    }
}

/// Sets up the transmit ring, and sends packets.
fn send(plans: &[Plan], random: &mut Random, to: &mut Vec<Record>) {
    let mut descriptors = Vec::new();
    for (i, plan) in plans.iter().enumerate() {
        let at = BUFFERS.saturating_add(PLACE.saturating_mul(i as u64));
        let bytes = plan.bytes();
        frames::put(at, &bytes, to);
        let len = match random.below(24) {
            0 => random.below(70),
            1 => random.number(2),
            2 => 65_553,
            _ => bytes.len() as u64,
        };
        packet(plan, len, at, random, &mut descriptors);
    }
    ring(TRANSMIT_HOME, &descriptors, to);
    write(to, reg::TDBAL, TRANSMIT_HOME as u32);
    let length = random.of(&[0x100u32, 0x400, 0x100, 0x80]).copied().unwrap_or(0x100);
    write(to, reg::TDLEN, mostly(random, length));
    write(to, reg::TDH, 0);
    write(to, reg::TDT, 0);
    write(to, reg::TCTL, Tctl::new().with_enable(true).with_pad(!random.one_in(4)).into_bits());
    write(to, reg::TDT, mostly(random, descriptors.len() as u32));
    read(to, reg::TDH);
}

fn transmit(random: &mut Random, to: &mut Vec<Record>) {
    if random.one_in(3) {
        let ctrl = Ctrl::new().with_set_link_up(!random.one_in(8)).with_vlan(true);
        write(to, reg::CTRL, ctrl.into_bits());
    }
    if random.one_in(4) {
        write(to, reg::TIDV, random.below(200) as u32);
        write(to, reg::TADV, random.below(200) as u32);
    }
    write(to, reg::IMS, mostly(random, cause::ALL));
    let plans: Vec<Plan> = (0..=random.below(2)).map(|_| Plan::of_the_guest(random)).collect();
    send(&plans, random, to);
    if random.one_in(3) {
        to.push(Record::advance(random.below(1_000_000)));
    }
    read(to, reg::ICR);
}

/// Sets up the receive ring.
fn listen(rctl: Rctl, random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::RDBAL, RECEIVE_HOME as u32);
    let (length, entries) =
        random.of(&[(0x80u32, 8u32), (0x100, 16), (0x100, 16), (0x800, 128)]).copied().unwrap_or((0x100, 16));
    write(to, reg::RDLEN, mostly(random, length));
    write(to, reg::RDH, 0);
    // All with one buffer, or each with its own.
    if random.one_in(3) {
        let own: Vec<Descriptor> =
            (0..8).map(|i| Descriptor(mostly(random, (RECEIVE as u32).saturating_add(i << 9)).into(), 0)).collect();
        ring(RECEIVE_HOME, &own, to);
    } else {
        let bytes = [RECEIVE.to_le_bytes(), [0; 8]].concat();
        to.push(Record { offset: length, ..Record::memory(RECEIVE_HOME, &bytes) });
    }
    write(to, reg::RDT, mostly(random, entries.saturating_sub(1)));
    write(to, reg::RCTL, rctl.into_bits());
}

/// Receive control with any sizes and filters.
fn any_rctl(random: &mut Random) -> Rctl {
    let mut on = || random.one_in(2);
    let rctl = Rctl::new().with_enable(true).with_unicast_all(on()).with_multicast_all(on()).with_long(on());
    let rctl = rctl.with_broadcast(on()).with_strip_crc(on()).with_store_bad(on());
    let (vlan, extension) = (random.one_in(4), random.one_in(3));
    let rctl = rctl.with_vlan_filter(vlan).with_size_extension(extension).with_threshold(random.below(4) as u8);
    rctl.with_buffer_size(random.below(4) as u8).with_multicast_offset(random.below(4) as u8)
}

fn receive(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::IMS, mostly(random, cause::ALL));
    if random.one_in(2) {
        write(to, reg::RDTR, random.below(100) as u32);
        write(to, reg::RADV, random.below(100) as u32);
    }
    if random.one_in(2) {
        write(to, reg::RXCSUM, (random.below(4) as u32) << 8);
    }
    if random.one_in(3) {
        write(to, reg::CTRL, Ctrl::new().with_set_link_up(true).with_vlan(true).into_bits());
    }
    let rctl = any_rctl(random);
    listen(rctl, random, to);
    arrivals(random, to);
    if random.one_in(3) {
        write(to, reg::RDTR, 0x8000_0000 | random.below(100) as u32);
        to.push(Record::advance(random.below(1_000_000)));
    }
    read(to, reg::RDH);
    read(to, reg::ICR);
    if random.one_in(2) {
        write(to, reg::RDT, random.below(16) as u32);
        arrivals(random, to);
    }
}

/// A DHCP client, with room for the answer.
fn lease(random: &mut Random, to: &mut Vec<Record>) {
    listen(any_rctl(random), random, to);
    let kinds = [1, 1, 3, 3, 3, 8, 2, 4];
    let kind = frames::Kind::Dhcp(random.of(&kinds).copied().unwrap_or(1));
    send(&[Plan { kind, ..Plan::of_the_guest(random) }], random, to);
}

/// Frames under rules.
fn ruled(random: &mut Random, to: &mut Vec<Record>) {
    let rules = random.of(&[1u64, 3, 7, 7, 7, 11, 16, 23, 2, 6]).copied().unwrap_or(7);
    to.push(Action::Rules.record(rules, &[]));
    let plans: Vec<Plan> = (0..3).map(|_| Plan { payload: 40, ..Plan::of_the_guest(random) }).collect();
    send(&plans, random, to);
    if random.one_in(3) {
        to.push(Record::advance(random.below(2_000_000_000)));
        write(to, reg::TDT, random.below(8) as u32);
    }
}

/// Sent frames are received.
fn to_itself(random: &mut Random, to: &mut Vec<Record>) {
    listen(any_rctl(random).with_loopback(3), random, to);
    let plans: Vec<Plan> = (0..=random.below(2)).map(|_| Plan::of_the_guest(random)).collect();
    send(&plans, random, to);
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

/// The tables of addresses.
fn addresses(random: &mut Random, to: &mut Vec<Record>) {
    // The bits of 33:33:00:00:00:01, for each place in the address.
    for (offset, word) in [(0, 1 << 16), (4, 1), (8, 1), (32, 1)] {
        if random.one_in(2) {
            write(to, reg::MTA.saturating_add(offset), mostly(random, word));
        }
    }
    if random.one_in(2) {
        let at = reg::RAL.saturating_add((random.below(16) as u32) << 3);
        write(to, at, mostly(random, 0x0000_3333));
        write(to, at.saturating_add(4), mostly(random, 0x8000_0100));
    }
    let rctl = any_rctl(random).with_unicast_all(false).with_multicast_all(false);
    listen(rctl, random, to);
    let groups = random.of(&[0x300u64, 0x400, 0x500, 0x600]).copied().unwrap_or(0x300);
    to.push(Action::Arrive.record(random.below(128) | groups, &[]));
    to.push(Action::Arrive.record(random.below(128) | 4 << 8, &[]));
}

/// Tags are filtered, removed and inserted.
fn tags(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::CTRL, Ctrl::new().with_set_link_up(true).with_vlan(!random.one_in(4)).into_bits());
    write(to, reg::VET, mostly(random, 0x8100));
    write(to, reg::VFTA, random.number(4) as u32);
    listen(any_rctl(random).with_vlan_filter(true), random, to);
    for _ in 0..=random.below(2) {
        to.push(Action::Arrive.record(random.of(&[14u64, 15, 16]).copied().unwrap_or(14), &[random.bits() as u8]));
    }
    let kind = frames::Kind::Tagged(0x8100);
    send(&[Plan { kind, ..Plan::of_the_guest(random) }], random, to);
}

fn interrupts(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::ITR, mostly(random, random.clone().below(400) as u32));
    write(to, reg::IMS, mostly(random, cause::ALL));
    for _ in 0..3 {
        write(to, reg::ICS, mostly(random, cause::RXT0 | cause::TXDW));
        match random.below(4) {
            0 => read(to, reg::ICR),
            1 => write(to, reg::ICR, random.number(4) as u32),
            2 => write(to, reg::IMC, mostly(random, cause::RXT0)),
            _ => read(to, reg::ICS),
        }
        to.push(Record::advance(random.below(200_000)));
    }
}

/// A word of the EEPROM, by both ways.
fn eeprom(random: &mut Random, to: &mut Vec<Record>) {
    write(to, reg::EERD, 1 | (random.below(70) as u32) << 8);
    read(to, reg::EERD);
    write(to, reg::EERD, random.number(4) as u32);
    let command = if random.one_in(8) { random.below(512) } else { 0b110 << 6 | random.below(64) };
    let lines = Eecd::new().with_request(true).with_select(true);
    write(to, reg::EECD, lines.with_select(false).into_bits());
    for bit in (0..9u32).rev() {
        let data = lines.with_data_in(command >> bit & 1 != 0);
        write(to, reg::EECD, data.into_bits());
        write(to, reg::EECD, data.with_clock(true).into_bits());
    }
    for _ in 0..random.below(20) {
        write(to, reg::EECD, lines.into_bits());
        write(to, reg::EECD, lines.with_clock(true).into_bits());
        read(to, reg::EECD);
    }
}

/// Registers of the PHY.
fn media(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..6 {
        let phy = if random.one_in(8) { random.below(32) as u8 } else { phy::ADDRESS };
        let mdic = Mdic::new().with_phy(phy).with_register(random.below(22) as u8).with_interrupt(random.one_in(3));
        let operation = if random.one_in(8) { random.below(4) as u8 } else { 1 << random.below(2) as u8 };
        write(to, reg::MDIC, mdic.with_operation(operation).with_data(random.number(2) as u16).into_bits());
        read(to, reg::MDIC);
    }
    let action = if random.one_in(2) { Action::Link.record(random.below(2), &[]) } else { Action::Link.record(1, &[]) };
    to.push(action);
    read(to, reg::STATUS);
}

/// One of the counters.
fn statistic(random: &mut Random) -> u32 {
    reg::STATISTICS.saturating_add((random.below(74) as u32) << 2)
}

fn statistics(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..6 {
        read(to, statistic(random));
    }
    write(to, statistic(random), 1);
    read(to, reg::GORCL);
    read(to, reg::GORCL.saturating_add(4));
}

/// A reset in the middle of something, and the link's state.
fn resets(random: &mut Random, to: &mut Vec<Record>) {
    let ctrl = Ctrl::new().with_set_link_up(random.one_in(2));
    let ctrl = match random.below(4) {
        0 => ctrl,
        1 => ctrl.with_phy_reset(true).with_link_reset(true),
        _ => ctrl.with_reset(true),
    };
    write(to, if random.one_in(4) { reg::CTRL_DUP } else { reg::CTRL }, ctrl.into_bits());
    outside(random, to);
    to.push(Record::new(if random.one_in(2) { Kind::Restart } else { Kind::Check }));
}

/// The window in I/O space.
fn window(random: &mut Random, to: &mut Vec<Record>) {
    let registers = [reg::CTRL, reg::STATUS, reg::ICR, reg::TDT, reg::RDT, reg::RCTL, reg::END, 0x1_ffff];
    for _ in 0..3 {
        let register = random.of(&registers).copied().unwrap_or(0);
        to.push(Record::write(WINDOW as u8, 0, 4, mostly(random, register).into()));
        to.push(Record::read(WINDOW as u8, 0, 4));
        if random.one_in(2) {
            to.push(Record::write(WINDOW as u8, 4, 4, random.number(4)));
        }
        to.push(Record::read(WINDOW as u8, 4, 1 << random.below(4) as u8));
    }
}
