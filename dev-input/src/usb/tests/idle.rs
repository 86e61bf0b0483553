//! The idle rate (HID 1.11, 7.2.4): a report is repeated after this period.
use super::*;

const IN: [(u8, &[u8], usize); 1] = [(pid::IN, &[], 8)];

/// A host whose device in the first port has address 1 and this idle rate.
fn host(kind: UsbDevice, idle: u8) -> Host {
    let mut h = Host::new(&[kind]);
    h.configure(0, 1);
    assert!(h.write_control(1, [0x21, 0x0a, 0, idle, 0, 0, 0, 0], &[]));
    h
}

fn input(h: &mut Host, event: InputEvent) {
    h.usb.ports[0].function.as_mut().unwrap().hid.input(event);
}

/// Milliseconds until the next report, in steps of a batch of frames.
fn until_report(h: &mut Host, longest: u64) -> Option<(u64, Vec<u8>)> {
    let start = h.usb.frames;
    let mut done = h.queue(1, 1, &IN).remove(0);
    while done.0.active() && h.usb.frames - start < longest {
        h.wait(BATCH);
        done.0 = Control::from_bits(h.get(DESCRIPTORS + 4));
        if !done.0.active() {
            let mut data = vec![0; usize::from(done.0.actual().wrapping_add(1) & 0x7ff)];
            h.memory.read(u64::from(BUFFERS), &mut data).unwrap();
            done.1 = data;
        }
    }
    (!done.0.active()).then(|| (h.usb.frames - start, done.1))
}

#[test]
fn a_report_is_repeated_at_the_idle_rate_and_never_without_one() {
    let key = InputEvent::Key { code: 30, down: true };
    let at = InputEvent::At { x: 5, y: 6 };
    let moved = InputEvent::Move { dx: 7, dy: 0, dz: 0 };
    for (kind, event, first, again) in [
        (UsbDevice::Keyboard, key, vec![0, 0, 4, 0, 0, 0, 0, 0], vec![0, 0, 4, 0, 0, 0, 0, 0]),
        (UsbDevice::Tablet, at, vec![0, 5, 0, 6, 0, 0], vec![0, 5, 0, 6, 0, 0]),
        // Movement is not repeated.
        (UsbDevice::Mouse, moved, vec![0, 7, 0, 0], vec![0, 0, 0, 0]),
    ] {
        // SeaBIOS sets 33 ms to have keys repeat: 8 units.
        let mut h = host(kind, 8);
        input(&mut h, event);
        assert_eq!(until_report(&mut h, 100).unwrap().1, first, "{kind:?}");
        for _ in 0..20 {
            let (ms, report) = until_report(&mut h, 1000).unwrap();
            assert_eq!(report, again, "{kind:?}");
            assert!((24..=48).contains(&ms), "{kind:?}: after {ms} ms");
        }
        let mut h = host(kind, 0);
        input(&mut h, event);
        assert_eq!(until_report(&mut h, 100).unwrap().1, first);
        assert_eq!(until_report(&mut h, 3000), None, "{kind:?}: what has not changed is not told");
    }
}

#[test]
fn the_idle_rate_counts_from_the_last_report_whatever_it_was() {
    // In the boot protocol a mouse's report is shorter, also when it is repeated or requested.
    let mut h = host(UsbDevice::Mouse, 25);
    assert!(h.write_control(1, [0x21, 0x0b, 0, 0, 0, 0, 0, 0], &[]));
    input(&mut h, InputEvent::Button { button: 0, down: true });
    assert_eq!(until_report(&mut h, 100).unwrap().1, [1, 0, 0]);
    let (ms, report) = until_report(&mut h, 1000).unwrap();
    assert_eq!((report, (88..=112).contains(&ms)), (vec![1, 0, 0], true), "after {ms} ms");
    assert_eq!(h.read_control(1, [0xa1, 1, 0, 1, 0, 0, 8, 0]).unwrap(), [1, 0, 0]);
    // A change is reported at once, and the period begins again.
    h.wait(56);
    input(&mut h, InputEvent::Button { button: 0, down: false });
    assert_eq!(until_report(&mut h, 100).unwrap().1, [0, 0, 0]);
    let (ms, _) = until_report(&mut h, 1000).unwrap();
    assert!((88..=112).contains(&ms), "after {ms} ms");
    // A shorter period that has elapsed already.
    h.wait(80);
    assert!(h.write_control(1, [0x21, 0x0a, 0, 2, 0, 0, 0, 0], &[]));
    assert_eq!(h.read_control(1, [0xa1, 2, 0, 0, 0, 0, 1, 0]).unwrap(), [2]);
    assert!(until_report(&mut h, 100).unwrap().0 <= 16);
    // No report has an ID.
    assert!(!h.write_control(1, [0x21, 0x0a, 1, 9, 0, 0, 0, 0], &[]));
    assert_eq!(h.read_control(1, [0xa1, 2, 1, 0, 0, 0, 1, 0]), None);
    // A reset of the port ends it.
    h.out(reg::PORT, 0x0202);
    assert_eq!(h.usb.ports[0].function.as_ref().unwrap().hid.idle, 0);
}

#[test]
fn the_idle_period_continues_after_a_restart() {
    let mut h = host(UsbDevice::Keyboard, 50);
    input(&mut h, InputEvent::Key { code: 30, down: true });
    assert!(until_report(&mut h, 100).is_some());
    h.wait(120);
    let saved = h.usb.save();
    h.usb = Uhci::new((1, 2), &[UsbDevice::Keyboard], None, None);
    h.usb.load(&saved, &mut h.cx).unwrap();
    let (ms, report) = until_report(&mut h, 1000).unwrap();
    assert_eq!(report, [0, 0, 4, 0, 0, 0, 0, 0], "the key is still down");
    assert!((56..=88).contains(&ms), "after {ms} ms");
}
