//! `xenbus` between a disk's process, a console's, and a xenstored that a test plays.
use super::*;
use bulkhead_bus::pv::means::{CALLS, CALLS_PER_NOTICE, CALLS_PER_SECOND};
use bulkhead_bus::pv::{Side, means};
use bulkhead_bus::{Clock, fake};
use bulkhead_plan::PvNodes;
use bulkhead_plan::pv_calls::{XenbusCall, XenbusReply};
use bulkhead_xen::FakeXenstored;
use bulkhead_xen_abi::xenstore;
use proptest::prelude::*;
use rustix::net::{RecvFlags, SendFlags};

fn pair() -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// `xenbus` with a disk and a console, and the disk's socket.
struct Bed {
    xenbus: Xenbus,
    disk: OwnedFd,
    console: OwnedFd,
    stored: FakeXenstored,
    cx: Context,
    /// `xenbus`' end of the connection, for its next process.
    kept: OwnedFd,
}

impl Bed {
    fn new() -> Self {
        let (mut stored, kept) = FakeXenstored::pair().unwrap();
        for (path, value) in [("/b/1/state", "2"), ("/f/1/state", "3"), ("/b/2/state", "6"), ("/secret", "x")] {
            stored.nodes.insert(path.into(), value.into());
        }
        let (xenbus, [disk, console]) = Self::process(&kept);
        let mut bed = Self { xenbus, disk, console, stored, cx: fake::context(0), kept };
        bed.settle();
        assert!(bed.notices(), "the first event of a watch");
        rustix::net::recv(&bed.console, &mut [0; 8][..], RecvFlags::DONTWAIT).unwrap();
        bed
    }

    fn process(kept: &OwnedFd) -> (Xenbus, [OwnedFd; 2]) {
        let ((disk, far), (console, far_console)) = (pair(), pair());
        let nodes = |n: u8| PvNodes { back: format!("/b/{n}"), front: format!("/f/{n}") };
        let callers = vec![
            Caller::new(7, &means::QDISK, nodes(1), Some(far), 0),
            Caller::new(9, &means::CONSOLE, nodes(2), Some(far_console), 0),
        ];
        (Xenbus::new(rustix::io::dup(kept).unwrap(), callers).unwrap(), [disk, console])
    }

    /// Another process takes the place of this one.
    fn restart(&mut self) {
        let (xenbus, [disk, console]) = Self::process(&self.kept);
        (self.xenbus, self.disk, self.console) = (xenbus, disk, console);
    }

    fn poll(&mut self, ready: Ready) {
        self.xenbus.poll(ready, &mut self.cx);
        while self.cx.take_again() {
            self.xenbus.poll(Ready::Again, &mut self.cx);
        }
    }

    /// Lets everybody work until nobody has anything to do.
    fn settle(&mut self) {
        self.poll(Ready::Fd(STORE));
        while self.stored.work() {
            self.poll(Ready::Fd(STORE));
        }
    }

    fn send(&mut self, call: &[u8]) {
        let _ = rustix::net::send(&self.disk, &[&[9], call].concat(), SendFlags::DONTWAIT);
        self.poll(Ready::Fd(1));
        self.settle();
    }

    /// Makes a call of the disk. Returns the answer, without notices of changes.
    fn ask(&mut self, call: &[u8]) -> Option<XenbusReply> {
        self.send(call);
        self.answer()
    }

    fn answer(&self) -> Option<XenbusReply> {
        self.packets().into_iter().find(|(serial, _)| *serial == 9).map(|(_, reply)| reply)
    }

    fn packets(&self) -> Vec<(u8, XenbusReply)> {
        let mut packet = [0; 2000];
        let mut all = Vec::new();
        while let Ok((n, _)) = rustix::net::recv(&self.disk, packet.as_mut_slice(), RecvFlags::DONTWAIT) {
            all.push((packet[0], XenbusReply::from_bytes(&packet[1..n]).unwrap()));
        }
        all
    }

    fn write(&mut self, name: &str, value: &str) -> Option<XenbusReply> {
        self.ask(&write(name, value))
    }

    fn node(&self, path: &str) -> Option<String> {
        self.stored.nodes.get(path).cloned()
    }

    /// Nodes of the disk change. Returns whether the disk was told, once.
    fn change(&mut self) -> bool {
        self.stored.fire("0");
        self.settle();
        self.notices()
    }

    fn notices(&self) -> bool {
        match self.packets().as_slice() {
            [] => false,
            [(0, XenbusReply::Changed)] => true,
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass.
    fn pass(&mut self, ns: u64) {
        self.cx.clock = Clock::Driven(self.cx.now() + ns);
        let now = self.cx.now();
        while let Some(timer) = self.cx.timers.take_due(now) {
            self.poll(Ready::Timer(timer));
        }
    }
}

fn write(name: &str, value: &str) -> Vec<u8> {
    XenbusCall::Write(name.into(), value.into()).to_bytes()
}

fn read() -> Vec<u8> {
    XenbusCall::Read(Side::Back, "state".into()).to_bytes()
}

#[test]
fn a_back_end_has_its_two_directories_and_writes_its_nodes_of_one() {
    let mut bed = Bed::new();
    let value = |text: &str| Some(XenbusReply::Value(Some(text.into())));
    let read = |side: Side, name: &str| XenbusCall::Read(side, name.into()).to_bytes();
    assert_eq!(bed.ask(&read(Side::Back, "state")), value("2"));
    assert_eq!(bed.ask(&read(Side::Front, "state")), value("3"));
    assert_eq!(bed.ask(&read(Side::Front, "nothing")), Some(XenbusReply::Value(None)));
    assert_eq!(bed.write("state", "4"), Some(XenbusReply::Value(None)));
    assert_eq!(bed.write("sectors", "2048"), Some(XenbusReply::Value(None)));
    assert_eq!((bed.node("/b/1/state").as_deref(), bed.node("/b/1/sectors").as_deref()), (Some("4"), Some("2048")));
    for name in ["../2/state", "/secret", "1/state", "..", ""] {
        assert_eq!(bed.ask(&read(Side::Back, name)), Some(XenbusReply::Failed), "{name}");
        assert_eq!(bed.write(name, "!"), Some(XenbusReply::Failed), "{name}");
    }
    for (name, value) in [("frontend", "/f/2"), ("width", "1"), ("n", ""), ("state", "44"), ("error", &"x".repeat(129))]
    {
        assert_eq!(bed.write(name, value), Some(XenbusReply::Failed), "{name}");
    }
    assert_eq!(bed.stored.nodes.len(), 5);
}

#[test]
fn nothing_is_written_once_the_state_is_gone() {
    let mut bed = Bed::new();
    bed.stored.nodes.retain(|path, _| !path.starts_with("/b/1"));
    for (name, value) in [("state", "4"), ("sectors", "1"), ("error", "no")] {
        bed.write(name, value);
    }
    assert!(bed.stored.nodes.keys().all(|path| !path.starts_with("/b/1")));
}

#[test]
fn a_back_end_that_calls_without_end_is_ended_and_leaves_little() {
    let mut bed = Bed::new();
    let mut answers = 0;
    for i in 0..20_000 {
        let name = if i % 2 == 0 { "error".to_owned() } else { format!("n{i}") };
        answers += u32::from(bed.write(&name, &"x".repeat(128)).is_some());
    }
    assert_eq!((answers, bed.cx.overruns.as_slice()), (CALLS, &[7][..]), "the launcher hears of it once");
    let stored = bed.stored.nodes.clone();
    assert_eq!(stored.len(), 5, "{stored:?}");
    assert!(stored.values().map(String::len).sum::<usize>() < 200);
    // No notices and no calls any more, but the others are served.
    assert!(!bed.change());
    rustix::net::send(&bed.console, &[&[3], read().as_slice()].concat(), SendFlags::empty()).unwrap();
    bed.poll(Ready::Fd(2));
    bed.settle();
    assert!(rustix::net::recv(&bed.console, [0; 100].as_mut_slice(), RecvFlags::DONTWAIT).is_ok());
    // Only the launcher begins another life, which has what a life has.
    bed.cx.clock = Clock::Driven(3_600_000_000_000);
    assert_eq!(bed.ask(&read()), None);
    let (near, far) = pair();
    assert_eq!(bed.xenbus.ready(7), Some(1));
    assert!(bed.xenbus.begin_life(7, far, &mut bed.cx).is_some() && bed.xenbus.ready(8).is_none());
    bed.disk = near;
    assert!((0..CALLS).all(|_| bed.ask(&read()).is_some()) && bed.ask(&read()).is_none());
    assert_eq!(bed.cx.overruns, [7, 7]);
}

#[test]
fn calls_come_back_with_the_time() {
    let mut bed = Bed::new();
    for second in 1..100u64 {
        bed.cx.clock = Clock::Driven(second * 1_000_000_000);
        assert!((0..CALLS_PER_SECOND).all(|_| bed.ask(&read()).is_some()), "second {second}");
    }
    assert!(bed.cx.overruns.is_empty());
}

#[test]
fn a_guest_that_changes_its_nodes_without_end_does_not_bring_its_back_end_to_the_limit() {
    let mut bed = Bed::new();
    let (mut told, mut now) = (0, 0);
    for _ in 0..2000 {
        // The back end makes all the calls that a notice can cause, and hears of another change before each.
        let mut again = bed.change();
        while std::mem::take(&mut again) {
            told += 1;
            for _ in 0..CALLS_PER_NOTICE {
                bed.stored.fire("0");
                bed.settle();
                bed.send(&read());
                let packets = bed.packets();
                assert!(packets.iter().any(|(serial, _)| *serial == 9), "no answer after {told} notices");
                again |= packets.iter().any(|(serial, _)| *serial == 0);
            }
        }
        now += 10_000_000;
        bed.cx.clock = Clock::Driven(now);
    }
    assert!(bed.cx.overruns.is_empty());
    // What it gains in twenty seconds, and what it had.
    let may = u64::from(CALLS + 20 * CALLS_PER_SECOND) / u64::from(CALLS_PER_NOTICE);
    assert!((may - 2..=may).contains(&told), "{told} of {may} notices");
    // The last change is reported late, but it is reported.
    while bed.change() {
        assert!((0..CALLS_PER_NOTICE).all(|_| bed.ask(&read()).is_some()));
    }
    let due = bed.cx.timers.next().unwrap();
    bed.cx.clock = Clock::Driven(due);
    bed.poll(Ready::Timer(REPORT));
    assert!(bed.notices());
    assert_eq!(bed.cx.timers.next(), None);
}

#[test]
fn a_back_end_that_does_not_read_its_answers_loses_them() {
    let mut bed = Bed::new();
    for _ in 0..CALLS {
        bed.send(&read());
    }
    assert!(bed.packets().len() < CALLS as usize);
    assert!(bed.ask(&read()).is_none(), "all calls are made, answered or not");
}

const MISSING: Option<XenbusReply> = Some(XenbusReply::Value(None));
const FAILED: Option<XenbusReply> = Some(XenbusReply::Failed);

/// `xenbus` ended five seconds after xenstored had fallen silent, and stayed dead after five times.
#[test]
fn a_silent_xenstored_costs_one_call_its_time_and_others_nothing() {
    let mut bed = Bed::new();
    bed.stored.silent = true;
    assert_eq!(bed.ask(&read()), None);
    bed.pass(PATIENCE - 1);
    assert_eq!(bed.answer(), None);
    bed.pass(1);
    assert_eq!(bed.answer(), FAILED);
    let before = bed.stored.calls;
    for _ in 0..100 {
        bed.pass(36_000_000_000);
        assert_eq!(bed.ask(&read()), FAILED, "at once");
        assert_eq!(bed.write("state", "4"), FAILED, "at once");
        rustix::net::send(&bed.console, &[&[3], read().as_slice()].concat(), SendFlags::empty()).unwrap();
        bed.poll(Ready::Fd(2));
        let mut packet = [0; 100];
        assert_eq!(rustix::net::recv(&bed.console, &mut packet[..], RecvFlags::DONTWAIT).unwrap().0, 2);
        assert_eq!(packet[..2], [3, 2], "Failed");
    }
    // It answers again: nobody takes the late answer for another one's, and those who have missed something hear of it.
    bed.stored.silent = false;
    bed.settle();
    assert_eq!(bed.stored.calls, before + 1, "nothing has piled up");
    assert!(bed.notices());
    assert_eq!(bed.ask(&read()), Some(XenbusReply::Value(Some("2".into()))));
    assert!(!bed.notices() && bed.cx.timers.next().is_none());
    assert!(bed.cx.overruns.is_empty());
}

#[test]
fn a_write_that_has_failed_by_silence_is_not_made_later() {
    for answered in 0..3 {
        let mut bed = Bed::new();
        bed.stored.silent = true;
        assert_eq!(bed.write("sectors", "1"), None);
        for _ in 0..answered {
            bed.stored.silent = false;
            assert!(bed.stored.work());
            bed.stored.silent = true;
            bed.poll(Ready::Fd(STORE));
        }
        bed.pass(PATIENCE);
        assert_eq!(bed.answer(), FAILED, "{answered}");
        bed.stored.silent = false;
        bed.settle();
        assert_eq!((bed.node("/b/1/sectors"), bed.stored.open.len()), (None, 0), "{answered}");
        assert!(bed.notices());
        assert_eq!(bed.write("sectors", "1"), MISSING);
        assert_eq!(bed.node("/b/1/sectors").as_deref(), Some("1"));
    }
}

#[test]
fn a_call_of_a_dead_process_is_not_carried_out_for_the_next() {
    let mut bed = Bed::new();
    bed.stored.silent = true;
    bed.write("sectors", "1");
    let (near, far) = pair();
    bed.xenbus.begin_life(7, far, &mut bed.cx);
    bed.disk = near;
    bed.send(&read());
    assert_eq!(bed.answer(), None, "it waits for the end of the other one");
    bed.stored.silent = false;
    bed.settle();
    assert_eq!(bed.answer(), Some(XenbusReply::Value(Some("2".into()))));
    assert_eq!((bed.node("/b/1/sectors"), bed.stored.open.len()), (None, 0));
}

/// With dm_restrict the next process has the same connection: its watches were there already, and answers to the dead one came.
#[test]
fn the_next_process_goes_on_with_the_same_connection() {
    let mut bed = Bed::new();
    bed.stored.silent = true;
    bed.send(&read());
    bed.restart();
    bed.send(&XenbusCall::Read(Side::Front, "state".into()).to_bytes());
    assert_eq!(bed.answer(), None);
    bed.stored.silent = false;
    bed.settle();
    let packets = bed.packets();
    assert!(packets.contains(&(9, XenbusReply::Value(Some("3".into())))), "its own answer: {packets:?}");
    assert!(packets.contains(&(0, XenbusReply::Changed)), "what the dead one has heard: {packets:?}");
    assert_eq!(packets.len(), 2);
    assert!(bed.xenbus.watches.is_empty() && bed.change());
}

#[test]
fn what_xenstored_refuses_is_no_success_and_no_missing_node() {
    let mut bed = Bed::new();
    let conflict = (xenstore::XS_TRANSACTION_END, "EAGAIN");
    bed.stored.errors = vec![conflict];
    assert_eq!(bed.write("sectors", "1"), MISSING, "made again");
    assert_eq!(bed.node("/b/1/sectors").as_deref(), Some("1"));
    bed.stored.errors = vec![conflict; 16];
    assert_eq!(bed.write("sectors", "2"), FAILED);
    bed.stored.errors = vec![(xenstore::XS_WRITE, "EACCES")];
    assert_eq!(bed.write("sectors", "2"), FAILED);
    bed.stored.errors = vec![(xenstore::XS_READ, "EIO")];
    assert_eq!(bed.ask(&read()), FAILED);
    assert!(bed.stored.errors.is_empty() && !bed.notices());
}

proptest! {
    #[test]
    fn a_hostile_back_end_changes_nothing_of_others(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 1..20),
        kinds in proptest::collection::vec(0..6u8, 20),
        names in proptest::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        let mut bed = Bed::new();
        let before = bed.stored.nodes.clone();
        // Names that mean something, of this back end and of others, beside names of any bytes.
        let kinds_of_back_ends = [&means::QDISK, &means::VKBD, &means::VFB];
        let known: Vec<&str> = kinds_of_back_ends.iter().flat_map(|m| m.nodes()).map(|node| node.name).collect();
        for ((mut packet, kind), name) in packets.into_iter().zip(kinds).zip(names) {
            match (kind, packet.as_mut_slice()) {
                (0..4, [first, len, ..]) => (*first, *len) = (kind, *len % 70),
                (4, _) => packet = write(name.get::<&str>(&known), &String::from_utf8_lossy(&packet)),
                (_, _) => packet = write(name.get::<&str>(&known), &packet.len().to_string()),
            }
            let _ = bed.ask(&packet);
        }
        let own = |(path, _): &(&String, &String)| !path.starts_with("/b/1/") || path.matches('/').count() != 3;
        let after = &bed.stored.nodes;
        prop_assert!(before.iter().filter(own).eq(after.iter().filter(own)));
        for (path, value) in after.iter().filter(|(path, _)| path.starts_with("/b/1/")) {
            let name = path.rsplit('/').next().unwrap();
            prop_assert!(before.contains_key(path) || means::QDISK.may_write(name, value), "{}", path);
        }
    }
}
