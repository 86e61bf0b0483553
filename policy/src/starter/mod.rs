//! The starter: a process that starts all others, once the launcher has given up the rights that this takes ([`crate::close_cage`]).
//!
//! The launcher parses what processes and toolstacks say; the starter parses nothing but the launcher's packets of a fixed form, and
//! starts nothing but roles, each with a user of the guest's range. A process that it starts is the launcher's child (CLONE_PARENT),
//! so the launcher waits for it, and it dies with the launcher. When the launcher has exited, the starter removes the paths of its
//! sockets and exits.
//!
//! It also compares them with their profiles: the kernel shows a process under Landlock, as the launcher is, little of a process that
//! is not below it. And it connects to xenstored, because a launcher that may call one service of the host may call all of them.
//!
//! A starter that does not answer in time is killed: a late answer would be taken for that to the next packet. From then on a process
//! that dies stays dead, and nothing waits for the starter any more.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the launcher's end |
//! | `serve.rs` | the starter's |
//! | `packets.rs` | one socket (SEQPACKET) joins the two; each packet is answered before the next is sent |
mod packets;
mod serve;

use crate::verify::{self, Observed, OwnLimits};
use crate::{Group, Ids, Profile, SpawnError, Spawned, Spec};
use bulkhead_plan::ProcessRow;
pub use packets::Users;
use packets::{
    Answer, BEGIN, CHECK, DESCRIBE, GroupBy, Look, MOST_ANSWER, REMOVE, RoleName, Wanted, XENSTORED, receive, send,
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitOptions};
pub use serve::serve;
use std::cell::{Cell, OnceCell};
use std::io::{Error, ErrorKind, Result};

/// The role of the starter's process.
pub const STARTER: &str = "starter";

/// First user of the range from which each process of a root launcher has its own.
pub const FIRST_UID: u32 = 2_000_000_000;

/// Waits of [`WAIT`] in which the starter answers. It does in milliseconds; on a host that is overloaded a start takes long, and without
/// a starter a guest loses what dies. Waits are counted and not the time: both processes may have been frozen meanwhile.
const PATIENCE: u32 = 100;
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// A process to start.
#[derive(Debug)]
pub struct Order<'a> {
    /// Its role.
    pub role: &'static str,
    /// Becomes descriptor 3.
    pub socket: OwnedFd,
    /// Becomes descriptor 2.
    pub log: BorrowedFd<'a>,
    /// Its user and group; `None`: the caller's, without namespaces, which the starter refuses.
    pub ids: Option<Ids>,
    /// It survives the launcher.
    pub outlives: bool,
    /// RLIMIT_FSIZE, bytes; see [`Spec::file_size`].
    pub file_size: Option<u64>,
    /// Its control group (v2); `None`: the caller's.
    pub group: Option<Group<'a>>,
}

/// Starts processes: by itself, then through the starter.
#[derive(Debug)]
pub struct Starter {
    executable: OwnedFd,
    null: OwnedFd,
    /// This process in /proc.
    own: Observed,
    process: OnceCell<Process>,
}

/// The starter's process.
#[derive(Debug)]
struct Process {
    spawned: Spawned,
    socket: OwnedFd,
    /// Waits in which it answers.
    patience: u32,
    state: Cell<State>,
}

/// What the starter's process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It waits for its first packet; this process starts processes by itself.
    Made,
    /// It starts processes, and has not answered the first packet yet.
    Begins,
    /// It has.
    Serves,
    /// It has exited, or has not answered and was killed.
    Lost,
}

impl Starter {
    /// Starts `executable`, which has all roles, with `null` (/dev/null) as standard input and output.
    ///
    /// # Errors
    /// This process cannot read its /proc.
    pub fn new(executable: OwnedFd, null: OwnedFd) -> Result<Self> {
        let own = verify::observe(rustix::process::getpid().as_raw_nonzero().get())?;
        Ok(Self { executable, null, own, process: OnceCell::new() })
    }

    /// `/dev/null`.
    pub fn null(&self) -> &OwnedFd {
        &self.null
    }

    /// The starter's pid, while there is one.
    pub fn pid(&self) -> Option<i32> {
        self.handed_over().filter(|p| p.state.get() != State::Lost).map(|p| p.spawned.pid)
    }

    /// Whether there was a starter and is none any more: nothing can be started again.
    pub fn is_lost(&self) -> bool {
        self.handed_over().is_some_and(|p| p.state.get() == State::Lost)
    }

    /// Takes note that the starter has exited: its descriptor is readable. One that has not is ended.
    pub fn exited(&self) {
        if let Some(process) = self.process.get() {
            process.kill();
            process.wait();
        }
    }

    /// Readable when the starter has exited.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.handed_over().map(|p| p.spawned.pidfd.as_fd())
    }

    /// Starts a process.
    ///
    /// # Errors
    /// The step that failed.
    pub fn start(&self, order: Order<'_>) -> std::result::Result<Spawned, SpawnError> {
        let Order { role, socket, log, ids, outlives, file_size, group } = order;
        let Some(process) = self.handed_over() else {
            let (executable, null) = (self.executable.as_fd(), self.null.as_fd());
            return crate::spawn(Spec { executable, role, socket, log, null, ids, outlives, file_size, group });
        };
        let (moved, directory) = match group {
            None => (GroupBy::None, None),
            Some(Group::Directory(fd)) => (GroupBy::Directory, Some(fd)),
            Some(Group::Procs(fd)) => (GroupBy::Procs, Some(fd)),
        };
        let wanted = ids.and_then(|ids| Wanted::new(role, ids, outlives, file_size)).map(|w| w.in_group(moved));
        let wanted = wanted.ok_or_else(|| SpawnError::new("starter", ErrorKind::InvalidInput.into()))?;
        let starter = |source| SpawnError::new("starter", source);
        let fds: Vec<_> = [socket.as_fd(), log].into_iter().chain(directory).collect();
        let (answer, pidfd) = process.ask(&wanted.to_bytes(), &fds).map_err(starter)?;
        match (Answer::from_bytes(&answer), pidfd) {
            (Some(Answer::Done(pid)), Some(pidfd)) if pid > 0 => Ok(Spawned { pid, pidfd }),
            (Some(Answer::Failed { pid, line }), _) => {
                // It was killed; this process is its parent.
                if let Some(pid) = Pid::from_raw(pid) {
                    let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
                }
                Err(SpawnError::new("starter", Error::other(line)))
            }
            _ => Err(SpawnError::new("starter", ErrorKind::InvalidData.into())),
        }
    }

    /// The starter's process, if it starts processes.
    fn handed_over(&self) -> Option<&Process> {
        self.process.get().filter(|p| p.state.get() != State::Made)
    }

    /// Makes the starter's process, which does nothing before [`Self::hand_over`]. Its start goes on beside what this process does.
    ///
    /// # Errors
    /// The step that failed.
    pub fn prepare(&self) -> std::result::Result<(), SpawnError> {
        if self.process.get().is_some() {
            return Ok(());
        }
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|e| SpawnError::new("socketpair", e.into()))?;
        let spawned = crate::spawn(Spec {
            executable: self.executable.as_fd(),
            role: STARTER,
            socket: theirs,
            log: rustix::stdio::stderr(),
            null: self.null.as_fd(),
            ids: None,
            // It exits when this process has closed its socket.
            outlives: true,
            file_size: None,
            group: None,
        })?;
        let process = Process { spawned, socket: ours, patience: PATIENCE, state: Cell::new(State::Made) };
        self.process.set(process).map_err(|_| SpawnError::new("starter", ErrorKind::AlreadyExists.into()))
    }

    /// Lets the starter start all processes from now on, each as one of these `users` if this process is root. Its parent is this
    /// process, whose sockets' and files' `paths` it removes at the end, if they are still the same files.
    ///
    /// # Errors
    /// The step that failed.
    pub fn hand_over(&self, users: Users, paths: &[String]) -> std::result::Result<(), SpawnError> {
        self.prepare()?;
        let Some(process) = self.process.get() else { return Ok(()) };
        let mut begin = [&[BEGIN][..], &users.to_bytes()].concat();
        for path in paths {
            begin.extend(path.bytes().chain([0]));
        }
        send(&process.socket, &begin, &[self.executable.as_fd(), self.null.as_fd()])
            .map_err(|e| SpawnError::new("starter", e))?;
        process.state.set(State::Begins);
        Ok(())
    }

    /// Opens a way to xenstored without waiting, if there is a starter to do it.
    ///
    /// # Errors
    /// xenstored takes no connection, or the starter has ended.
    pub fn xenstored(&self) -> Option<Result<OwnedFd>> {
        let process = self.handed_over()?;
        let opened = process.ask(&[XENSTORED], &[]).and_then(|(answer, fd)| match (Answer::from_bytes(&answer), fd) {
            (Some(Answer::Done(0)), Some(fd)) => Ok(fd),
            (Some(Answer::Failed { line, .. }), _) => Err(Error::other(line)),
            _ => Err(ErrorKind::InvalidData.into()),
        });
        Some(opened)
    }

    /// Compares a process that was started with its profile; see [`verify::check`]. Returns the violations.
    pub fn check(&self, pid: i32, profile: &Profile, limits: OwnLimits) -> Vec<String> {
        let Some(process) = self.handed_over() else {
            return match verify::observe(pid) {
                Ok(observed) => verify::check(&observed, &self.own, profile, limits),
                Err(e) => vec![format!("/proc/{pid}: {e}")],
            };
        };
        let OwnLimits { file_size, guest_memory } = limits;
        let look = RoleName::new(profile.role).map(|role| Look { pid, file_size, guest_memory, role });
        match look.map(|look| process.ask(&look.to_bytes(CHECK), &[])) {
            Some(Ok((answer, _))) => match Answer::from_bytes(&answer) {
                Some(Answer::Seen(wrong)) => wrong.lines().map(str::to_owned).collect(),
                other => vec![format!("the starter has not looked: {other:?}")],
            },
            Some(Err(e)) => vec![format!("the starter has not looked: {e}")],
            None => vec!["it has no role".to_owned()],
        }
    }

    /// A row of the process table; see [`verify::row`].
    pub fn row(&self, name: &str, role: &str, pid: i32, restarts: u32) -> ProcessRow {
        let there = self.handed_over().filter(|_| pid > 0).zip(RoleName::new(role));
        let seen = there.and_then(|(process, role)| {
            let look = Look { pid, file_size: None, guest_memory: 0, role };
            let (answer, _) = process.ask(&look.to_bytes(DESCRIBE), &[]).ok()?;
            let Some(Answer::Seen(row)) = Answer::from_bytes(&answer) else { return None };
            serde_json::from_str(&row).ok()
        });
        let row = seen.unwrap_or_else(|| verify::row(role, role, pid, &self.own, 0));
        ProcessRow { name: name.to_owned(), restarts, ..row }
    }

    /// Has the paths removed and ends the starter. False if there is none that has done it.
    pub fn end(&self) -> bool {
        let Some(process) = self.process.get() else { return false };
        let done = process.ask(&[REMOVE], &[]).is_ok();
        process.kill();
        process.wait();
        done
    }
}

impl Process {
    /// Sends a packet and waits for its answer. After an error there is no starter any more.
    fn ask(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(Vec<u8>, Option<OwnedFd>)> {
        if self.state.get() == State::Lost {
            return Err(Error::new(ErrorKind::BrokenPipe, "it has ended"));
        }
        self.exchange(packet, fds).inspect_err(|_| self.kill())
    }

    fn exchange(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(Vec<u8>, Option<OwnedFd>)> {
        if self.state.get() == State::Begins {
            let (begun, _) = self.answer()?;
            if Answer::from_bytes(&begun) != Some(Answer::Done(0)) {
                return Err(ErrorKind::InvalidData.into());
            }
            self.state.set(State::Serves);
        }
        send(&self.socket, packet, fds)?;
        self.answer()
    }

    /// The answer to the packet that was sent.
    fn answer(&self) -> Result<(Vec<u8>, Option<OwnedFd>)> {
        let mut socket = [PollFd::new(&self.socket, PollFlags::IN)];
        for waited in 1.. {
            match rustix::event::poll(&mut socket, Some(&WAIT)) {
                Ok(0) if waited >= self.patience => return Err(ErrorKind::TimedOut.into()),
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => break,
                Err(e) => return Err(e.into()),
            }
        }
        let (bytes, mut fds) = receive(&self.socket, MOST_ANSWER)?;
        Ok((bytes, fds.pop()))
    }

    /// Waits for a process that was killed, a second at most: the kernel may not end it now.
    fn wait(&self) {
        let mut exit = [PollFd::new(&self.spawned.pidfd, PollFlags::IN)];
        let _ = rustix::event::poll(&mut exit, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        let _ = rustix::process::waitpid(Pid::from_raw(self.spawned.pid), WaitOptions::NOHANG);
    }

    fn kill(&self) {
        self.state.set(State::Lost);
        let _ = rustix::process::pidfd_send_signal(&self.spawned.pidfd, Signal::KILL);
    }
}

#[cfg(test)]
mod tests;
