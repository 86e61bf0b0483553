//! Commands with their parameters, answers and input.
use super::super::spec::{command, key_command, mouse_command};
use super::Action;
use bulkhead_bus::InputEvent;
use bulkhead_bus::exercise::{Kind, Random, Recipe, Record};

const DATA: u8 = 0;
const COMMAND: u8 = 1;
/// Sample rates of the mouse; 0 is none, and such a period is the default.
const RATES: &[u8] = &[10, 20, 40, 60, 80, 100, 200, 0];
/// Sequences of rates after which the mouse has a wheel, and five buttons.
const WHEEL: &[u8] = &[200, 100, 80];
const FIVE: &[u8] = &[200, 200, 80];
/// Keys whose codes depend on others, or that have no ordinary code: modifiers, Insert to Delete, Print, Pause, Hangul, Hanja.
const SPECIAL: &[u16] =
    &[29, 42, 54, 56, 69, 97, 98, 99, 100, 102, 103, 107, 111, 112, 119, 122, 123, 85, 95, 117, 140, 226];

pub(super) const ALL: &[Recipe] =
    &[controller, keyboard, set_3, mouse, knock, output_port, keys, typing, pointer, queued, buffers, held, pipe];

fn write(to: &mut Vec<Record>, place: u8, value: u8) {
    to.push(Record::write(place, 0, 1, u64::from(value)));
}

/// The answers are read, with or without a look at the status.
fn answers(random: &mut Random, to: &mut Vec<Record>, most: u64) {
    let polled = random.one_in(2);
    for _ in 0..random.below(most.saturating_add(1)) {
        if polled {
            to.push(Record::read(COMMAND, 0, 1));
        }
        to.push(Record::read(DATA, 0, 1));
    }
}

fn one(random: &mut Random, of: &[u8]) -> u8 {
    if random.one_in(8) { random.number(1) as u8 } else { random.of(of).copied().unwrap_or(0) }
}

fn event(to: &mut Vec<Record>, event: InputEvent) {
    let bytes = event.to_bytes();
    let [kind, ..] = bytes;
    // A record's value has the bytes of the event, and its place the kind.
    to.push(Record { place: kind.wrapping_sub(1), value: u64::from_le_bytes(bytes), ..Record::new(Kind::Event) });
}

fn controller(random: &mut Random, to: &mut Vec<Record>) {
    let code = one(
        random,
        &[
            command::READ_BYTE,
            command::WRITE_BYTE,
            command::TEST_MOUSE,
            command::SELF_TEST,
            command::TEST_KEYBOARD,
            command::READ_INPUT,
            command::READ_OUTPUT,
            command::WRITE_KEYBOARD_BUFFER,
            command::WRITE_MOUSE_BUFFER,
            command::DISABLE_KEYBOARD,
            command::ENABLE_KEYBOARD,
            command::DISABLE_MOUSE,
            command::ENABLE_MOUSE,
        ],
    );
    write(to, COMMAND, code);
    if matches!(code, command::WRITE_BYTE | command::WRITE_KEYBOARD_BUFFER | command::WRITE_MOUSE_BUFFER) {
        let value = one(random, &[0x47, 0x07, 0x03, 0x67, 0x57, 0x30, 0x00]);
        write(to, DATA, value);
    }
    answers(random, to, 2);
}

fn keyboard(random: &mut Random, to: &mut Vec<Record>) {
    let code = one(
        random,
        &[
            key_command::LEDS,
            key_command::ECHO,
            key_command::SCAN_CODE_SET,
            key_command::IDENTIFY,
            key_command::RATE,
            key_command::ENABLE,
            key_command::DISABLE,
            key_command::DEFAULTS,
            key_command::RESET,
        ],
    );
    write(to, DATA, code);
    let parameter = match code {
        key_command::LEDS => Some(random.below(8) as u8),
        key_command::SCAN_CODE_SET => Some(random.below(5) as u8),
        key_command::RATE => Some(one(random, &[0, 0x2b, 0x7f, 0x1f])),
        _ => None,
    };
    if let Some(parameter) = parameter {
        answers(random, to, 1);
        write(to, DATA, parameter);
    }
    answers(random, to, 3);
}

/// Set 3, and which keys report what.
fn set_3(random: &mut Random, to: &mut Vec<Record>) {
    [key_command::SCAN_CODE_SET, 3].into_iter().for_each(|byte| write(to, DATA, byte));
    answers(random, to, 2);
    let code = key_command::ALL_REPEAT.saturating_add(random.below(7) as u8);
    write(to, DATA, code);
    if code >= key_command::KEY_REPEATS {
        for _ in 0..random.below(4) {
            let key = one(random, &[0x1c, 0x11, 0x12, 0x58, 0x08, 0x62]);
            write(to, DATA, key);
        }
    }
    answers(random, to, 6);
    keys(random, to);
}

fn to_mouse(to: &mut Vec<Record>, value: u8) {
    write(to, COMMAND, command::WRITE_MOUSE);
    write(to, DATA, value);
}

fn mouse(random: &mut Random, to: &mut Vec<Record>) {
    let code = one(
        random,
        &[
            mouse_command::SCALING_ONE,
            mouse_command::SCALING_TWO,
            mouse_command::RESOLUTION,
            mouse_command::STATUS,
            mouse_command::STREAM,
            mouse_command::READ,
            mouse_command::NO_WRAP,
            mouse_command::WRAP,
            mouse_command::REMOTE,
            mouse_command::IDENTIFY,
            mouse_command::RATE,
            mouse_command::ENABLE,
            mouse_command::DISABLE,
            mouse_command::DEFAULTS,
            mouse_command::RESET,
        ],
    );
    to_mouse(to, code);
    let parameter = match code {
        mouse_command::RESOLUTION => Some(random.below(5) as u8),
        mouse_command::RATE => Some(one(random, RATES)),
        // In wrap mode it comes back.
        mouse_command::WRAP => Some(random.number(1) as u8),
        _ => None,
    };
    if let Some(parameter) = parameter {
        answers(random, to, 1);
        to_mouse(to, parameter);
    }
    answers(random, to, 4);
}

/// The mouse gets a wheel, or five buttons, and reports.
fn knock(random: &mut Random, to: &mut Vec<Record>) {
    let five: &[u8] = if random.one_in(2) { FIVE } else { &[] };
    for rate in WHEEL.iter().chain(five) {
        to_mouse(to, mouse_command::RATE);
        to_mouse(to, *rate);
        answers(random, to, 2);
    }
    for code in [mouse_command::IDENTIFY, mouse_command::ENABLE] {
        to_mouse(to, code);
        answers(random, to, 3);
    }
    pointer(random, to);
}

/// A20 and the reset line.
fn output_port(random: &mut Random, to: &mut Vec<Record>) {
    match random.below(4) {
        0 => {
            write(to, COMMAND, command::WRITE_OUTPUT);
            let value = one(random, &[0xcf, 0xdf, 0xdd, 0xfe]);
            write(to, DATA, value);
        }
        1 => {
            let code = if random.one_in(2) { command::ENABLE_A20 } else { command::DISABLE_A20 };
            write(to, COMMAND, code);
        }
        2 => write(to, COMMAND, 0xf0 | random.below(16) as u8),
        _ => {}
    }
    write(to, COMMAND, command::READ_OUTPUT);
    answers(random, to, 1);
}

fn code(random: &mut Random) -> u16 {
    match random.below(3) {
        0 => random.of(SPECIAL).copied().unwrap_or(1),
        1 => random.below(128) as u16,
        _ => random.below(240) as u16,
    }
}

/// Some keys, with modifiers around them.
fn keys(random: &mut Random, to: &mut Vec<Record>) {
    let modifier = random.of(&[42u16, 54, 29, 56, 97, 100]).copied().filter(|_| random.one_in(2));
    if let Some(code) = modifier {
        event(to, InputEvent::Key { code, down: true });
    }
    for _ in 0..=random.below(3) {
        let code = code(random);
        event(to, InputEvent::Key { code, down: true });
        if !random.one_in(4) {
            event(to, InputEvent::Key { code, down: false });
        }
    }
    answers(random, to, 12);
    if let Some(code) = modifier {
        event(to, InputEvent::Key { code, down: false });
    }
    answers(random, to, 4);
}

/// Keys that are repeated by the viewer, with time between.
fn typing(random: &mut Random, to: &mut Vec<Record>) {
    let code = code(random);
    let pause = random.of(&[1_000_000, 40_000_000, 250_000_000, 1_000_000_000]).copied().unwrap_or(0);
    for _ in 0..=random.below(4) {
        event(to, InputEvent::Key { code, down: true });
        to.push(Record::advance(pause));
        answers(random, to, 3);
    }
    event(to, InputEvent::Key { code, down: false });
    answers(random, to, 3);
}

fn pointer(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(4) {
        let down = random.one_in(2);
        let short = |random: &mut Random| i32::from(random.number(2) as i16);
        let next = match random.below(4) {
            0 => InputEvent::Button { button: random.below(6) as u8, down },
            1 => InputEvent::Move { dx: 0, dy: 0, dz: short(random) % 20 },
            2 => InputEvent::At { x: random.number(2) as u16, y: 5 },
            _ => InputEvent::Move { dx: short(random), dy: short(random), dz: 0 },
        };
        event(to, next);
    }
    to.push(Record::advance(random.below(20_000_000)));
    answers(random, to, 8);
}

/// More input than the guest reads, and then the guest reads all, with time for what was queued.
fn queued(random: &mut Random, to: &mut Vec<Record>) {
    let pairs: Vec<u8> = (0..random.below(50)).flat_map(|_| [random.below(127) as u8, random.below(2) as u8]).collect();
    to.push(Record::host(Action::Keys as u8, 0, &pairs));
    to.push(Record::host(Action::Moves as u8, random.number(8), &[]));
    for button in 0..random.below(5) {
        for down in [true, false] {
            event(to, InputEvent::Button { button: button as u8, down });
        }
    }
    for _ in 0..random.below(4) {
        to.push(Record { kind: Kind::ReadString, value: random.below(24), ..Record::read(DATA, 0, 1) });
        to.push(Record::advance(random.below(25_000_000)));
    }
}

/// Interfaces are disabled while there is input.
fn buffers(random: &mut Random, to: &mut Vec<Record>) {
    let off = if random.one_in(2) { command::DISABLE_MOUSE } else { command::DISABLE_KEYBOARD };
    write(to, COMMAND, off);
    queued(random, to);
    write(to, COMMAND, off.saturating_add(1));
    answers(random, to, 16);
}

/// A key is held while the keyboard is reset or set otherwise.
fn held(random: &mut Random, to: &mut Vec<Record>) {
    let code = code(random);
    event(to, InputEvent::Key { code, down: true });
    keyboard(random, to);
    if random.one_in(2) {
        to.push(Record::new(Kind::Restart));
    }
    event(to, InputEvent::Key { code, down: false });
    answers(random, to, 8);
}

/// Records of viewers by the pipe, and the LEDs for them.
fn pipe(random: &mut Random, to: &mut Vec<Record>) {
    let action = if random.one_in(4) { Action::Hostile } else { Action::Input };
    to.push(Record::host(action as u8, 0, &random.bytes(200)));
    [key_command::LEDS, random.below(8) as u8].into_iter().for_each(|byte| write(to, DATA, byte));
    if random.one_in(3) {
        event(to, InputEvent::ViewersBegin);
    }
    to.push(Record::host(Action::Lights as u8, 0, &[]));
}
