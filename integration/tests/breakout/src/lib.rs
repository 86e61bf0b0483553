//! Runs a hostile program instead of a device's process, and returns the result of one attempt.
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType};
use rustix::process::{WaitId, WaitIdOptions};

pub use bulkhead_policy::Ids;

/// The result of an attempt.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Worked,
    /// It failed with this errno.
    Refused(u8),
    /// The process was killed by this signal.
    Killed(i32),
    /// The sandbox could not be entered.
    NotEntered,
}

/// Starts `executable` (bulkhead-hostile) as `role`; it applies `layer` of the sandbox and makes `attempt`, with the descriptor
/// `fd`.
///
/// # Errors
/// If the process cannot be started or its socket fails.
pub fn run(
    executable: BorrowedFd<'_>,
    role: &str,
    ids: Option<Ids>,
    layer: &str,
    attempt: &str,
    fd: Option<BorrowedFd<'_>>,
) -> std::io::Result<Outcome> {
    run_limited(executable, role, ids, layer, attempt, fd, None)
}

/// The same for a process whose files may have `file_size` bytes at most.
///
/// # Errors
/// If the process cannot be started or its socket fails.
pub fn run_limited(
    executable: BorrowedFd<'_>,
    role: &str,
    ids: Option<Ids>,
    layer: &str,
    attempt: &str,
    fd: Option<BorrowedFd<'_>>,
    file_size: Option<u64>,
) -> std::io::Result<Outcome> {
    start(executable, role, ids, layer, attempt, fd, file_size)?.outcome()
}

/// A hostile process.
pub struct Hostile {
    spawned: bulkhead_policy::Spawned,
    socket: OwnedFd,
}

impl Hostile {
    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.spawned.pid
    }

    /// Waits until it is in the layers of its sandbox and makes the attempt `wait`, which lasts until the socket is closed. Returns
    /// whether it has come so far.
    ///
    /// # Errors
    /// If its socket fails.
    pub fn waits(&self) -> std::io::Result<bool> {
        let mut byte = [0];
        Ok(rustix::io::read(&self.socket, &mut byte)? == 1 && byte == [WAITS])
    }

    /// Waits for the result of its attempt, and for its end.
    ///
    /// # Errors
    /// If its end cannot be waited for.
    pub fn outcome(self) -> std::io::Result<Outcome> {
        let mut byte = [254];
        let n = rustix::io::read(&self.socket, &mut byte).unwrap_or(0);
        let status = self.end()?;
        Ok(match (n, byte, status.and_then(|s| s.terminating_signal())) {
            (_, _, Some(signal)) => Outcome::Killed(signal),
            (1, [0], _) => Outcome::Worked,
            (1, [255], _) => Outcome::NotEntered,
            (_, [errno], _) => Outcome::Refused(errno),
        })
    }

    /// Closes the socket, and waits for its end.
    ///
    /// # Errors
    /// If its end cannot be waited for.
    pub fn end(self) -> std::io::Result<Option<rustix::process::WaitIdStatus>> {
        drop(self.socket);
        Ok(rustix::process::waitid(WaitId::PidFd(self.spawned.pidfd.as_fd()), WaitIdOptions::EXITED)?)
    }
}

/// What the hostile process says when it makes the attempt `wait`.
pub const WAITS: u8 = 250;

/// Starts `executable` as [`run_limited`] does, and does not wait for the result.
///
/// # Errors
/// If the process cannot be started or its socket fails.
pub fn start(
    executable: BorrowedFd<'_>,
    role: &str,
    ids: Option<Ids>,
    layer: &str,
    attempt: &str,
    fd: Option<BorrowedFd<'_>>,
    file_size: Option<u64>,
) -> std::io::Result<Hostile> {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let log = std::fs::File::options().write(true).open("/dev/null")?;
    let null = rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let spec = bulkhead_policy::Spec {
        executable,
        role,
        socket: theirs,
        log: log.as_fd(),
        null: null.as_fd(),
        ids,
        outlives: false,
        file_size,
    };
    let spawned = bulkhead_policy::spawn(spec).map_err(std::io::Error::other)?;
    let order = format!("{layer} {attempt}");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(&ours, &[std::io::IoSlice::new(order.as_bytes())], &mut control, SendFlags::empty())?;
    Ok(Hostile { spawned, socket: ours })
}

/// User and group of the hostile process: unused numbers if this process is root's, else its own.
pub fn ids() -> Option<Ids> {
    let uid = rustix::process::geteuid().as_raw();
    Some(if uid == 0 {
        Ids { uid: 2_000_000_999, gid: 2_000_000_999 }
    } else {
        Ids { uid, gid: rustix::process::getegid().as_raw() }
    })
}
