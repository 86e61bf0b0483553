mod commands;
mod keys;
mod queue;

use super::*;
use bulkhead_bus::fake;
use proptest::prelude::*;

fn controller() -> (Ps2, Context) {
    (Ps2::new(), fake::context(0))
}

fn data(p: &mut Ps2, cx: &mut Context) -> Option<u8> {
    let full = p.read(Access::new(1, 0, 1), cx).unwrap() & 1 != 0;
    full.then(|| p.read(Access::new(0, 0, 1), cx).unwrap() as u8)
}

fn all(p: &mut Ps2, cx: &mut Context) -> Vec<u8> {
    std::iter::from_fn(|| data(p, cx)).take(200).collect()
}

fn write(p: &mut Ps2, cx: &mut Context, region: u16, value: u8) {
    p.write(Access::new(region, 0, 1), u64::from(value), cx).unwrap();
}

#[test]
fn self_tests_and_identities() {
    let (mut p, mut cx) = controller();
    write(&mut p, &mut cx, 1, 0xaa);
    assert_eq!(all(&mut p, &mut cx), [0x55]);
    write(&mut p, &mut cx, 1, 0xab);
    assert_eq!(all(&mut p, &mut cx), [0x00]);
    write(&mut p, &mut cx, 0, 0xff);
    assert_eq!(all(&mut p, &mut cx), [0xfa, 0xaa]);
    write(&mut p, &mut cx, 1, 0x60);
    write(&mut p, &mut cx, 0, 0x03);
    write(&mut p, &mut cx, 0, 0xf2);
    assert_eq!(all(&mut p, &mut cx), [0xfa, 0xab, 0x83], "without translation");
    write(&mut p, &mut cx, 1, 0xd4);
    write(&mut p, &mut cx, 0, 0xff);
    assert_eq!(p.read(Access::new(1, 0, 1), &mut cx).unwrap() & 0x20, 0x20, "from the mouse");
    assert_eq!(all(&mut p, &mut cx), [0xfa, 0xaa, 0x00]);
}

#[test]
fn keys_arrive_in_set_1_with_translation_and_in_set_2_without() {
    let (mut p, mut cx) = controller();
    let press = |p: &mut Ps2, cx: &mut Context, code| {
        p.input(InputEvent::Key { code, down: true }, cx);
        p.input(InputEvent::Key { code, down: false }, cx);
    };
    press(&mut p, &mut cx, 30);
    assert!(cx.lines.level(KEYBOARD));
    assert_eq!(all(&mut p, &mut cx), [0x1e, 0x9e]);
    assert!(!cx.lines.level(KEYBOARD));
    press(&mut p, &mut cx, 103);
    press(&mut p, &mut cx, 65);
    assert_eq!(all(&mut p, &mut cx), [0xe0, 0x48, 0xe0, 0xc8, 0x41, 0xc1]);
    press(&mut p, &mut cx, 119);
    assert_eq!(all(&mut p, &mut cx), [0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]);
    write(&mut p, &mut cx, 1, 0x60);
    write(&mut p, &mut cx, 0, 0x01);
    press(&mut p, &mut cx, 30);
    assert_eq!(all(&mut p, &mut cx), [0x1c, 0xf0, 0x1c]);
}

#[test]
fn set_3_has_a_byte_for_each_key_and_keys_do_what_the_guest_says() {
    let (mut p, mut cx) = controller();
    let keyboard = |p: &mut Ps2, cx: &mut Context, bytes: &[u8]| {
        for byte in bytes {
            write(p, cx, 0, *byte);
            assert_eq!(all(p, cx), [0xfa], "{byte:#x}");
        }
    };
    let press = |p: &mut Ps2, cx: &mut Context, code| {
        p.input(InputEvent::Key { code, down: true }, cx);
        p.input(InputEvent::Key { code, down: false }, cx);
        all(p, cx)
    };
    write(&mut p, &mut cx, 1, 0x60);
    write(&mut p, &mut cx, 0, 0x01);
    keyboard(&mut p, &mut cx, &[0xf0, 3]);
    write(&mut p, &mut cx, 0, 0xf0);
    write(&mut p, &mut cx, 0, 0);
    assert_eq!(all(&mut p, &mut cx), [0xfa, 0xfa, 3]);
    // Letters, arrows and Pause do not report their release, Shift does.
    assert_eq!(
        [30, 103, 119, 125].map(|code| press(&mut p, &mut cx, code)),
        [vec![0x1c], vec![0x63], vec![0x62], vec![0x8b]]
    );
    assert_eq!(press(&mut p, &mut cx, 42), [0x12, 0xf0, 0x12]);
    // All keys report press and release, as Linux sets them.
    keyboard(&mut p, &mut cx, &[0xf8]);
    assert_eq!(press(&mut p, &mut cx, 30), [0x1c, 0xf0, 0x1c]);
    // Two keys, until a command follows.
    keyboard(&mut p, &mut cx, &[0xfd, 0x1c, 0x63, 0xf4]);
    assert_eq!(
        [30, 103, 48].map(|code| press(&mut p, &mut cx, code)),
        [vec![0x1c], vec![0x63], vec![0x32, 0xf0, 0x32]]
    );
    let state = p.save();
    let (mut next, mut other) = controller();
    next.load(&state, &mut other).unwrap();
    assert_eq!(
        (next.save() == state, press(&mut next, &mut other, 103), press(&mut next, &mut other, 48)),
        (true, vec![0x63], vec![0x32, 0xf0, 0x32])
    );
    keyboard(&mut p, &mut cx, &[0xf6]);
    assert_eq!(press(&mut p, &mut cx, 30), [0x1c, 0xf0, 0x1c], "set 2 again");
}

#[test]
fn a_held_key_repeats_by_the_viewers_messages_at_the_guests_rate() {
    let (mut p, mut cx) = controller();
    let down = |p: &mut Ps2, cx: &mut Context, code, ms: u64| {
        cx.clock = bulkhead_bus::Clock::Driven(ms * 1_000_000);
        p.input(InputEvent::Key { code, down: true }, cx);
        all(p, cx).len()
    };
    // A viewer repeats a key every 30 ms from 250 ms on, for two seconds: the guest gets eleven a second after half a second.
    let said = |p: &mut Ps2, cx: &mut Context, from: u64| {
        let first = down(p, cx, 30, from);
        let repeated: usize = (from + 250..from + 2000).step_by(30).map(|ms| down(p, cx, 30, ms)).sum();
        p.input(InputEvent::Key { code: 30, down: false }, cx);
        (first, repeated, all(p, cx).len())
    };
    let (first, repeated, last) = said(&mut p, &mut cx, 0);
    assert!(first == 1 && last == 1 && (12..=17).contains(&repeated), "{repeated}");
    assert_eq!(
        (down(&mut p, &mut cx, 31, 3000), down(&mut p, &mut cx, 31, 3490), down(&mut p, &mut cx, 31, 3500)),
        (1, 0, 1),
        "after half a second"
    );
    // The fastest rate, after a quarter of a second.
    for byte in [0xf3, 0] {
        write(&mut p, &mut cx, 0, byte);
    }
    all(&mut p, &mut cx);
    let (_, repeated, _) = said(&mut p, &mut cx, 5000);
    assert!((28..=59).contains(&repeated), "{repeated}");
    // Another key replaces the repeated one; a key that was released is new at once.
    assert_eq!(
        (down(&mut p, &mut cx, 30, 9000), down(&mut p, &mut cx, 48, 9001), down(&mut p, &mut cx, 48, 9002)),
        (1, 1, 0)
    );
    p.input(InputEvent::Key { code: 48, down: false }, &mut cx);
    all(&mut p, &mut cx);
    assert_eq!(down(&mut p, &mut cx, 48, 9003), 1);
}

#[test]
fn every_key_of_set_1_survives_the_way_through_set_2() {
    for code in 1..=83u16 {
        let (mut p, mut cx) = controller();
        p.input(InputEvent::Key { code, down: true }, &mut cx);
        assert_eq!(all(&mut p, &mut cx), [code as u8], "code {code}");
    }
}

#[test]
fn each_byte_gives_an_edge_of_its_own() {
    let (mut p, mut cx) = controller();
    p.input(InputEvent::Key { code: 103, down: true }, &mut cx);
    let before = cx.lines.states().next().unwrap();
    p.read(Access::new(0, 0, 1), &mut cx).unwrap();
    let after = cx.lines.states().next().unwrap();
    assert_eq!((before.0, after.0, after.1), (true, true, before.1 + 1));
}

#[test]
fn the_wheel_appears_after_the_knock_sequence() {
    let (mut p, mut cx) = controller();
    let mut mouse = |bytes: &[u8]| {
        for byte in bytes {
            write(&mut p, &mut cx, 1, 0xd4);
            write(&mut p, &mut cx, 0, *byte);
        }
        all(&mut p, &mut cx)
    };
    assert_eq!(mouse(&[0xf2]), [0xfa, 0]);
    mouse(&[0xf3, 200, 0xf3, 100, 0xf3, 80]);
    assert_eq!(mouse(&[0xf2]), [0xfa, 3]);
    mouse(&[0xf4]);
    p.input(InputEvent::Move { dx: 5, dy: 3, dz: 0 }, &mut cx);
    assert!(cx.lines.level(MOUSE));
    assert_eq!(all(&mut p, &mut cx), [0x28, 5, 0xfd, 0]);
    p.input(InputEvent::Button { button: 0, down: true }, &mut cx);
    p.input(InputEvent::Move { dx: 0, dy: 0, dz: 1 }, &mut cx);
    assert_eq!(all(&mut p, &mut cx), [0x09, 0, 0, 0, 0x09, 0, 0, 1], "the wheel towards the user");
}

#[test]
fn large_movements_come_in_several_packets() {
    let (mut p, mut cx) = controller();
    write(&mut p, &mut cx, 1, 0xd4);
    write(&mut p, &mut cx, 0, 0xf4);
    all(&mut p, &mut cx);
    p.input(InputEvent::Move { dx: 600, dy: 0, dz: 0 }, &mut cx);
    let packets = all(&mut p, &mut cx);
    assert_eq!(packets.chunks(3).map(|c| i32::from(c[1])).sum::<i32>(), 600);
}

#[test]
fn reset_commands_ask_for_a_reboot() {
    let (mut p, mut cx) = controller();
    write(&mut p, &mut cx, 1, 0xff);
    assert!(!cx.effects.bits.reboot());
    write(&mut p, &mut cx, 1, 0xfe);
    assert!(cx.effects.bits.reboot());
}

#[test]
fn a_flood_of_keys_is_bounded_and_releases_are_not_split() {
    // CVE-2017-8379: a keyboard queue that grows with what the user types.
    let (mut p, mut cx) = controller();
    for i in 0..10_000u16 {
        p.input(InputEvent::Key { code: 1 + i / 2 % 80, down: i % 2 == 0 }, &mut cx);
    }
    assert!(p.keyboard.input.len() <= 16 && p.keyboard.waiting.len() <= 128 && p.keyboard.dropped > 4000);
    write(&mut p, &mut cx, 0, 0xee);
    assert!(all(&mut p, &mut cx).contains(&0xee), "commands are still answered");
}

/// In another implementation command 0x3f indexed the controller's RAM one past its end, and accesses of unexpected sizes ended the
/// process.
#[test]
fn out_of_bounds_controller_ram_and_unexpected_accesses() {
    let (mut p, mut cx) = controller();
    for code in (0x20..=0x3f).chain(0x60..=0x7f) {
        write(&mut p, &mut cx, 1, code);
        write(&mut p, &mut cx, 0, 0x55);
        all(&mut p, &mut cx);
    }
    for region in [0, 1] {
        for size in [1, 2, 4, 8] {
            let at = Access::new(region, 0, size);
            let _ = (p.write(at, u64::MAX, &mut cx), p.read(at, &mut cx));
            let mut data = vec![0xff; 64];
            let _ = (p.write_string(at, &data, &mut cx), p.read_string(at, &mut data, &mut cx));
        }
    }
    write(&mut p, &mut cx, 1, 0xaa);
    assert!(all(&mut p, &mut cx).ends_with(&[0x55]), "it still answers");
}

/// CVE-2017-8379: a queue of keys that grew without a limit.
#[test]
fn unbounded_growth_of_the_keyboards_queue() {
    let (mut p, mut cx) = controller();
    for i in 0..10_000u32 {
        p.input(InputEvent::Key { code: (i % 80) as u16 + 1, down: i & 1 == 0 }, &mut cx);
        p.input(InputEvent::Move { dx: 5000, dy: -5000, dz: 100 }, &mut cx);
    }
    assert!(p.keyboard.input.len() <= 16 && p.mouse.waiting() <= 16 && p.save().len() < 600);
}

proptest! {
    #[test]
    fn any_accesses_are_survived_and_the_state_comes_back(
        ops in prop::collection::vec((0u8..5, any::<u8>(), any::<u16>(), any::<i32>()), 0..300),
    ) {
        let (mut p, mut cx) = controller();
        for (what, value, code, by) in ops {
            match what {
                0 => write(&mut p, &mut cx, 0, value),
                1 => write(&mut p, &mut cx, 1, value),
                2 => { p.read(Access::new(u16::from(value & 1), 0, 1), &mut cx).unwrap(); }
                3 => p.input(InputEvent::Key { code: code % 200, down: by > 0 }, &mut cx),
                _ => p.input(InputEvent::Move { dx: by, dy: by.wrapping_mul(3), dz: by & 7 }, &mut cx),
            }
            prop_assert!(p.keyboard.input.len() + p.mouse.waiting() <= 16);
            prop_assert!(p.keyboard.answers.len() <= 16 && p.mouse.answers.len() <= 16 && p.answers.len() <= 16);
            prop_assert!(p.keyboard.waiting.len() <= 512 && p.keyboard.down.len() <= 512);
            let full = p.status.obf();
            prop_assert_eq!(cx.lines.level(KEYBOARD), full && !p.status.aux() && p.byte.keyboard_interrupt());
            prop_assert_eq!(cx.lines.level(MOUSE), full && p.status.aux() && p.byte.mouse_interrupt());
        }
        let (mut other, mut cx) = controller();
        other.load(&p.save(), &mut cx).unwrap();
        prop_assert_eq!(other.save(), p.save());
    }

    #[test]
    fn a_hostile_state_is_refused_or_harmless(state in prop::collection::vec(any::<u8>(), 0..120)) {
        let (mut p, mut cx) = controller();
        let _ = p.load(&state, &mut cx);
        all(&mut p, &mut cx);
    }
}

#[test]
fn state_that_is_reported_only_when_it_changes() {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let ((input, viewers), (told, leds)) = (pipe(), pipe());
    let (mut p, mut cx) = (Ps2::with_viewer(input, Some(leds)), fake::context(0));
    let told = || {
        let mut bytes = [0; 64];
        let n = rustix::io::read(&told, &mut bytes).unwrap_or(0);
        bytes[..n].to_vec()
    };
    write(&mut p, &mut cx, 0, 0xed);
    write(&mut p, &mut cx, 0, 6);
    assert_eq!((told(), p.lights()), (vec![0, 6], Some(6)));
    all(&mut p, &mut cx);
    assert_eq!(told(), []);
    rustix::io::write(&viewers, &InputEvent::ViewersBegin.to_bytes()).unwrap();
    p.poll(Ready::Fd(0), &mut cx);
    assert_eq!(told(), [6], "another process shows the guest");
    assert_eq!(all(&mut p, &mut cx), []);
}

/// A restart is invisible: times and what the mouse has reported are in the state.
#[test]
fn a_restart_changes_neither_times_nor_what_is_reported() {
    let (mut p, mut cx) = controller();
    let again = |p: &Ps2, cx: &Context| {
        let (mut later, mut other) = controller();
        other.clock = cx.clock;
        later.load(&p.save(), &mut other).unwrap();
        assert_eq!((later.save(), other.timers.next()), (p.save(), cx.timers.next()));
        (later, other)
    };
    // A button that is down when the mouse forgets what was before is no news afterwards.
    for command in [0xf4, 0xf5, 0xf6, 0xff] {
        p.input(InputEvent::Button { button: 0, down: true }, &mut cx);
        write(&mut p, &mut cx, 1, 0xd4);
        write(&mut p, &mut cx, 0, command);
        (p, cx) = again(&p, &cx);
        all(&mut p, &mut cx);
        p.input(InputEvent::Button { button: 0, down: false }, &mut cx);
    }
    // Keys wait for the timer, and a held key repeats at its pace.
    for code in 2..30 {
        p.input(InputEvent::Key { code, down: true }, &mut cx);
    }
    cx.clock = bulkhead_bus::Clock::Driven(5);
    all(&mut p, &mut cx);
    assert_eq!(cx.timers.get(KEYS_TIMER), Some(5 + MOMENT));
    cx.clock = bulkhead_bus::Clock::Driven(7);
    (p, cx) = again(&p, &cx);
    cx.timers.set(KEYS_TIMER, None);
    p.poll(Ready::Timer(KEYS_TIMER), &mut cx);
    all(&mut p, &mut cx);
    let mut last = Vec::new();
    for _ in 0..3 {
        p.input(InputEvent::Key { code: 29, down: true }, &mut cx);
        last.push(all(&mut p, &mut cx));
        (p, cx) = again(&p, &cx);
    }
    assert!(last.iter().all(Vec::is_empty), "it is too early for a repetition: {last:?}");
}
