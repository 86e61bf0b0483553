//! What viewers say: the handshake, and each message with values that mean something.
use super::{Action, CHALLENGED, PASSWORD};
use crate::vnc::auth::response;
use crate::vnc::spec::{VERSION, client, encoding, fence, security};
use bulkhead_bus::exercise::{Random, Recipe, Record};

pub(super) const ALL: &[Recipe] = &[
    enters,
    enters,
    enters_with_password,
    formats,
    encodings,
    encodings,
    requests,
    requests,
    types,
    types,
    points,
    copies,
    sizes,
    fences,
    continues,
    draws,
    blocks,
    leaves,
];

fn say(bytes: &[u8]) -> Record {
    Record::host(Action::Say as u8, 0, bytes)
}

fn act(action: Action, value: u64) -> Record {
    Record::host(action as u8, value, &[])
}

/// Says it in one piece or, one time in four, in two.
fn says(bytes: &[u8], random: &mut Random, to: &mut Vec<Record>) {
    let at = if random.one_in(4) { random.below(bytes.len() as u64) as usize } else { 0 };
    let (one, other) = bytes.split_at_checked(at).unwrap_or((&[], bytes));
    if !one.is_empty() {
        to.push(say(one));
    }
    to.push(say(other));
}

fn version(random: &mut Random) -> &'static [u8] {
    let others: &[&[u8]] = &[b"RFB 003.003\n", b"RFB 003.007\n", b"RFB 003.889\n", b"RFB 004.001\n", b"RFB 003.005\n"];
    if random.one_in(3) { random.of(others).copied().unwrap_or(VERSION) } else { VERSION }
}

/// A viewer that needs no password; of version 3.3 it does not choose.
fn enters(random: &mut Random, to: &mut Vec<Record>) {
    to.push(act(Action::Connect, 0));
    let version = version(random);
    says(version, random, to);
    if version != b"RFB 003.003\n" {
        says(&[security::NONE], random, to);
    }
    says(&[random.below(2) as u8], random, to);
    ready(random, to);
}

/// A viewer that knows the password, or does not.
fn enters_with_password(random: &mut Random, to: &mut Vec<Record>) {
    to.push(act(Action::Connect, 0));
    let version = version(random);
    says(version, random, to);
    if version != b"RFB 003.003\n" {
        says(&[security::VNC_AUTH], random, to);
    }
    let mut key = [0; 8];
    key.iter_mut().zip(PASSWORD).for_each(|(to, from)| *to = *from);
    let answer = if random.one_in(5) { random.bytes(16) } else { response(key, CHALLENGED).to_vec() };
    says(&answer, random, to);
    to.push(act(Action::Judge, 0));
    says(&[1], random, to);
    ready(random, to);
}

/// The picture is there, so that the viewer hears its size.
fn ready(random: &mut Random, to: &mut Vec<Record>) {
    to.push(act(Action::Draw, random.number(1)));
}

fn formats(random: &mut Random, to: &mut Vec<Record>) {
    let bits = random.of(&[8, 16, 32, 32, 24]).copied().unwrap_or(32);
    let mut message = vec![client::SET_PIXEL_FORMAT, 0, 0, 0, bits, random.below(33) as u8];
    message.extend([random.below(2) as u8, u8::from(!random.one_in(5))]);
    for _ in 0..3 {
        let most = random.of(&[255u16, 31, 63, 7, 3, 1, 15]).copied().unwrap_or(255);
        message.extend(if random.one_in(12) { random.number(2) as u16 } else { most }.to_be_bytes());
    }
    for _ in 0..3 {
        message.push(random.of(&[0, 8, 16, 24, 5, 11, 10, 3, 6, 33]).copied().unwrap_or(0));
    }
    message.extend([0; 3]);
    says(&message, random, to);
}

fn encodings(random: &mut Random, to: &mut Vec<Record>) {
    let all = [
        encoding::RAW,
        encoding::COPY_RECT,
        encoding::HEXTILE,
        encoding::ZRLE,
        encoding::DESKTOP_SIZE,
        encoding::CURSOR,
        encoding::POINTER_MOTION_CHANGE,
        encoding::EXTENDED_KEY,
        encoding::LED_STATE,
        encoding::EXTENDED_DESKTOP_SIZE,
        encoding::FENCE,
        encoding::CONTINUOUS_UPDATES,
    ];
    let count = random.below(12) as u16;
    let mut message = vec![client::SET_ENCODINGS, 0];
    message.extend(if random.one_in(12) { random.number(2) as u16 } else { count }.to_be_bytes());
    for _ in 0..count {
        let one = random.of(&all).copied().unwrap_or(0);
        message.extend(if random.one_in(12) { random.number(4) as i32 } else { one }.to_be_bytes());
    }
    says(&message, random, to);
}

fn place(random: &mut Random) -> [u8; 2] {
    if random.one_in(8) { random.number(2) as u16 } else { random.below(200) as u16 }.to_be_bytes()
}

fn requests(random: &mut Random, to: &mut Vec<Record>) {
    let mut message = vec![client::UPDATE_REQUEST, random.below(2) as u8];
    (0..4).for_each(|_| message.extend(place(random)));
    says(&message, random, to);
}

fn types(random: &mut Random, to: &mut Vec<Record>) {
    // Letters, accents, modifiers, locks, the keypad; keysyms of X11.
    let keys: [u32; 24] = [
        0x61,
        0x41,
        0x31,
        0x40,
        0xe9,
        0xdf,
        0xfe51,
        0xfe50,
        0x20ac,
        0xffe1,
        0xffe2,
        0xffe3,
        0xffe9,
        0xfe03,
        0xffe5,
        0xff7f,
        0xffb1,
        0xff9c,
        0xff0d,
        0xff1b,
        0xff13,
        0xff61,
        0x0100_20ac,
        0,
    ];
    for _ in 0..=random.below(4) {
        let key = if random.one_in(8) { random.number(4) as u32 } else { random.of(&keys).copied().unwrap_or(0) };
        let down = random.below(2) as u8;
        let mut message = vec![client::KEY, down, 0, 0];
        if random.one_in(4) {
            message = vec![client::QEMU, client::QEMU_KEY, 0, down];
        }
        message.extend(key.to_be_bytes());
        if message.first() == Some(&client::QEMU) {
            message.extend((random.below(0x100) as u32).to_be_bytes());
        }
        says(&message, random, to);
    }
}

fn points(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(3) {
        let mut message = vec![client::POINTER, random.number(1) as u8];
        (0..2).for_each(|_| message.extend(place(random)));
        says(&message, random, to);
    }
}

fn copies(random: &mut Random, to: &mut Vec<Record>) {
    let text = random.bytes(120);
    let len = match random.below(6) {
        0 => random.number(4) as u32,
        1 => (text.len() as u32).wrapping_neg(),
        _ => text.len() as u32,
    };
    let mut message = vec![client::CUT_TEXT, 0, 0, 0];
    message.extend(len.to_be_bytes());
    message.extend(text);
    says(&message, random, to);
}

fn sizes(random: &mut Random, to: &mut Vec<Record>) {
    let mut message = vec![client::SET_DESKTOP_SIZE, 0];
    (0..2).for_each(|_| message.extend(place(random)));
    let screens = random.below(3) as u8;
    message.extend([screens, 0]);
    message.extend((0..u16::from(screens).saturating_mul(16)).map(|_| 0));
    says(&message, random, to);
}

fn fences(random: &mut Random, to: &mut Vec<Record>) {
    let bits = [fence::REQUEST, fence::BLOCK_BEFORE, fence::BLOCK_AFTER, fence::SYNC_NEXT];
    let flags = random.of(&bits).copied().unwrap_or(0) | random.of(&bits).copied().unwrap_or(0);
    let payload = random.bytes(70);
    let mut message = vec![client::FENCE, 0, 0, 0];
    message.extend(flags.to_be_bytes());
    message.push(payload.len() as u8);
    message.extend(payload);
    says(&message, random, to);
}

fn continues(random: &mut Random, to: &mut Vec<Record>) {
    let mut message = vec![client::ENABLE_CONTINUOUS_UPDATES, random.below(2) as u8];
    (0..4).for_each(|_| message.extend(place(random)));
    says(&message, random, to);
}

fn draws(random: &mut Random, to: &mut Vec<Record>) {
    for _ in 0..=random.below(3) {
        to.push(if random.one_in(5) {
            act(Action::Shrink, random.below(32))
        } else {
            act(Action::Draw, random.number(1))
        });
    }
}

/// The viewer's socket takes nothing for a while.
fn blocks(random: &mut Random, to: &mut Vec<Record>) {
    to.push(act(Action::Socket, 0));
    for _ in 0..=random.below(6) {
        to.push(act(Action::Draw, random.number(1)));
        requests(random, to);
    }
    to.push(act(Action::Socket, 0));
}

/// Time in which nobody says anything.
fn leaves(random: &mut Random, to: &mut Vec<Record>) {
    to.push(act(Action::Wait, random.number(2)));
}
