//! The launcher as the first process of a stub domain. It does the work of an init and reads libxl's nodes (Xen's
//! docs/misc/stubdom.txt, libxl_dm.c).
//!
//! A failure is one line on console 0, which libxl copies to the guest's log, and in xenstore at `device-model/<guest>/error`. Then
//! the domain powers off.
use crate::errors::Code;
use crate::failure::{Failure, system};
use crate::machine::Incoming;
use crate::{argv, budget};
use bulkhead_xen::{Evtchn, GrantedPage, XenError, Xenstore};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use std::time::{Duration, Instant};

/// Time for a disk or a network interface to connect. libxl gives up 30 s after it has started the domain.
const DISKS: Duration = Duration::from_secs(15);
/// Time for front ends that the guest can do without.
const EXTRAS: Duration = Duration::from_secs(3);
/// kB that must be free before the first process starts: 2 MiB for the processes, 8 for the surface of the largest picture, 6 for a
/// screenshot of it (docs/performance.md).
const FREE_KB: u64 = 16 << 10;
/// The console from which libxl reads the machine's state (STUBDOM_CONSOLE_SAVE of libxl_internal.h).
const SAVE: &str = "/dev/hvc1";
/// The console by which dom0 gives the state of a restored machine (STUBDOM_CONSOLE_RESTORE).
const RESTORE: &str = "/dev/hvc2";
/// What dom0 waits for on that console: it changes no byte any more. (broker/roles/src/saved_console.rs)
const GO: &[u8] = b"G";
/// Time for the next bytes of a state.
const STATE: Duration = Duration::from_secs(10);
/// dom0, which has libxl's end of the vchan.
const DOM0: u16 = 0;

/// Resources of the stub domain that the arguments do not describe.
#[derive(Debug)]
pub struct Stubdom {
    /// The PV frame buffer, which dom0 shows.
    pub(crate) screen: Option<OwnedFd>,
    /// evdev nodes of keyboard and pointer.
    pub(crate) events: Vec<OwnedFd>,
    /// dom0 sends the pointer's place as a part of the screen (0 to 32767), not in pixels.
    pub(crate) spread: bool,
    /// Console 1, from which libxl reads the machine's state when it saves.
    pub(crate) save: Option<OwnedFd>,
    /// The state of a machine that goes on here, as dom0 has given it.
    pub(crate) state: Option<Vec<u8>>,
    /// The vchan of libxl's QMP.
    pub(crate) qmp: Vchan,
}

/// A vchan without a client yet.
#[derive(Debug)]
pub(crate) struct Vchan {
    pub(crate) page: OwnedFd,
    pub(crate) evtchn: OwnedFd,
    pub(crate) port: u32,
    /// Grant reference with which the client maps the page.
    gref: u32,
}

impl Vchan {
    /// The xenstore nodes by which the client finds the vchan. They are written when the page is ready: a client that finds a page
    /// of zeroes waits for ever.
    pub(crate) fn nodes(&self, domid: u16) -> [(String, String); 2] {
        let path = format!("device-model/{domid}/qmp-vchan");
        [(format!("{path}/ring-ref"), self.gref.to_string()), (format!("{path}/event-channel"), self.port.to_string())]
    }
}

/// Whether this process is the first of its domain.
pub fn is_here() -> bool {
    rustix::process::getpid().is_init()
}

/// Runs the stub domain until its guest ends, and powers it off.
pub fn run() {
    let mut guest = None;
    match start(&mut guest) {
        Ok((parsed, stubdom)) => {
            crate::run(parsed, Some(stubdom), |line| tell(guest, line));
        }
        Err(failure) => tell(guest, &failure.line(Code::Stubdom)),
    }
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
}

fn tell(guest: Option<u16>, line: &str) {
    crate::log::tell(line);
    if let (Some(guest), Ok(mut xenstore)) = (guest, Xenstore::connect()) {
        let _ = xenstore.write(&format!("device-model/{guest}/error"), line);
    }
    // The domain's end would drop the unsent part of the line.
    let _ = rustix::termios::tcdrain(rustix::stdio::stderr());
}

fn start(guest: &mut Option<u16>) -> Result<(argv::Parsed, Stubdom), Failure> {
    mounts()?;
    budget::own()?;
    let mut xenstore = Xenstore::connect().map_err(StubdomFault::Xenstore)?;
    let target = xenstore.read("target").map_err(StubdomFault::NoTarget)?;
    let domid: u16 = target.parse().map_err(|_| StubdomFault::Target { value: target })?;
    *guest = Some(domid);
    let arguments = arguments(&mut xenstore, domid)?;
    let parsed = argv::parse(arguments)?;
    let machine = &parsed.machine;
    if machine.domid != Some(domid) {
        return Err(StubdomFault::Domain { argument: machine.domid, target: domid }.into());
    }
    memory()?;
    let disks: Vec<&str> = machine.drives.iter().filter_map(|d| d.file.as_deref()).collect();
    front_ends(&mut xenstore, &disks, machine.nics.len())?;
    // The guest gets the disks that are not emulated at once.
    crate::supervise::media::release_disks(&mut xenstore, |block| !disks.contains(&format!("/dev/{block}").as_str()));
    let screen = device("/dev/fb0", OFlags::RDWR);
    let events =
        (0..8).filter_map(|i| device(&format!("/dev/input/event{i}"), OFlags::RDONLY | OFlags::NONBLOCK)).collect();
    // Bulkhead's back end writes this node. QEMU's sends pixels and does not write it.
    let back = xenstore.read("device/vkbd/0/backend").unwrap_or_default();
    let spread = xenstore.read(&format!("{back}/width")).is_ok_and(|w| w == "32768");
    let save = console(SAVE);
    let state = (machine.incoming == Some(Incoming::Console)).then(restored).transpose()?;
    let qmp = vchan(domid)?;
    read_only()?;
    Ok((parsed, Stubdom { screen, events, spread, save, state, qmp }))
}

fn mounts() -> Result<(), StubdomFault> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (kind, place, flags) in [
        ("proc", "/proc", safe),
        ("sysfs", "/sys", safe),
        ("cgroup2", budget::CGROUP, safe),
        ("devtmpfs", "/dev", MountFlags::NOSUID | MountFlags::NOEXEC),
    ] {
        match mount(kind, place, kind, flags, None) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(e) => return Err(StubdomFault::Mount { kind, place, source: e.into() }),
        }
    }
    Ok(())
}

/// Makes the root directory read-only; the processes need no files.
fn read_only() -> Result<(), StubdomFault> {
    rustix::mount::mount_remount("/", MountFlags::RDONLY, "").map_err(|e| StubdomFault::ReadOnly(e.into()))
}

fn arguments(xenstore: &mut Xenstore, domid: u16) -> Result<Vec<String>, StubdomFault> {
    let fail = StubdomFault::Arguments;
    let vm = xenstore.read(&format!("/local/domain/{domid}/vm")).map_err(fail)?;
    let path = format!("{vm}/image/dm-argv");
    let keys = xenstore.directory(&path);
    if keys.is_empty() {
        return Err(StubdomFault::NoArguments { path });
    }
    keys.iter().map(|key| xenstore.read(&format!("{path}/{key}")).map_err(fail)).collect()
}

/// Free memory and all memory, in kB.
pub(crate) fn free() -> Result<(u64, u64), Failure> {
    let info = std::fs::read_to_string("/proc/meminfo").map_err(system("/proc/meminfo"))?;
    let field = |name: &str| {
        info.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0)
    };
    Ok((field("MemAvailable:"), field("MemTotal:")))
}

/// Checks that the free memory is enough for all processes.
fn memory() -> Result<(), Failure> {
    let (free, total) = free()?;
    crate::log::say(&format!("{free} of {total} kB are free before anything is started"));
    if free < FREE_KB {
        return Err(StubdomFault::Memory { free, total }.into());
    }
    Ok(())
}

/// Opens a device node; `None` if the kernel does not have it.
fn device(path: &str, flags: OFlags) -> Option<OwnedFd> {
    rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).ok()
}

/// Opens a console as a stream of bytes, without echo and without changes.
fn console(path: &str) -> Option<OwnedFd> {
    let fd = device(path, OFlags::RDWR)?;
    let mut modes = rustix::termios::tcgetattr(&fd).ok()?;
    modes.make_raw();
    rustix::termios::tcsetattr(&fd, rustix::termios::OptionalActions::Now, &modes).ok()?;
    Some(fd)
}

/// The state that dom0 gives. A console has no end: the stream says how long it is, and is looked at by `intake` alone.
fn restored() -> Result<Vec<u8>, StubdomFault> {
    let console = console(RESTORE).ok_or(StubdomFault::NoRestoreConsole)?;
    rustix::io::write(&console, GO).map_err(|e| StubdomFault::State(e.into()))?;
    let mut begin = [0; bulkhead_stream::BEGIN];
    receive(&console, &mut begin)?;
    let all = bulkhead_stream::length(&begin).ok_or(StubdomFault::NoState)?;
    let mut state = begin.to_vec();
    state.resize(usize::try_from(all).unwrap_or(0), 0);
    receive(&console, state.get_mut(begin.len()..).unwrap_or_default())?;
    Ok(state)
}

/// Reads so many bytes from a console.
fn receive(console: &OwnedFd, to: &mut [u8]) -> Result<(), StubdomFault> {
    let (mut done, all) = (0usize, to.len());
    while let Some(rest) = to.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let wait = Timespec::try_from(STATE).ok();
        match rustix::event::poll(&mut [PollFd::new(console, PollFlags::IN)], wait.as_ref()) {
            Ok(0) => return Err(StubdomFault::StateLate { done, all }),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(StubdomFault::State(e.into())),
        }
        match rustix::io::read(console, rest) {
            Ok(n @ 1..) => done = done.saturating_add(n),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(_) => return Err(StubdomFault::StateLate { done, all }),
            Err(e) => return Err(StubdomFault::State(e.into())),
        }
    }
    Ok(())
}

/// Waits until the front ends are connected. The disks and `nics` network interfaces must connect; frame buffer and keyboard may be
/// missing.
fn front_ends(xenstore: &mut Xenstore, disks: &[&str], nics: usize) -> Result<(), StubdomFault> {
    let start = Instant::now();
    xenstore.watch("device").map_err(StubdomFault::Xenstore)?;
    loop {
        let mut open = Vec::new();
        let mut vifs = 0usize;
        for class in ["vbd", "vif", "vkbd", "vfb"] {
            for id in xenstore.directory(&format!("device/{class}")) {
                let state = xenstore.read(&format!("device/{class}/{id}/state")).unwrap_or_default();
                if class == "vif" {
                    vifs = vifs.saturating_add(1);
                }
                if state != "4" {
                    open.push((class, id, state));
                }
            }
        }
        let missing = disks.iter().find(|d| !std::path::Path::new(d).exists());
        let passed = start.elapsed();
        let essential = open.iter().find(|(class, ..)| matches!(*class, "vbd" | "vif"));
        let wait = match (essential, missing) {
            // libxl adds all interfaces before this domain runs.
            (None, None) if vifs < nics && passed >= EXTRAS => {
                return Err(StubdomFault::Interfaces { there: vifs, expected: nics });
            }
            (None, None) if vifs < nics => Duration::from_millis(100),
            (None, None) if open.is_empty() || passed >= EXTRAS => {
                for (class, id, state) in open {
                    crate::log::say(&format!("{class} {id} is not connected (state {state}); it is not used"));
                }
                return Ok(());
            }
            (Some((class, id, state)), _) if passed >= DISKS => {
                let back = xenstore.read(&format!("device/{class}/{id}/backend")).unwrap_or_default();
                let back = xenstore.read(&format!("{back}/state")).unwrap_or_default();
                return Err(StubdomFault::NotConnected {
                    what: if *class == "vbd" { "disk" } else { "network interface" },
                    id: id.clone(),
                    front: state.clone(),
                    back,
                });
            }
            // All front ends are connected, and the kernel makes the nodes of connected disks at once.
            (None, Some(path)) if passed >= EXTRAS => {
                return Err(StubdomFault::NoDisk { path: (*path).to_owned() });
            }
            // The node of a block device appears without an event of xenstore.
            (None, Some(_)) => Duration::from_millis(5),
            _ => Duration::from_millis(100),
        };
        let timeout = Timespec::try_from(wait).ok();
        let _ = rustix::event::poll(&mut [PollFd::new(&xenstore.as_fd(), PollFlags::IN)], timeout.as_ref());
        xenstore.changed().map_err(StubdomFault::Xenstore)?;
    }
}

/// Makes the vchan of libxl's QMP for the guest `domid`.
fn vchan(domid: u16) -> Result<Vchan, StubdomFault> {
    let fail = StubdomFault::Vchan;
    let page = GrantedPage::new(DOM0).map_err(fail)?;
    let (evtchn, port) = Evtchn::open_unbound(DOM0, domid).map_err(fail)?;
    Ok(Vchan { page: page.fd, evtchn, port, gref: page.gref })
}

/// Why a stub domain cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum StubdomFault {
    /// A file system of the kernel's is missing.
    #[error("mounting {kind} on {place}: {source}")]
    Mount {
        /// The file system's type.
        kind: &'static str,
        /// The mount point.
        place: &'static str,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The root directory stays writable.
    #[error("making the root read-only: {0}")]
    ReadOnly(#[source] std::io::Error),
    /// xenstore does not answer.
    #[error(transparent)]
    Xenstore(XenError),
    /// libxl has not made this domain a stub domain.
    #[error("xenstore has no target: this domain is nobody's stub domain")]
    NoTarget(#[source] XenError),
    /// The guest's number is none.
    #[error("xenstore's target {value:?} is no domain's number")]
    Target {
        /// The node's value.
        value: String,
    },
    /// The device model's arguments cannot be read.
    #[error("the guest's arguments: {0}")]
    Arguments(#[source] XenError),
    /// libxl has written no arguments.
    #[error("xenstore has no arguments at {path}")]
    NoArguments {
        /// Where they belong.
        path: String,
    },
    /// libxl has given the domain no console for the state.
    #[error("{RESTORE}, which brings the state of the restored machine, is not there")]
    NoRestoreConsole,
    /// The console fails.
    #[error("{RESTORE}, which brings the state of the restored machine: {0}")]
    State(#[source] std::io::Error),
    /// dom0 sends nothing, or not all.
    #[error("{RESTORE}: {done} of {all} bytes of the state have come, and no more for {} s", STATE.as_secs())]
    StateLate {
        /// Bytes that have come.
        done: usize,
        /// Bytes that were waited for.
        all: usize,
    },
    /// Another device model's, or a terminal has changed it.
    #[error("{RESTORE}: what comes there is no saved state of this device model")]
    NoState,
    /// The arguments are another guest's.
    #[error("-xen-domid is {argument:?}, xenstore's target {target}")]
    Domain {
        /// By the arguments.
        argument: Option<u16>,
        /// By xenstore.
        target: u16,
    },
    /// The processes would not have enough memory.
    #[error(
        "stubdomain_memory is too small: {} of {} MiB are free, {} are needed",
        free >> 10, total >> 10, FREE_KB >> 10
    )]
    Memory {
        /// kB that are free.
        free: u64,
        /// kB that the domain has.
        total: u64,
    },
    /// libxl has given the domain fewer network interfaces than the guest has cards.
    #[error("{there} of {expected} network interfaces are there")]
    Interfaces {
        /// Interfaces in xenstore.
        there: usize,
        /// Cards in the arguments.
        expected: usize,
    },
    /// A front end does not connect in time.
    #[error(
        "{what} {id} is not connected after {} s: front end in state {front}, back end in state {back:?}",
        DISKS.as_secs()
    )]
    NotConnected {
        /// `disk` or `network interface`.
        what: &'static str,
        /// xenbus' number of it.
        id: String,
        /// State of the front end; empty: its node is missing.
        front: String,
        /// State of the back end; empty: its node is missing.
        back: String,
    },
    /// The kernel has no block device of this name.
    #[error("the disk {path} of the guest's arguments is not there")]
    NoDisk {
        /// As the arguments name it.
        path: String,
    },
    /// libxl could not reach QMP.
    #[error("the vchan for QMP: {0}")]
    Vchan(#[source] XenError),
}
