//! Looks into images. Each look is a process of its own, which gets the image after it has been verified in its sandbox, and whose
//! answer has a fixed structure. The launcher itself parses no byte of an image.
use crate::budget::{self, BudgetFault};
use crate::machine::images::reopen;
use crate::resource::Resource;
use bulkhead_bus::shown;
use bulkhead_plan::intake::{Answer, Question};
use bulkhead_plan::{Ask, Level, Slot, ToProcess, kind};
use bulkhead_policy::verify::OwnLimits;
use bulkhead_policy::{Group, Ids, Order, SpawnError, Spawned, Starter};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};
use std::time::{Duration, Instant};

/// Time for a look, the start of its process included. The storage may be slow; while the machine runs, the launcher waits for it
/// when the toolstack adds a disk.
const PATIENCE: Duration = Duration::from_secs(10);

/// The number after the last slot, whose user is `intake`'s.
pub(crate) const SLOT: Slot = 63;

/// Answers questions about images.
pub trait Look {
    /// Answers a question about an open image.
    ///
    /// # Errors
    /// The process that looks cannot be started, has left its sandbox, or does not answer.
    fn look(&self, image: &OwnedFd, question: Question) -> Result<Answer, IntakeFault>;
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum IntakeFault {
    /// The process cannot be started.
    #[error("intake: {0}")]
    Spawn(#[from] SpawnError),
    /// A call of the kernel fails.
    #[error("intake: {0}")]
    System(#[from] std::io::Error),
    /// Its limits in a stub domain cannot be set.
    #[error("intake: {0}")]
    Budget(#[from] BudgetFault),
    /// The process is not in its sandbox.
    #[error("intake is not in its sandbox: {}", .0.join("; "))]
    Sandbox(Vec<String>),
    /// It has exited; its last line.
    #[error("intake: {0}")]
    Exited(String),
    /// It takes too long.
    #[error("intake has not answered in {} s", PATIENCE.as_secs())]
    Late,
    /// Bytes that are no answer to the question.
    #[error("intake has sent no answer to the question")]
    Answer,
}

impl From<rustix::io::Errno> for IntakeFault {
    fn from(e: rustix::io::Errno) -> Self {
        Self::System(e.into())
    }
}

/// What is needed to start the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intake<'a> {
    /// Starts it.
    pub(crate) starter: &'a Starter,
    /// The process's user.
    pub(crate) ids: Option<Ids>,
    /// How strictly the sandbox is enforced.
    pub(crate) level: Level,
    /// In a stub domain it has a control group, and an OOM score above the launcher's.
    pub(crate) stubdom: bool,
    /// Its control group in dom0.
    pub(crate) group: Option<Group<'a>>,
}

/// A running process, which ends with this value.
struct Running {
    spawned: Spawned,
    socket: OwnedFd,
    log: OwnedFd,
    begun: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = rustix::process::pidfd_send_signal(&self.spawned.pidfd, Signal::KILL);
        // The kernel does not end a process that waits for dead storage. It stays, and the launcher does not wait for it.
        let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut ends = [PollFd::new(&self.spawned.pidfd, PollFlags::IN)];
        let _ = rustix::event::poll(&mut ends, Some(&timeout));
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = rustix::process::waitid(WaitId::PidFd(self.spawned.pidfd.as_fd()), options);
    }
}

impl Running {
    /// Waits for a packet, and receives at most `to` bytes of it.
    fn receive(&self, to: &mut [u8]) -> Result<usize, IntakeFault> {
        loop {
            let left = PATIENCE.checked_sub(self.begun.elapsed()).ok_or(IntakeFault::Late)?;
            let timeout = Timespec::try_from(left).map_err(|_| IntakeFault::Late)?;
            let mut socket = [PollFd::new(&self.socket, PollFlags::IN)];
            match rustix::event::poll(&mut socket, Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
            return match rustix::net::recv(&self.socket, &mut *to, RecvFlags::DONTWAIT | RecvFlags::TRUNC)? {
                (_, 0) => Err(IntakeFault::Exited(self.last_words())),
                (_, n) => Ok(n),
            };
        }
    }

    /// The first line of its log; it may be hostile.
    fn last_words(&self) -> String {
        let mut bytes = [0; 512];
        let n = rustix::io::read(&self.log, &mut bytes).unwrap_or(0);
        let text = String::from_utf8_lossy(bytes.get(..n).unwrap_or_default());
        let line = text.lines().next().unwrap_or("it has exited");
        shown(line)
    }
}

impl Look for Intake<'_> {
    fn look(&self, image: &OwnedFd, question: Question) -> Result<Answer, IntakeFault> {
        let begun = Instant::now();
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (log, log_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let role = kind::INTAKE.role;
        let spawned = self.starter.start(Order {
            role,
            socket: theirs,
            log: log_write.as_fd(),
            ids: self.ids,
            outlives: false,
            file_size: None,
            group: self.group,
        })?;
        let pid = spawned.pid;
        if self.stubdom {
            budget::set(pid, role, &kind::INTAKE, SLOT)?;
        }
        let running = Running { spawned, socket: rustix::io::dup(&ours)?, log, begun };
        let link = Resource::new(ours);
        let send = |message: &ToProcess, fds: &[_]| {
            link.send(message, fds).map_err(|e| IntakeFault::Exited(format!("{e}: {}", running.last_words())))
        };
        send(&ToProcess::Intake { level: self.level }, &[])?;
        let mut request = [0; 128];
        let n = running.receive(&mut request)?;
        let asked = bulkhead_plan::FromProcess::from_bytes(request.get(..n).unwrap_or_default());
        if asked.is_none_or(|a| a.ask != Ask::Ready) {
            return Err(IntakeFault::Answer);
        }
        let profile = bulkhead_policy::profile(role).ok_or(IntakeFault::Answer)?;
        let wrong = self.starter.check(pid, profile, OwnLimits::default());
        if !wrong.is_empty() {
            return Err(IntakeFault::Sandbox(wrong));
        }
        // For reading only, and without the lock of the image's own descriptor.
        let image = reopen(image, OFlags::RDONLY)?;
        send(&ToProcess::Image { question }, &[image.as_fd()])?;
        let mut packet = [0; Answer::LEN + 1];
        let n = running.receive(&mut packet)?;
        packet.get(..n).and_then(|p| Answer::from_bytes(question, p)).ok_or(IntakeFault::Answer)
    }
}
