//! Runs a hostile program instead of a device's process, and returns the result of one attempt.
pub mod consumption;

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

    /// Tells it the layers of its sandbox and the attempt, and gives it descriptors for that, [`DESCRIPTORS`] at most.
    ///
    /// # Errors
    /// If its socket fails.
    pub fn order(&self, layer: &str, attempt: &str, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        self.send(format!("{layer} {attempt}").as_bytes(), fds)
    }

    /// Gives it descriptors, [`DESCRIPTORS`] at most; without any, says that no more come.
    ///
    /// # Errors
    /// If its socket fails.
    pub fn give(&self, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        self.send(b"x", fds)
    }

    fn send(&self, text: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(std::io::ErrorKind::InvalidInput.into());
        }
        rustix::net::sendmsg(&self.socket, &[std::io::IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits until it has taken what it was told to take, or can take no more. It keeps that until [`Self::end`]. `None` if it has
    /// ended first.
    ///
    /// # Errors
    /// If its socket fails, or it says something else.
    pub fn taken(&self) -> std::io::Result<Option<Taken>> {
        let mut bytes = [0; Taken::LEN + 1];
        match rustix::io::read(&self.socket, &mut bytes)? {
            0 => Ok(None),
            n => match Taken::from_bytes(&bytes[..n]) {
                Some(taken) => Ok(Some(taken)),
                None => Err(std::io::Error::other(format!("it says {:?}", &bytes[..n]))),
            },
        }
    }

    /// Its socket: readable when it has said something or has ended.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
/// The first byte of its report when it makes an attempt to take something: [`Taken`] follows, and it keeps what it has until the
/// socket is closed.
pub const HOLDS: u8 = 251;

/// What a hostile process has taken, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes, pages, descriptors: whatever the attempt counts.
    pub amount: u64,
    /// Why it has not got more; 0 if it has all that it was told to take.
    pub errno: u8,
}

impl Taken {
    /// Bytes of a report.
    const LEN: usize = 10;

    /// The report.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [HOLDS; Self::LEN];
        bytes[1..9].copy_from_slice(&self.amount.to_le_bytes());
        bytes[9] = self.errno;
        bytes
    }

    /// What a report says; `None` if it is no report.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[HOLDS], &[ref amount @ .., errno]) = bytes.split_first_chunk::<1>()? else { return None };
        Some(Self { amount: u64::from_le_bytes(amount.try_into().ok()?), errno })
    }
}

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
    let hostile = begin(executable, role, ids, file_size)?;
    hostile.order(layer, attempt, fd.as_slice())?;
    Ok(hostile)
}

/// Starts `executable` as [`run_limited`] does. It waits for [`Hostile::order`].
///
/// # Errors
/// If the process cannot be started.
pub fn begin(
    executable: BorrowedFd<'_>,
    role: &str,
    ids: Option<Ids>,
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
        group: None,
    };
    let spawned = bulkhead_policy::spawn(spec).map_err(std::io::Error::other)?;
    Ok(Hostile { spawned, socket: ours })
}

/// Most descriptors of an order, and of a message of [`Hostile::give`].
pub const DESCRIPTORS: usize = 100;

/// User and group of the hostile process: unused numbers if this process is root's, else its own.
pub fn ids() -> Option<Ids> {
    let uid = rustix::process::geteuid().as_raw();
    Some(if uid == 0 {
        Ids { uid: 2_000_000_999, gid: 2_000_000_999 }
    } else {
        Ids { uid, gid: rustix::process::getegid().as_raw() }
    })
}
