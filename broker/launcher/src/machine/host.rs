//! The host's side of a machine: one process's configuration and descriptors, and what is opened for the machine as a whole.
use super::images::ImageRules;
use super::saved::Saved;
use super::{Machine, Monitor, Socket};
use crate::failure::Failure;
use crate::intake::Intake;
use bulkhead_plan::{DeviceConfig, FdUse};
use bulkhead_policy::interface::Rules;
use bulkhead_policy::{Ids, SandboxError};
use bulkhead_xen::Privcmd;
use rustix::fd::OwnedFd;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::time::{Duration, Instant};

/// One process's configuration and descriptors.
#[derive(Debug)]
pub struct Part {
    /// The configuration that the process gets in its plan.
    pub config: DeviceConfig,
    /// Descriptors that the process gets at each start.
    pub kept: Vec<(FdUse, OwnedFd)>,
    /// The device's expansion ROM, which the broker serves.
    pub rom: Option<OwnedFd>,
    /// The rules on a network card's interface.
    pub rules: Option<Rules>,
    /// Descriptors that control gets for this process.
    pub control: Vec<(FdUse, OwnedFd)>,
    /// The served domain, if it is not the machine's: a stub domain's guest.
    pub domid: Option<u16>,
    /// Of a PV back end: its number in the `xenbus` and `grant` before it.
    pub caller: Option<u8>,
}

impl Part {
    /// A process without descriptors.
    pub fn new(config: DeviceConfig) -> Self {
        Self { config, kept: Vec::new(), rom: None, rules: None, control: Vec::new(), domid: None, caller: None }
    }
}

/// How long what a former device model holds is waited for; it has a second for its processes' end.
const FORMER: Duration = Duration::from_secs(5);
/// Interval between two tries.
const AGAIN: Duration = Duration::from_millis(20);

/// The machine whose parts are opened, and what the parts share.
#[derive(Debug)]
pub struct Host<'a> {
    /// The machine whose parts are opened.
    pub machine: &'a Machine,
    /// The guest's number.
    pub domid: u16,
    /// The launcher is a stub domain's first process.
    pub stubdom: bool,
    /// Looks into images.
    pub(crate) intake: Intake<'a>,
    /// The saved machine that goes on here.
    pub(crate) saved: Option<Saved>,
    /// Other ends of serial ports and consoles for query-chardev: label and file name.
    pub chardevs: Vec<(String, String)>,
    /// Slaves of pseudo terminals. While a slave is open, its master sees no hang-up.
    pub held: Vec<OwnedFd>,
    /// Paths of sockets, which are removed when the machine ends.
    pub sockets: Vec<String>,
    /// Lines for the log.
    pub shown: Vec<String>,
    /// Rules for the images of the disks that the machine starts with.
    pub(crate) images: ImageRules,
    /// Until when something is waited for that the guest's former device model still holds. A toolstack that resets a guest in place
    /// (kexec in the guest) kills it, and does not wait until it has ended.
    pub former: Option<Instant>,
}

/// Tries until then, as long as it is busy.
pub(crate) fn patiently<T, E>(
    until: Option<Instant>,
    busy: impl Fn(&E) -> bool,
    mut open: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    loop {
        match open() {
            Err(e) if busy(&e) && until.is_some_and(|until| Instant::now() < until) => std::thread::sleep(AGAIN),
            done => return done,
        }
    }
}

impl<'a> Host<'a> {
    /// A machine without open parts.
    pub(crate) fn new(machine: &'a Machine, domid: u16, stubdom: bool, intake: Intake<'a>) -> Self {
        let nothing = Vec::new();
        let former = machine.incoming.and_then(|_| Instant::now().checked_add(FORMER));
        Self {
            machine,
            domid,
            stubdom,
            intake,
            saved: None,
            chardevs: nothing,
            held: Vec::new(),
            sockets: Vec::new(),
            shown: Vec::new(),
            images: ImageRules { former, ..machine.images },
            former,
        }
    }

    /// A privcmd that is restricted to the guest.
    pub fn restricted(&self) -> Result<OwnedFd, Failure> {
        Privcmd::open(self.domid).and_then(Privcmd::restrict).map_err(Failure::Xen)
    }

    /// A copy of a descriptor of the simulated machine.
    pub fn sim(&self, fd: i32) -> Result<OwnedFd, Failure> {
        inherit(fd).map_err(|e| Failure::Sim { fd, source: e.into() })
    }

    /// The descriptor with which a device maps guest memory.
    pub fn memory(&self) -> Result<(FdUse, OwnedFd), Failure> {
        match &self.machine.sim {
            Some(s) => self.sim(s.memory).map(|fd| (FdUse::SimMemory, fd)),
            None => self.restricted().map(|fd| (FdUse::Privcmd, fd)),
        }
    }
}

/// Makes a socket that listens, for its owner alone. It replaces a socket that an earlier machine has left at the path.
pub(super) fn socket(path: &str) -> Result<OwnedFd, rustix::io::Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let is_socket =
        |s: rustix::fs::Stat| rustix::fs::FileType::from_raw_mode(s.st_mode) == rustix::fs::FileType::Socket;
    if rustix::fs::lstat(path).is_ok_and(is_socket) {
        rustix::fs::unlink(path)?;
    }
    let old = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = SocketAddrUnix::new(path).and_then(|a| rustix::net::bind(&fd, &a));
    rustix::process::umask(old);
    bound.and_then(|()| rustix::net::listen(&fd, 8))?;
    Ok(fd)
}

/// Opens the listening socket of a QMP server.
pub fn listen(monitor: &Monitor) -> Result<OwnedFd, Failure> {
    let listen = || match &monitor.socket {
        Socket::Path(path) => socket(path).map_err(|e| SocketFault::Path { path: path.clone(), source: e.into() }),
        Socket::Fd(number) => {
            let fd = inherit(*number).map_err(|e| SocketFault::Fd { number: *number, source: e.into() })?;
            if rustix::net::sockopt::socket_acceptconn(&fd) != Ok(true) {
                return Err(SocketFault::DoesNotListen { number: *number });
            }
            rustix::io::ioctl_fionbio(&fd, true).map_err(|e| SocketFault::System(e.into()))?;
            Ok(fd)
        }
    };
    listen().map_err(|fault| Failure::Socket { monitor: monitor.id.clone(), fault })
}

/// Parses `-runas`: `UID:GID`, or a user's name in /etc/passwd. Root is refused.
pub fn user(text: &str) -> Result<Ids, UserFault> {
    let pair = |mark: char| text.split_once(mark).and_then(|(uid, gid)| uid.parse().ok().zip(gid.parse().ok()));
    // The older wrapper of XenServer and XCP-ng writes a dot.
    let ids = match pair(':').or_else(|| pair('.')) {
        Some(ids) => Some(ids),
        None => {
            let users = std::fs::read_to_string("/etc/passwd").map_err(UserFault::Passwd)?;
            let entry = users.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|l| l.first() == Some(&text));
            entry.and_then(|e| e.get(2).and_then(|u| u.parse().ok()).zip(e.get(3).and_then(|g| g.parse().ok())))
        }
    };
    let (uid, gid) = ids.ok_or_else(|| UserFault::Unknown { text: text.to_owned() })?;
    if uid == 0 || gid == 0 {
        return Err(UserFault::Root { text: text.to_owned() });
    }
    Ok(Ids { uid, gid })
}

/// Writes this process's number to a file and locks it while the descriptor is open, as QEMU does for `-pidfile`. `former`: see [`Host`].
pub fn pid_file(path: &str, former: Option<Instant>) -> Result<OwnedFd, Failure> {
    let held = |fault: &PidFileFault| matches!(fault, PidFileFault::Held);
    patiently(former, held, || write_pid_file(path)).map_err(|fault| Failure::PidFile { path: path.to_owned(), fault })
}

fn write_pid_file(path: &str) -> Result<OwnedFd, PidFileFault> {
    let fail = |e: rustix::io::Errno| PidFileFault::System(e.into());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).map_err(fail)?;
    rustix::fs::fcntl_lock(&fd, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
        rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS => PidFileFault::Held,
        e => fail(e),
    })?;
    // A former device model may have removed it since it was opened.
    let number = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
    if rustix::fs::lstat(path).ok().map(number) != Some(number(rustix::fs::fstat(&fd).map_err(fail)?)) {
        return Err(PidFileFault::Held);
    }
    rustix::fs::ftruncate(&fd, 0).map_err(fail)?;
    let line = format!("{}\n", rustix::process::getpid().as_raw_nonzero());
    match rustix::io::write(&fd, line.as_bytes()) {
        Ok(n) if n == line.len() => Ok(fd),
        Ok(_) => Err(fail(rustix::io::Errno::NOSPC)),
        Err(e) => Err(fail(e)),
    }
}

/// A copy of a descriptor that the toolstack has opened.
pub fn inherit(number: i32) -> Result<OwnedFd, rustix::io::Errno> {
    bulkhead_policy::duplicate(number)
}

/// What is wrong with the socket of a QMP server.
#[derive(Debug, thiserror::Error)]
pub enum SocketFault {
    /// It cannot be made.
    #[error("socket {path}: {source}")]
    Path {
        /// Where.
        path: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The toolstack has given no such descriptor.
    #[error("fd={number}: {source}")]
    Fd {
        /// The descriptor's number.
        number: i32,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The toolstack's descriptor is something else.
    #[error("fd={number} is no socket that listens")]
    DoesNotListen {
        /// The descriptor's number.
        number: i32,
    },
    /// The kernel refuses to change the toolstack's socket.
    #[error("{0}")]
    System(#[source] std::io::Error),
}

/// What is wrong with the user or the root directory of dm_restrict.
#[derive(Debug, thiserror::Error)]
pub enum UserFault {
    /// The host's users cannot be read.
    #[error("/etc/passwd: {0}")]
    Passwd(#[source] std::io::Error),
    /// Neither numbers nor a user's name.
    #[error("-runas {text}: no such user")]
    Unknown {
        /// As the toolstack gives it.
        text: String,
    },
    /// Its user or group is 0.
    #[error("-runas {text}: that is root")]
    Root {
        /// As the toolstack gives it.
        text: String,
    },
    /// The launcher cannot enter an empty root directory.
    #[error("-chroot {directory}: {source}")]
    Chroot {
        /// Where it is mounted.
        directory: String,
        /// The step that failed.
        source: SandboxError,
    },
    /// The launcher cannot become the user.
    #[error("-runas {}:{}: {source}", .ids.uid, .ids.gid)]
    Become {
        /// The user and its group.
        ids: Ids,
        /// The step that failed.
        source: SandboxError,
    },
}

/// What is wrong with the file of `-pidfile`.
#[derive(Debug, thiserror::Error)]
pub enum PidFileFault {
    /// A living process holds its lock.
    #[error("another process has it")]
    Held,
    /// It cannot be opened or written.
    #[error("{0}")]
    System(#[source] std::io::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    #[test]
    fn a_user_is_numbers_or_a_name_of_this_host_and_never_root() {
        assert_eq!(user("1000:1001").unwrap(), Ids { uid: 1000, gid: 1001 });
        assert_eq!(user("1000.1001").unwrap(), Ids { uid: 1000, gid: 1001 });
        for root in ["0:7", "7:0", "root"] {
            assert!(matches!(user(root), Err(UserFault::Root { text }) if text == root));
        }
        assert!(matches!(user("no such user"), Err(UserFault::Unknown { text }) if text == "no such user"));
    }

    #[test]
    fn a_pid_file_needs_its_directory() {
        let Err(Failure::PidFile { path, fault: PidFileFault::System(e) }) = pid_file("/no/such/file", None) else {
            panic!("there is no such directory");
        };
        assert_eq!((path.as_str(), e.kind()), ("/no/such/file", ErrorKind::NotFound));
    }

    #[test]
    fn a_monitors_descriptor_must_listen() {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&near);
        let monitor = |number| Monitor { id: "qmp".into(), socket: Socket::Fd(number) };
        assert!(matches!(
            listen(&monitor(number)),
            Err(Failure::Socket { monitor, fault: SocketFault::DoesNotListen { number: n } }) if monitor == "qmp" && n == number
        ));
        drop(far);
        assert!(matches!(listen(&monitor(-1)), Err(Failure::Socket { fault: SocketFault::Fd { number: -1, .. }, .. })));
    }
}
