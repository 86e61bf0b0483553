//! The starter's own end.
use super::packets::{
    Answer, BEGIN, CHECK, DESCRIBE, GroupBy, Look, MOST, REMOVE, START, Users, Wanted, XENSTORED, receive, send,
};
use crate::spawn::{Parent, spawn_for};
use crate::verify::{self, Observed, OwnLimits};
use crate::{Group, Ids, SpawnError, Spawned, Spec, end_signals, profile};
use rustix::fd::{AsFd, FromRawFd as _, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock};
use rustix::io::Errno;
use std::io::{ErrorKind, Result};

/// Runs the starter, with the launcher's socket as descriptor 3. Returns when the launcher has closed it. `xenstored`: opens a way
/// to xenstored without waiting.
///
/// # Errors
/// The launcher's first packet is not what it must be, or a system call fails.
pub fn serve(xenstored: fn() -> Result<OwnedFd>) -> Result<()> {
    // SAFETY: the launcher passes the socket as descriptor 3, which nothing else here uses.
    let socket = unsafe { OwnedFd::from_raw_fd(3) };
    serve_over(&socket, xenstored)
}

/// The same over this socket.
pub(super) fn serve_over(socket: &OwnedFd, xenstored: fn() -> Result<OwnedFd>) -> Result<()> {
    // A terminal's signals are for the launcher, which ends this process.
    let _signals = end_signals()?;
    let (packet, fds) = match receive(socket, MOST) {
        // The launcher's start has failed, which it says itself.
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(()),
        other => other?,
    };
    let begun = packet.strip_prefix(&[BEGIN]).and_then(Users::from_bytes);
    let (Some((users, paths)), Ok([executable, null])) = (begun, <[OwnedFd; 2]>::try_from(fds)) else {
        return Err(ErrorKind::InvalidData.into());
    };
    let files: Vec<Named> = paths.split(|b| *b == 0).filter_map(Named::new).collect();
    send(socket, &Answer::Done(0).to_bytes(), &[])?;
    let own = Ids { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let this = rustix::process::getpid().as_raw_nonzero().get();
    let launcher = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let observed = verify::observe(this)?;
    let mut left = Some(files);
    loop {
        let (packet, fds) = match receive(socket, MOST) {
            Ok(received) => received,
            // The launcher has exited, or was killed.
            Err(_) => break,
        };
        let mut answered = None;
        let answer = match packet.first() {
            Some(&REMOVE) => {
                left.take().into_iter().flatten().for_each(|file| {
                    let _ = file.remove();
                });
                Answer::Done(0)
            }
            Some(&(CHECK | DESCRIBE)) => look(&packet, &observed, &[this, launcher], launcher),
            Some(&XENSTORED) => match xenstored() {
                Ok(connection) => {
                    answered = Some(connection);
                    Answer::Done(0)
                }
                Err(e) => Answer::Failed { pid: 0, line: e.to_string() },
            },
            Some(&START) => match start(&packet, fds, (own, users), &executable, &null) {
                Ok(spawned) => {
                    answered = Some(spawned.pidfd);
                    Answer::Done(spawned.pid)
                }
                Err(e) => Answer::Failed { pid: e.pid(), line: e.to_string() },
            },
            _ => break,
        };
        let fds: Vec<_> = answered.iter().map(AsFd::as_fd).collect();
        if send(socket, &answer.to_bytes(), &fds).is_err() {
            break;
        }
    }
    left.into_iter().flatten().for_each(|file| file.remove_after_death());
    Ok(())
}

fn start(
    packet: &[u8],
    fds: Vec<OwnedFd>,
    (own, users): (Ids, Users),
    executable: &OwnedFd,
    null: &OwnedFd,
) -> std::result::Result<Spawned, SpawnError> {
    let refused = || SpawnError::new("no process that may be started", ErrorKind::InvalidInput.into());
    let wanted = Wanted::from_bytes(packet).ok_or_else(refused)?;
    let role = wanted.allowed(own, users).ok_or_else(refused)?;
    let mut fds = fds.into_iter();
    let (socket, log) = fds.next().zip(fds.next()).ok_or_else(refused)?;
    let place = fds.next();
    let group = match (wanted.group, &place) {
        (GroupBy::None, None) => None,
        (GroupBy::Directory, Some(directory)) => Some(Group::Directory(directory.as_fd())),
        (GroupBy::Procs, Some(procs)) => Some(Group::Procs(procs.as_fd())),
        _ => return Err(refused()),
    };
    let spec = Spec {
        executable: executable.as_fd(),
        role,
        socket,
        log: log.as_fd(),
        null: null.as_fd(),
        ids: Some(wanted.ids),
        outlives: wanted.outlives,
        file_size: wanted.file_size,
        group,
    };
    spawn_for(spec, Parent::Launcher)
}

/// Compares one of the launcher's children with its profile, a violation a line, or describes it, or one of `these`, by a row in JSON.
fn look(packet: &[u8], own: &Observed, these: &[i32], launcher: i32) -> Answer {
    let refused = |line: &str| Answer::Failed { pid: 0, line: line.to_owned() };
    let Some(look) = Look::from_bytes(packet) else { return refused("no look") };
    if !(these.contains(&look.pid) || parent_of(look.pid) == Some(launcher)) {
        return refused("it is none of the launcher's processes");
    }
    if packet.first() == Some(&DESCRIBE) {
        let Some(role) = look.role.row() else { return refused("no such role") };
        let row = verify::row(role, role, look.pid, own, 0);
        return serde_json::to_string(&row).map_or_else(|e| refused(&e.to_string()), Answer::Seen);
    }
    let Some(profile) = look.role.role().and_then(profile) else { return refused("no such role") };
    let limits = OwnLimits { file_size: look.file_size, guest_memory: look.guest_memory };
    let wrong = match verify::observe(look.pid) {
        Ok(observed) => verify::check(&observed, own, profile, limits),
        Err(e) => vec![format!("/proc/{}: {e}", look.pid)],
    };
    Answer::Seen(wrong.join("\n"))
}

/// The parent of a process.
fn parent_of(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}

/// A file that is removed at the end: its path, and which file that was.
struct Named {
    path: std::path::PathBuf,
    device: u64,
    inode: u64,
}

impl Named {
    fn new(path: &[u8]) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::path::PathBuf::from(std::ffi::OsStr::from_bytes(path));
        let stat = rustix::fs::lstat(&path).ok()?;
        Some(Self { path, device: stat.st_dev, inode: stat.st_ino })
    }

    /// Removes it, unless another file has its name now: that of the guest's next life.
    fn remove(&self) -> bool {
        let is_it = |s: rustix::fs::Stat| (s.st_dev, s.st_ino) == (self.device, self.inode);
        if !rustix::fs::lstat(&self.path).is_ok_and(is_it) {
            return true;
        }
        // A directory is the guest's control group, and those of its processes are below. They go if nobody is in them.
        rustix::fs::unlink(&self.path).is_ok() || {
            let below = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
            for entry in below {
                let _ = rustix::fs::rmdir(entry.path());
            }
            rustix::fs::rmdir(&self.path).is_ok()
        }
    }

    /// The same for a launcher that was killed. The next one may have locked the same pid file already, and the processes in a
    /// control group may not have exited yet.
    fn remove_after_death(&self) {
        let file = rustix::fs::open(&self.path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        let locked = |file: OwnedFd| fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::AGAIN);
        if file.is_ok_and(locked) {
            return;
        }
        for _ in 0..TRIES {
            if self.remove() {
                break;
            }
            std::thread::sleep(BETWEEN);
        }
    }
}

/// How often a control group is tried to be removed whose processes are being killed, and the time between.
const TRIES: u32 = 100;
const BETWEEN: std::time::Duration = std::time::Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_removed_and_one_that_has_taken_its_name_is_not() {
        let dir = std::env::temp_dir().join(format!("bulkhead-starter-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (path, other) = (dir.join("socket"), dir.join("other"));
        let named = || Named::new(path.as_os_str().as_encoded_bytes()).unwrap();
        std::fs::write(&path, "").unwrap();
        named().remove();
        assert!(!path.exists());
        std::fs::write(&path, "").unwrap();
        let last = named();
        std::fs::write(&other, "the next guest's").unwrap();
        std::fs::rename(&other, &path).unwrap();
        last.remove();
        assert!(path.exists(), "another file");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// The group of a launcher that was killed has those of its processes below.
    #[test]
    fn a_directory_goes_with_those_below_and_stays_while_one_is_in_use() {
        let dir = std::env::temp_dir().join(format!("bulkhead-starter-group-{}", std::process::id()));
        let named = || Named::new(dir.as_os_str().as_encoded_bytes()).unwrap();
        std::fs::create_dir_all(dir.join("ide/used")).unwrap();
        std::fs::create_dir(dir.join("ps2")).unwrap();
        assert!(!named().remove());
        assert!(dir.join("ide/used").exists() && !dir.join("ps2").exists());
        std::fs::remove_dir(dir.join("ide/used")).unwrap();
        named().remove_after_death();
        assert!(!dir.exists());
    }

    /// The next launcher writes into the pid file that the last one has left: it is the same file.
    #[test]
    fn a_pid_file_that_the_next_launcher_has_locked_stays() {
        let path = std::env::temp_dir().join(format!("bulkhead-starter-pid-{}", std::process::id()));
        std::fs::write(&path, "1").unwrap();
        let named = Named::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // A lock of the open file counts for this process, too, as one of another process would.
        let holder = std::fs::File::options().write(true).open(&path).unwrap();
        // SAFETY: all zeroes is a valid flock, which the call reads.
        let held = unsafe {
            let mut lock: libc::flock = std::mem::zeroed();
            lock.l_type = libc::F_WRLCK as libc::c_short;
            libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&holder), libc::F_OFD_SETLK, &raw const lock)
        };
        assert_eq!(held, 0);
        named.remove_after_death();
        assert!(path.exists(), "the next guest's");
        drop(holder);
        named.remove_after_death();
        assert!(!path.exists());
    }
}
