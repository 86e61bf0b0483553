//! What firmware, drivers and a hostile guest do with the board.
use super::action;
use crate::pci_hotplug::{DOWN, EJECT, LEN, REMOVABLE, UP};
use crate::region;
use crate::xen_platform::ROM_LOCK;
use bulkhead_bus::exercise::{Kind, Random, Recipe, Record};
use bulkhead_bus::pci::reg;

pub(super) const ALL: &[Recipe] =
    &[sleep, hot_plug, hot_plug, cmos, dma, unplug, text, rom_lock, reboot, configuration];

fn read(region: u16, offset: u16, size: u8) -> Record {
    Record::read(region as u8, offset.into(), size)
}

fn write(region: u16, offset: u16, size: u8, value: u64) -> Record {
    Record::write(region as u8, offset.into(), size, value)
}

/// A restart or a check in some recipes, so that half of an operation is before it.
fn interrupt(random: &mut Random, to: &mut Vec<Record>) {
    if random.one_in(4) {
        to.push(Record::new(if random.one_in(4) { Kind::Check } else { Kind::Restart }));
    }
}

/// A sleep state by PM1 control, as words or bytes, with ACPI enabled by APM or not.
fn sleep(random: &mut Random, to: &mut Vec<Record>) {
    to.push(write(region::APM, 0, 1, if random.one_in(8) { random.number(1) } else { 0xf1 }));
    to.push(read(region::PM1_CONTROL, 0, 2));
    let value = random.below(8) << 10 | u64::from(!random.one_in(4)) << 13 | random.below(8);
    if random.one_in(3) {
        to.push(write(region::PM1_CONTROL, 0, 1, value & 0xff));
        interrupt(random, to);
        to.push(write(region::PM1_CONTROL, 1, 1, value >> 8));
    } else {
        to.push(write(region::PM1_CONTROL, 0, 2, value));
    }
    interrupt(random, to);
    to.push(read(region::PM1_CONTROL, random.below(2) as u16, 1));
    if random.one_in(4) {
        to.push(write(region::APM, 0, 1, 0xf0));
    }
}

/// A device or a vCPU is added or is to go; the guest handles the event.
fn hot_plug(random: &mut Random, to: &mut Vec<Record>) {
    let events = if random.one_in(8) { random.number(2) } else { 0x06 };
    to.push(write(region::GPE, 2, 2, events));
    for _ in 0..=random.below(3) {
        let number = random.below(34) | random.below(4) << 8;
        let name = if random.one_in(4) { random.bytes(30) } else { Vec::new() };
        to.push(match random.below(6) {
            0 => Record::host(action::PLUG_CPU, random.below(4), &[]),
            1 => Record::host(action::PLUG_CPU, random.number(2), &[]),
            2 | 3 => Record::host(action::EJECT_PCI, number, &name),
            _ => Record::host(action::PLUG_PCI, number, &name),
        });
    }
    interrupt(random, to);
    let size = random.of(&[1, 2, 4]).copied().unwrap_or(2);
    to.push(read(region::GPE, 0, size));
    let at = random.of(&[UP, DOWN, REMOVABLE, EJECT, LEN - 4, 1]).copied().unwrap_or(UP);
    to.extend([read(region::PCI_HOTPLUG, at, 4), read(region::CPU_HOTPLUG, random.below(0x20) as u16, 1)]);
    let mask = match random.below(3) {
        0 => u64::from(u32::MAX),
        1 => random.number(4),
        _ => 1u64.wrapping_shl(random.below(32) as u32),
    };
    if random.one_in(3) {
        // `rep outsd`: several devices in one access.
        let data = [mask as u32, u32::MAX, 1 << 5].map(u32::to_le_bytes).concat();
        let string = Kind::WriteString;
        to.push(Record { kind: string, value: 3, data, ..read(region::PCI_HOTPLUG, EJECT, 4) });
    } else {
        to.push(write(region::PCI_HOTPLUG, EJECT, 4, mask));
    }
    to.push(write(region::GPE, random.below(2) as u16, 1, 0xff));
    if random.one_in(4) {
        to.extend([Record::new(Kind::Reset), Record::host(action::LIST_CPUS, 0, &[])]);
    }
}

fn cmos(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(4) {
        let nmi = u64::from(random.one_in(4)) << 7;
        let index = random.of(&[0x00, 0x0a, 0x0b, 0x0d, 0x0e, 0x0f, 0x12, 0x38, 0x39, 0x3d, 0x5f, 0x7f]).copied();
        to.push(write(region::CMOS, 0, 1, index.unwrap_or(0) | nmi));
        interrupt(random, to);
        if random.one_in(2) {
            to.push(write(region::CMOS, 1, 1, random.number(1)));
        }
        to.push(read(region::CMOS, random.below(2) as u16, 1));
    }
}

/// A channel of a controller: address, count, page, mode; then they are read back.
fn dma(random: &mut Random, to: &mut Vec<Record>) {
    let second = random.one_in(2);
    let region = if second { region::DMA2 } else { region::DMA1 };
    let at = |register: u64| if second { (register << 1) as u16 } else { register as u16 };
    let channel = random.below(4);
    if !random.one_in(4) {
        to.push(write(region, at(0x0c), 1, 0));
    }
    for register in [channel << 1, channel << 1 | 1] {
        for _ in 0..2 {
            to.push(write(region, at(register), 1, random.number(1)));
            interrupt(random, to);
        }
    }
    to.push(write(region::DMA_PAGES, random.below(0x0f) as u16, 1, random.number(1)));
    for register in [0x0a, 0x0b, 0x08, 0x09, 0x0f] {
        if random.one_in(2) {
            to.push(write(region, at(register), 1, random.number(1)));
        }
    }
    for _ in 0..random.below(5) {
        to.push(read(region, at(channel << 1 | random.below(2)), 1));
        interrupt(random, to);
    }
    for register in [8, 0x0f, 0x0d] {
        to.push(read(region, at(register), 1));
    }
    if random.one_in(4) {
        to.push(write(region, at(if random.one_in(2) { 0x0d } else { 0x0e }), 1, 0));
    }
    to.push(read(region::DMA_PAGES, random.below(0x0f) as u16, 1));
}

/// The unplug protocol in its order, sometimes in another.
fn unplug(random: &mut Random, to: &mut Vec<Record>) {
    let mut steps = vec![
        read(region::XEN_PORTS, 0, 2),
        read(region::XEN_PORTS, 2, 1),
        write(region::XEN_PORTS, 2, 2, random.number(2)),
        write(region::XEN_PORTS, 0, 4, random.number(4)),
        read(region::XEN_PORTS, 0, 2),
        write(region::XEN_PORTS, 0, 2, random.below(16)),
    ];
    if random.one_in(8) {
        steps.reverse();
    }
    if random.one_in(8) {
        let size = random.of(&[1, 2, 4, 8]).copied().unwrap_or(1);
        steps.push(write(region::XEN_PORTS, random.below(0x10) as u16, size, random.number(size)));
    }
    let restart = random.below(20) as usize;
    for (i, step) in steps.into_iter().enumerate() {
        if i == restart {
            to.push(Record::new(Kind::Restart));
        }
        to.push(step);
    }
    if random.one_in(3) {
        let offset = random.of(&[0, 4, 8, 9, 0xff]).copied().unwrap_or(8);
        let size = if random.one_in(8) { 2 } else { 1 };
        to.extend([write(region::XEN_BAR0, offset, size, random.below(4)), read(region::XEN_BAR0, offset, size)]);
    }
    if random.one_in(8) {
        to.extend([read(region::XEN_BAR1, 0, 4), write(region::XEN_BAR1, 0, 4, random.number(4))]);
    }
}

/// Text of the guest at each of the three places for it.
fn text(random: &mut Random, to: &mut Vec<Record>) {
    let places = [(region::XEN_PORTS, 2), (region::XEN_BAR0, 8), (region::DEBUG, 0)];
    let (region, offset) = random.of(&places).copied().unwrap_or((region::DEBUG, 0));
    let mut data = random.bytes(40);
    data.extend(b"text\r\n");
    let value = random.below(600);
    to.push(Record { kind: Kind::WriteString, value, data, ..read(region, offset, 1) });
    to.push(read(region, offset, 1));
}

fn rom_lock(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(3) {
        let region = if random.one_in(2) { region::XEN_PORTS } else { region::XEN_BAR0 };
        to.push(write(region, 0, 1, random.below(3) & u64::from(ROM_LOCK) | random.below(2) << 1));
        interrupt(random, to);
        to.push(read(region, 0, 1));
    }
}

fn reboot(random: &mut Random, to: &mut Vec<Record>) {
    let region = if random.one_in(2) { region::PORT92 } else { region::RESET_CONTROL };
    for _ in 0..=random.below(3) {
        to.extend([write(region, 0, 1, random.below(8)), read(region, 0, 1)]);
        interrupt(random, to);
    }
    to.push(write(region::POST, 0, 1, random.number(1)));
    if random.one_in(2) {
        to.push(Record::new(Kind::Reset));
    }
    to.extend([read(region::POST, 0, 1), read(region::FERR, 0, 1), write(region::FERR, 0, 1, 0)]);
}

/// Registers that firmware sets: memory attributes, SMRAM, interrupt routes, addresses of blocks, BARs.
fn configuration(random: &mut Random, to: &mut Vec<Record>) {
    let places: &[(u8, u8)] = &[
        (0, 0x59),
        (0, 0x5d),
        (0, 0x72),
        (0, 0x50),
        (1, 0x60),
        (1, 0x62),
        (1, 0x4c),
        (1, 0x69),
        (1, 0x82),
        (2, 0x40),
        (2, 0x80),
        (2, 0x90),
        (2, 0xd2),
        (3, reg::BAR0),
        (3, reg::BAR0 + 4),
        (3, reg::COMMAND),
        (0, reg::STATUS),
        (3, reg::INTERRUPT_LINE),
    ];
    for _ in 0..=random.below(4) {
        let (place, offset) = random.of(places).copied().unwrap_or((0, 0));
        let size = random.of(&[1, 2, 4]).copied().unwrap_or(1);
        let mut record = Record::new(Kind::ConfigWrite);
        (record.place, record.offset, record.size) = (place, offset.into(), size);
        record.value = random.number(4);
        to.push(record.clone());
        interrupt(random, to);
        to.push(Record { kind: Kind::ConfigRead, ..record });
    }
}
