//! The only process of the back ends with a connection to xenstored. Each back end may read two directories and write one; the
//! launcher determines them.
use crate::error::BuildError;
use crate::role::{Prepared, Role, Seen, wrong};
use bulkhead_bus::pv::Side;
use bulkhead_bus::{Auxiliary, Context, Inspect, Ready, Unseen};
use bulkhead_plan::pv_calls::{XenbusCall, XenbusReply};
use bulkhead_plan::{DeviceConfig, FdUse, PvNodes, kind};
use bulkhead_runtime::Resources;
use bulkhead_xen::{XenError, Xenstore};
use rustix::fd::OwnedFd;
use rustix::net::{RecvFlags, SendFlags};

pub(crate) static XENBUS: Role = Role { kind: &kind::XENBUS, seen: Seen::No, prepare };

fn prepare(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Xenbus { devices } = config else { return Err(wrong(config)) };
    let store = resources.fds.require(&FdUse::Xenstore)?;
    let mut polled = vec![(STORE, rustix::io::dup(&store)?)];
    let mut sockets = Vec::new();
    for ((number, _), ready) in devices.iter().zip(STORE.saturating_add(1)..) {
        let socket = resources.fds.require(&FdUse::Nodes(*number))?;
        polled.push((ready, rustix::io::dup(&socket)?));
        sockets.push(socket);
    }
    let store = Xenstore::from_stream(store)?;
    let nodes: Vec<PvNodes> = devices.iter().map(|(_, nodes)| nodes.clone()).collect();
    Ok(Prepared::device(Unseen(Xenbus::new(store, &nodes, sockets)?), polled))
}

/// Ready number of xenstored's connection; those of the back ends follow, in their order.
pub(crate) const STORE: u32 = 0;
/// Most calls of a back end before other work.
const BUDGET: usize = 16;

/// A back end and its directories.
struct Caller {
    socket: OwnedFd,
    nodes: PvNodes,
    calls: u64,
    refused: u64,
    changes: u64,
}

/// The operations for back ends.
trait Store: Send {
    fn read(&mut self, path: &str) -> Result<String, XenError>;
    fn write(&mut self, path: &str, value: &str) -> Result<(), XenError>;
    /// Numbers of the back ends whose directories have changed.
    fn fired(&mut self) -> Result<Vec<usize>, XenError>;
}

impl Store for Xenstore {
    fn read(&mut self, path: &str) -> Result<String, XenError> {
        Self::read(self, path)
    }
    fn write(&mut self, path: &str, value: &str) -> Result<(), XenError> {
        Self::write(self, path, value)
    }
    fn fired(&mut self) -> Result<Vec<usize>, XenError> {
        Ok(Self::fired(self)?.iter().filter_map(|token| token.parse().ok()).collect())
    }
}

/// The process `xenbus`: it reads and writes xenstore for the back ends that are its callers.
pub(crate) struct Xenbus {
    store: Box<dyn Store>,
    callers: Vec<Caller>,
}

impl Xenbus {
    /// Watches all directories. The sockets are in the order of `devices`.
    pub(crate) fn new(mut store: Xenstore, devices: &[PvNodes], sockets: Vec<OwnedFd>) -> Result<Self, BuildError> {
        for (i, nodes) in devices.iter().enumerate() {
            for path in [&nodes.back, &nodes.front] {
                store
                    .watch_as(path, &i.to_string())
                    .map_err(|source| BuildError::Watch { path: path.clone(), source })?;
            }
        }
        Ok(Self::with(Box::new(store), devices, sockets))
    }

    fn with(store: Box<dyn Store>, devices: &[PvNodes], sockets: Vec<OwnedFd>) -> Self {
        let caller = |(nodes, socket): (&PvNodes, OwnedFd)| Caller {
            socket,
            nodes: nodes.clone(),
            calls: 0,
            refused: 0,
            changes: 0,
        };
        Self { store, callers: devices.iter().zip(sockets).map(caller).collect() }
    }

    /// Answers a back end's calls. Returns whether more may be pending.
    fn serve(&mut self, number: usize) -> bool {
        let Some(caller) = self.callers.get_mut(number) else { return false };
        for _ in 0..BUDGET {
            let mut packet = [0; 1 + XenbusCall::MAX];
            let Ok((n, _)) = rustix::net::recv(&caller.socket, packet.as_mut_slice(), RecvFlags::DONTWAIT) else {
                return false;
            };
            let Some((serial, call)) = packet.get(..n).and_then(<[u8]>::split_first) else { return false };
            caller.calls = caller.calls.saturating_add(1);
            let done = match XenbusCall::from_bytes(call) {
                Some(XenbusCall::Read(side, name)) => {
                    let directory = if side == Side::Back { &caller.nodes.back } else { &caller.nodes.front };
                    self.store.read(&format!("{directory}/{name}")).map(Some)
                }
                Some(XenbusCall::Write(name, value)) => {
                    self.store.write(&format!("{}/{name}", caller.nodes.back), &value).map(|()| None)
                }
                None => {
                    caller.refused = caller.refused.saturating_add(1);
                    send(&caller.socket, *serial, &XenbusReply::Failed);
                    continue;
                }
            };
            let reply = match done {
                Ok(value) => XenbusReply::Value(value),
                Err(e) if e.is_answer() => XenbusReply::Value(None),
                // The connection is lost. The process exits, and the next one gets a new connection.
                Err(e) => give_up(&e),
            };
            send(&caller.socket, *serial, &reply);
        }
        true
    }

    /// Notifies back ends of changes. Returns whether more may be pending.
    fn changed(&mut self) -> bool {
        let fired = self.store.fired().unwrap_or_else(|e| give_up(&e));
        for number in &fired {
            if let Some(caller) = self.callers.get_mut(*number) {
                caller.changes = caller.changes.saturating_add(1);
                // A full socket holds earlier notices, so this one is not needed.
                send(&caller.socket, 0, &XenbusReply::Changed);
            }
        }
        !fired.is_empty()
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

impl Auxiliary for Xenbus {
    fn start(&mut self, cx: &mut Context) {
        // A previous process may have left calls.
        cx.again();
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let more = match ready {
            Ready::Fd(STORE) => self.changed(),
            Ready::Fd(n) => self.serve(n.saturating_sub(1) as usize),
            // Deferred work of all back ends.
            _ => {
                let mut more = self.changed();
                for number in 0..self.callers.len() {
                    more |= self.serve(number);
                }
                more
            }
        };
        // A watch event that arrives before an answer is buffered without making the descriptor ready.
        if more || matches!(ready, Ready::Fd(n) if n != STORE) {
            cx.again();
        }
    }

    fn inspect(&self, out: &mut Inspect) {
        for caller in &self.callers {
            out.group(caller.nodes.back.rsplit('/').next().unwrap_or(""), |out| {
                out.value("back end", &caller.nodes.back)
                    .value("calls", caller.calls)
                    .value("refused", caller.refused)
                    .value("changes", caller.changes);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::fake;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    type Nodes = Arc<Mutex<BTreeMap<String, String>>>;
    struct Fake(Nodes);

    impl Store for Fake {
        fn read(&mut self, path: &str) -> Result<String, XenError> {
            let missing = || XenError { what: "xenstore", source: std::io::Error::other("ENOENT") };
            self.0.lock().unwrap().get(path).cloned().ok_or_else(missing)
        }
        fn write(&mut self, path: &str, value: &str) -> Result<(), XenError> {
            self.0.lock().unwrap().insert(path.to_owned(), value.to_owned());
            Ok(())
        }
        fn fired(&mut self) -> Result<Vec<usize>, XenError> {
            Ok(Vec::new())
        }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn bed() -> (Xenbus, OwnedFd, Nodes) {
        let nodes: Nodes = Arc::default();
        for (path, value) in [("/b/1/state", "2"), ("/f/1/state", "3"), ("/b/2/state", "6"), ("/secret", "x")] {
            nodes.lock().unwrap().insert(path.into(), value.into());
        }
        let (near, far) = pair();
        let devices = [PvNodes { back: "/b/1".into(), front: "/f/1".into() }];
        (Xenbus::with(Box::new(Fake(nodes.clone())), &devices, vec![far]), near, nodes)
    }

    fn ask(xenbus: &mut Xenbus, socket: &OwnedFd, call: &[u8]) -> Option<XenbusReply> {
        rustix::net::send(socket, &[&[9], call].concat(), SendFlags::empty()).unwrap();
        xenbus.poll(Ready::Fd(1), &mut fake::context(0));
        let mut packet = [0; 2000];
        let (n, _) = rustix::net::recv(socket, packet.as_mut_slice(), RecvFlags::DONTWAIT).ok()?;
        assert_eq!(packet[0], 9, "the answer's number");
        XenbusReply::from_bytes(&packet[1..n])
    }

    #[test]
    fn a_back_end_has_its_two_directories_and_writes_one() {
        let (mut xenbus, socket, nodes) = bed();
        let mut ask = |call: XenbusCall| ask(&mut xenbus, &socket, &call.to_bytes());
        let value = |text: &str| Some(XenbusReply::Value(Some(text.into())));
        assert_eq!(ask(XenbusCall::Read(Side::Back, "state".into())), value("2"));
        assert_eq!(ask(XenbusCall::Read(Side::Front, "state".into())), value("3"));
        assert_eq!(ask(XenbusCall::Read(Side::Front, "nothing".into())), Some(XenbusReply::Value(None)));
        assert_eq!(ask(XenbusCall::Write("state".into(), "4".into())), Some(XenbusReply::Value(None)));
        assert_eq!(nodes.lock().unwrap()["/b/1/state"], "4");
        for name in ["../2/state", "/secret", "1/state", "..", ""] {
            assert_eq!(ask(XenbusCall::Read(Side::Back, name.into())), Some(XenbusReply::Failed), "{name}");
            assert_eq!(ask(XenbusCall::Write(name.into(), "!".into())), Some(XenbusReply::Failed), "{name}");
        }
    }

    proptest! {
        #[test]
        fn a_hostile_back_end_changes_nothing_of_others(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..90), 1..20),
            kinds in proptest::collection::vec(0..4u8, 20),
        ) {
            let (mut xenbus, socket, nodes) = bed();
            let before = nodes.lock().unwrap().clone();
            for (mut packet, kind) in packets.into_iter().zip(kinds) {
                if let [first, len, ..] = packet.as_mut_slice() {
                    (*first, *len) = (kind, *len % 70);
                }
                let _ = ask(&mut xenbus, &socket, &packet);
            }
            let own = |(path, _): &(&String, &String)| !path.starts_with("/b/1/") || path.matches('/').count() != 3;
            let after = nodes.lock().unwrap();
            prop_assert!(before.iter().filter(own).eq(after.iter().filter(own)));
        }
    }
}
