//! What a host controller driver does, with a schedule of one queue.
use super::super::spec::{Command, Control, Interrupts, PortStatus, descriptor, pid, reg, request, shape, token};
use super::Action;
use bulkhead_bus::InputEvent;
use bulkhead_bus::exercise::{BUFFERS, Kind, Random, Recipe, Record, home};

pub(super) const ALL: &[Recipe] = &[
    start,
    port,
    bring_up,
    standard,
    hid,
    transfer,
    interrupt_in,
    input,
    stop,
    suspend,
    plug,
    schedule,
    chain,
    loops,
    features,
    reports,
];

/// Nanoseconds of a batch of frames.
const BATCH: u64 = 8_000_000;
const TERMINATE: u32 = 1;
const QUEUE: u32 = 2;
const DEPTH_FIRST: u32 = 4;
/// Bytes of a descriptor with the room for the driver.
const DESCRIPTOR: u64 = 32;

fn out(to: &mut Vec<Record>, offset: u64, size: u8, value: u64) {
    to.push(Record::write(0, offset as u32, size, value));
}

fn words(to: &mut Vec<Record>, at: u64, words: &[u32]) {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    to.push(Record::memory(at, &bytes));
}

/// All entries of the frame list are `link`.
fn frame_list(to: &mut Vec<Record>, link: u32) {
    for half in [0, 2048] {
        let at = home(shape::FRAME_LIST).saturating_add(half);
        to.push(Record { offset: 2048, ..Record::memory(at, &link.to_le_bytes()) });
    }
}

/// The first queue is every frame's.
fn queue(to: &mut Vec<Record>) {
    frame_list(to, home(shape::QUEUE) as u32 | QUEUE);
}

fn start(random: &mut Random, to: &mut Vec<Record>) {
    queue(to);
    words(to, home(shape::QUEUE), &[TERMINATE, TERMINATE]);
    out(to, reg::FRAME_LIST, 4, home(shape::FRAME_LIST));
    let interrupts = if random.one_in(4) { random.below(16) as u16 } else { Interrupts::new().into_bits() | 0x0f };
    out(to, reg::INTERRUPTS, 2, u64::from(interrupts));
    out(to, reg::COMMAND, 2, u64::from(Command::new().with_run(true).with_configured(true).into_bits()));
}

/// A port is reset and enabled.
fn enable(to: &mut Vec<Record>, port: u64) {
    let at = reg::PORT.saturating_add(port << 1);
    for status in [
        PortStatus::new().with_reset(true),
        PortStatus::new(),
        PortStatus::new().with_enabled(true).with_connect_change(true).with_enable_change(true),
    ] {
        out(to, at, 2, u64::from(status.into_bits()));
    }
}

fn port(random: &mut Random, to: &mut Vec<Record>) {
    let port = random.below(2);
    enable(to, port);
    if random.one_in(4) {
        let status = PortStatus::new().with_enabled(true).with_suspend(random.one_in(2)).with_resume(random.one_in(2));
        out(to, reg::PORT.saturating_add(port << 1), 2, u64::from(status.into_bits()));
    }
    to.push(Record::read(0, reg::PORT as u32, 4));
}

/// A transaction: its PID, endpoint, the buffer and its length.
type Transaction = (u8, u8, u64, u16);

/// The queue's descriptors. Each one is followed by the next, depth first.
fn descriptors(random: &mut Random, to: &mut Vec<Record>, device: u8, all: &[Transaction]) {
    let first = home(shape::DESCRIPTOR);
    let last = all.len().saturating_sub(1);
    for (i, (kind, endpoint, buffer, length)) in all.iter().enumerate() {
        let at = first.saturating_add(DESCRIPTOR.saturating_mul(i as u64));
        let next = at.saturating_add(DESCRIPTOR) as u32;
        let depth = if random.one_in(8) { 0 } else { DEPTH_FIRST };
        let link = if i == last { TERMINATE } else { next | depth };
        let control = Control::new().with_active(!random.one_in(32)).with_errors(3);
        let short = *kind == pid::IN && i > 0 && i < last && random.one_in(2);
        let control = control.with_on_complete(i == last || random.one_in(8)).with_short(short);
        words(to, at, &[link, control.into_bits(), token(*kind, device, *endpoint, *length), *buffer as u32]);
    }
    words(to, home(shape::QUEUE).saturating_add(4), &[first as u32]);
}

/// A control transfer, with the data in packets of 8 bytes.
fn control(random: &mut Random, to: &mut Vec<Record>, device: u8, setup: [u8; 8], data: &[u8]) {
    let [kind, .., low, high] = setup;
    let length = u16::from_le_bytes([low, high]).min(64);
    to.push(Record::memory(home(shape::REQUEST), &setup));
    if !data.is_empty() {
        to.push(Record::memory(BUFFERS, data));
    }
    let mut all: Vec<Transaction> = vec![(pid::SETUP, 0, home(shape::REQUEST), 8)];
    let (data, status) = if kind & 0x80 != 0 { (pid::IN, pid::OUT) } else { (pid::OUT, pid::IN) };
    for at in (0..length).step_by(8) {
        let packet = if random.one_in(16) { random.below(20) as u16 } else { 8.min(length.saturating_sub(at)) };
        all.push((data, 0, BUFFERS.saturating_add(u64::from(at)), packet));
    }
    if !random.one_in(16) {
        all.push((status, 0, 0, 0));
    }
    descriptors(random, to, device, &all);
    to.push(Record::advance(BATCH));
    if random.one_in(2) {
        out(to, reg::STATUS, 2, 0x3f);
    }
}

fn setup(of: u16, value: u16, index: u16, length: u16) -> [u8; 8] {
    let ([k, n], [v0, v1], [i0, i1], [l0, l1]) =
        (of.to_be_bytes(), value.to_le_bytes(), index.to_le_bytes(), length.to_le_bytes());
    [k, n, v0, v1, i0, i1, l0, l1]
}

/// Ports are enabled, and their devices get addresses and their configuration.
fn bring_up(random: &mut Random, to: &mut Vec<Record>) {
    start(random, to);
    for port in 0..=random.below(2) {
        enable(to, port);
        let address = (port as u8).saturating_add(1);
        control(random, to, 0, setup(request::SET_ADDRESS, u16::from(address), 0, 0), &[]);
        control(random, to, address, setup(request::SET_CONFIGURATION, 1, 0, 0), &[]);
    }
    out(to, reg::STATUS, 2, 0x3f);
    match random.below(3) {
        0 => standard(random, to),
        1 => hid(random, to),
        _ => input(random, to),
    }
}

fn address(random: &mut Random) -> u8 {
    random.of(&[0, 1, 1, 1, 2, 2, 3]).copied().unwrap_or(1)
}

fn standard(random: &mut Random, to: &mut Vec<Record>) {
    let kind = random.of(&[
        descriptor::DEVICE,
        descriptor::CONFIGURATION,
        descriptor::STRING,
        descriptor::HID,
        descriptor::REPORT,
        descriptor::INTERFACE,
        descriptor::ENDPOINT,
    ]);
    let described = u16::from(kind.copied().unwrap_or(1)) << 8 | random.below(4) as u16;
    let (of, value, length) = match random.below(14) {
        0..=3 => (request::GET_DESCRIPTOR, described, *random.of(&[8, 9, 18, 34, 64, 255]).unwrap_or(&64)),
        4 => (request::GET_INTERFACE_DESCRIPTOR, described, 64),
        5 => (request::GET_DEVICE_STATUS, 0, 2),
        6 => (request::GET_INTERFACE_STATUS, 0, 2),
        7 => (request::GET_ENDPOINT_STATUS, 0, 2),
        8 => (request::GET_CONFIGURATION, 0, 1),
        9 => (request::GET_INTERFACE, 0, 1),
        10 => (request::GET_DESCRIPTOR, u16::from(descriptor::STRING) << 8 | random.below(3) as u16, 64),
        11 => (request::SET_ADDRESS, *random.of(&[1, 2, 127, 128]).unwrap_or(&0), 0),
        12 => (request::SET_INTERFACE, random.below(2) as u16, 0),
        _ => (request::SET_CONFIGURATION, random.below(3) as u16, 0),
    };
    let address = address(random);
    control(random, to, address, setup(of, value, 0, length), &[]);
}

fn hid(random: &mut Random, to: &mut Vec<Record>) {
    let (of, value, length) = match random.below(7) {
        0 => (request::GET_REPORT, 0x0100, 8),
        1 => (request::GET_IDLE, random.below(2) as u16, 1),
        2 => (request::GET_PROTOCOL, 0, 1),
        3 => (request::SET_REPORT, 0x0200, random.below(3) as u16),
        4 => (request::SET_IDLE, (random.below(4) as u16) << 8 | u16::from(random.one_in(8)), 0),
        5 => (request::SET_PROTOCOL, random.below(3) as u16, 0),
        _ => (request::SET_REPORT, 0x0200, random.below(70) as u16),
    };
    let (address, leds) = (address(random), [random.number(1) as u8]);
    control(random, to, address, setup(of, value, 0, length), &leds);
}

/// Any request.
fn transfer(random: &mut Random, to: &mut Vec<Record>) {
    let kind = random.of(&[0x80u8, 0x00, 0x81, 0x21, 0xa1, 0x02, 0x82, 0xc0]).copied().unwrap_or(0);
    let of = u16::from_be_bytes([kind, random.below(14) as u8]);
    let (value, index, length) = (random.number(2) as u16, random.number(1) as u16, random.below(40) as u16);
    let address = address(random);
    let data = random.bytes(40);
    control(random, to, address, setup(of, value, index, length), &data);
}

/// The interrupt endpoint is halted, asked, and goes on.
fn features(random: &mut Random, to: &mut Vec<Record>) {
    let address = address(random);
    let index = if random.one_in(8) { random.number(1) as u16 } else { 0x81 };
    control(random, to, address, setup(request::SET_ENDPOINT_FEATURE, 0, index, 0), &[]);
    control(random, to, address, setup(request::GET_ENDPOINT_STATUS, 0, index, 2), &[]);
    interrupt_in(random, to);
    control(random, to, address, setup(request::CLEAR_ENDPOINT_FEATURE, 0, index, 0), &[]);
    interrupt_in(random, to);
}

/// Reports are asked for, for some time.
fn interrupt_in(random: &mut Random, to: &mut Vec<Record>) {
    let (address, length) = (address(random), random.of(&[8u16, 8, 4, 3, 0, 64]).copied().unwrap_or(8));
    let one = (pid::IN, 1, BUFFERS.saturating_add(0x100), length);
    let all: Vec<Transaction> = (0..=random.below(6)).map(|_| one).collect();
    descriptors(random, to, address, &all);
    to.push(Record::advance(BATCH.saturating_mul(random.below(5))));
    if random.one_in(4) {
        // Another idle period passes.
        to.push(Record::advance(BATCH * 64));
    }
}

fn records(random: &mut Random) -> Vec<u8> {
    let short = |random: &mut Random| i32::from(random.number(2) as i16);
    let mut all = Vec::new();
    for _ in 0..=random.below(12) {
        let down = random.one_in(2);
        let event = match random.below(8) {
            0..=2 => InputEvent::Key { code: random.below(200) as u16, down },
            3 => InputEvent::Move { dx: short(random), dy: short(random), dz: 0 },
            4 => InputEvent::Move { dx: 0, dy: 0, dz: short(random) % 300 },
            5 => InputEvent::At { x: random.number(2) as u16 & 0x7fff, y: random.number(2) as u16 & 0x7fff },
            6 => InputEvent::Button { button: random.below(6) as u8, down },
            _ => InputEvent::ViewersBegin,
        };
        all.extend(event.to_bytes());
    }
    all
}

fn input(random: &mut Random, to: &mut Vec<Record>) {
    let all = records(random);
    let action = if random.one_in(8) { Action::Hostile } else { Action::Input };
    to.push(Record::host(action as u8, 0, &all));
    interrupt_in(random, to);
    if random.one_in(4) {
        to.push(Record::host(Action::Taken as u8, 0, &[]));
    }
}

/// A keyboard with many keys down, and the release of them.
fn reports(random: &mut Random, to: &mut Vec<Record>) {
    let first = random.below(100) as u8;
    for down in [1, 0] {
        let keys: Vec<u8> = (0..random.below(100) as u8).flat_map(|i| [first.wrapping_add(i), down]).collect();
        to.push(Record::host(Action::Keys as u8, 0, &keys));
        interrupt_in(random, to);
    }
}

fn stop(random: &mut Random, to: &mut Vec<Record>) {
    to.push(Record::advance(random.below(BATCH)));
    out(to, reg::COMMAND, 2, 0);
    to.push(Record::read(0, reg::STATUS as u32, 2));
    out(to, reg::FRAME_NUMBER, 2, random.number(2));
    if random.one_in(4) {
        out(to, reg::COMMAND, 2, u64::from(Command::new().with_host_reset(true).into_bits()));
    }
    out(to, reg::COMMAND, 2, u64::from(Command::new().with_run(true).into_bits()));
    to.push(Record::read(0, reg::FRAME_NUMBER as u32, 2));
}

fn suspend(random: &mut Random, to: &mut Vec<Record>) {
    for command in [
        Command::new().with_global_suspend(true),
        Command::new().with_global_suspend(true).with_global_resume(true),
        Command::new().with_run(true),
    ] {
        out(to, reg::COMMAND, 2, u64::from(command.into_bits()));
        if random.one_in(2) {
            plug(random, to);
        }
        to.push(Record::read(0, reg::STATUS as u32, 2));
    }
}

/// More devices than ports, under names that are too long now and then.
fn plug(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(4) {
        let action = if random.one_in(3) { Action::PlugOut } else { Action::PlugIn };
        let name = vec![b'n'; if random.one_in(8) { random.below(100) as usize } else { 0 }];
        to.push(Record::host(action as u8, random.below(3) | random.below(4) << 8, &name));
    }
    if random.one_in(2) {
        enable(to, random.below(2));
    }
}

/// Isochronous descriptors and queues that are linked to each other.
fn schedule(random: &mut Random, to: &mut Vec<Record>) {
    let queues = home(shape::QUEUE) as u32;
    words(to, queues.into(), &[queues.saturating_add(16) | QUEUE, TERMINATE, 0, 0, TERMINATE, TERMINATE]);
    chain(random, to);
    let link = home(shape::DESCRIPTOR) as u32;
    frame_list(to, if random.one_in(2) { link } else { queues | QUEUE });
    to.push(Record::advance(BATCH));
    queue(to);
}

/// A row of descriptors whose links, PIDs and lengths are any.
fn chain(random: &mut Random, to: &mut Vec<Record>) {
    let first = home(shape::DESCRIPTOR);
    for i in 0..4u64 {
        let next = first.saturating_add(random.below(5).saturating_mul(DESCRIPTOR)) as u32;
        let bits = random.of(&[0, DEPTH_FIRST, DEPTH_FIRST, TERMINATE, QUEUE]).copied().unwrap_or(0);
        let kind = random.of(&[pid::IN, pid::OUT, pid::SETUP, 0]).copied().unwrap_or(0);
        let length = random.of(&[0u16, 8, 8, 64, 1280, 1281]).copied().unwrap_or(8);
        let control = Control::new()
            .with_active(true)
            .with_short(random.one_in(2))
            .with_isochronous(random.one_in(4))
            .with_on_complete(random.one_in(2));
        let at = first.saturating_add(i.saturating_mul(DESCRIPTOR));
        let token = token(kind, address(random), random.below(3) as u8, length);
        words(to, at, &[next | bits, control.into_bits(), token, BUFFERS as u32]);
    }
    words(to, home(shape::QUEUE).saturating_add(4), &[first as u32]);
    to.push(Record::advance(BATCH));
}

/// Loops: of queues with or without a transaction, of descriptors; and addresses without RAM.
fn loops(random: &mut Random, to: &mut Vec<Record>) {
    let (queue, descriptor) = (home(shape::QUEUE) as u32, home(shape::DESCRIPTOR) as u32);
    let link = match random.below(4) {
        0 => {
            let token = token(pid::IN, 1, 1, 0);
            words(to, descriptor.into(), &[descriptor | DEPTH_FIRST, 1 << 23, token, BUFFERS as u32]);
            words(to, queue.into(), &[queue | QUEUE, descriptor]);
            queue | QUEUE
        }
        1 => {
            words(to, queue.into(), &[queue | QUEUE, TERMINATE]);
            queue | QUEUE
        }
        2 => {
            words(to, descriptor.into(), &[descriptor, 0, 0, 0]);
            descriptor
        }
        _ => 0xfff0_0000 | random.below(4) as u32,
    };
    frame_list(to, link);
    to.push(Record::advance(BATCH));
    to.push(Record::read(0, reg::STATUS as u32, 2));
    if random.one_in(2) {
        to.push(Record::new(Kind::Restart));
    }
    start(random, to);
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::exercise::{Script, trace};

    /// The control words of the descriptors at the end of a recipe.
    fn controls(recipe: Recipe, seed: u64, count: usize) -> Vec<Control> {
        let mut script = Script::default();
        let mut random = Random::new(seed);
        recipe(&mut random, &mut script.records);
        // What follows after the last clearing of the status is another transfer.
        let end = |r: &Record| r.kind == Kind::Write && u64::from(r.offset) == reg::STATUS;
        let end = script.records.iter().rposition(end).unwrap_or(usize::MAX);
        script.records.truncate(end);
        let (_, pages) = trace(&super::super::TARGET, &script, bulkhead_bus::exercise::MEMORY);
        let at = home(shape::DESCRIPTOR);
        let page = &pages.iter().find(|(address, _)| *address == at).unwrap().1;
        let word = |i: usize| u32::from_le_bytes(page[i..i + 4].try_into().unwrap());
        (0..count).map(|i| Control::from_bits(word(i * DESCRIPTOR as usize + 4))).collect()
    }

    /// Recipes draw wrong parameters now and then, but most of them do what they are for.
    #[test]
    fn most_devices_are_configured_by_the_recipe() {
        let done = (0..64).filter(|seed| controls(bring_up, *seed, 2).iter().all(|c| !c.active() && !c.stalled()));
        assert!(done.count() > 40);
    }
}
