//! What drivers do with the port.
use super::super::{CHARACTER_TIMEOUT, PATIENCE, spec};
use super::Action;
use bulkhead_bus::exercise::{Kind, Random, Recipe, Record};

pub(super) const ALL: &[Recipe] =
    &[fifos, divisor, loopback, modem, time_out, polling, interrupts, stuck, slow, overrun];

fn write(to: &mut Vec<Record>, offset: u64, value: u8) {
    to.push(Record::write(0, offset as u32, 1, u64::from(value)));
}

fn read(to: &mut Vec<Record>, offset: u64) {
    to.push(Record::read(0, offset as u32, 1));
}

fn send(random: &mut Random, to: &mut Vec<Record>, most: u64) {
    to.push(Record::host(Action::Send as u8, 0, &random.bytes(most)));
}

/// FIFOs with a trigger level; all interrupts; OUT2.
fn fifos(random: &mut Random, to: &mut Vec<Record>) {
    let fcr = if random.one_in(8) { random.number(1) as u8 } else { 1 | (random.below(4) as u8) << 6 };
    write(to, spec::IIR_FCR, fcr);
    write(to, spec::MCR, if random.one_in(8) { 0 } else { 0x0b });
    write(to, spec::IER, if random.one_in(4) { random.below(16) as u8 } else { 0x0f });
    if random.one_in(4) {
        write(to, spec::IIR_FCR, fcr | (random.below(4) as u8) << 1);
    }
    read(to, spec::IIR_FCR);
}

fn divisor(random: &mut Random, to: &mut Vec<Record>) {
    write(to, spec::LCR, 0x83);
    write(to, spec::DATA, random.number(1) as u8);
    write(to, spec::IER, random.number(1) as u8);
    read(to, spec::DATA);
    read(to, spec::IER);
    if !random.one_in(8) {
        write(to, spec::LCR, 0x03);
    }
}

/// Characters and modem outputs come back.
fn loopback(random: &mut Random, to: &mut Vec<Record>) {
    write(to, spec::MCR, 0x10 | random.below(16) as u8);
    for _ in 0..random.below(20) {
        write(to, spec::DATA, random.number(1) as u8);
    }
    read(to, spec::MSR);
    read(to, spec::LSR);
    read(to, spec::DATA);
    if !random.one_in(4) {
        write(to, spec::MCR, random.below(16) as u8);
        read(to, spec::MSR);
    }
}

fn modem(random: &mut Random, to: &mut Vec<Record>) {
    write(to, spec::IER, 8);
    for _ in 0..random.below(4) {
        write(to, spec::MCR, random.below(32) as u8);
        read(to, spec::IIR_FCR);
        read(to, spec::MSR);
    }
}

/// Fewer characters than the trigger level, and time.
fn time_out(random: &mut Random, to: &mut Vec<Record>) {
    write(to, spec::IIR_FCR, 0xc1);
    write(to, spec::IER, 1);
    for _ in 0..=random.below(3) {
        send(random, to, 13);
        if random.one_in(4) {
            to.push(Record::new(Kind::Restart));
        }
        to.push(Record::advance(CHARACTER_TIMEOUT.wrapping_add(random.below(3)).wrapping_sub(random.below(2))));
        read(to, spec::IIR_FCR);
        if random.one_in(2) {
            read(to, spec::DATA);
        }
    }
}

/// A driver without interrupts.
fn polling(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..random.below(8) {
        read(to, spec::LSR);
        write(to, spec::DATA, random.number(1) as u8);
    }
    send(random, to, 20);
    for _ in 0..random.below(8) {
        read(to, spec::LSR);
        read(to, spec::DATA);
    }
}

/// A driver that asks for the cause and serves it.
fn interrupts(random: &mut Random, to: &mut Vec<Record>) {
    fifos(random, to);
    send(random, to, 40);
    for _ in 0..random.below(6) {
        read(to, spec::IIR_FCR);
        match random.below(4) {
            0 => to.push(Record { kind: Kind::ReadString, value: random.below(20), ..Record::read(0, 0, 1) }),
            1 => to.push(Record {
                kind: Kind::WriteString,
                value: random.below(17),
                data: random.bytes(17),
                ..Record::read(0, 0, 1)
            }),
            2 => read(to, spec::LSR),
            _ => read(to, spec::MSR),
        }
    }
}

fn burst(random: &mut Random, to: &mut Vec<Record>, most: u64) {
    let bytes = random.bytes(200);
    to.push(Record { kind: Kind::WriteString, value: random.below(most), data: bytes, ..Record::read(0, 0, 1) });
}

/// More characters than are queued, while the other end takes none, until they are dropped.
fn stuck(random: &mut Random, to: &mut Vec<Record>) {
    to.push(Record::host(Action::Full as u8, 0, &[]));
    burst(random, to, 300);
    read(to, spec::LSR);
    to.push(Record::advance(random.below(PATIENCE)));
    if random.one_in(3) {
        to.push(Record::host(random.below(5) as u8, random.below(300), &[]));
    }
    read(to, spec::LSR);
    to.push(Record::advance(PATIENCE));
    read(to, spec::LSR);
    read(to, spec::IIR_FCR);
}

/// The other end takes a few characters now and then.
fn slow(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(4) {
        burst(random, to, 200);
        to.push(Record::host(Action::Room as u8, random.below(100), &[]));
        to.push(Record::advance(random.below(PATIENCE)));
        read(to, spec::LSR);
        if random.one_in(4) {
            to.push(Record::new(Kind::Restart));
        }
    }
}

/// More characters than the FIFO has room for, in loop-back and from the other end, and its reset.
fn overrun(random: &mut Random, to: &mut Vec<Record>) {
    write(to, spec::IIR_FCR, random.below(2) as u8);
    if random.one_in(2) {
        write(to, spec::MCR, 0x18);
        burst(random, to, 40);
    } else {
        send(random, to, 60);
    }
    read(to, spec::LSR);
    write(to, spec::IIR_FCR, 0xc7);
    read(to, spec::DATA);
    write(to, spec::MCR, 0x0b);
}
