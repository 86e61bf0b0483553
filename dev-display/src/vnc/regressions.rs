//! Faults of VNC servers in other device models, by class.
use super::tests::{Bench, request};
use super::*;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

/// CVE-2014-7815: impossible pixel formats were accepted. CVE-2022-3165, CVE-2015-5225: lengths underflowed, sizes changed during
/// an update.
#[test]
fn underflow_and_overflow_in_a_viewers_messages() {
    for format in [[0, 24], [1, 24], [8, 32], [24, 24], [64, 24], [255, 255], [32, 0]] {
        let mut b = Bench::new(Password::None);
        let mut client = b.viewer(&[0, 5, 16]);
        let mut said = vec![0, 0, 0, 0, format[0], format[1], 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        said.extend(request(false));
        let _ = client.write_all(&said);
        b.wait(FAST);
        b.heard(&mut client);
        let mut other = b.viewer(&[0]);
        b.say(&mut other, &request(false));
        b.wait(FAST);
        assert!(b.heard(&mut other).len() > 200 * 100 * 4, "{format:?}: the next viewer is served");
    }
    for length in [u32::MAX, 1 << 31, (1 << 31) | 3, 0x7fff_ffff, 0] {
        let mut b = Bench::new(Password::None);
        let mut client = b.viewer(&[0]);
        let mut cut = vec![6, 0, 0, 0];
        cut.extend(length.to_be_bytes());
        cut.extend([0; 64]);
        let _ = client.write_all(&cut);
        b.turn();
        let mut other = b.viewer(&[0]);
        b.say(&mut other, &request(false));
        b.wait(FAST);
        assert!(b.heard(&mut other).len() > 200 * 100 * 4, "{length:#x}");
    }
}

/// CVE-2017-15124: the send buffer of a viewer that reads nothing grew without a limit.
#[test]
fn unbounded_growth_of_what_waits() {
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0, -223]);
    for i in 0..400u32 {
        b.picture.draw(200 + i as usize % 3 * 300, 100 + i as usize % 5 * 100, |x, y| (x * y) as u32 ^ i);
        let _ = client.write_all(&request(false));
        let _ = client.write_all(&[248, 0, 0, 0, 0x80, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
        b.wait(FAST);
    }
    let waits: usize = b.vnc.viewers.iter().map(|v| v.session.unsent().len()).sum();
    assert!(waits < 4 << 20, "{waits} bytes wait");
}

/// Keys of another guest's layout were pressed, and the guest's locks were ignored for letters and the keypad.
#[test]
fn characters_of_another_keyboard_or_lock() {
    let say = |b: &mut Bench, client: &mut UnixStream, leds: u8, keysym: u32| {
        rustix::io::write(&b.lights, &[leds]).unwrap();
        b.turn();
        b.keys();
        let [k0, k1, k2, k3] = keysym.to_be_bytes();
        b.say(client, &[4, 1, 0, 0, k0, k1, k2, k3, 4, 0, 0, 0, k0, k1, k2, k3]);
        b.keys()
            .into_iter()
            .map(|e| if let InputEvent::Key { code, down } = e { (code, down) } else { panic!() })
            .collect::<Vec<_>>()
    };
    let shifted = |code| vec![(42, true), (code, true), (42, false), (code, false)];
    let plain = |code| vec![(code, true), (code, false)];
    let mut b = Bench::new(Password::None);
    let mut client = b.viewer(&[0]);
    assert_eq!(say(&mut b, &mut client, 0, u32::from(b'<')), shifted(51));
    assert_eq!(say(&mut b, &mut client, 0, u32::from(b'>')), shifted(52));
    assert_eq!(say(&mut b, &mut client, 4, u32::from(b'a')), shifted(30), "Caps Lock is on");
    assert_eq!(say(&mut b, &mut client, 4, u32::from(b'A')), plain(30), "Caps Lock is on");
    assert_eq!(say(&mut b, &mut client, 2, 0xffb1), plain(79), "Num Lock is on");
    assert_eq!(say(&mut b, &mut client, 0, 0xffb1), plain(2), "Num Lock is off");
    assert_eq!(say(&mut b, &mut client, 0, 0xff9c), plain(79), "Num Lock is off");
    assert_eq!(say(&mut b, &mut client, 2, 0xff9c), plain(107), "Num Lock is on");
}

/// A viewer that requested LEDs after the guest had set them got only the next change.
#[test]
fn state_that_is_reported_only_when_it_changes() {
    let mut b = Bench::new(Password::None);
    rustix::io::write(&b.lights, &[0]).unwrap();
    b.turn();
    let mut client = b.viewer(&[0, -261]);
    b.say(&mut client, &request(false));
    b.wait(FAST);
    let update = b.heard(&mut client);
    assert_eq!(update[4..17], [0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xfe, 0xfb, 0]);
}

/// Modifiers of one viewer changed the characters of another.
#[test]
fn modifiers_of_another_viewer() {
    let mut b = Bench::new(Password::None);
    let (mut first, mut second) = (b.viewer(&[0]), b.viewer(&[0]));
    b.say(&mut first, &[4, 1, 0, 0, 0, 0, 0xff, 0xe1]);
    b.keys();
    b.say(&mut second, &[4, 1, 0, 0, 0, 0, 0, b'a']);
    let key = |code, down| InputEvent::Key { code, down };
    assert_eq!(b.keys(), [key(42, false), key(30, true), key(42, true)]);
}

/// A viewer that disconnected released a modifier that another viewer held.
#[test]
fn modifiers_that_another_viewer_still_holds() {
    let key = |code, down| InputEvent::Key { code, down };
    for (keysym, code) in [(0xffe1u32, 42), (0xffe2, 54), (0xffe3, 29), (0xffe4, 97), (0xffe9, 56), (0xffeb, 125)] {
        let hold = |b: &mut Bench, client: &mut UnixStream, down: u8| {
            let [k0, k1, k2, k3] = keysym.to_be_bytes();
            b.say(client, &[4, down, 0, 0, k0, k1, k2, k3]);
        };
        let mut b = Bench::new(Password::None);
        let (mut first, mut second) = (b.viewer(&[0]), b.viewer(&[0]));
        hold(&mut b, &mut first, 1);
        hold(&mut b, &mut second, 1);
        b.keys();
        // One releases it, one disconnects, the last one disconnects.
        hold(&mut b, &mut first, 0);
        assert_eq!(b.keys(), [], "{keysym:#x}");
        hold(&mut b, &mut first, 1);
        b.keys();
        drop(first);
        b.turn();
        assert_eq!(b.keys(), [], "{keysym:#x}");
        drop(second);
        b.turn();
        assert_eq!(b.keys(), [key(code, false)], "{keysym:#x}");
    }
    // A viewer with exclusive access disconnects the others.
    let mut b = Bench::new(Password::None);
    let (mut first, mut second) = (b.viewer(&[0]), b.viewer(&[0]));
    for client in [&mut first, &mut second] {
        b.say(client, &[4, 1, 0, 0, 0, 0, 0xff, 0xe1]);
    }
    b.keys();
    let mut third = b.connect();
    b.say(&mut third, b"RFB 003.008\n\x01\x00");
    b.wait(FAST);
    assert_eq!(b.keys(), [key(42, false), key(42, false)]);
    // Both at once.
    let mut b = Bench::new(Password::None);
    let (mut first, mut second) = (b.viewer(&[0]), b.viewer(&[0]));
    for client in [&mut first, &mut second] {
        b.say(client, &[4, 1, 0, 0, 0, 0, 0xff, 0xe1]);
    }
    b.keys();
    drop((first, second));
    b.turn();
    assert_eq!(b.keys(), [key(42, false)]);
}

/// The LEDs of a USB keyboard that gets keys were ignored, and the PS/2 keyboard's were shown.
#[test]
fn lights_of_a_keyboard_that_is_not_the_first() {
    let mut b = Bench::new(Password::None);
    let mut lights = |usb: u8, ps2: u8| {
        rustix::io::write(&b.taken, &[usb]).unwrap();
        rustix::io::write(&b.lights, &[ps2]).unwrap();
        b.turn();
        (b.vnc.leds, b.vnc.locks.caps())
    };
    assert_eq!(lights(0, 2), (Some(2), false));
    assert_eq!(lights(2, 4), (Some(4), true), "it tells none");
    assert_eq!(lights(2 | 8 | 2 << 4, 4), (Some(2), false), "Num Lock");
    assert_eq!(lights(2 | 8 | 7 << 4, 0), (Some(7), true));
    assert_eq!(lights(1 | 8, 4), (Some(4), true), "it takes places only");
}

/// The rectangles of raw pixels in what a viewer has heard: x, y, width, height; the last size that it was told.
fn raw_rectangles(mut heard: &[u8], size: &mut (usize, usize)) -> Vec<[usize; 4]> {
    let mut found = Vec::new();
    while let [0, _, n0, n1, rest @ ..] = heard {
        heard = rest;
        for _ in 0..u16::from_be_bytes([*n0, *n1]) {
            let word = |i: usize| usize::from(u16::from_be_bytes([heard[i * 2], heard[i * 2 + 1]]));
            let rectangle = [word(0), word(1), word(2), word(3)];
            let encoding = i32::from_be_bytes(*heard[8..].first_chunk().unwrap());
            heard = &heard[12..];
            match encoding {
                -223 => *size = (rectangle[2], rectangle[3]),
                0 => {
                    let [x, y, width, height] = rectangle;
                    assert!(x + width <= size.0 && y + height <= size.1, "{rectangle:?} in {size:?}");
                    heard = &heard[width * height * 4..];
                    found.push(rectangle);
                }
                other => panic!("encoding {other}"),
            }
        }
    }
    assert!(heard.is_empty(), "{:?}", &heard[..heard.len().min(16)]);
    found
}

/// CVE-2026-48002, CVE-2026-48003: statistics of how often parts of the picture change were kept for its old size when the guest
/// changed it. CVE-2015-5225: the same for the parts that had changed.
#[test]
fn out_of_bounds_access_after_a_picture_changes_its_size() {
    for encodings in [&[0][..], &[0, -223]] {
        let mut b = Bench::new(Password::None);
        let mut size = (200, 100);
        let mut client = b.viewer(encodings);
        let mut rectangles = 0;
        for round in 0..200usize {
            let (width, height) = (1 + round * 37 % 500, 1 + round * 91 % 300);
            b.picture.draw(width, height, |x, y| (x * y + round) as u32);
            // The first answer is the new size, the second one the picture, which may have changed again meanwhile.
            for again in 0..2 {
                // All of the largest picture there can be, or what has changed in it.
                b.say(&mut client, &[3, u8::from(round % 3 != 0), 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
                if round % 4 == again {
                    b.picture.draw(height, width, |x, y| (x ^ y) as u32);
                }
                b.wait(FAST);
                let heard = b.heard(&mut client);
                rectangles += raw_rectangles(&heard, &mut size).len();
            }
        }
        assert!(rectangles > 50, "{rectangles}");
    }
}
