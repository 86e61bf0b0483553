//! The output queue: the controller's answers, the devices' answers, input.
use super::*;
use bulkhead_bus::Clock;
use std::collections::BTreeSet;

/// All bytes that a guest can read now, and whether they come from the mouse.
pub(super) fn drain(p: &mut Ps2, cx: &mut Context) -> Vec<(u8, bool)> {
    let mut bytes = Vec::new();
    loop {
        let status = p.read(Access::new(1, 0, 1), cx).unwrap();
        if status & 1 == 0 {
            return bytes;
        }
        assert!(bytes.len() < 1000, "there is no end");
        bytes.push((p.read(Access::new(0, 0, 1), cx).unwrap() as u8, status & 0x20 != 0));
    }
}

/// Advances the time and runs due timers.
fn pass(p: &mut Ps2, cx: &mut Context, ms: u64) {
    for _ in 0..ms {
        cx.clock = Clock::Driven(cx.now() + 1_000_000);
        while let Some(timer) = cx.timers.take_due(cx.now()) {
            p.poll(Ready::Timer(timer), cx);
        }
    }
}

/// All bytes that the guest reads until no timer is left.
fn everything(p: &mut Ps2, cx: &mut Context) -> Vec<(u8, bool)> {
    let mut bytes = Vec::new();
    for _ in 0..100 {
        bytes.extend(drain(p, cx));
        pass(p, cx, 110);
    }
    bytes
}

fn press(p: &mut Ps2, cx: &mut Context, code: u16) {
    p.input(InputEvent::Key { code, down: true }, cx);
    p.input(InputEvent::Key { code, down: false }, cx);
}

pub(super) fn mouse_command(p: &mut Ps2, cx: &mut Context, byte: u8) {
    write(p, cx, 1, 0xd4);
    write(p, cx, 0, byte);
}

/// Decodes a stream of set 1, which must be complete: keys that are down, and the number of presses.
#[derive(Default)]
struct Guest {
    prefix: bool,
    pause: u8,
    down: BTreeSet<(bool, u8)>,
    strokes: usize,
}

impl Guest {
    fn byte(&mut self, byte: u8) {
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        match (self.prefix, byte) {
            (false, 0xe0) => self.prefix = true,
            (false, 0xe1) => self.pause = 5,
            (true, 0x2a | 0xaa | 0x36 | 0xb6) => self.prefix = false,
            (false, 0xf1 | 0xf2) => self.strokes += 1,
            (prefix, code) => {
                assert!(code != 0xe0 && code != 0xe1, "a key was torn");
                self.prefix = false;
                if code & 0x80 == 0 {
                    self.down.insert((prefix, code));
                    self.strokes += 1;
                } else {
                    self.down.remove(&(prefix, code & 0x7f));
                }
            }
        }
    }
}

#[test]
fn typing_in_the_firmware_leaves_16_bytes_at_most_and_no_key_pressed() {
    let (mut p, mut cx) = controller();
    mouse_command(&mut p, &mut cx, 0xf4);
    drain(&mut p, &mut cx);
    for i in 0..40u16 {
        press(&mut p, &mut cx, 2 + i % 30);
        p.input(InputEvent::Move { dx: 700, dy: 3, dz: 0 }, &mut cx);
        p.input(InputEvent::Button { button: 0, down: i & 1 == 0 }, &mut cx);
    }
    // Linux reads until the buffer is empty, and after 16 bytes assumes that there is no controller.
    let first = drain(&mut p, &mut cx);
    assert!((8..=16).contains(&first.len()), "{first:02x?}");
    // The rest follows later, never more than that at once.
    let (mut keys, mut guest) = (0, Guest::default());
    first.iter().filter(|(_, aux)| !aux).for_each(|(byte, _)| guest.byte(*byte));
    for _ in 0..100 {
        pass(&mut p, &mut cx, 110);
        let more = drain(&mut p, &mut cx);
        assert!(more.len() <= 16, "{more:02x?}");
        keys += more.iter().filter(|(_, aux)| !aux).count();
        more.iter().filter(|(_, aux)| !aux).for_each(|(byte, _)| guest.byte(*byte));
    }
    assert!(guest.down.is_empty() && keys > 40, "{:02x?} are down", guest.down);
    assert_eq!(p.mouse.dx, 0, "nothing is left to tell");
}

#[test]
fn sixteen_bytes_are_the_limit_also_of_keys_that_are_held_and_of_the_mouse_alone() {
    let (mut p, mut cx) = controller();
    for code in 2..60 {
        p.input(InputEvent::Key { code, down: true }, &mut cx);
    }
    for code in 2..60 {
        p.input(InputEvent::Key { code, down: false }, &mut cx);
    }
    assert!(drain(&mut p, &mut cx).len() <= 16);
    let (mut p, mut cx) = controller();
    mouse_command(&mut p, &mut cx, 0xf4);
    drain(&mut p, &mut cx);
    p.input(InputEvent::Move { dx: 4000, dy: 0, dz: 0 }, &mut cx);
    let first = drain(&mut p, &mut cx);
    assert!(first.len() <= 16 && first.len() % 3 == 0, "whole packets: {first:02x?}");
    let moved: i32 =
        first.iter().chain(&everything(&mut p, &mut cx)).skip(1).step_by(3).map(|(b, _)| i32::from(*b)).sum();
    assert_eq!(moved, 4000);
}

#[test]
fn a_click_has_room_behind_unread_movement() {
    let (mut p, mut cx) = controller();
    mouse_command(&mut p, &mut cx, 0xf4);
    drain(&mut p, &mut cx);
    for _ in 0..100 {
        p.input(InputEvent::Move { dx: 9, dy: 0, dz: 0 }, &mut cx);
    }
    p.input(InputEvent::Button { button: 0, down: true }, &mut cx);
    p.input(InputEvent::Button { button: 0, down: false }, &mut cx);
    let all = everything(&mut p, &mut cx);
    let packets: Vec<_> = all.chunks(3).map(|c| (c[0].0, i32::from(c[1].0))).collect();
    assert_eq!(packets.iter().map(|p| p.1).sum::<i32>(), 900);
    assert!(packets.windows(2).any(|w| (w[0].0, w[1].0) == (9, 8)), "{packets:?}");
}

/// A burst of clicks that exceeds 16 bytes. Each is reported at its position, also after a restart.
#[test]
fn clicks_in_a_burst_are_all_reported_in_order_and_at_their_places() {
    for restart in [false, true] {
        let (mut p, mut cx) = controller();
        mouse_command(&mut p, &mut cx, 0xf4);
        drain(&mut p, &mut cx);
        let mut want = Vec::new();
        for i in 0..12u8 {
            p.input(InputEvent::Move { dx: i32::from(i) + 1, dy: 0, dz: 0 }, &mut cx);
            p.input(InputEvent::Button { button: i % 3, down: true }, &mut cx);
            p.input(InputEvent::Button { button: i % 3, down: false }, &mut cx);
            want.extend([1 << (i % 3), 0]);
        }
        if restart {
            let state = p.save();
            p = Ps2::new();
            p.load(&state, &mut cx).unwrap();
            assert_eq!(p.save(), state);
        }
        let (mut at, mut before, mut got, mut places) = (0, 0, Vec::new(), Vec::new());
        for packet in everything(&mut p, &mut cx).chunks(3) {
            at += i32::from(packet[1].0);
            let buttons = packet[0].0 & 7;
            if buttons != before {
                got.push(buttons);
                places.push(at);
            }
            before = buttons;
        }
        assert_eq!(got, want);
        let mut place = 0;
        for (i, pair) in places.chunks(2).enumerate() {
            place += i as i32 + 1;
            assert_eq!(pair, [place, place], "click {i}");
        }
    }
}

#[test]
fn a_disabled_mouse_with_packets_leaves_the_keyboard_its_room() {
    let (mut p, mut cx) = controller();
    write(&mut p, &mut cx, 1, 0x60);
    write(&mut p, &mut cx, 0, 0x03);
    mouse_command(&mut p, &mut cx, 0xf4);
    drain(&mut p, &mut cx);
    for i in 0..10 {
        p.input(InputEvent::Button { button: 0, down: i % 2 != 0 }, &mut cx);
    }
    assert_eq!(data(&mut p, &mut cx), Some(8));
    // The second byte of the packet is in the output buffer, the third follows it.
    write(&mut p, &mut cx, 1, 0xa7);
    p.input(InputEvent::Move { dx: 100, dy: 0, dz: 0 }, &mut cx);
    assert_eq!(drain(&mut p, &mut cx), [(0, true)]);
    press(&mut p, &mut cx, 119);
    press(&mut p, &mut cx, 30);
    assert_eq!(drain(&mut p, &mut cx).len(), 11, "Pause and a letter");
    for code in 2..20 {
        press(&mut p, &mut cx, code);
    }
    write(&mut p, &mut cx, 1, 0xa8);
    let all = drain(&mut p, &mut cx);
    assert!(all.len() <= 16 && all.contains(&(0, true)), "{all:02x?}");
    let packets: Vec<u8> = std::iter::once((0, true))
        .chain(all)
        .chain(everything(&mut p, &mut cx))
        .filter(|(_, aux)| *aux)
        .map(|(b, _)| b)
        .collect();
    let whole: Vec<_> = packets[2..].chunks(3).map(|c| (c[0] & 0xfe, c[1], c[2])).collect();
    assert!(!whole.is_empty() && whole.iter().all(|w| *w == (8, 0, 0) || *w == (8, 100, 0)), "{packets:02x?}");
}

#[test]
fn an_answer_comes_before_input_but_for_one_byte() {
    // A command's bytes, and its translated answer.
    let keyboard: &[(&[u8], &[u8])] = &[
        (&[0xed], &[0xfa]),
        (&[0xed, 2], &[0xfa, 0xfa]),
        (&[0xee], &[0xee]),
        (&[0xf0, 2], &[0xfa, 0xfa]),
        (&[0xf2], &[0xfa, 0xab, 0x41]),
        (&[0xf3, 0], &[0xfa, 0xfa]),
        (&[0xf4], &[0xfa]),
        (&[0xf5], &[0xfa]),
        (&[0xf6], &[0xfa]),
        (&[0xff], &[0xfa, 0xaa]),
        (&[0x12], &[0xfe]),
    ];
    let mouse: &[(&[u8], &[u8])] = &[
        (&[0xf2], &[0xfa, 0]),
        (&[0xe9], &[0xfa, 0x20, 2, 100]),
        (&[0xf3, 60], &[0xfa, 0xfa]),
        (&[0xe8, 1], &[0xfa, 0xfa]),
        (&[0xf4], &[0xfa]),
        (&[0xf5], &[0xfa]),
        (&[0xff], &[0xfa, 0xaa, 0]),
    ];
    for (of_mouse, (command, answer)) in keyboard.iter().map(|c| (false, c)).chain(mouse.iter().map(|c| (true, c))) {
        for read in 0..6 {
            let (mut p, mut cx) = controller();
            mouse_command(&mut p, &mut cx, 0xf4);
            drain(&mut p, &mut cx);
            for code in [103, 30, 48, 119, 31] {
                press(&mut p, &mut cx, code);
            }
            p.input(InputEvent::Move { dx: 3, dy: 0, dz: 0 }, &mut cx);
            let mut guest = Guest::default();
            let mut take = |bytes: &[(u8, bool)]| bytes.iter().filter(|b| !b.1).for_each(|b| guest.byte(b.0));
            for _ in 0..read {
                let byte = data(&mut p, &mut cx).unwrap();
                take(&[(byte, false)]);
            }
            for byte in *command {
                if of_mouse {
                    write(&mut p, &mut cx, 1, 0xd4);
                }
                write(&mut p, &mut cx, 0, *byte);
            }
            let all = drain(&mut p, &mut cx);
            let want: Vec<(u8, bool)> = answer.iter().map(|byte| (*byte, of_mouse)).collect();
            assert_eq!(all[1..=want.len()], want, "{command:02x?} after {read} bytes: {all:02x?}");
            take(&all[..1]);
            take(&all[want.len() + 1..]);
            if !matches!(command[0], 0xf5 | 0xf6 | 0xff) {
                take(&everything(&mut p, &mut cx));
                assert!(guest.down.is_empty() && !guest.prefix, "{command:02x?} after {read} bytes");
            }
        }
    }
}

#[test]
fn a_command_while_the_output_buffer_is_full_loses_no_byte() {
    // A command of the controller, its parameter, its answer.
    for (command, parameter, answer) in [
        (0x20, None, Some((0x03, false))),
        (0xa9, None, Some((0x00, false))),
        (0xaa, None, Some((0x55, false))),
        (0xab, None, Some((0x00, false))),
        (0xc0, None, Some((0x80, false))),
        (0xd0, None, Some((0xdf, false))),
        (0xd2, Some(0x77), Some((0x77, false))),
        (0xd3, Some(0x78), Some((0x78, true))),
        (0xa8, None, None),
        (0xae, None, None),
        (0x60, Some(0x03), None),
        (0xd1, Some(0xcf), None),
    ] {
        let (mut p, mut cx) = controller();
        write(&mut p, &mut cx, 1, 0x60);
        write(&mut p, &mut cx, 0, 0x03);
        press(&mut p, &mut cx, 30);
        // A key, an answer of the keyboard, the controller's.
        write(&mut p, &mut cx, 0, 0xee);
        write(&mut p, &mut cx, 1, command);
        if let Some(value) = parameter {
            write(&mut p, &mut cx, 0, value);
        }
        let mut want = vec![(0x1c, false)];
        want.extend(answer);
        want.extend([(0xee, false), (0xf0, false), (0x1c, false)]);
        assert_eq!(drain(&mut p, &mut cx), want, "{command:#x}");
    }
    // The output port reports the mouse's byte, as the status does.
    let (mut p, mut cx) = controller();
    mouse_command(&mut p, &mut cx, 0xf2);
    write(&mut p, &mut cx, 1, 0xd0);
    assert_eq!(drain(&mut p, &mut cx), [(0xfa, true), (0xef, false), (0, true)]);
}

#[test]
fn a_release_without_room_is_sent_later_also_after_a_restart_and_a_disabled_keyboard() {
    let (mut p, mut cx) = controller();
    p.input(InputEvent::Key { code: 42, down: true }, &mut cx);
    assert_eq!(drain(&mut p, &mut cx), [(0x2a, false)]);
    for i in 0..200 {
        press(&mut p, &mut cx, 16 + i % 20);
    }
    p.input(InputEvent::Key { code: 42, down: false }, &mut cx);
    let (mut next, mut other) = controller();
    next.load(&p.save(), &mut other).unwrap();
    for (p, cx) in [(&mut p, &mut cx), (&mut next, &mut other)] {
        let all = everything(p, cx);
        assert_eq!(all.last(), Some(&(0xaa, false)));
        assert_eq!(p.keyboard.down, []);
    }
    // The keyboard is disabled while the key is released.
    p.input(InputEvent::Key { code: 29, down: true }, &mut cx);
    write(&mut p, &mut cx, 0, 0xf5);
    p.input(InputEvent::Key { code: 29, down: false }, &mut cx);
    press(&mut p, &mut cx, 30);
    assert_eq!(everything(&mut p, &mut cx), [(0x1d, false), (0xfa, false)]);
    write(&mut p, &mut cx, 0, 0xf4);
    assert_eq!(everything(&mut p, &mut cx), [(0xfa, false), (0x9d, false)]);
}

#[test]
fn a_state_of_version_1_is_taken_over_with_all_that_waits() {
    let old = include_bytes!("../../../tests/golden/ps2-1.state");
    let (mut p, mut cx) = controller();
    p.load(old, &mut cx).unwrap();
    assert_eq!(drain(&mut p, &mut cx), [(0xfa, false), (0xfa, false), (0xfa, true)]);
    assert_eq!((p.keyboard.set, p.keyboard.enabled, p.mouse.rate, p.mouse.reporting), (2, true, 100, true));
    let (mut next, mut other) = controller();
    next.load(&p.save(), &mut other).unwrap();
    assert_eq!(next.save(), p.save());
}

/// A step of the property tests.
#[derive(Clone, Debug)]
enum Step {
    Key(u16, bool),
    Move(i32),
    Read(u8),
    Pass(u8),
    Controller(u8),
    Keyboard(u8),
    Mouse(u8),
    Buffer(bool),
    Life,
}

fn steps(commands: bool) -> impl Strategy<Value = Vec<Step>> {
    let keys = prop::sample::select(vec![30u16, 31, 42, 54, 29, 56, 97, 98, 99, 103, 110, 119, 122, 85, 116]);
    let input = prop_oneof![
        8 => (keys, any::<bool>()).prop_map(|(code, down)| Step::Key(code, down)),
        2 => (-900i32..900).prop_map(Step::Move),
        4 => (0u8..9).prop_map(Step::Read),
        2 => (0u8..12).prop_map(Step::Pass),
        1 => Just(Step::Life),
    ];
    let command = prop_oneof![
        prop::sample::select(vec![0xadu8, 0xae, 0xa7, 0xa8, 0xaa]).prop_map(Step::Controller),
        prop::sample::select(vec![0xedu8, 0xf2, 0xf4, 0xf5, 0xff, 0x01]).prop_map(Step::Keyboard),
        prop::sample::select(vec![0xf2u8, 0xf4, 0xf5, 0xeb]).prop_map(Step::Mouse),
        any::<bool>().prop_map(Step::Buffer),
    ];
    let some = if commands { 3 } else { 0 };
    prop::collection::vec(prop_oneof![7 => input, some => command], 0..150)
}

fn step(p: &mut Ps2, cx: &mut Context, step: &Step) -> Vec<(u8, bool)> {
    match step {
        Step::Key(code, down) => p.input(InputEvent::Key { code: *code, down: *down }, cx),
        Step::Move(dx) => p.input(InputEvent::Move { dx: *dx, dy: 0, dz: 0 }, cx),
        Step::Read(n) => {
            let mut bytes = Vec::new();
            for _ in 0..*n {
                let status = p.read(Access::new(1, 0, 1), cx).unwrap();
                let byte = p.read(Access::new(0, 0, 1), cx).unwrap() as u8;
                if status & 1 != 0 {
                    bytes.push((byte, status & 0x20 != 0));
                }
            }
            return bytes;
        }
        Step::Pass(ms) => pass(p, cx, u64::from(*ms)),
        Step::Controller(code) => write(p, cx, 1, *code),
        Step::Keyboard(byte) => write(p, cx, 0, *byte),
        Step::Mouse(byte) => mouse_command(p, cx, *byte),
        Step::Buffer(mouse) => {
            write(p, cx, 1, if *mouse { 0xd3 } else { 0xd2 });
            write(p, cx, 0, if *mouse { 0x72 } else { 0x71 });
        }
        Step::Life => {
            let (mut next, mut other) = controller();
            other.clock = cx.clock;
            next.load(&p.save(), &mut other).unwrap();
            (*p, *cx) = (next, other);
        }
    }
    Vec::new()
}

proptest! {
    #[test]
    fn nothing_is_torn_no_key_stays_down_and_no_more_than_16_bytes_wait(steps in steps(false)) {
        let (mut p, mut cx) = controller();
        mouse_command(&mut p, &mut cx, 0xf4);
        drain(&mut p, &mut cx);
        let (mut guest, mut packets) = (Guest::default(), Vec::new());
        let mut held = BTreeSet::new();
        for s in &steps {
            if let Step::Key(code, down) = s {
                if *down { held.insert(*code); } else { held.remove(code); }
            }
            let read = step(&mut p, &mut cx, s);
            read.iter().for_each(|(byte, aux)| if *aux { packets.push(*byte) } else { guest.byte(*byte) });
            // All bytes that a guest could read now.
            let (mut copy, mut other) = controller();
            other.clock = cx.clock;
            copy.load(&p.save(), &mut other).unwrap();
            prop_assert!(drain(&mut copy, &mut other).len() <= 16);
        }
        for code in held {
            step(&mut p, &mut cx, &Step::Key(code, false));
        }
        everything(&mut p, &mut cx).iter().for_each(|(byte, aux)| if *aux { packets.push(*byte) } else { guest.byte(*byte) });
        prop_assert!(guest.down.is_empty() && !guest.prefix && guest.pause == 0, "{:02x?} are down", guest.down);
        prop_assert!(packets.chunks(3).all(|c| c.len() == 3 && c[0] & 0xc8 == 8), "{:02x?}", packets);
    }

    #[test]
    fn the_status_says_whose_the_byte_is(steps in steps(true)) {
        let (mut p, mut cx) = controller();
        // Without translation, and with keys and movement whose bytes differ.
        write(&mut p, &mut cx, 1, 0x60);
        write(&mut p, &mut cx, 0, 0x03);
        for s in &steps {
            let s = match s {
                Step::Key(_, down) => Step::Key(30, *down),
                Step::Move(_) => Step::Move(0),
                other => other.clone(),
            };
            for (byte, aux) in step(&mut p, &mut cx, &s) {
                let whose: &[u8] = match aux {
                    true => &[0xfa, 0x00, 0x08, 0x72],
                    false => &[0xfa, 0xaa, 0xfe, 0xab, 0x83, 0x1c, 0xf0, 0x55, 0x71],
                };
                prop_assert!(whose.contains(&byte), "{byte:#x} of {}", if aux { "the mouse" } else { "the keyboard" });
            }
            let full = p.status.obf();
            prop_assert!(full || !p.status.aux(), "the mouse's bit without a byte");
            prop_assert_eq!(cx.lines.level(KEYBOARD), full && !p.status.aux() && p.byte.keyboard_interrupt());
            prop_assert_eq!(cx.lines.level(MOUSE), full && p.status.aux() && p.byte.mouse_interrupt());
        }
    }
}

#[test]
fn a_state_cannot_have_the_mouses_bit_without_a_byte() {
    let (mut p, mut cx) = controller();
    for (status, want) in [(0x34, 0x14), (0xff, 0x3d), (0x14, 0x14)] {
        p.status = Status::from_bits(status);
        let saved = p.save();
        p.load(&saved, &mut cx).unwrap();
        assert_eq!(p.status.into_bits(), want, "{status:#x}");
        assert_eq!(cx.lines.level(MOUSE), want & 0x21 == 0x21);
    }
}
