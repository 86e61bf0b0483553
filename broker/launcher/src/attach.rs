//! The launcher with `-xen-attach`, which libxl starts in dom0 beside a stub domain: it serves the domain's PV back ends (consoles,
//! frame buffer, file-backed disks). If the domain has a PV device of a kind that Bulkhead does not serve, the host's QEMU serves
//! them all, and this program only watches the domain. It reports the guest crashed when the stub domain dies. Nobody else does,
//! and the guest would wait for ever.
use crate::errors::Code;
use crate::failure::{Failure, system};
use crate::nodes::{Nodes, Seen};
use crate::pv;
use crate::store::{self, Store, Subject, Write};
use crate::supervise::{executable, users};
use bulkhead_policy::{Reach, Starter};
use bulkhead_xen::{DomainState, Privcmd, XenError, Xenstore, XenstoreQueue};
use bulkhead_xen_abi::Shutdown;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use std::path::Path;
use std::rc::Rc;

/// Paths of QEMU for Xen: Debian's, Xen's own build, others.
const QEMU: &[&str] = &[
    "/usr/libexec/xen-qemu-system-i386",
    "/usr/lib/xen/bin/qemu-system-i386",
    "/usr/local/lib/xen/bin/qemu-system-i386",
    "/usr/libexec/xen/bin/qemu-system-i386",
    "/usr/bin/qemu-system-i386",
];

/// A domain that is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    domid: u16,
    /// The guest, if the domain is a stub domain.
    guest: Option<u16>,
    shown: bool,
}

/// Changes of a domain since the last call.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// A back end of its PV disks may have changed.
    pub(crate) disks: bool,
    /// A front end of its PV disks may have changed.
    pub(crate) fronts: bool,
    /// The stub domain's VNC server may have an address now.
    pub(crate) viewer: bool,
    /// The domain is dead; a line for the log about what was done.
    pub(crate) end: Option<String>,
}

const DOMAINS: &str = "domains";
const VNC: &str = "vnc";
const DISKS: &str = "disks";
const FRONTS: &str = "fronts";

impl Watch {
    /// Starts to watch a domain over `store`. This waits for xenstored; no guest runs yet.
    pub(crate) fn new(domid: u16, store: &mut Store) -> Result<Self, XenError> {
        let mut xenstore = Xenstore::connect()?;
        let guest = match xenstore.read(&format!("/local/domain/{domid}/target")) {
            Ok(target) => target.parse::<u16>().ok(),
            Err(e) if e.is_answer() => None,
            Err(e) => return Err(e),
        };
        let mut watches = Vec::new();
        if guest.is_some() {
            watches.push(("@releaseDomain".to_owned(), DOMAINS));
            watches.push((format!("/local/domain/{domid}/console/vnc-port"), VNC));
        }
        for domid in guest.into_iter().chain([domid]) {
            watches.push((format!("/local/domain/0/backend/qdisk/{domid}"), DISKS));
            watches.push((format!("/local/domain/{domid}/device/vbd"), FRONTS));
        }
        store.watch(xenstore.into_queue(), watches)?;
        Ok(Self { domid, guest, shown: false })
    }

    /// A watched domain.
    #[cfg(test)]
    pub(crate) fn of(domid: u16, guest: Option<u16>) -> Self {
        Self { domid, guest, shown: false }
    }

    /// A line for the log, if the domain is a stub domain.
    pub(crate) fn shown(&self) -> Option<String> {
        let line = |guest| format!("if stub domain {} dies, guest {guest} is reported crashed", self.domid);
        self.guest.map(line)
    }

    /// Whether the domain is a stub domain.
    pub(crate) fn is_stub_domain(&self) -> bool {
        self.guest.is_some()
    }

    /// The guest, if the domain is a stub domain.
    pub(crate) fn guest(&self) -> Option<u16> {
        self.guest
    }

    /// What the watches that have `fired` mean. Reports a stub domain's guest crashed if the stub domain is dead.
    pub(crate) fn changes(&self, fired: &[String]) -> Result<Changes, WatchFault> {
        let has = |token: &str| fired.iter().any(|f| f == token);
        let mut seen = Changes { disks: has(DISKS), fronts: has(FRONTS), viewer: has(VNC) && !self.shown, end: None };
        if let Some(guest) = self.guest.filter(|_| has(DOMAINS)) {
            seen.end = report_if_dead(self.domid, guest)?;
        }
        Ok(seen)
    }

    /// The writes that copy the address of the stub domain's VNC server to its guest's nodes.
    pub(crate) fn show(&self, seen: &mut Seen) -> Vec<Write> {
        self.guest.map(|guest| show(seen, self.domid, guest)).unwrap_or_default()
    }

    /// Notes that these writes are made. There are none as long as libxl has not written the address.
    pub(crate) fn has_shown(&mut self, writes: &[Write]) {
        self.shown |= !writes.is_empty();
    }
}

/// Why a domain is not watched any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatchFault {
    /// Xen or xenstored does not answer.
    #[error(transparent)]
    Xen(#[from] XenError),
    /// The stub domain is dead, and Xen does not take its guest's crash.
    #[error("guest {guest} could not be reported crashed: {source}")]
    Report {
        /// The guest of the stub domain that is watched.
        guest: u16,
        /// Xen's error.
        source: XenError,
    },
}

/// The path of the host's QEMU, if it must serve the back ends of the arguments' domain because Bulkhead does not serve all of
/// them. `None` also if the settings or a host without QEMU leave the rest unserved.
pub fn qemus(arguments: &[String]) -> Option<&'static str> {
    let last = |option: &str| {
        arguments.iter().zip(arguments.iter().skip(1)).filter(|(o, _)| *o == option).map(|(_, value)| value).next_back()
    };
    let domid = last("-xen-domid").and_then(|d| d.parse::<u16>().ok())?;
    let others =
        Xenstore::connect().map_or_else(|e| vec![e.to_string()], |mut xenstore| pv::not_served(domid, &mut xenstore));
    let qemu = QEMU.iter().find(|p| Path::new(p).exists()).filter(|_| last("-pv-others").is_none_or(|o| o != "leave"));
    for line in &others {
        crate::log::say(&format!(
            "{line}: not served here{}",
            if qemu.is_some() { "" } else { ", and by nobody else" }
        ));
    }
    qemu.filter(|_| !others.is_empty()).copied()
}

/// Whether these arguments ask for the back ends of a domain without emulated devices.
pub fn is_asked(arguments: &[String]) -> bool {
    let machine = |a: &str| a == "xenpv" || a.starts_with("xenpv,");
    let pairs = arguments.iter().zip(arguments.iter().skip(1));
    arguments.iter().any(|a| a == "-xen-attach")
        || pairs.into_iter().any(|(a, b)| matches!(a.as_str(), "-M" | "-machine") && machine(b))
}

/// Starts the host's QEMU and watches the domain until libxl ends this process.
pub fn run(qemu: &str, arguments: &[String]) -> Result<(), Failure> {
    let signals = bulkhead_policy::end_signals().map_err(system("signals"))?;
    let domid = arguments.iter().skip_while(|a| *a != "-xen-domid").nth(1);
    let domid = domid.and_then(|d| d.parse::<u16>().ok());
    let null =
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(system("/dev/null"))?;
    let starter = Rc::new(Starter::new(executable::roles()?, null).map_err(system("/proc"))?);
    let opener = Rc::clone(&starter);
    let mut store = Store::new(Some(Box::new(move || store::open(&opener).map(XenstoreQueue::over_opened))));
    let watched = domid.map(|domid| Watch::new(domid, &mut store)).transpose().map_err(Failure::Watch)?;
    let mut watched = watched.filter(Watch::is_stub_domain);
    let (pid, pidfd) = bulkhead_policy::start_attached(qemu, arguments)
        .map_err(|source| Failure::File { path: qemu.into(), source })?;
    crate::log::say(&format!("PV back ends are served by {qemu} (pid {pid})"));
    watched.iter().filter_map(Watch::shown).for_each(|line| crate::log::say(&line));
    // QEMU is the host's and has no cage. This process only watches from here on; its starter starts nothing, and connects to xenstored.
    let reach = Reach { written: vec!["/dev/xen".into()], made: Vec::new() };
    bulkhead_policy::enter_cage(false).map_err(Failure::Cage)?;
    let handed_over = starter.hand_over(users(domid.unwrap_or_default()), &[]);
    handed_over.map_err(|source| Failure::Spawn { name: "starter".into(), source })?;
    let abi = bulkhead_policy::close_cage(false, Some(&reach)).map_err(Failure::Cage)?;
    bulkhead_policy::not_confined(abi).iter().for_each(|line| crate::log::say(line));
    let (mut served, mut connects) = (true, true);
    loop {
        if connects && starter_has_exited(&starter) {
            connects = false;
            starter.exited();
            store.keep_connection();
            crate::log::say(&Code::Starter.line("the process that connects to xenstored has ended"));
        }
        let mut polled = vec![PollFd::new(&signals, PollFlags::IN)];
        let connection = store.fd().filter(|_| watched.is_some());
        polled.extend(connection.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        if served {
            polled.push(PollFd::new(&pidfd, PollFlags::IN));
        }
        let timeout = (watched.is_some() && store.is_timed()).then_some(TICK);
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(system("poll")(e)),
        }
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        drop(polled);
        if ready.first() == Some(&true) {
            break;
        }
        if let Some(watch) = &mut watched {
            if ready.iter().all(|ready| !ready) {
                store.tick();
            }
            let fired = store.hear();
            // The domain may still run, so its back ends stay.
            let seen = watch.changes(&fired).unwrap_or_else(|e| Changes {
                end: Some(format!("the stub domain cannot be watched any more: {e}")),
                ..Changes::default()
            });
            if seen.viewer {
                store.look(Subject::Viewer);
            }
            while let Some((_, mut found)) = store.next_round() {
                let writes = watch.show(&mut found);
                if store.complete(found).is_some() {
                    watch.has_shown(&writes);
                    store.finish(writes);
                }
            }
            if let Some(line) = seen.end {
                crate::log::say(&line);
                watched = None;
            }
        }
        if served
            && ready.last() == Some(&true)
            && rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG).is_ok_and(|s| s.is_some())
        {
            crate::log::say(&format!("QEMU (pid {pid}) has ended; nobody serves the PV back ends any more"));
            served = false;
            // Without a guest to watch this process has no more work.
            if watched.is_none() {
                return Err(Failure::QemuExited);
            }
        }
    }
    if served {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::TERM);
        let patience = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
        if !matches!(rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience)), Ok(1..)) {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
        let _ = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty());
    }
    starter.end();
    Ok(())
}

/// Whether the starter has exited. It is looked at when something else happens: nothing is lost before it is needed.
fn starter_has_exited(starter: &Starter) -> bool {
    let Some(pidfd) = starter.pidfd() else { return true };
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&now)), Ok(1..))
}

/// Time of a tick, while xenstored owes an answer.
const TICK: rustix::event::Timespec = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The nodes of a VNC server's address, as libxl names them.
const ADDRESS: [&str; 3] = ["vnc-listen", "vnc-pass", PORT];
const PORT: &str = "vnc-port";
/// Most bytes of their values.
const LONGEST: usize = 256;

/// The writes that copy the VNC server's address from the stub domain's nodes, where libxl writes it, to the guest's, where
/// `xl vncviewer GUEST` reads it; none if libxl has not written it yet.
fn show(nodes: &mut impl Nodes, stubdom: u16, guest: u16) -> Vec<Write> {
    let (from, to) = (format!("/local/domain/{stubdom}/console"), format!("/local/domain/{guest}/console"));
    let values = ADDRESS.map(|node| (node, nodes.value(&format!("{from}/{node}")).filter(|v| v.len() <= LONGEST)));
    if !values.iter().any(|(node, value)| *node == PORT && value.is_some()) {
        return Vec::new();
    }
    let write = |(node, value): (&str, Option<String>)| {
        let failed = format!("xl vncviewer will not find guest {guest}: {node} cannot be written");
        Some(Write { there: to.clone(), path: format!("{to}/{node}"), value: value?, lines: [None, Some(failed)] })
    };
    values.into_iter().filter_map(write).collect()
}

/// Reports the guest crashed if its stub domain is dead. Returns a line for the log if the watch ends with it.
fn report_if_dead(stubdom: u16, guest: u16) -> Result<Option<String>, WatchFault> {
    let state = |domid| Privcmd::open(domid).and_then(|p| p.domain_state());
    if state(stubdom)? == DomainState::Alive {
        return Ok(None);
    }
    if state(guest)? != DomainState::Alive {
        return Ok(Some(format!("stub domain {stubdom} and guest {guest} have ended")));
    }
    Privcmd::open(guest)
        .and_then(|p| p.remote_shutdown(Shutdown::Crash))
        .map_err(|source| WatchFault::Report { guest, source })?;
    Ok(Some(format!("stub domain {stubdom} is dead: guest {guest} is reported crashed")))
}

#[cfg(test)]
mod tests {
    use super::{is_asked, show};
    use std::collections::BTreeMap;

    #[test]
    fn a_stub_domains_nodes_become_no_more_than_a_viewers_address() {
        let mut nodes: BTreeMap<String, String> = BTreeMap::new();
        let mut put = |path: &str, value: &str| nodes.insert(format!("/local/domain/{path}"), value.to_owned());
        put("8/console", "");
        put("9/console/vnc-listen", "127.0.0.1");
        (0..1000).for_each(|i| drop(put(&format!("9/console/vnc-{i}"), "x")));
        let copy = |nodes: &mut BTreeMap<String, String>| {
            let writes = show(nodes, 9, 8);
            let any = !writes.is_empty();
            for write in writes.into_iter().filter(|w| w.there == "/local/domain/8/console") {
                nodes.insert(write.path, write.value);
            }
            any
        };
        assert!(!copy(&mut nodes), "libxl has not written it yet");
        nodes.insert("/local/domain/9/console/vnc-port".into(), "5900".into());
        nodes.insert("/local/domain/9/console/vnc-pass".into(), "x".repeat(4000));
        assert!(copy(&mut nodes));
        let theirs: Vec<_> = nodes.iter().filter(|(path, _)| path.starts_with("/local/domain/8/console/")).collect();
        assert_eq!(theirs.len(), 2, "{theirs:?}");
    }

    #[test]
    fn back_ends_are_told_from_guests() {
        let words = |t: &str| t.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(
            is_asked(&words("-xen-domid 7 -xen-attach -name x"))
                && is_asked(&words("-M xenpv -nographic"))
                && is_asked(&words("-machine xenpv,accel=xen"))
        );
        assert!(!is_asked(&words("-xen-domid 7 -machine xenfv -name xenpv")));
    }
}
