//! The machine, driven from a test.
use crate::Faults;
use bulkhead_policy::STARTER;
use bulkhead_ring::SharedArea;
use bulkhead_xen_abi::ioreq::{self, Ioreq, IoreqBits};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time of any wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// A failed step of the simulated machine or its start, as text.
#[derive(Debug)]
pub struct SimError(pub String);

impl std::fmt::Display for SimError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SimError {}

impl<E: Into<std::io::Error>> From<E> for SimError {
    fn from(e: E) -> Self {
        Self(e.into().to_string())
    }
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, SimError>;

/// The configuration of a machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Arguments for bulkhead-dm, as libxl passes them, without the domid.
    pub arguments: Vec<String>,
    /// Bytes of RAM from address 0.
    pub memory: usize,
    /// The disks' storage can be given faults, see [`Sim::faults`].
    pub faults: bool,
    /// The directory of bulkhead-dm and bulkhead-roles.
    pub binaries: PathBuf,
    /// A saved machine, which goes on in this one.
    pub incoming: Option<std::sync::Arc<OwnedFd>>,
}

impl Options {
    /// A machine with these arguments and 16 MiB, with the executables beside the test's own.
    pub fn new(arguments: &[&str]) -> Self {
        let exe = std::env::current_exe().unwrap_or_default();
        let dir = exe.parent().map(|d| if d.ends_with("deps") { d.parent().unwrap_or(d) } else { d });
        Self {
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            memory: 16 << 20,
            faults: false,
            binaries: dir.unwrap_or(Path::new(".")).to_owned(),
            incoming: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    Port,
    Memory,
    Pci,
}

/// A running simulated machine.
pub struct Sim {
    child: Child,
    pages: SharedArea,
    ram: SharedArea,
    faults: Option<Faults>,
    kick: OwnedFd,
    trace: OwnedFd,
    /// The log, and a signal that it has grown.
    log: std::sync::Arc<(std::sync::Mutex<String>, std::sync::Condvar)>,
    claims: BTreeMap<(Space, u64), u64>,
    /// Levels of the ISA interrupts.
    pub isa: [bool; 16],
    /// Levels of the PCI pins by (device, pin).
    pub intx: BTreeMap<(u8, u8), bool>,
    /// The lines of the trace that are neither claims nor answers, in order.
    pub trace_lines: Vec<String>,
    /// Level changes of the ISA interrupts, in order: number and new level; the reader clears it.
    pub edges: Vec<(u8, bool)>,
    now: u64,
    address: u32,
    qmp: PathBuf,
    dir: PathBuf,
}

fn keep_open(fd: impl AsFd) -> Result<i32> {
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::empty())?;
    Ok(fd.as_fd().as_raw_fd())
}

impl Sim {
    /// Starts the machine and waits until all its processes run.
    pub fn start(options: &Options) -> Result<Self> {
        static SERIAL: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("bulkhead-sim-{}-{serial}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let area = |name: &str, len: usize| -> Result<(OwnedFd, SharedArea)> {
            let fd = SharedArea::create(name, len).map_err(|e| SimError(e.to_string()))?;
            SharedArea::seal_size(&fd).map_err(|e| SimError(e.to_string()))?;
            let area = SharedArea::map_fixed(&fd, len, true).map_err(|e| SimError(e.to_string()))?;
            Ok((fd, area))
        };
        let (pages_fd, pages) = area("ioreq", 8192)?;
        let (ram_fd, ram) = area("ram", options.memory)?;
        let faults = options.faults.then(|| Faults::new().map_err(SimError::from)).transpose()?;
        let kick = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK)?;
        let (trace, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        rustix::net::sockopt::set_socket_timeout(&trace, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE))
            .map_err(|e| SimError(e.to_string()))?;
        let qmp = dir.join("qmp");
        let mut command = Command::new(options.binaries.join("bulkhead-dm"));
        command.args(["-xen-domid", "1"]).args(&options.arguments);
        let mut handed = format!(
            "ioreq={},kick={},trace={},memory={},thread={}",
            keep_open(&pages_fd)?,
            keep_open(&kick)?,
            keep_open(&theirs)?,
            keep_open(&ram_fd)?,
            rustix::thread::gettid().as_raw_nonzero()
        );
        if let Some(faults) = &faults {
            handed.push_str(&format!(",faults={}", keep_open(faults)?));
        }
        command.arg("-sim").arg(handed);
        if let Some(saved) = &options.incoming {
            command.arg("-incoming").arg(format!("fd:{}", keep_open(&**saved)?));
        }
        command.arg("-chardev").arg(format!("socket,id=sim,path={},server=on,wait=off", qmp.display()));
        command.args(["-mon", "chardev=sim,mode=control"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        // The next machine that this process starts must not inherit these descriptors.
        let table = faults.iter().map(AsFd::as_fd).chain(options.incoming.iter().map(|saved| saved.as_fd()));
        for fd in [pages_fd.as_fd(), kick.as_fd(), theirs.as_fd(), ram_fd.as_fd()].into_iter().chain(table) {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
        }
        drop(theirs);
        let log = std::sync::Arc::new((std::sync::Mutex::new(String::new()), std::sync::Condvar::new()));
        let (up, is_up) = std::sync::mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            let log = log.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
                    if line.contains("processes run") {
                        let _ = up.send(());
                    }
                    if std::env::var_os("BULKHEAD_SIM_LOG").is_some() {
                        eprintln!("{line}");
                    }
                    let mut text = log.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    text.push_str(&line);
                    text.push('\n');
                    log.1.notify_all();
                }
            });
        }
        if is_up.recv_timeout(PATIENCE).is_err() {
            let _ = child.kill();
            let _ = child.wait();
            let log = log.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
            return Err(SimError(format!("the machine did not start:\n{log}")));
        }
        Ok(Self {
            child,
            pages,
            ram,
            faults,
            kick,
            trace,
            log,
            claims: BTreeMap::new(),
            isa: [false; 16],
            intx: BTreeMap::new(),
            trace_lines: Vec::new(),
            edges: Vec::new(),
            now: 0,
            address: 0,
            qmp,
            dir,
        })
    }

    /// The log of the machine so far.
    pub fn log(&self) -> String {
        self.log.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Waits until the log has grown, at most for `most`.
    pub fn grown(&self, most: Duration) {
        let (log, more) = &*self.log;
        let log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        drop(more.wait_timeout(log, most));
    }

    /// Waits until the log contains `text`.
    pub fn await_log(&self, text: &str) -> Result<()> {
        let (log, more) = &*self.log;
        let log = log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let waited = more.wait_timeout_while(log, PATIENCE, |log| !log.contains(text));
        let (log, waited) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        if waited.timed_out() {
            return Err(SimError(format!("the log never said {text:?}:\n{log}")));
        }
        Ok(())
    }

    /// The path of the QMP socket.
    pub fn qmp_socket(&self) -> &Path {
        &self.qmp
    }

    /// The process id of the launcher.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Handles arriving device model operations until `done` returns true for a line.
    fn follow(&mut self, mut done: impl FnMut(&str) -> bool) -> Result<String> {
        loop {
            let mut bytes = [0; 256];
            let n = rustix::io::read(&self.trace, &mut bytes)?;
            if n == 0 {
                return Err(SimError(format!("the machine has ended:\n{}", self.log())));
            }
            let line = String::from_utf8_lossy(bytes.get(..n).unwrap_or_default()).into_owned();
            let finished = done(&line);
            self.note(&line);
            if finished {
                return Ok(line);
            }
        }
    }

    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words.get(i).and_then(|w| parse(w)).unwrap_or(0);
        match words.first().copied() {
            Some(verb @ ("claim" | "unclaim")) => {
                let space = match words.get(1).copied() {
                    Some("port") => Space::Port,
                    Some("memory") => Space::Memory,
                    _ => Space::Pci,
                };
                if verb == "claim" {
                    self.claims.insert((space, number(2)), number(3));
                } else {
                    self.claims.remove(&(space, number(2)));
                }
            }
            Some("isa") => {
                let (irq, level) = (number(1) as u8, number(2) != 0);
                if let Some(line) = self.isa.get_mut(usize::from(irq)) {
                    *line = level;
                }
                self.edges.push((irq, level));
            }
            Some("intx") => {
                self.intx.insert((number(1) as u8, number(2) as u8), number(3) != 0);
            }
            Some("done" | "result") => {}
            _ => self.trace_lines.push(line.to_owned()),
        }
    }

    /// Handles the device model operations that have arrived, without waiting.
    pub fn catch_up(&mut self) {
        let poll = |fd: &OwnedFd| {
            let mut fds = [rustix::event::PollFd::new(fd, rustix::event::PollFlags::IN)];
            let zero = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            matches!(rustix::event::poll(&mut fds, Some(&zero)), Ok(1))
        };
        while poll(&self.trace) {
            if self.follow(|_| true).is_err() {
                return;
            }
        }
    }

    /// Waits for a device model operation, at most for `most`, and handles those that have arrived.
    pub fn listen(&mut self, most: Duration) {
        let most = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
        let mut fds = [rustix::event::PollFd::new(&self.trace, rustix::event::PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, Some(&most));
        self.catch_up();
    }

    fn claimed(&self, space: Space, first: u64, last: u64) -> bool {
        let at = self.claims.range(..=(space, first)).next_back();
        at.is_some_and(|((s, _), end)| *s == space && last <= *end)
    }

    /// Sends one request in vCPU `vcpu`'s slot, as Xen does, and returns its answer; `None` if no device has claimed the address.
    pub fn request(&mut self, vcpu: usize, request: Ioreq) -> Result<Option<u64>> {
        self.catch_up();
        let span = u64::from(request.count).saturating_mul(u64::from(request.size)).max(1);
        let claimed = match request.kind {
            ioreq::IOREQ_TYPE_PIO => self.claimed(
                Space::Port,
                request.addr,
                request.addr.saturating_add(u64::from(request.size)).saturating_sub(1),
            ),
            ioreq::IOREQ_TYPE_COPY => {
                let first = if request.bits.df() {
                    request.addr.saturating_sub(span.saturating_sub(u64::from(request.size)))
                } else {
                    request.addr
                };
                self.claimed(Space::Memory, first, first.saturating_add(span).saturating_sub(1))
            }
            ioreq::IOREQ_TYPE_PCI_CONFIG => self.claimed(Space::Pci, request.addr >> 32, request.addr >> 32),
            _ => true,
        };
        if !claimed {
            return Ok(None);
        }
        self.put(vcpu, request);
        self.await_done(vcpu).map(Some)
    }

    /// Sends a request without waiting for the answer.
    pub fn put(&mut self, vcpu: usize, request: Ioreq) {
        let at = 4096usize.saturating_add(vcpu.saturating_mul(32));
        let ready = Ioreq { bits: request.bits.with_state(ioreq::STATE_IOREQ_NONE), ..request };
        let _ = self.pages.write(at, &ready);
        // Like Xen, it writes the state last.
        let bits = request.bits.with_state(ioreq::STATE_IOREQ_READY).into_bits();
        let _ = self.pages.copy_in(at.saturating_add(ioreq::IOREQ_BITS_AT), &[bits]);
        let _ = rustix::io::write(&self.kick, &1u64.to_ne_bytes());
    }

    /// Waits for the answer to the request in vCPU `vcpu`'s slot.
    pub fn await_done(&mut self, vcpu: usize) -> Result<u64> {
        let want = format!("done {vcpu}");
        self.follow(|line| line == want)?;
        let at = 4096usize.saturating_add(vcpu.saturating_mul(32));
        let answer: Ioreq = self.pages.read(at).ok_or(SimError("ioreq page".into()))?;
        if answer.bits.state() != ioreq::STATE_IORESP_READY {
            return Err(SimError(format!("vCPU {vcpu}: state {} instead of an answer", answer.bits.state())));
        }
        let _ = self.pages.copy_in(at.saturating_add(ioreq::IOREQ_BITS_AT), &[0]);
        Ok(answer.data)
    }

    /// Waits for the answer to any pending request; returns the number of its vCPU.
    pub fn await_any(&mut self) -> Result<usize> {
        let line = self.follow(|line| line.starts_with("done "))?;
        let vcpu = line.strip_prefix("done ").and_then(|n| n.parse().ok()).ok_or(SimError(line))?;
        let at = 4096usize.saturating_add(usize::saturating_mul(vcpu, 32));
        let _ = self.pages.copy_in(at.saturating_add(ioreq::IOREQ_BITS_AT), &[0]);
        Ok(vcpu)
    }

    /// Builds a request for one access of `size` bytes.
    pub fn simple(kind: u8, addr: u64, size: u32, data: u64, read: bool) -> Ioreq {
        Ioreq { addr, data, count: 1, size, vp_eport: 1, pad0: 0, bits: IoreqBits::new().with_read(read), kind }
    }

    /// Reads a port on vCPU 0; returns all ones if no device claims the port.
    pub fn port_read(&mut self, port: u16, size: u32) -> Result<u32> {
        if (0xcfc..0xd00).contains(&port) && self.address >> 31 != 0 {
            return self.config_read_at(port, size);
        }
        let value = self.request(0, Self::simple(ioreq::IOREQ_TYPE_PIO, u64::from(port), size, 0, true))?;
        Ok(value.map_or(u32::MAX, |v| v as u32) & mask(size))
    }

    /// Writes a port on vCPU 0.
    pub fn port_write(&mut self, port: u16, size: u32, value: u32) -> Result<()> {
        if port == 0xcf8 && size == 4 {
            // Xen latches the address.
            self.address = value;
            return Ok(());
        }
        if (0xcfc..0xd00).contains(&port) && self.address >> 31 != 0 {
            let request =
                Self::simple(ioreq::IOREQ_TYPE_PCI_CONFIG, self.config_address(port), size, u64::from(value), false);
            return self.request(0, request).map(|_| ());
        }
        self.request(0, Self::simple(ioreq::IOREQ_TYPE_PIO, u64::from(port), size, u64::from(value), false)).map(|_| ())
    }

    fn config_address(&self, port: u16) -> u64 {
        let bdf = u64::from(self.address >> 8 & 0xffff);
        let register = u64::from(self.address & 0xfc).saturating_add(u64::from(port & 3));
        bdf << 32 | register
    }

    fn config_read_at(&mut self, port: u16, size: u32) -> Result<u32> {
        let request = Self::simple(ioreq::IOREQ_TYPE_PCI_CONFIG, self.config_address(port), size, 0, true);
        Ok(self.request(0, request)?.map_or(u32::MAX, |v| v as u32) & mask(size))
    }

    /// Reads configuration space of 00:`device`.`function`.
    pub fn config_read(&mut self, device: u8, function: u8, register: u8, size: u32) -> Result<u32> {
        let addr = u64::from(device) << 35 | u64::from(function) << 32 | u64::from(register);
        let value = self.request(0, Self::simple(ioreq::IOREQ_TYPE_PCI_CONFIG, addr, size, 0, true))?;
        Ok(value.map_or(u32::MAX, |v| v as u32) & mask(size))
    }

    /// Writes configuration space.
    pub fn config_write(&mut self, device: u8, function: u8, register: u8, size: u32, value: u32) -> Result<()> {
        let addr = u64::from(device) << 35 | u64::from(function) << 32 | u64::from(register);
        self.request(0, Self::simple(ioreq::IOREQ_TYPE_PCI_CONFIG, addr, size, u64::from(value), false)).map(|_| ())
    }

    /// Reads memory as the CPU does: a device where one is decoded, RAM elsewhere, all ones beyond.
    pub fn memory_read(&mut self, address: u64, to: &mut [u8]) -> Result<()> {
        let mut done = 0usize;
        while done < to.len() {
            let at = address.wrapping_add(done as u64);
            let left = to.len().saturating_sub(done);
            let size = [8usize, 4, 2, 1].into_iter().find(|s| *s <= left && at.is_multiple_of(*s as u64)).unwrap_or(1);
            let last = at.wrapping_add(size as u64).wrapping_sub(1);
            let piece = to.get_mut(done..done.saturating_add(size)).unwrap_or_default();
            self.catch_up();
            if self.claimed(Space::Memory, at, last) {
                let value = self.request(0, Self::simple(ioreq::IOREQ_TYPE_COPY, at, size as u32, 0, true))?;
                piece.copy_from_slice(value.unwrap_or(u64::MAX).to_le_bytes().get(..size).unwrap_or_default());
            } else if !self.ram.copy_out(at as usize, piece) {
                piece.fill(0xff);
            }
            done = done.saturating_add(size);
        }
        Ok(())
    }

    /// Writes memory as the CPU does.
    pub fn memory_write(&mut self, address: u64, from: &[u8]) -> Result<()> {
        let mut done = 0usize;
        while done < from.len() {
            let at = address.wrapping_add(done as u64);
            let left = from.len().saturating_sub(done);
            let size = [8usize, 4, 2, 1].into_iter().find(|s| *s <= left && at.is_multiple_of(*s as u64)).unwrap_or(1);
            let last = at.wrapping_add(size as u64).wrapping_sub(1);
            let piece = from.get(done..done.saturating_add(size)).unwrap_or_default();
            self.catch_up();
            if self.claimed(Space::Memory, at, last) {
                let mut bytes = [0; 8];
                bytes.get_mut(..size).unwrap_or_default().copy_from_slice(piece);
                let data = u64::from_le_bytes(bytes);
                self.request(0, Self::simple(ioreq::IOREQ_TYPE_COPY, at, size as u32, data, false))?;
            } else {
                let _ = self.ram.copy_in(at as usize, piece);
            }
            done = done.saturating_add(size);
        }
        Ok(())
    }

    /// The guest's RAM, for direct access without a device.
    pub fn ram(&self) -> &SharedArea {
        &self.ram
    }

    /// The faults of the disks' storage; the machine was started with [`Options::faults`].
    pub fn faults(&self) -> Result<&Faults> {
        self.faults.as_ref().ok_or_else(|| SimError("this machine's storage has no faults".into()))
    }

    fn command(&mut self, line: &str) -> Result<u64> {
        rustix::io::write(&self.trace, line.as_bytes())?;
        let answer = self.follow(|line| line.starts_with("result "))?;
        answer.strip_prefix("result ").and_then(|n| n.parse().ok()).ok_or(SimError(answer))
    }

    /// The time of the machine's clock.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The next deadline of any device.
    pub fn next_deadline(&mut self) -> Result<Option<u64>> {
        let deadline = self.command("deadline")?;
        Ok((deadline != u64::MAX).then_some(deadline))
    }

    /// Moves the clock to `now`, and stops at every deadline before it.
    pub fn advance_to(&mut self, now: u64) -> Result<()> {
        for _ in 0..100_000 {
            match self.next_deadline()? {
                Some(deadline) if deadline < now && deadline > self.now => self.now = deadline,
                _ => {
                    self.now = now;
                    self.command(&format!("advance {now}"))?;
                    return Ok(());
                }
            }
            self.command(&format!("advance {}", self.now))?;
        }
        Err(SimError("a device sets one deadline after another".into()))
    }

    /// Resets the machine.
    pub fn reset(&mut self) -> Result<()> {
        self.command("reset").map(|_| ())
    }

    /// Sends a QMP command on a connection of its own and returns the answer.
    pub fn qmp(&self, command: &str) -> Result<serde_json::Value> {
        self.qmp_with(command, None)
    }

    /// Sends a QMP command with a descriptor.
    pub fn qmp_with(&self, command: &str, fd: Option<rustix::fd::BorrowedFd<'_>>) -> Result<serde_json::Value> {
        Self::qmp_at(&self.qmp, command, fd)
    }

    /// Sends a QMP command to the socket at this path, for threads that do not have the machine.
    pub fn qmp_at(path: &Path, command: &str, fd: Option<rustix::fd::BorrowedFd<'_>>) -> Result<serde_json::Value> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        for (text, fd) in [("{\"execute\":\"qmp_capabilities\"}", None), (command, fd)] {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
            let fds: Vec<_> = fd.into_iter().collect();
            if !fds.is_empty() {
                ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
            }
            let text = format!("{text}\n");
            rustix::net::sendmsg(
                &stream,
                &[std::io::IoSlice::new(text.as_bytes())],
                &mut ancillary,
                rustix::net::SendFlags::empty(),
            )?;
            line.clear();
            reader.read_line(&mut line)?;
        }
        serde_json::from_str(&line).map_err(|e| SimError(format!("{e}: {line}")))
    }

    /// The launcher's exit status, if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// The machine's directory, which has its QMP socket.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Names and process ids of the launcher's children but the starter, from /proc.
    pub fn processes(&self) -> Vec<(String, i32)> {
        Self::children(self.child.id()).into_iter().filter(|(role, _)| role != STARTER).collect()
    }

    /// The starter's process id.
    pub fn starter(&self) -> Option<i32> {
        Self::children(self.child.id()).into_iter().find(|(role, _)| role == STARTER).map(|(_, pid)| pid)
    }

    /// Names and process ids of the children of the launcher with this process id, the starter among them.
    pub fn children(launcher: u32) -> Vec<(String, i32)> {
        let mut found = Vec::new();
        let tasks = std::fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children")).unwrap_or_default();
        for pid in tasks.split_whitespace().filter_map(|p| p.parse::<i32>().ok()) {
            let role = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let role = String::from_utf8_lossy(&role).trim_end_matches('\0').to_owned();
            found.push((role, pid));
        }
        found
    }

    /// The process id of a role that has only one process.
    pub fn process(&self, role: &str) -> Option<i32> {
        self.processes().into_iter().find(|(r, _)| r == role).map(|(_, pid)| pid)
    }

    /// Kills the process of a role by SIGKILL; returns its process id.
    pub fn kill(&self, role: &str) -> Result<i32> {
        let old = self.process(role).ok_or_else(|| SimError(format!("no {role} runs:\n{}", self.log())))?;
        if let Some(pid) = rustix::process::Pid::from_raw(old) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(std::io::Error::from)?;
        }
        Ok(old)
    }

    /// Kills the process of a role, and waits for the new process, which may not have restored its state yet.
    pub fn replace(&self, role: &str) -> Result<()> {
        let old = self.kill(role)?;
        let end = Instant::now().checked_add(PATIENCE);
        while self.process(role).is_none_or(|new| new == old) {
            if end.is_none_or(|e| Instant::now() > e) {
                return Err(SimError(format!("{role} does not come back:\n{}", self.log())));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Ends the launcher by SIGHUP, as libxl does; returns its exit status.
    pub fn end(&mut self) -> Result<std::process::ExitStatus> {
        if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::HUP);
        }
        Ok(self.child.wait()?)
    }

    /// Reads a file of the host to its end, for tests of serial ports.
    pub fn read_to_string(path: &Path) -> Result<String> {
        let mut text = String::new();
        std::fs::File::open(path)?.read_to_string(&mut text)?;
        Ok(text)
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn mask(size: u32) -> u32 {
    if size >= 4 { u32::MAX } else { (1u32 << (size.wrapping_mul(8) & 31)).wrapping_sub(1) }
}

/// Parses a number in C's notation: decimal, octal after `0`, hexadecimal after `0x`.
pub(crate) fn parse(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}
