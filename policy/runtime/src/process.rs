//! The start of a process, up to the sandbox.
use crate::{Link, LinkError, Received, log};
use bulkhead_plan::intake::{Answer, Question};
use bulkhead_plan::{Ask, DeviceSlot, FdUse, MachinePlan, Slot, ToProcess};
use bulkhead_policy::{Report, Sandbox, guest_memory};
use bulkhead_wire::SAVED;
use rustix::fd::{AsFd, FromRawFd, OwnedFd};

/// Why a process cannot start. It is printed as one line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket to the launcher fails.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The sandbox cannot be entered.
    #[error(transparent)]
    Sandbox(#[from] bulkhead_policy::SandboxError),
    /// A shared area cannot be mapped or sealed.
    #[error(transparent)]
    Area(#[from] bulkhead_ring::AreaError),
    /// The peer's header or state is invalid.
    #[error(transparent)]
    Poison(#[from] bulkhead_ring::Poison),
    /// A system call failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A system call failed.
    #[error(transparent)]
    System(#[from] rustix::io::Errno),
    /// Descriptor 3 is not the launcher's socket.
    #[error("roles are started by bulkhead-dm, not by hand")]
    ByHand,
    /// There is no profile for the role.
    #[error("no profile for {0}")]
    NoProfile(String),
    /// The launcher has sent a message out of order.
    #[error("expected {expected}, got {got:?}")]
    Unexpected {
        /// The expected message.
        expected: &'static str,
        /// The received message; `None` if the socket was closed.
        got: Option<Box<ToProcess>>,
    },
    /// A descriptor is missing.
    #[error("the launcher gave no descriptor for {0:?}")]
    NoDescriptor(FdUse),
    /// The kind needs video RAM, and its configuration has none.
    #[error("the configuration names no video RAM")]
    NoVideoRam,
    /// The plan has no device in this process's slot.
    #[error("this slot is no device")]
    NoDevice,
    /// The plan has the configuration of another role for this process.
    #[error("the configuration is that of {0}")]
    OtherRole(&'static str),
    /// The question came without an image.
    #[error("the launcher gave no image")]
    NoImage,
    /// The saved state of this process is not taken.
    #[error("its saved state is refused: {0}")]
    Saved(#[from] bulkhead_bus::StateError),
    /// The saved state has more bytes than a state can have.
    #[error("its saved state is too long")]
    LongState,
    /// The plan's number of vCPUs is impossible.
    #[error("the number of vCPUs is impossible")]
    Vcpus,
    /// The device cannot be built.
    #[error("{0}")]
    Device(Box<dyn std::error::Error + Send + Sync>),
    /// The hypervisor refuses a call.
    #[error("{0}")]
    Hypervisor(Box<dyn std::error::Error + Send + Sync>),
    /// The simulated machine has exited.
    #[error("the simulated machine has exited")]
    SimulationGone,
}

impl StartError {
    fn unexpected(expected: &'static str, got: Option<Received>) -> Self {
        Self::Unexpected { expected, got: got.map(|(message, _)| Box::new(message)) }
    }
}

/// The process's unused descriptors, by use.
#[derive(Debug, Default)]
pub struct Fds(Vec<(FdUse, OwnedFd)>);

impl Fds {
    /// Adds the descriptors of a message.
    pub fn add(&mut self, uses: Vec<FdUse>, fds: Vec<OwnedFd>) {
        self.0.extend(uses.into_iter().zip(fds));
    }

    /// Takes the descriptor for this use, if there is one.
    pub fn take(&mut self, what: &FdUse) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(u, _)| u == what)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Takes the descriptor for this use, or fails.
    pub fn require(&mut self, what: &FdUse) -> Result<OwnedFd, StartError> {
        self.take(what).ok_or_else(|| StartError::NoDescriptor(what.clone()))
    }

    /// Takes all descriptors for whose use `pick` returns a value.
    pub fn take_all<T>(&mut self, pick: impl Fn(&FdUse) -> Option<T>) -> Vec<(T, OwnedFd)> {
        let (mut taken, mut kept) = (Vec::new(), Vec::new());
        for (what, fd) in self.0.drain(..) {
            match pick(&what) {
                Some(value) => taken.push((value, fd)),
                None => kept.push((what, fd)),
            }
        }
        self.0 = kept;
        taken
    }
}

/// A process that the launcher has started.
#[derive(Debug)]
pub struct Process {
    /// The socket to the launcher.
    pub link: Link,
    /// The slot that the launcher has given the process.
    pub slot: Slot,
    /// The machine's configuration.
    pub plan: MachinePlan,
    /// The descriptors that the launcher has passed, by use.
    pub fds: Fds,
    sandbox: Sandbox,
}

/// The begin of every process: its log, its last words, and the socket to the launcher.
fn begin() -> Result<Link, StartError> {
    // One heap for all threads. glibc would reserve 64 MiB of addresses for each thread and change their protection as they fill: no
    // profile has room for that, and none has mprotect.
    // SAFETY: sets a number of the allocator, before this process has another thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    log::start();
    // The first read of the clock detects the clock source, with system calls that no profile has.
    let _ = bulkhead_bus::Clock::Real.now();
    // So may the first random number of the C library.
    let _ = std::collections::hash_map::RandomState::new();
    // One line, then exit, with no system call but write and exit: the standard hook and abort() need more.
    std::panic::set_hook(Box::new(|info| {
        let line = format!("panic: {info}").replace('\n', ": ");
        let _ = rustix::io::write(rustix::stdio::stderr(), format!("{line}\n").as_bytes());
        end(101);
    }));
    if rustix::io::fcntl_getfd(rustix::stdio::stdin()).is_err() {
        return Err(StartError::ByHand);
    }
    // SAFETY: the launcher passes the socket as descriptor 3, and no other code of this process uses that number.
    let socket = unsafe { OwnedFd::from_raw_fd(3) };
    if rustix::net::sockopt::socket_type(&socket) != Ok(rustix::net::SocketType::SEQPACKET) {
        std::mem::forget(socket);
        return Err(StartError::ByHand);
    }
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Link::new(socket))
}

/// The life of a process that answers one question about an image. It enters the sandbox, waits until the launcher has verified it
/// and sends the image, and sends what `answer` returns.
pub fn answer_once(answer: impl FnOnce(Question, OwnedFd) -> Answer) -> Result<(), StartError> {
    let link = begin()?;
    let role = bulkhead_plan::kind::INTAKE.role;
    let profile = bulkhead_policy::profile(role).ok_or_else(|| StartError::NoProfile(role.to_owned()))?;
    let sandbox = match link.receive(true)? {
        Some((ToProcess::Intake { level }, _)) => Sandbox::new(profile, level, 0),
        other => return Err(StartError::unexpected("Intake", other)),
    };
    sandbox.confine()?;
    sandbox.seal()?;
    link.send(&Ask::Ready.into(), None)?;
    let (question, image) = match link.receive(true)? {
        Some((ToProcess::Image { question }, mut fds)) if fds.len() == 1 => (question, fds.pop()),
        other => return Err(StartError::unexpected("Image", other)),
    };
    let image = image.ok_or(StartError::NoImage)?;
    rustix::net::send(&link, &answer(question, image).to_bytes(), rustix::net::SendFlags::NOSIGNAL)?;
    Ok(())
}

impl Process {
    /// Receives the first message; `role` is argv\[0\].
    pub fn start(role: &str) -> Result<Self, StartError> {
        let link = begin()?;
        let profile = bulkhead_policy::profile(role).ok_or_else(|| StartError::NoProfile(role.to_owned()))?;
        match link.receive(true)? {
            Some((ToProcess::Start { slot, plan, fds: uses }, fds)) => {
                let config = plan.devices.iter().find(|d| d.slot == slot).map(|d| &d.config);
                let guest_memory = guest_memory(config, uses.iter().zip(fds.iter().map(AsFd::as_fd)));
                let sandbox = Sandbox::new(profile, plan.level, guest_memory);
                let mut all = Fds::default();
                all.add(uses, fds);
                Ok(Self { link, slot, plan: *plan, fds: all, sandbox })
            }
            other => Err(StartError::unexpected("Start", other)),
        }
    }

    /// This process's device in the plan; `None` for control and the broker.
    pub fn device(&self) -> Option<&DeviceSlot> {
        self.plan.devices.iter().find(|d| d.slot == self.slot)
    }

    /// Waits for the peer's descriptors.
    pub fn await_peer(&mut self) -> Result<(), StartError> {
        match self.link.receive(true)? {
            Some((ToProcess::Peer { fds: uses }, fds)) => {
                self.fds.add(uses, fds);
                Ok(())
            }
            other => Err(StartError::unexpected("Peer", other)),
        }
    }

    /// Sends a request without a descriptor to the launcher.
    pub fn request(&self, ask: Ask) -> Result<(), StartError> {
        Ok(self.link.send(&ask.into(), None)?)
    }

    /// Step 1 of the sandbox; the process creates its threads after it.
    pub fn confine(&self) -> Result<Report, StartError> {
        Ok(self.sandbox.confine()?)
    }

    /// Step 2 of the sandbox: the filter. The process has all its threads, and has read nothing that a guest, a device or an image
    /// can write.
    pub fn seal(&self) -> Result<(), StartError> {
        Ok(self.sandbox.seal()?)
    }

    /// Reports that the process is ready. Returns once the launcher has verified it and has sent `Go`.
    pub fn ready(&self) -> Result<(), StartError> {
        self.request(Ask::Ready)?;
        let got = match self.link.receive(true) {
            // The socket may be non-blocking (control's is).
            Err(LinkError::System(rustix::io::Errno::AGAIN)) => {
                let poll = rustix::event::PollFd::new(&self.link, rustix::event::PollFlags::IN);
                rustix::event::poll(&mut [poll], None)?;
                self.link.receive(true)?
            }
            other => other?,
        };
        match got {
            Some((ToProcess::Go, _)) => Ok(()),
            other => Err(StartError::unexpected("Go", other)),
        }
    }
}

/// A saved state of this process. It is hostile: read behind the filter, and parsed by the device alone.
pub fn read_saved(state: &OwnedFd) -> Result<Vec<u8>, StartError> {
    let mut bytes = vec![0; SAVED + 1];
    let mut len = 0usize;
    while let Some(room) = bytes.get_mut(len..).filter(|room| !room.is_empty()) {
        match rustix::io::read(state, room)? {
            0 => break,
            n => len = len.saturating_add(n),
        }
    }
    if len > SAVED {
        return Err(StartError::LongState);
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Ends the process at once. The standard library's exit makes system calls that no profile has.
pub fn end(status: u8) -> ! {
    // SAFETY: ends the process without running further code of it.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Creates a non-blocking eventfd.
pub(crate) fn eventfd() -> Result<OwnedFd, StartError> {
    use rustix::event::EventfdFlags;
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Rings an eventfd. If its counter is full, it is ringing already.
pub(crate) fn ring(fd: impl AsFd) {
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}
