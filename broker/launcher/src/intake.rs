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
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};
use std::time::{Duration, Instant};

/// Time for a look, the start of its process included: the storage may be slow. While the machine runs, this is a number of ticks.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

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
    /// Earlier processes wait for dead storage, and the kernel does not end them.
    #[error("earlier processes of intake have not ended: their storage does not answer")]
    Stuck,
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

/// A process that looks into an image, which ends with this value. Nothing here waits for it.
pub(crate) struct Looking {
    spawned: Spawned,
    /// Until it is killed.
    link: Option<Resource>,
    log: OwnedFd,
    question: Question,
    /// The image, until the process has it.
    image: Option<OwnedFd>,
    ends: bool,
}

impl Drop for Looking {
    fn drop(&mut self) {
        self.kill();
        // The kernel does not end a process that waits for dead storage. It stays, and the launcher does not wait for it.
        if !self.has_exited() {
            let timeout = Timespec { tv_sec: 1, tv_nsec: 0 };
            let _ = rustix::event::poll(&mut [PollFd::new(&self.spawned.pidfd, PollFlags::IN)], Some(&timeout));
            self.has_exited();
        }
    }
}

impl Looking {
    /// Starts a process that is to answer a question about an open image.
    pub(crate) fn begin(intake: &Intake<'_>, image: &OwnedFd, question: Question) -> Result<Self, IntakeFault> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let (log, log_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // For reading only, and without the lock of the image's own descriptor.
        let image = Some(reopen(image, OFlags::RDONLY)?);
        let role = kind::INTAKE.role;
        let spawned = intake.starter.start(Order {
            role,
            socket: theirs,
            log: log_write.as_fd(),
            ids: intake.ids,
            outlives: false,
            file_size: None,
            group: intake.group,
        })?;
        let looking = Self { spawned, link: Some(Resource::new(ours)), log, question, image, ends: false };
        if intake.stubdom {
            budget::set(looking.spawned.pid, role, &kind::INTAKE, SLOT)?;
        }
        looking.send(&ToProcess::Intake { level: intake.level }, &[])?;
        Ok(looking)
    }

    /// One whose process is a test's.
    #[cfg(test)]
    pub(crate) fn of(spawned: Spawned, link: Resource, log: OwnedFd, image: OwnedFd, question: Question) -> Self {
        Self { spawned, link: Some(link), log, question, image: Some(image), ends: false }
    }

    /// Takes what the process has sent. `None`: its answer has not come yet.
    pub(crate) fn hear(&mut self, intake: &Intake<'_>) -> Option<Result<Answer, IntakeFault>> {
        let heard = match self.image {
            Some(_) => self.hear_ready(intake).map(|()| None),
            None => self.hear_answer(),
        };
        heard.transpose()
    }

    /// Gives the process the image, once it is in its sandbox.
    fn hear_ready(&mut self, intake: &Intake<'_>) -> Result<(), IntakeFault> {
        let mut request = [0; 128];
        let Some(n) = self.receive(&mut request)? else { return Ok(()) };
        let asked = bulkhead_plan::FromProcess::from_bytes(request.get(..n).unwrap_or_default());
        if asked.is_none_or(|a| a.ask != Ask::Ready) {
            return Err(IntakeFault::Answer);
        }
        let profile = bulkhead_policy::profile(kind::INTAKE.role).ok_or(IntakeFault::Answer)?;
        let wrong = intake.starter.check(self.spawned.pid, profile, OwnLimits::default());
        if !wrong.is_empty() {
            return Err(IntakeFault::Sandbox(wrong));
        }
        let image = self.image.take().ok_or(IntakeFault::Answer)?;
        self.send(&ToProcess::Image { question: self.question }, &[image.as_fd()])
    }

    fn hear_answer(&mut self) -> Result<Option<Answer>, IntakeFault> {
        let mut packet = [0; Answer::LEN + 1];
        let Some(n) = self.receive(&mut packet)? else { return Ok(None) };
        packet.get(..n).and_then(|p| Answer::from_bytes(self.question, p)).ok_or(IntakeFault::Answer).map(Some)
    }

    fn send(&self, message: &ToProcess, fds: &[BorrowedFd<'_>]) -> Result<(), IntakeFault> {
        let link = self.link.as_ref().ok_or(IntakeFault::Answer)?;
        link.send(message, fds).map_err(|e| IntakeFault::Exited(format!("{e}: {}", self.last_words())))
    }

    /// Receives at most `to` bytes of a packet, if one has come.
    fn receive(&self, to: &mut [u8]) -> Result<Option<usize>, IntakeFault> {
        let link = self.link.as_ref().ok_or(IntakeFault::Answer)?;
        match rustix::net::recv(link, to, RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, 0)) => Err(IntakeFault::Exited(self.last_words())),
            Ok((_, n)) => Ok(Some(n)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
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

    /// The process's socket.
    pub(crate) fn socket(&self) -> Result<BorrowedFd<'_>, IntakeFault> {
        self.link.as_ref().map(|link| link.as_fd()).ok_or(IntakeFault::Answer)
    }

    /// The process itself.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.spawned.pidfd.as_fd()
    }

    /// Kills the process, whose answer nobody wants any more.
    pub(crate) fn kill(&mut self) {
        // What it still says wakes nobody.
        self.link = None;
        let _ = rustix::process::pidfd_send_signal(&self.spawned.pidfd, Signal::KILL);
    }

    /// Whether a killed process has exited. It is a zombie no more then.
    pub(crate) fn has_exited(&mut self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        self.ends = self.ends
            || !matches!(rustix::process::waitid(WaitId::PidFd(self.spawned.pidfd.as_fd()), options), Ok(None));
        self.ends
    }
}

/// Waits for the answer: for the start of the machine, before anything waits for the launcher.
impl Look for Intake<'_> {
    fn look(&self, image: &OwnedFd, question: Question) -> Result<Answer, IntakeFault> {
        let begun = Instant::now();
        let mut looking = Looking::begin(self, image, question)?;
        loop {
            if let Some(answer) = looking.hear(self) {
                return answer;
            }
            let left = PATIENCE.checked_sub(begun.elapsed()).ok_or(IntakeFault::Late)?;
            let timeout = Timespec::try_from(left).map_err(|_| IntakeFault::Late)?;
            match rustix::event::poll(&mut [PollFd::from_borrowed_fd(looking.socket()?, PollFlags::IN)], Some(&timeout))
            {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}
