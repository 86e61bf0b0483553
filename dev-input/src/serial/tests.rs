mod timeout;

use super::*;
use bulkhead_bus::fake;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Wire {
    out: Arc<Mutex<Vec<u8>>>,
    input: Arc<Mutex<VecDeque<u8>>>,
    stuck: Arc<Mutex<bool>>,
    retry: Option<Duration>,
}

impl Backend for Wire {
    fn write(&mut self, bytes: &[u8]) -> usize {
        if *self.stuck.lock().unwrap() {
            return 0;
        }
        self.out.lock().unwrap().extend_from_slice(bytes);
        bytes.len()
    }
    fn read(&mut self, bytes: &mut [u8]) -> usize {
        let mut input = self.input.lock().unwrap();
        let n = bytes.len().min(input.len());
        for (to, from) in bytes.iter_mut().zip(input.drain(..n)) {
            *to = from;
        }
        n
    }
    fn retry(&self) -> Option<Duration> {
        self.retry.filter(|_| *self.stuck.lock().unwrap())
    }
}

fn port() -> (Serial, Wire, Context) {
    let wire = Wire::default();
    (Serial::new(0, Box::new(wire.clone())), wire, fake::context(0))
}

fn inb(s: &mut Serial, cx: &mut Context, offset: u64) -> u8 {
    s.read(Access::new(0, offset, 1), cx).unwrap() as u8
}

fn outb(s: &mut Serial, cx: &mut Context, offset: u64, value: u8) {
    s.write(Access::new(0, offset, 1), u64::from(value), cx).unwrap();
}

#[test]
fn text_goes_out_and_the_transmitter_interrupt_is_cleared_by_reading_iir() {
    let (mut s, wire, mut cx) = port();
    assert_eq!(inb(&mut s, &mut cx, 5), 0x60);
    for byte in b"hello" {
        outb(&mut s, &mut cx, 0, *byte);
    }
    assert_eq!(*wire.out.lock().unwrap(), b"hello");
    outb(&mut s, &mut cx, 4, 0x08);
    outb(&mut s, &mut cx, 1, 0x02);
    assert!(cx.lines.level(0));
    assert_eq!(inb(&mut s, &mut cx, 2), 0x02);
    assert!(!cx.lines.level(0));
    assert_eq!(inb(&mut s, &mut cx, 2), 0x01);
    outb(&mut s, &mut cx, 0, b'!');
    assert!(cx.lines.level(0), "and comes back with the next character sent");
}

#[test]
fn without_out2_the_interrupt_does_not_leave_the_chip() {
    let (mut s, _, mut cx) = port();
    outb(&mut s, &mut cx, 1, 0x02);
    assert!(!cx.lines.level(0));
    assert_eq!(inb(&mut s, &mut cx, 2), 0x02, "but it is pending");
}

#[test]
fn received_data_interrupts_at_the_trigger_level_or_after_the_character_timeout() {
    let (mut s, wire, mut cx) = port();
    outb(&mut s, &mut cx, 2, 0x41);
    outb(&mut s, &mut cx, 4, 0x08);
    outb(&mut s, &mut cx, 1, 0x01);
    wire.input.lock().unwrap().extend(b"abc");
    s.poll(Ready::Fd(0), &mut cx);
    assert!(!cx.lines.level(0), "three characters are below the trigger level of four");
    assert_eq!(inb(&mut s, &mut cx, 5) & 1, 1);
    assert_eq!(cx.timers.get(TIMEOUT_TIMER), Some(CHARACTER_TIMEOUT));
    s.poll(Ready::Timer(TIMEOUT_TIMER), &mut cx);
    assert_eq!(inb(&mut s, &mut cx, 2), 0xcc);
    wire.input.lock().unwrap().extend(b"d");
    s.poll(Ready::Fd(0), &mut cx);
    assert_eq!(inb(&mut s, &mut cx, 2), 0xc4);
    let text: Vec<u8> = (0..4).map(|_| inb(&mut s, &mut cx, 0)).collect();
    assert_eq!(text, b"abcd");
    assert_eq!(inb(&mut s, &mut cx, 2), 0xc1);
    assert!(!cx.lines.level(0));
}

#[test]
fn no_more_is_taken_from_the_back_end_than_the_fifo_holds_and_nothing_is_lost() {
    let (mut s, wire, mut cx) = port();
    outb(&mut s, &mut cx, 2, 0x01);
    wire.input.lock().unwrap().extend(0..40);
    s.poll(Ready::Fd(0), &mut cx);
    assert_eq!(s.received.len(), 16);
    let all: Vec<u8> = (0..40).map(|_| inb(&mut s, &mut cx, 0)).collect();
    assert_eq!(all, (0..40).collect::<Vec<u8>>());
}

#[test]
fn loopback_returns_sent_bytes_and_the_modem_outputs() {
    let (mut s, wire, mut cx) = port();
    outb(&mut s, &mut cx, 4, 0x1a);
    assert_eq!(inb(&mut s, &mut cx, 6) & 0xf0, 0x90);
    outb(&mut s, &mut cx, 0, 0x5a);
    assert_eq!(inb(&mut s, &mut cx, 0), 0x5a);
    outb(&mut s, &mut cx, 0, 1);
    outb(&mut s, &mut cx, 0, 2);
    assert_eq!(inb(&mut s, &mut cx, 5) & 0x02, 0x02, "overrun without FIFO");
    assert_eq!(inb(&mut s, &mut cx, 5) & 0x02, 0, "reading clears it");
    assert!(wire.out.lock().unwrap().is_empty());
}

#[test]
fn divisor_and_scratch_are_registers() {
    let (mut s, wire, mut cx) = port();
    outb(&mut s, &mut cx, 3, 0x83);
    outb(&mut s, &mut cx, 0, 0x34);
    outb(&mut s, &mut cx, 1, 0x12);
    assert_eq!((inb(&mut s, &mut cx, 0), inb(&mut s, &mut cx, 1)), (0x34, 0x12));
    outb(&mut s, &mut cx, 3, 0x03);
    outb(&mut s, &mut cx, 7, 0xa5);
    assert_eq!((inb(&mut s, &mut cx, 1), inb(&mut s, &mut cx, 7), inb(&mut s, &mut cx, 3)), (0, 0xa5, 0x03));
    assert!(wire.out.lock().unwrap().is_empty());
}

/// A file takes output at a rate. It is no terminal that becomes ready, so without a timer the last characters would be lost.
#[test]
fn output_that_comes_too_fast_is_sent_later() {
    let wire = Wire { retry: Some(Duration::from_millis(10)), ..Wire::default() };
    let (mut s, mut cx) = (Serial::new(0, Box::new(wire.clone())), fake::context(0));
    *wire.stuck.lock().unwrap() = true;
    outb(&mut s, &mut cx, 0, b'x');
    assert_eq!(cx.timers.get(RETRY_TIMER), Some(10_000_000));
    *wire.stuck.lock().unwrap() = false;
    s.poll(Ready::Timer(RETRY_TIMER), &mut cx);
    assert_eq!((wire.out.lock().unwrap().as_slice(), cx.timers.get(RETRY_TIMER)), (&b"x"[..], None));
}

/// CVE-2016-8669: a divisor that the part cannot divide by, of 0 or more than its clock, in another device model.
#[test]
fn division_by_zero_by_a_divisor() {
    for divisor in [0u16, 1, 2, 12, 0x7fff, 0xffff] {
        for frame in [0x00, 0x03, 0x04, 0x1f, 0x3f, 0x7f] {
            let (mut s, wire, mut cx) = port();
            let [low, high] = divisor.to_le_bytes();
            for (offset, value) in [(3, 0x80 | frame), (0, low), (1, high), (3, frame), (2, 0x41), (1, 0x0f), (4, 0x0b)]
            {
                outb(&mut s, &mut cx, offset, value);
            }
            wire.input.lock().unwrap().extend(b"abc");
            s.poll(Ready::Fd(0), &mut cx);
            outb(&mut s, &mut cx, 0, b'x');
            assert_eq!(*wire.out.lock().unwrap(), b"x", "{divisor:#x} {frame:#x}");
            // The characters are reported at the latest when their time has passed, which is finite.
            while let Some(at) = cx.timers.next().filter(|_| inb(&mut s, &mut cx, 2) & 0x0f != 0x0c) {
                cx.clock = bulkhead_bus::Clock::Driven(at);
                let due = cx.timers.take_due(at).unwrap();
                s.poll(Ready::Timer(due), &mut cx);
            }
            assert_eq!(inb(&mut s, &mut cx, 0), b'a', "{divisor:#x} {frame:#x}");
        }
    }
}

#[test]
fn a_stuck_back_end_blocks_the_transmitter_then_loses_characters_but_never_hangs() {
    let (mut s, wire, mut cx) = port();
    *wire.stuck.lock().unwrap() = true;
    for _ in 0..BACKLOG {
        assert_eq!(inb(&mut s, &mut cx, 5) & 0x20, 0x20);
        outb(&mut s, &mut cx, 0, b'x');
    }
    assert_eq!(inb(&mut s, &mut cx, 5) & 0x60, 0);
    for _ in 0..1000 {
        outb(&mut s, &mut cx, 0, b'y');
    }
    assert_eq!(s.unsent.len(), BACKLOG);
    assert_eq!(cx.timers.get(STUCK_TIMER), Some(PATIENCE));
    s.poll(Ready::Timer(STUCK_TIMER), &mut cx);
    assert_eq!(inb(&mut s, &mut cx, 5) & 0x60, 0x60);
}

#[test]
fn the_shadow_of_the_line_status_is_withdrawn_while_reading_it_would_clear_something() {
    let (mut s, _, mut cx) = port();
    let shadow = |s: &Serial| {
        let mut words = [None; 1];
        s.shadows(&mut Shadows { registers: &mut words });
        words[0]
    };
    assert_eq!(shadow(&s), Some(0x60));
    outb(&mut s, &mut cx, 4, 0x10);
    outb(&mut s, &mut cx, 0, 1);
    assert_eq!(shadow(&s), Some(0x61));
    outb(&mut s, &mut cx, 0, 2);
    assert_eq!(shadow(&s), None);
}

proptest! {
    #[test]
    fn any_accesses_keep_the_line_equal_to_the_registers_and_the_state_survives(
        ops in prop::collection::vec((any::<bool>(), 0u64..9, 1u8..5, any::<u8>(), any::<bool>()), 0..200),
    ) {
        let (mut s, wire, mut cx) = port();
        for (write, offset, size, value, input) in ops {
            if input {
                wire.input.lock().unwrap().push_back(value);
                s.poll(Ready::Fd(0), &mut cx);
            }
            let at = Access::new(0, offset, size);
            if write { let _ = s.write(at, u64::from(value), &mut cx); } else { let _ = s.read(at, &mut cx); }
            let want = s.pending() != iir::NONE && s.mcr.out2() && !s.mcr.loopback();
            prop_assert_eq!(cx.lines.level(0), want);
            prop_assert!(s.received.len() <= FIFO && s.unsent.len() <= BACKLOG);
        }
        let saved = s.save();
        wire.input.lock().unwrap().clear();
        let mut other = Serial::new(0, Box::new(NullBackend));
        other.load(&saved, &mut fake::context(0)).unwrap();
        let again = SerialState::decode(other.save().as_slice()).unwrap();
        prop_assert_eq!(again.received, s.received.iter().copied().collect::<Vec<u8>>());
        prop_assert_eq!(other.ier, s.ier);
        prop_assert_eq!(other.pending(), s.pending());
    }

    #[test]
    fn a_hostile_state_is_refused_or_harmless(state in prop::collection::vec(any::<u8>(), 0..100)) {
        let (mut s, _, mut cx) = port();
        let _ = s.load(&state, &mut cx);
        for offset in 0..8 {
            let _ = s.read(Access::new(0, offset, 1), &mut cx);
        }
    }
}

/// An overrun destroys the unread character; with the FIFO, the new one.
#[test]
fn an_overrun_destroys_the_old_byte_or_with_the_fifo_the_new_one() {
    for (fifo, count, want) in [(0, 3, vec![2]), (1, 18, (0..16).collect::<Vec<u8>>())] {
        let mut cx = fake::context(0);
        let mut s = Serial::new(0, Box::new(NullBackend));
        let mut out = |s: &mut Serial, at, value| s.write(Access::new(0, at, 1), value, &mut cx).unwrap();
        out(&mut s, spec::IIR_FCR, fifo);
        out(&mut s, spec::MCR, 0x10);
        (0..count).for_each(|byte| out(&mut s, spec::DATA, byte));
        assert!(s.errors.overrun());
        let mut got = Vec::new();
        while s.line_status().data_ready() {
            got.push(s.read(Access::new(0, spec::DATA, 1), &mut cx).unwrap() as u8);
        }
        assert_eq!(got, want, "FCR {fifo}");
    }
}

/// An end that takes a character now and then is slow, and loses nothing.
#[test]
fn patience_begins_again_with_each_accepted_character() {
    let (mut s, wire, mut cx) = port();
    *wire.stuck.lock().unwrap() = true;
    b"abc".iter().for_each(|byte| outb(&mut s, &mut cx, 0, *byte));
    assert_eq!(cx.timers.get(STUCK_TIMER), Some(PATIENCE));
    s.backend = Box::new(OneByOne(wire.clone(), 1));
    cx.clock = bulkhead_bus::Clock::Driven(PATIENCE - 1);
    s.poll(Ready::Fd(0), &mut cx);
    assert_eq!((s.unsent.len(), cx.timers.get(STUCK_TIMER)), (2, Some(2 * PATIENCE - 1)));
    // A process that is started again waits no longer.
    let mut later = Serial::new(0, Box::new(OneByOne(wire.clone(), 0)));
    let mut other = fake::context(0);
    other.clock = bulkhead_bus::Clock::Driven(PATIENCE + 5);
    later.load(&s.save(), &mut other).unwrap();
    assert_eq!((later.save(), other.timers.get(STUCK_TIMER)), (s.save(), Some(2 * PATIENCE - 1)));
    // On a machine whose clock is earlier it waits no longer than it would wait at all.
    other.clock = bulkhead_bus::Clock::Driven(0);
    later.load(&s.save(), &mut other).unwrap();
    assert_eq!(other.timers.get(STUCK_TIMER), Some(PATIENCE));
}

/// Takes so many characters.
struct OneByOne(Wire, usize);

impl Backend for OneByOne {
    fn write(&mut self, bytes: &[u8]) -> usize {
        let n = self.1.min(bytes.len());
        self.1 -= n;
        self.0.out.lock().unwrap().extend_from_slice(&bytes[..n]);
        n
    }
    fn read(&mut self, _: &mut [u8]) -> usize {
        0
    }
}

/// Characters that did not fit before the reset have been announced, and are not announced again.
#[test]
fn characters_that_wait_are_received_after_a_reset() {
    let (mut s, wire, mut cx) = port();
    wire.input.lock().unwrap().extend(b"abc");
    s.poll(Ready::Fd(0), &mut cx);
    s.reset(Reset::Machine, &mut cx);
    assert!(cx.take_again() && inb(&mut s, &mut cx, 5) & 1 == 0);
    s.poll(Ready::Again, &mut cx);
    assert_eq!((0..3).map(|_| inb(&mut s, &mut cx, 0)).collect::<Vec<u8>>(), b"bc\0");
    // A state that is loaded comes first.
    wire.input.lock().unwrap().extend(b"de");
    s.poll(Ready::Fd(0), &mut cx);
    let (mut later, mut other) = (Serial::new(0, Box::new(wire.clone())), fake::context(0));
    later.reset(Reset::Machine, &mut other);
    later.load(&s.save(), &mut other).unwrap();
    later.poll(Ready::Again, &mut other);
    assert_eq!((0..3).map(|_| inb(&mut later, &mut other, 0)).collect::<Vec<u8>>(), b"de\0");
}

/// A guest that had text to send enabled the transmitter's interrupt while no process was there. The write was lost, and the guest waited
/// for ever (found by a fault on real Xen).
#[test]
fn a_driver_whose_writes_were_lost_is_not_left_waiting_for_the_transmitter() {
    assert!(declare(0).regions[0].kept, "a few writes are repeated");
    let (mut s, wire, mut cx) = port();
    outb(&mut s, &mut cx, 4, 0x08);
    outb(&mut s, &mut cx, 1, 0x05);
    assert!(!cx.lines.level(0));
    s.lost_writes(0, 1, &mut cx);
    assert!(cx.lines.level(0));
    assert_eq!(inb(&mut s, &mut cx, 2) & 0x0f, iir::TRANSMITTER_EMPTY);
    assert!(!cx.lines.level(0), "a driver that has not asked for it sees one");
    // While the other end takes nothing there is no room that it could be told of.
    *wire.stuck.lock().unwrap() = true;
    while s.line_status().thre() {
        outb(&mut s, &mut cx, 0, b'x');
    }
    s.lost_writes(0, 1, &mut cx);
    assert!(!cx.lines.level(0));
}

/// A state that was loaded sent its characters at once: those of a saved machine go out when it goes on.
#[test]
fn a_port_of_a_machine_that_stands_still_sends_nothing() {
    let (mut s, wire, mut cx) = port();
    *wire.stuck.lock().unwrap() = true;
    outb(&mut s, &mut cx, 0, b'x');
    let state = s.save();
    let (mut other, wire, mut cx) = port();
    wire.input.lock().unwrap().push_back(b'y');
    other.running(false, &mut cx);
    other.load(&state, &mut cx).unwrap();
    assert_eq!((wire.out.lock().unwrap().len(), wire.input.lock().unwrap().len()), (0, 1));
    other.running(true, &mut cx);
    // As the runtime does.
    other.poll(Ready::Fd(0), &mut cx);
    assert_eq!((wire.out.lock().unwrap().as_slice(), wire.input.lock().unwrap().len()), (&b"x"[..], 0));
}
