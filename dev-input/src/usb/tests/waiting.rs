//! Queued input of a device, also after a restart of the process.
use super::super::usages::{NOWHERE, USAGES};
use super::*;

fn press(h: &mut Host, code: u16, down: bool) {
    h.usb.ports[0].function.as_mut().unwrap().hid.input(InputEvent::Key { code, down });
}

fn take_over(h: &mut Host, devices: &[UsbDevice]) {
    let saved = h.usb.save();
    h.usb = Uhci::new((1, 2), devices, None, None);
    h.usb.load(&saved, &mut h.cx).unwrap();
    assert_eq!(h.usb.save(), saved);
}

/// All reports that the host can read.
fn reports(h: &mut Host) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let done = h.queue(1, 1, &[(pid::IN, &[], 8)]).remove(0);
        if done.0.active() {
            return all;
        }
        all.push(done.1);
    }
}

#[test]
fn every_key_up_to_127_has_a_usage_of_its_own_or_is_on_no_keyboard() {
    let mut seen = std::collections::BTreeSet::new();
    for (code, usage) in USAGES.iter().enumerate() {
        if *usage == 0 {
            assert!(code > 127 || NOWHERE.contains(&(code as u16)), "key {code} has no usage");
        } else {
            assert!(!NOWHERE.contains(&(code as u16)) && seen.insert(*usage), "key {code} has another's {usage:#x}");
        }
    }
    // International 1 to 6, Lang 1 to 5, the keypad's comma and =, volume, power.
    let want = [(89, 0x87), (93, 0x88), (124, 0x89), (92, 0x8a), (94, 0x8b), (95, 0x8c), (122, 0x90), (123, 0x91)];
    let more = [
        (90, 0x92),
        (91, 0x93),
        (85, 0x94),
        (121, 0x85),
        (117, 0x67),
        (113, 0x7f),
        (115, 0x80),
        (114, 0x81),
        (116, 0x66),
    ];
    for (code, usage) in want.into_iter().chain(more) {
        assert_eq!(USAGES[code], usage, "key {code}");
    }
}

#[test]
fn no_key_stays_down_when_more_is_typed_than_is_read() {
    let mut h = Host::new(&[UsbDevice::Keyboard]);
    h.configure(0, 1);
    press(&mut h, 42, true);
    assert_eq!(reports(&mut h), [[2, 0, 0, 0, 0, 0, 0, 0]]);
    for i in 0..500 {
        press(&mut h, 16 + i % 20, i / 20 % 2 == 0);
        press(&mut h, 2 + i % 3, true);
    }
    for code in [42].into_iter().chain(1..60) {
        press(&mut h, code, false);
    }
    assert!(h.usb.ports[0].function.as_ref().unwrap().hid.keys.len() < 256);
    assert_eq!(reports(&mut h).last().unwrap(), &[0; 8]);
    // A key that a viewer repeats is not reported again.
    (0..5).for_each(|_| press(&mut h, 30, true));
    assert_eq!(reports(&mut h).len(), 1);
}

#[test]
fn keys_positions_and_a_control_transfer_survive_a_restart() {
    let mut h = Host::new(&[UsbDevice::Keyboard]);
    h.configure(0, 1);
    for code in [42, 30] {
        press(&mut h, code, true);
    }
    h.queue(1, 1, &[(pid::IN, &[], 8)]);
    press(&mut h, 48, true);
    press(&mut h, 30, false);
    take_over(&mut h, &[UsbDevice::Keyboard]);
    assert_eq!(reports(&mut h), [[2, 0, 4, 0, 0, 0, 0, 0], [2, 0, 4, 5, 0, 0, 0, 0], [2, 0, 5, 0, 0, 0, 0, 0]]);
    press(&mut h, 42, false);
    take_over(&mut h, &[UsbDevice::Keyboard]);
    assert_eq!(reports(&mut h), [[0, 0, 5, 0, 0, 0, 0, 0]]);
    // Between the packets of a transfer, both ways.
    h.queue(1, 0, &[(pid::SETUP, &[0x80, 6, 0, descriptor::DEVICE, 0, 0, 18, 0], 8)]);
    let mut device = h.queue(1, 0, &[(pid::IN, &[], 8)])[0].1.clone();
    take_over(&mut h, &[UsbDevice::Keyboard]);
    device.extend(h.queue(1, 0, &[(pid::IN, &[], 8)])[0].1.clone());
    assert_eq!((device.len(), device[0], device[8]), (16, 18, 0x27));
    h.queue(1, 0, &[(pid::SETUP, &[0x21, 9, 0, 2, 0, 0, 1, 0], 8)]);
    take_over(&mut h, &[UsbDevice::Keyboard]);
    h.queue(1, 0, &[(pid::OUT, &[3], 1)]);
    take_over(&mut h, &[UsbDevice::Keyboard]);
    assert!(!h.queue(1, 0, &[(pid::IN, &[], 0)])[0].0.stalled());
    assert_eq!(h.usb.ports[0].function.as_ref().unwrap().hid.leds, 3);
    // A tablet.
    let mut h = Host::new(&[UsbDevice::Tablet]);
    h.configure(0, 1);
    for event in [InputEvent::At { x: 7, y: 9 }, InputEvent::Button { button: 0, down: true }] {
        h.usb.ports[0].function.as_mut().unwrap().hid.input(event);
    }
    take_over(&mut h, &[UsbDevice::Tablet]);
    assert_eq!(reports(&mut h), [[0, 7, 0, 9, 0, 0], [1, 7, 0, 9, 0, 0]]);
    take_over(&mut h, &[UsbDevice::Tablet]);
    h.usb.ports[0].function.as_mut().unwrap().hid.input(InputEvent::Button { button: 0, down: false });
    assert_eq!(reports(&mut h), [[0, 7, 0, 9, 0, 0]]);
}

#[test]
fn typed_keys_are_queued_at_once() {
    let mut h = Host::new(&[UsbDevice::Keyboard]);
    let (input, keys) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    h.usb.input = Some(input);
    h.configure(0, 1);
    h.usb.checkpoint();
    rustix::io::write(&keys, &InputEvent::Key { code: 30, down: true }.to_bytes()).unwrap();
    h.usb.poll(Ready::Fd(INPUT), &mut h.cx);
    assert!(h.usb.checkpoint().is_some());
}

#[test]
fn movement_beyond_the_range_is_the_same_after_a_restart() {
    let devices = [UsbDevice::Mouse];
    let mut h = Host::new(&devices);
    let mouse = &mut h.usb.ports[0].function.as_mut().unwrap().hid;
    mouse.input(InputEvent::Move { dx: -0x8000, dy: 0x8000, dz: 0 });
    take_over(&mut h, &devices);
}

#[test]
fn a_frame_that_has_begun_continues_after_a_restart() {
    let mut h = Host::new(&[]);
    h.cx.clock = Clock::Driven(5 * FRAME + 7);
    let mut later = Uhci::new((1, 2), &[], None, None);
    let mut cx = fake::context(0);
    cx.clock = h.cx.clock;
    later.load(&h.usb.save(), &mut cx).unwrap();
    assert_eq!((later.read_register(reg::FRAME_NUMBER, &cx), cx.timers.next()), (5, h.cx.timers.next()));
    assert_eq!(later.save(), h.usb.save());
    // On a machine whose clock is earlier the next batch comes in time.
    h.usb.run(&mut h.cx);
    cx.clock = Clock::Driven(1);
    later.load(&h.usb.save(), &mut cx).unwrap();
    assert_eq!(cx.timers.next(), Some(1 + BATCH * FRAME));
    cx.clock = Clock::Driven(1 + BATCH * FRAME);
    later.run(&mut cx);
    assert!(cx.timers.next() <= Some(1 + 2 * BATCH * FRAME));
}

#[test]
fn a_name_for_which_a_state_has_no_room_is_refused() {
    let mut h = Host::new(&[]);
    let (long, longest) = ("n".repeat(NAME + 1), "n".repeat(NAME));
    assert_eq!(h.usb.plug_usb(&long, Some(UsbDevice::Mouse), &mut h.cx), Err(UsbError::Long(NAME)));
    assert_eq!(h.usb.plug_usb(&longest, Some(UsbDevice::Mouse), &mut h.cx), Ok(()));
    take_over(&mut h, &[]);
}
