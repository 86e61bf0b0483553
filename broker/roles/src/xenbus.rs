//! The only process of the back ends with a connection to xenstored. Each back end may read two directories, and write a few nodes of
//! one; the launcher determines the directories, and the back end's kind the nodes. xenstored serves all guests, and dom0 has no
//! quota there, so calls are counted.
use crate::error::BuildError;
use crate::role::{Prepared, Role, Seen, wrong};
use crate::token_bucket::TokenBucket;
use bulkhead_bus::pv::means::{CALLS, CALLS_PER_NOTICE, CALLS_PER_SECOND};
use bulkhead_bus::pv::{Means, Side};
use bulkhead_bus::{Auxiliary, Callers, Context, Inspect, Ready, TimerId, Unseen};
use bulkhead_plan::pv_calls::{XenbusCall, XenbusReply};
use bulkhead_plan::{DeviceConfig, FdUse, PvNodes, kind};
use bulkhead_runtime::Resources;
use bulkhead_xen::{XenError, Xenstore};
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags};

pub(crate) static XENBUS: Role = Role { kind: &kind::XENBUS, seen: Seen::No, prepare };

fn prepare(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Xenbus { callers: all } = config else { return Err(wrong(config)) };
    let store = resources.fds.require(&FdUse::Xenstore)?;
    let mut polled = vec![(STORE, rustix::io::dup(&store)?)];
    let mut store = Xenstore::from_stream(store)?;
    let now = bulkhead_bus::Clock::Real.now();
    let mut callers = Vec::new();
    for (caller, ready) in all.iter().zip(FIRST_CALLER..) {
        let means = caller.means().ok_or_else(|| BuildError::NoBackEnd(caller.role.clone()))?;
        for path in [&caller.about.back, &caller.about.front] {
            store
                .watch_as(path, &callers.len().to_string())
                .map_err(|source| BuildError::Watch { path: path.clone(), source })?;
        }
        let socket = resources.fds.take(&FdUse::Nodes(caller.number));
        polled.extend(socket.as_ref().map(rustix::io::dup).transpose()?.map(|socket| (ready, socket)));
        callers.push(Caller::new(caller.number, means, caller.about.clone(), socket, now));
    }
    Ok(Prepared::device(Unseen(Xenbus { store: Box::new(store), callers }), polled))
}

/// Ready number of xenstored's connection; those of the back ends follow, in their order.
const STORE: u32 = 0;
const FIRST_CALLER: u32 = 1;
/// Timer: changes that were not reported yet.
const REPORT: TimerId = 0;
/// Most calls of a back end before other work.
const BUDGET: usize = 16;
/// A change is reported to a back end that has so many calls left: it may still be at work on an earlier notice. Then no guest can
/// bring its back end to the limit by changing its nodes.
const RESERVE: u32 = 2 * CALLS_PER_NOTICE;

/// A back end and its directories.
struct Caller {
    /// The launcher's number.
    number: u8,
    means: &'static Means,
    nodes: PvNodes,
    /// The socket to its process, if it has had one.
    socket: Option<OwnedFd>,
    /// Calls that it may make.
    allowance: TokenBucket,
    /// It has made more calls than it may, and is not answered any more in this life.
    ended: bool,
    /// Its nodes have changed, and it has not been told.
    unreported: bool,
    calls: u64,
    refused: u64,
    late: u64,
    overruns: u64,
    changes: u64,
}

impl Caller {
    fn new(number: u8, means: &'static Means, nodes: PvNodes, socket: Option<OwnedFd>, now: u64) -> Self {
        Self {
            number,
            means,
            nodes,
            socket,
            allowance: TokenBucket::new(CALLS, CALLS_PER_SECOND, now),
            ended: false,
            unreported: false,
            calls: 0,
            refused: 0,
            late: 0,
            overruns: 0,
            changes: 0,
        }
    }

    /// Carries out a call; `None` if it is not the back end's to make.
    fn carry_out(&mut self, store: &mut dyn Store, call: &[u8]) -> Option<Result<Option<String>, XenError>> {
        Some(match XenbusCall::from_bytes(call)? {
            XenbusCall::Read(side, name) => {
                let directory = if side == Side::Back { &self.nodes.back } else { &self.nodes.front };
                store.read(&format!("{directory}/{name}")).map(Some)
            }
            XenbusCall::Write(name, value) => {
                if !self.means.may_write(&name, &value) {
                    return None;
                }
                let back = &self.nodes.back;
                store.write_beside(&format!("{back}/state"), &format!("{back}/{name}"), &value).map(|written| {
                    self.late = self.late.saturating_add(u64::from(!written));
                    None
                })
            }
        })
    }

    /// Tells the back end of changed nodes if it has calls left for what it does then. Otherwise returns the time when it has.
    fn report(&mut self, now: u64) -> Option<u64> {
        let socket = self.socket.as_ref().filter(|_| self.unreported && !self.ended)?;
        let at = self.allowance.has_at(RESERVE, now);
        if at > now {
            return Some(at);
        }
        self.unreported = false;
        self.changes = self.changes.saturating_add(1);
        // A full socket holds earlier notices, so this one is not needed.
        send(socket, 0, &XenbusReply::Changed);
        None
    }
}

/// The operations for back ends.
trait Store: Send {
    fn read(&mut self, path: &str) -> Result<String, XenError>;
    /// Writes a node if the node `there` exists. Returns whether it was written.
    fn write_beside(&mut self, there: &str, path: &str, value: &str) -> Result<bool, XenError>;
    /// Indexes of the back ends whose directories have changed.
    fn fired(&mut self) -> Result<Vec<usize>, XenError>;
}

impl Store for Xenstore {
    fn read(&mut self, path: &str) -> Result<String, XenError> {
        Self::read(self, path)
    }
    fn write_beside(&mut self, there: &str, path: &str, value: &str) -> Result<bool, XenError> {
        Self::write_beside(self, there, path, value)
    }
    fn fired(&mut self) -> Result<Vec<usize>, XenError> {
        Ok(Self::fired(self)?.iter().filter_map(|token| token.parse().ok()).collect())
    }
}

/// The process `xenbus`: it reads and writes xenstore for the back ends that are its callers.
struct Xenbus {
    store: Box<dyn Store>,
    callers: Vec<Caller>,
}

impl Xenbus {
    /// Answers a back end's calls. Returns whether more may be pending.
    fn serve(&mut self, index: usize, cx: &mut Context) -> bool {
        let Some(caller) = self.callers.get_mut(index).filter(|c| !c.ended) else { return false };
        let now = cx.now();
        for _ in 0..BUDGET {
            let Some(socket) = &caller.socket else { return false };
            let mut packet = [0; 1 + XenbusCall::MAX];
            let Ok((n, _)) = rustix::net::recv(socket, packet.as_mut_slice(), RecvFlags::DONTWAIT) else {
                return false;
            };
            if !caller.allowance.take(now) {
                tracing::error!("{} makes more calls than it may; it is ended", caller.nodes.back);
                caller.ended = true;
                caller.overruns = caller.overruns.saturating_add(1);
                cx.overruns.push(caller.number);
                return false;
            }
            let Some((serial, call)) = packet.get(..n).and_then(<[u8]>::split_first) else { return false };
            caller.calls = caller.calls.saturating_add(1);
            let reply = match caller.carry_out(&mut *self.store, call) {
                None => {
                    caller.refused = caller.refused.saturating_add(1);
                    XenbusReply::Failed
                }
                Some(Ok(value)) => XenbusReply::Value(value),
                Some(Err(e)) if e.is_answer() => XenbusReply::Value(None),
                // The connection is lost. The process exits, and the next one gets a new connection.
                Some(Err(e)) => give_up(&e),
            };
            if let Some(socket) = &caller.socket {
                send(socket, *serial, &reply);
            }
        }
        true
    }

    /// Notes changed nodes. Returns whether more may be pending.
    fn changed(&mut self) -> bool {
        let fired = self.store.fired().unwrap_or_else(|e| give_up(&e));
        for index in &fired {
            if let Some(caller) = self.callers.get_mut(*index) {
                caller.unreported = true;
            }
        }
        !fired.is_empty()
    }

    /// Tells back ends of changed nodes, at once or later.
    fn report(&mut self, cx: &mut Context) {
        if self.callers.iter().any(|c| c.unreported) {
            let now = cx.now();
            let next = self.callers.iter_mut().filter_map(|c| c.report(now)).min();
            cx.timers.set(REPORT, next);
        }
    }
}

fn give_up(e: &XenError) -> ! {
    tracing::error!("{e}");
    bulkhead_runtime::end(1)
}

fn send(socket: &OwnedFd, serial: u8, reply: &XenbusReply) {
    let packet = [vec![serial], reply.to_bytes()].concat();
    let _ = rustix::net::send(socket, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

impl Callers for Xenbus {
    fn ready(&self, caller: u8) -> Option<u32> {
        let index = self.callers.iter().position(|c| c.number == caller)?;
        u32::try_from(index).ok()?.checked_add(FIRST_CALLER)
    }

    fn begin_life(&mut self, caller: u8, socket: OwnedFd, cx: &mut Context) -> Option<OwnedFd> {
        let caller = self.callers.iter_mut().find(|c| c.number == caller)?;
        caller.allowance = TokenBucket::new(CALLS, CALLS_PER_SECOND, cx.now());
        (caller.ended, caller.unreported) = (false, false);
        caller.socket.replace(socket)
    }
}

impl Auxiliary for Xenbus {
    fn start(&mut self, cx: &mut Context) {
        // A previous process may have left calls.
        cx.again();
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let more = match ready {
            Ready::Fd(STORE) => self.changed(),
            Ready::Fd(n) => self.serve(n.saturating_sub(FIRST_CALLER) as usize, cx),
            Ready::Timer(_) => false,
            // Deferred work of all back ends.
            Ready::Again => {
                let mut more = self.changed();
                for index in 0..self.callers.len() {
                    more |= self.serve(index, cx);
                }
                more
            }
        };
        self.report(cx);
        // A watch event that arrives before an answer is buffered without making the descriptor ready.
        if more || matches!(ready, Ready::Fd(n) if n != STORE) {
            cx.again();
        }
    }

    fn callers(&mut self) -> Option<&mut dyn Callers> {
        Some(self)
    }

    fn inspect(&self, out: &mut Inspect) {
        for caller in &self.callers {
            out.group(caller.nodes.back.rsplit('/').next().unwrap_or(""), |out| {
                out.value("back end", &caller.nodes.back)
                    .value("calls", caller.calls)
                    .value("refused", caller.refused)
                    .value("writes after removal", caller.late)
                    .value("overruns", caller.overruns)
                    .value("ended", caller.ended)
                    .value("changes", caller.changes);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::pv::means;
    use bulkhead_bus::{Clock, fake};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Stored {
        nodes: BTreeMap<String, String>,
        fired: Vec<usize>,
    }
    struct Fake(Arc<Mutex<Stored>>);

    impl Store for Fake {
        fn read(&mut self, path: &str) -> Result<String, XenError> {
            let missing = || XenError { what: "xenstore", source: std::io::Error::other("ENOENT") };
            self.0.lock().unwrap().nodes.get(path).cloned().ok_or_else(missing)
        }
        fn write_beside(&mut self, there: &str, path: &str, value: &str) -> Result<bool, XenError> {
            let nodes = &mut self.0.lock().unwrap().nodes;
            let exists = nodes.contains_key(there);
            if exists {
                nodes.insert(path.to_owned(), value.to_owned());
            }
            Ok(exists)
        }
        fn fired(&mut self) -> Result<Vec<usize>, XenError> {
            Ok(std::mem::take(&mut self.0.lock().unwrap().fired))
        }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// `xenbus` with a disk and a console, and the disk's socket.
    struct Bed {
        xenbus: Xenbus,
        disk: OwnedFd,
        console: OwnedFd,
        stored: Arc<Mutex<Stored>>,
        cx: Context,
    }

    impl Bed {
        fn new() -> Self {
            let stored = Arc::new(Mutex::new(Stored::default()));
            for (path, value) in [("/b/1/state", "2"), ("/f/1/state", "3"), ("/b/2/state", "6"), ("/secret", "x")] {
                stored.lock().unwrap().nodes.insert(path.into(), value.into());
            }
            let ((disk, far), (console, far_console)) = (pair(), pair());
            let nodes = |n: u8| PvNodes { back: format!("/b/{n}"), front: format!("/f/{n}") };
            let callers = vec![
                Caller::new(7, &means::QDISK, nodes(1), Some(far), 0),
                Caller::new(9, &means::CONSOLE, nodes(2), Some(far_console), 0),
            ];
            let xenbus = Xenbus { store: Box::new(Fake(stored.clone())), callers };
            Self { xenbus, disk, console, stored, cx: fake::context(0) }
        }

        /// Makes a call of the disk. Returns the answer, without notices of changes.
        fn ask(&mut self, call: &[u8]) -> Option<XenbusReply> {
            let _ = rustix::net::send(&self.disk, &[&[9], call].concat(), SendFlags::DONTWAIT);
            self.xenbus.poll(Ready::Fd(1), &mut self.cx);
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
            self.ask(&XenbusCall::Write(name.into(), value.into()).to_bytes())
        }

        fn node(&self, path: &str) -> Option<String> {
            self.stored.lock().unwrap().nodes.get(path).cloned()
        }

        /// Nodes of the disk change. Returns whether the disk was told, once.
        fn change(&mut self) -> bool {
            self.stored.lock().unwrap().fired.push(0);
            self.xenbus.poll(Ready::Fd(STORE), &mut self.cx);
            self.notices()
        }

        fn notices(&self) -> bool {
            match self.packets().as_slice() {
                [] => false,
                [(0, XenbusReply::Changed)] => true,
                other => panic!("{other:?}"),
            }
        }
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
        for (name, value) in
            [("frontend", "/f/2"), ("width", "1"), ("n", ""), ("state", "44"), ("error", &"x".repeat(129))]
        {
            assert_eq!(bed.write(name, value), Some(XenbusReply::Failed), "{name}");
        }
        assert_eq!(bed.stored.lock().unwrap().nodes.len(), 5);
    }

    #[test]
    fn nothing_is_written_once_the_state_is_gone() {
        let mut bed = Bed::new();
        bed.stored.lock().unwrap().nodes.retain(|path, _| !path.starts_with("/b/1"));
        for (name, value) in [("state", "4"), ("sectors", "1"), ("error", "no")] {
            bed.write(name, value);
        }
        assert!(bed.stored.lock().unwrap().nodes.keys().all(|path| !path.starts_with("/b/1")));
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
        let stored = bed.stored.lock().unwrap().nodes.clone();
        assert_eq!(stored.len(), 5, "{stored:?}");
        assert!(stored.values().map(String::len).sum::<usize>() < 200);
        // No notices and no calls any more, but the others are served.
        assert!(!bed.change());
        rustix::net::send(&bed.console, &[&[3], read().as_slice()].concat(), SendFlags::empty()).unwrap();
        bed.xenbus.poll(Ready::Fd(2), &mut bed.cx);
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
                    bed.stored.lock().unwrap().fired.push(0);
                    bed.xenbus.poll(Ready::Fd(STORE), &mut bed.cx);
                    let _ = rustix::net::send(&bed.disk, &[&[9], read().as_slice()].concat(), SendFlags::DONTWAIT);
                    bed.xenbus.poll(Ready::Fd(1), &mut bed.cx);
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
        bed.xenbus.poll(Ready::Timer(REPORT), &mut bed.cx);
        assert!(bed.notices());
        assert_eq!(bed.cx.timers.next(), None);
    }

    #[test]
    fn a_back_end_that_does_not_read_its_answers_loses_them() {
        let mut bed = Bed::new();
        for _ in 0..CALLS {
            let _ = rustix::net::send(&bed.disk, &[&[9], read().as_slice()].concat(), SendFlags::DONTWAIT);
            bed.xenbus.poll(Ready::Fd(1), &mut bed.cx);
        }
        assert!(bed.packets().len() < CALLS as usize);
        assert!(bed.ask(&read()).is_none(), "all calls are made, answered or not");
    }

    proptest! {
        #[test]
        fn a_hostile_back_end_changes_nothing_of_others(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 1..20),
            kinds in proptest::collection::vec(0..4u8, 20),
        ) {
            let mut bed = Bed::new();
            let before = bed.stored.lock().unwrap().nodes.clone();
            for (mut packet, kind) in packets.into_iter().zip(kinds) {
                if let [first, len, ..] = packet.as_mut_slice() {
                    (*first, *len) = (kind, *len % 70);
                }
                let _ = bed.ask(&packet);
            }
            let own = |(path, _): &(&String, &String)| !path.starts_with("/b/1/") || path.matches('/').count() != 3;
            let after = &bed.stored.lock().unwrap().nodes;
            prop_assert!(before.iter().filter(own).eq(after.iter().filter(own)));
            for (path, value) in after.iter().filter(|(path, _)| path.starts_with("/b/1/")) {
                let name = path.rsplit('/').next().unwrap();
                prop_assert!(before.contains_key(path) || means::QDISK.may_write(name, value), "{}", path);
            }
        }
    }
}
