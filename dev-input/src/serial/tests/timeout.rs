//! The character time-out: unread characters are reported, regardless of the interrupt enables at their arrival.
use super::*;
use bulkhead_bus::Clock;

/// The other end sends characters.
fn come(s: &mut Serial, wire: &Wire, cx: &mut Context, bytes: &[u8]) {
    wire.input.lock().unwrap().extend(bytes);
    s.poll(Ready::Fd(0), cx);
}

/// Advances the time and runs due timers.
fn pass(s: &mut Serial, cx: &mut Context, by: u64) {
    cx.clock = Clock::Driven(cx.now() + by);
    while let Some(timer) = cx.timers.take_due(cx.now()) {
        s.poll(Ready::Timer(timer), cx);
    }
}

/// A port whose interrupts reach the guest, with these FIFO control and interrupt enables.
fn port_with(fcr: u8, ier: u8) -> (Serial, Wire, Context) {
    let (mut s, wire, mut cx) = port();
    for (offset, value) in [(2, fcr), (4, 0x08), (1, ier)] {
        outb(&mut s, &mut cx, offset, value);
    }
    (s, wire, cx)
}

#[test]
fn characters_that_came_while_interrupts_were_off_are_reported_when_they_are_on() {
    // The time elapses before and after the interrupt is enabled again.
    for early in [true, false] {
        let (mut s, wire, mut cx) = port_with(0x81, 0);
        come(&mut s, &wire, &mut cx, b"abc");
        if early {
            pass(&mut s, &mut cx, CHARACTER_TIMEOUT);
        }
        assert!(!cx.lines.level(0), "the enables gate it");
        outb(&mut s, &mut cx, 1, 1);
        if !early {
            assert!(!cx.lines.level(0));
            pass(&mut s, &mut cx, CHARACTER_TIMEOUT);
        }
        assert!(cx.lines.level(0));
        assert_eq!(inb(&mut s, &mut cx, 2), 0xcc);
    }
}

#[test]
fn a_driver_that_takes_a_character_for_each_interrupt_gets_all() {
    for loopback in [false, true] {
        let (mut s, wire, mut cx) = port_with(0xc1, 1);
        if loopback {
            outb(&mut s, &mut cx, 4, 0x18);
            b"abc".iter().for_each(|byte| outb(&mut s, &mut cx, 0, *byte));
        } else {
            come(&mut s, &wire, &mut cx, b"abc");
        }
        let mut text = Vec::new();
        for _ in 0..6 {
            pass(&mut s, &mut cx, CHARACTER_TIMEOUT);
            if inb(&mut s, &mut cx, 2) == 0xcc {
                text.push(inb(&mut s, &mut cx, 0));
                assert_eq!(inb(&mut s, &mut cx, 2), 0xc1, "reading one clears it");
            }
        }
        assert_eq!(text, b"abc");
    }
}

#[test]
fn the_time_begins_again_with_each_character_and_with_a_reset_of_the_fifo() {
    let (mut s, wire, mut cx) = port_with(0x81, 1);
    for _ in 0..7 {
        come(&mut s, &wire, &mut cx, b"x");
        pass(&mut s, &mut cx, CHARACTER_TIMEOUT - 1);
        assert_eq!(inb(&mut s, &mut cx, 2), 0xc1);
    }
    // More than the FIFO holds: the rest is received when it is reset.
    come(&mut s, &wire, &mut cx, &[b'y'; 13]);
    pass(&mut s, &mut cx, CHARACTER_TIMEOUT);
    outb(&mut s, &mut cx, 2, 0x83);
    assert_eq!((inb(&mut s, &mut cx, 5) & 1, inb(&mut s, &mut cx, 2)), (1, 0xc1));
    pass(&mut s, &mut cx, CHARACTER_TIMEOUT);
    assert_eq!(inb(&mut s, &mut cx, 2), 0xcc);
}

#[test]
fn each_character_without_fifo_gives_an_edge_of_its_own() {
    let (mut s, wire, mut cx) = port_with(0, 1);
    come(&mut s, &wire, &mut cx, b"abc");
    let mut text = Vec::new();
    let mut edges = 0;
    // An edge-triggered controller calls the driver, which reads one character.
    while cx.lines.states().next().unwrap().1 > edges {
        edges = cx.lines.states().next().unwrap().1;
        text.push(inb(&mut s, &mut cx, 0));
    }
    assert_eq!(text, b"abc");
}

#[test]
fn characters_of_a_process_that_was_killed_are_reported_by_the_next() {
    for ended in [false, true] {
        let (mut s, wire, mut cx) = port_with(0x81, 1);
        come(&mut s, &wire, &mut cx, b"ab");
        if ended {
            pass(&mut s, &mut cx, CHARACTER_TIMEOUT);
        }
        let mut next = Serial::new(0, Box::new(wire.clone()));
        let mut other = fake::context(0);
        next.load(&s.save(), &mut other).unwrap();
        assert_eq!(other.lines.level(0), ended);
        pass(&mut next, &mut other, CHARACTER_TIMEOUT);
        assert!(other.lines.level(0));
        assert_eq!((inb(&mut next, &mut other, 2), inb(&mut next, &mut other, 0)), (0xcc, b'a'));
    }
}

#[test]
fn a_state_cannot_have_a_time_out_without_characters_or_fifo() {
    for (fcr, bytes) in [(0x01, &[][..]), (0x00, b"a")] {
        let (mut s, wire, mut cx) = port_with(fcr, 1);
        come(&mut s, &wire, &mut cx, bytes);
        s.timeout_pending = true;
        let (mut next, mut other) = (Serial::new(0, Box::new(NullBackend)), fake::context(0));
        next.load(&s.save(), &mut other).unwrap();
        assert!(!next.timeout_pending);
        assert_eq!(other.timers.get(TIMEOUT_TIMER), None);
    }
}

/// A model of the 16550D's receiver, by the data sheet.
#[derive(Debug, Default)]
struct Model {
    /// Characters that the other end has sent and the port has not received.
    line: VecDeque<u8>,
    fifo: VecDeque<u8>,
    enabled: bool,
    trigger: usize,
    interrupt: bool,
    loopback: bool,
    /// Time of the last received or read character.
    last: u64,
    /// The time-out has elapsed and no character was read since.
    ended: bool,
}

impl Model {
    fn room(&self) -> usize {
        if self.enabled { 16 } else { 1 }
    }

    fn put(&mut self, byte: u8, now: u64) {
        if self.fifo.len() < self.room() {
            self.fifo.push_back(byte);
            self.last = now;
        } else if self.room() == 1 {
            self.fifo[0] = byte;
        }
    }

    /// Receives as many characters of the other end as fit.
    fn pull(&mut self, now: u64) {
        while !self.loopback && self.fifo.len() < self.room() {
            let Some(byte) = self.line.pop_front() else { return };
            self.put(byte, now);
        }
    }

    fn read(&mut self, now: u64) -> u8 {
        let byte = self.fifo.pop_front().unwrap_or(0);
        (self.last, self.ended) = (now, false);
        if self.fifo.is_empty() {
            self.pull(now);
        }
        byte
    }

    fn fcr(&mut self, value: u8, now: u64) {
        let enabled = value & 1 != 0;
        if enabled != self.enabled || value & 2 != 0 {
            self.fifo.clear();
            self.ended = false;
        }
        self.enabled = enabled;
        self.trigger = if enabled { [1, 4, 8, 14][usize::from(value >> 6)] } else { 1 };
        self.pull(now);
    }

    fn time(&mut self, now: u64) {
        self.ended |= self.enabled && !self.fifo.is_empty() && now >= self.last + CHARACTER_TIMEOUT;
    }

    fn iir(&self) -> u8 {
        let cause = match () {
            () if !self.interrupt => 0x01,
            () if self.fifo.len() >= self.trigger => 0x04,
            () if self.ended => 0x0c,
            () => 0x01,
        };
        cause | if self.enabled { 0xc0 } else { 0 }
    }
}

/// An event at the port.
#[derive(Clone, Debug)]
enum Step {
    Come(u8),
    Read,
    Enable(bool),
    Fcr(u8),
    Loopback(bool),
    Send(u8),
    Pass(u64),
    Life,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..6).prop_map(Step::Come),
        4 => Just(Step::Read),
        2 => any::<bool>().prop_map(Step::Enable),
        1 => prop::sample::select(vec![0u8, 0x01, 0x03, 0x41, 0x43, 0x81, 0xc1, 0xc0]).prop_map(Step::Fcr),
        1 => any::<bool>().prop_map(Step::Loopback),
        1 => any::<u8>().prop_map(Step::Send),
        4 => prop::sample::select(vec![1, CHARACTER_TIMEOUT / 2, CHARACTER_TIMEOUT - 1, CHARACTER_TIMEOUT]).prop_map(Step::Pass),
        1 => Just(Step::Life),
    ]
}

proptest! {
    #[test]
    fn the_time_out_follows_the_fifo_alone(steps in prop::collection::vec(step(), 0..120)) {
        let (mut s, wire, mut cx) = port_with(0, 0);
        let mut model = Model { trigger: 1, ..Model::default() };
        let mut next = 0u8;
        for step in steps {
            let now = cx.now();
            match step {
                Step::Come(n) => {
                    let bytes: Vec<u8> = (0..n).map(|i| next.wrapping_add(i)).collect();
                    next = next.wrapping_add(n);
                    model.line.extend(&bytes);
                    model.pull(now);
                    come(&mut s, &wire, &mut cx, &bytes);
                }
                Step::Read => prop_assert_eq!(inb(&mut s, &mut cx, 0), model.read(now)),
                Step::Enable(on) => {
                    model.interrupt = on;
                    outb(&mut s, &mut cx, 1, u8::from(on));
                }
                Step::Fcr(value) => {
                    model.fcr(value, now);
                    outb(&mut s, &mut cx, 2, value);
                }
                Step::Loopback(on) => {
                    model.loopback = on;
                    model.pull(now);
                    outb(&mut s, &mut cx, 4, if on { 0x18 } else { 0x08 });
                }
                Step::Send(byte) => {
                    if model.loopback {
                        model.put(byte, now);
                    }
                    outb(&mut s, &mut cx, 0, byte);
                }
                Step::Pass(by) => {
                    pass(&mut s, &mut cx, by);
                    model.time(now + by);
                }
                Step::Life => {
                    let (mut later, mut other) = (Serial::new(0, Box::new(wire.clone())), fake::context(0));
                    other.clock = cx.clock;
                    later.load(&s.save(), &mut other).unwrap();
                    (s, cx) = (later, other);
                    // A restart loses nothing, not even the elapsed part of the time-out.
                }
            }
            prop_assert_eq!(inb(&mut s, &mut cx, 2), model.iir());
            prop_assert_eq!(inb(&mut s, &mut cx, 5) & 1 != 0, !model.fifo.is_empty());
            prop_assert_eq!(cx.lines.level(0), model.iir() & 1 == 0 && !model.loopback);
        }
    }
}
