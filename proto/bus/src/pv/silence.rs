//! A `xenbus` that falls silent at any call of a handshake, and answers again. It then sends a notice.
use super::{BackEnd, ConnectFault, Frontend, Handshake, NODES, PORT, Side, State, number};
use crate::fake::{self, FakeFrontend};
use crate::{Context, Ready};

/// A back end with an optional node, as each has one.
struct Toy {
    front: FakeFrontend,
    handshake: Handshake,
    connected: bool,
    option: bool,
    first: bool,
}

impl BackEnd for Toy {
    type Fault = ConnectFault;
    fn front(&mut self) -> &mut dyn Frontend {
        &mut self.front
    }
    fn handshake(&mut self) -> &mut Handshake {
        &mut self.handshake
    }
    fn has_front_state(&self) -> bool {
        !self.first
    }
    fn offer(&mut self) {
        self.front.set("feature-one", "1");
        self.front.set("feature-two", "2");
    }
    fn connect(&mut self, cx: &mut Context) -> Result<(), ConnectFault> {
        let gref = number(&mut self.front, "ring-ref").ok_or(ConnectFault::NoReference("ring-ref"))?;
        self.option = self.front.node(Side::Front, "option").as_deref() == Some("1");
        if !self.front.map(0, &[gref]) {
            return Err(ConnectFault::NotGranted);
        }
        self.bind_event_channel(cx)?;
        self.connected = true;
        Ok(())
    }
    fn release(&mut self) -> bool {
        self.connected = false;
        true
    }
}

struct Bed {
    toy: Toy,
    guest: FakeFrontend,
    cx: Context,
}

impl Bed {
    /// A back end's process that starts, `former`: after another one that had connected. `xenbus` falls silent after `calls`.
    fn new(calls: u32, own: &str, former: bool, first: bool) -> Self {
        let guest = FakeFrontend::new(4, &[8]);
        for (name, value) in [("ring-ref", "8"), ("event-channel", "3"), ("option", "1"), ("state", "1")] {
            guest.put(false, name, value);
        }
        guest.put(true, "state", own);
        if former {
            guest.put(false, "state", "4");
        }
        guest.with(|w| w.answers = Some(calls));
        let toy = Toy { front: guest.clone(), handshake: Handshake::default(), connected: false, option: false, first };
        let mut bed = Self { toy, guest, cx: fake::context(0) };
        if former {
            bed.cx.marks.after(PORT, 3);
        }
        bed.toy.prepare(&mut bed.cx);
        bed.turn(Ready::Again);
        bed
    }

    fn turn(&mut self, ready: Ready) {
        self.toy.changes(ready == Ready::Fd(NODES), &mut self.cx);
        for turn in 0.. {
            assert!(turn < 100, "it asks a silent xenbus without end");
            if !self.cx.take_again() {
                break;
            }
            self.toy.changes(false, &mut self.cx);
        }
    }

    /// The guest's end changes its state, which the back end hears of if `xenbus` answers.
    fn guest(&mut self, state: &str) {
        self.guest.put(false, "state", state);
        if !self.guest.with(|w| w.silent) {
            self.turn(Ready::Fd(NODES));
        }
    }

    /// `xenbus` answers again, if it was silent.
    fn answers(&mut self) -> bool {
        let silent = self.guest.with(|w| {
            w.answers = None;
            std::mem::take(&mut w.silent)
        });
        if silent {
            self.turn(Ready::Fd(NODES));
        }
        silent
    }

    fn assert_connected(&self, when: &str) {
        let node = |name| self.guest.back_end_node(name);
        assert_eq!(node("state").as_deref(), Some("4"), "{when}");
        assert!(self.toy.connected && self.toy.option && self.toy.handshake.state == State::Connected, "{when}");
        assert_eq!(node("error"), None, "{when}");
        assert_eq!(self.guest.with(|w| (w.mapped, w.wrong.clone())), (1, None), "{when}");
    }
}

/// The guest got a back end that was closed for its own fault, or no answer, and lost its disk.
#[test]
fn a_silence_at_any_call_costs_no_connection() {
    let mut silences = 0;
    for calls in 0..40 {
        let mut bed = Bed::new(calls, "1", false, false);
        bed.guest("3");
        silences += u32::from(bed.answers());
        let when = format!("silent after {calls} calls");
        bed.assert_connected(&when);
        assert_eq!(bed.guest.back_end_node("feature-two").as_deref(), Some("2"), "{when}");
        assert_eq!(bed.guest.with(|w| w.bound), Some(3), "{when}");
    }
    assert!((10..39).contains(&silences), "{silences}");
}

#[test]
fn a_process_that_takes_a_connection_over_in_a_silence_keeps_its_event_channel() {
    let mut silences = 0;
    for calls in 0..40 {
        for own in ["4", "2"] {
            let mut bed = Bed::new(calls, own, true, false);
            silences += u32::from(bed.answers());
            let when = format!("silent after {calls} calls in state {own}");
            bed.assert_connected(&when);
            assert_eq!(bed.guest.with(|w| (w.adopted, w.bound)), (Some(3), None), "{when}");
        }
    }
    assert!((10..79).contains(&silences), "{silences}");
}

#[test]
fn a_front_end_that_closes_in_a_silence_is_closed_after_it() {
    for calls in 0..40 {
        let mut bed = Bed::new(u32::MAX, "1", false, false);
        bed.guest("3");
        bed.assert_connected("before");
        bed.guest.with(|w| w.answers = Some(calls));
        bed.guest("5");
        bed.guest("6");
        bed.answers();
        let state = bed.guest.back_end_node("state");
        assert_eq!((state.as_deref(), bed.toy.connected), (Some("6"), false), "silent after {calls} calls");
        assert_eq!(bed.guest.with(|w| w.bound), None);
        // It opens again, and waits for the back end as the protocol has it.
        for (state, answer) in [("1", "2"), ("3", "4")] {
            bed.guest.with(|w| w.answers = Some(calls));
            bed.guest(state);
            bed.answers();
            let state = bed.guest.back_end_node("state");
            assert_eq!(state.as_deref(), Some(answer), "silent after {calls} calls");
        }
        bed.assert_connected(&format!("silent after {calls} calls"));
    }
}

#[test]
fn a_domains_first_console_is_connected_after_a_silence() {
    for calls in 0..10 {
        let mut bed = Bed::new(calls, "1", false, true);
        bed.answers();
        bed.assert_connected(&format!("silent after {calls} calls"));
    }
}
