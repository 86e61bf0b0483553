//! Starts a process: clone3 with namespaces, a user of its own, execveat of a descriptor.
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ffi::{CStr, CString};
use std::io::Write;

/// The user and group that a process is outside of its user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// User id; never 0 for a device.
    pub uid: u32,
    /// Group id; never 0 for a device.
    pub gid: u32,
}

/// The control group of a process to start.
#[derive(Clone, Copy, Debug)]
pub enum Group<'a> {
    /// The group's directory, open: the process is made in it.
    Directory(BorrowedFd<'a>),
    /// The group's `cgroup.procs`, open for writing: the process is moved before it runs anything. The kernel asks for the rights of
    /// whoever has opened the file (Linux 5.16), so a starter that is root no more can still do it.
    Procs(BorrowedFd<'a>),
}

/// A process to start.
#[derive(Debug)]
pub struct Spec<'a> {
    /// The executable, open.
    pub executable: BorrowedFd<'a>,
    /// argv\[0\]: the role.
    pub role: &'a str,
    /// Becomes descriptor 3.
    pub socket: OwnedFd,
    /// Becomes descriptor 2.
    pub log: BorrowedFd<'a>,
    /// /dev/null: becomes descriptors 0 and 1.
    pub null: BorrowedFd<'a>,
    /// Its user and group; `None`: the caller's, without namespaces (control runs of tests).
    pub ids: Option<Ids>,
    /// It survives the launcher: the broker, which then reports the guest crashed and exits.
    pub outlives: bool,
    /// RLIMIT_FSIZE, bytes, set before the program runs: no file that the process writes becomes larger. `None`: the starter's limit.
    /// The profile's limit holds too.
    pub file_size: Option<u64>,
    /// Its control group (v2); `None`: the caller's.
    pub group: Option<Group<'a>>,
}

/// A process that was started.
#[derive(Debug)]
pub struct Spawned {
    /// Its pid in the caller's namespace.
    pub pid: i32,
    /// Readable once it has exited.
    pub pidfd: OwnedFd,
}

/// Why a process cannot be started: the failed step and its error.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct SpawnError {
    what: &'static str,
    source: std::io::Error,
    /// The process that was made all the same, and killed; its parent has to wait for it.
    pid: i32,
}

impl SpawnError {
    pub(crate) fn new(what: &'static str, source: std::io::Error) -> Self {
        Self { what, source, pid: 0 }
    }

    /// The pid of a process that was made and killed, for which nobody has waited; 0 if there is none.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }
}

/// Whose child a new process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parent {
    /// The process that starts it.
    Starter,
    /// The launcher, which is the parent of the process that starts it.
    Launcher,
}

/// CLONE_INTO_CGROUP (linux/sched.h, Linux 5.7).
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Starts a process. Call it from a single-threaded process: it forks.
///
/// # Errors
/// The step that failed.
pub fn spawn(spec: Spec<'_>) -> Result<Spawned, SpawnError> {
    spawn_for(spec, Parent::Starter)
}

/// The same for one of two parents.
pub(crate) fn spawn_for(spec: Spec<'_>, parent: Parent) -> Result<Spawned, SpawnError> {
    let role = CString::new(spec.role).map_err(|e| SpawnError::new("role", e.into()))?;
    let (go_read, go_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| SpawnError::new("pipe", e.into()))?;
    let mut pidfd: i32 = -1;
    // SAFETY: all zeroes is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = libc::CLONE_PIDFD as u64;
    if spec.ids.is_some() {
        args.flags |= (libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWCGROUP) as u64;
    }
    if let Some(Group::Directory(group)) = spec.group {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = group.as_raw_fd() as u64;
    }
    args.pidfd = (&raw mut pidfd) as u64;
    match parent {
        Parent::Starter => args.exit_signal = libc::SIGCHLD as u64,
        // Its exit signal is this process's own.
        Parent::Launcher => args.flags |= libc::CLONE_PARENT as u64,
    }
    // SAFETY: without CLONE_VM this is a fork: the child runs in a copy of this single-threaded process.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if pid < 0 {
        return Err(SpawnError::new("clone3 with new namespaces", std::io::Error::last_os_error()));
    }
    if pid == 0 {
        drop(go_write);
        child(&spec, &role, &go_read);
    }
    drop(go_read);
    // SAFETY: the kernel has stored a new descriptor there.
    let spawned = Spawned { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
    let mapped = spec.ids.map_or(Ok(()), |ids| map_ids(spawned.pid, ids));
    let mapped = mapped.map_err(|source| SpawnError::new("uid_map and gid_map of the new process", source));
    // It waits for a byte on the pipe, so it has run nothing yet.
    let moved = mapped.and_then(|()| match spec.group {
        Some(Group::Procs(procs)) => rustix::io::write(procs, spawned.pid.to_string().as_bytes())
            .map(drop)
            .map_err(|e| SpawnError::new("its control group", e.into())),
        _ => Ok(()),
    });
    let told = moved.and_then(|()| {
        let told = std::fs::File::from(go_write).write_all(b"x");
        told.map_err(|source| SpawnError::new("telling the new process to go on", source))
    });
    if let Err(error) = told {
        let _ = rustix::process::pidfd_send_signal(&spawned.pidfd, rustix::process::Signal::KILL);
        let mut error = error;
        if parent == Parent::Launcher {
            error.pid = spawned.pid;
        } else {
            let pid = rustix::process::Pid::from_raw(spawned.pid);
            let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
        }
        return Err(error);
    }
    Ok(spawned)
}

/// Maps user and group 0 of the namespace to `ids` outside; no other ids exist in it.
fn map_ids(pid: i32, ids: Ids) -> std::io::Result<()> {
    std::fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    std::fs::write(format!("/proc/{pid}/uid_map"), format!("0 {} 1", ids.uid))?;
    std::fs::write(format!("/proc/{pid}/gid_map"), format!("0 {} 1", ids.gid))
}

/// Runs in the child until exec. On an error it writes a line to the log and exits with status 127.
fn child(spec: &Spec<'_>, role: &CString, go: &OwnedFd) -> ! {
    let fail = |what: &str| -> ! {
        let error = std::io::Error::last_os_error();
        let line = format!("{}: {what}: {error}\n", spec.role);
        let _ = rustix::io::write(spec.log, line.as_bytes());
        // SAFETY: ends this process at once, without running the parent's exit handlers.
        unsafe { libc::_exit(127) }
    };
    let mut byte = [0; 1];
    if rustix::io::read(go, &mut byte) != Ok(1) {
        fail("the launcher has exited");
    }
    // SAFETY: plain system calls on integers. After fork, in a single-threaded child.
    unsafe {
        // Raw system calls: the C library's functions change all threads in its list, and the copied list has the parent's threads,
        // which do not exist here (observed: in a test harness with threads the child waits for ever).
        let zero: libc::c_long = 0;
        if spec.ids.is_some()
            && (libc::syscall(libc::SYS_setresgid, zero, zero, zero) != 0
                || libc::syscall(libc::SYS_setresuid, zero, zero, zero) != 0)
        {
            fail("setresuid");
        }
        // Signals that the launcher blocks or ignores must not be inherited.
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        // A write beyond RLIMIT_FSIZE is an error of that write (EFBIG), and does not kill a process that reports it.
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        if let Some(most) = spec.file_size {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            if libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) != 0 {
                fail("getrlimit");
            }
            let most = limit.rlim_max.min(most);
            limit = libc::rlimit { rlim_cur: most, rlim_max: most };
            if libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) != 0 {
                fail("setrlimit");
            }
        }
        // Moved to higher numbers first, because the target numbers may be in use.
        let socket = libc::fcntl(spec.socket.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10);
        let log = libc::fcntl(spec.log.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10);
        let executable = libc::fcntl(spec.executable.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 10);
        let null = spec.null.as_raw_fd();
        if socket < 0 || log < 0 || executable < 0 {
            fail("F_DUPFD");
        }
        if libc::dup2(null, 0) < 0 || libc::dup2(null, 1) < 0 || libc::dup2(log, 2) < 0 || libc::dup2(socket, 3) < 0 {
            fail("dup2");
        }
        if libc::syscall(libc::SYS_close_range, 4u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            fail("close_range");
        }
        // The launcher's main thread is the parent. Set after the last change of credentials, which clears it.
        if !spec.outlives && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            fail("PR_SET_PDEATHSIG");
        }
        execute(executable, role);
    }
    fail("execveat")
}

/// Replaces this process by an open executable, with `role` as its only argument. Returns if that fails; `errno` has the reason.
fn execute(executable: i32, role: &CStr) {
    let argv = [role.as_ptr(), std::ptr::null()];
    let envp: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: the strings and the lists, which end with a null pointer, live as long as the call.
    unsafe {
        libc::syscall(libc::SYS_execveat, executable, c"".as_ptr(), argv.as_ptr(), envp.as_ptr(), libc::AT_EMPTY_PATH);
    }
}

/// Lets a process that the launcher has started become another role's: the launcher's filter leaves it no other call for that.
/// Returns why it has failed.
pub fn become_role(executable: BorrowedFd<'_>, role: &CStr) -> std::io::Error {
    execute(executable.as_raw_fd(), role);
    std::io::Error::last_os_error()
}

/// sched_attr (linux/sched/types.h).
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

fn set_attributes(pid: i32, mut attr: SchedAttr) -> std::io::Result<()> {
    attr.size = size_of::<SchedAttr>() as u32;
    // SAFETY: reads one SchedAttr of the size that it states.
    let r = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attr, 0) };
    if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Lets a process run at once when it is woken: short time slices (EEVDF, Linux 6.12; no effect before) and a higher weight (for
/// CFS). `nice` below 0 needs CAP_SYS_NICE.
pub fn set_schedule(pid: i32, nanoseconds: u64, nice: i32) -> std::io::Result<()> {
    set_attributes(
        pid,
        SchedAttr { size: 0, policy: 0, flags: 0, nice, priority: 0, runtime: nanoseconds, deadline: 0, period: 0 },
    )
}

/// Sets SCHED_FIFO with this priority, 1 to 99, for a process's only thread; threads that it creates later do not inherit it. Needs
/// CAP_SYS_NICE.
pub fn set_fifo(pid: i32, priority: u32) -> std::io::Result<()> {
    /// SCHED_FLAG_RESET_ON_FORK.
    const RESET_ON_FORK: u64 = 1;
    const SCHED_FIFO: u32 = 1;
    set_attributes(
        pid,
        SchedAttr {
            size: 0,
            policy: SCHED_FIFO,
            flags: RESET_ON_FORK,
            nice: 0,
            priority,
            runtime: 0,
            deadline: 0,
            period: 0,
        },
    )
}

/// Starts another program with this one's privileges; the kernel kills it when this one exits. Returns its pid and pidfd.
pub fn start_attached(program: &str, arguments: &[String]) -> std::io::Result<(i32, OwnedFd)> {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(program);
    command.args(arguments).stdin(std::process::Stdio::null());
    // SAFETY: system calls on integers and a local set between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // Signals that this program blocks, to read them from a descriptor, must not stay blocked there.
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        });
    }
    let pid = i32::try_from(command.spawn()?.id()).map_err(std::io::Error::other)?;
    let process = rustix::process::Pid::from_raw(pid).ok_or(std::io::ErrorKind::InvalidData)?;
    let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())?;
    Ok((pid, pidfd))
}

/// Duplicates a descriptor that is known only by its number.
pub fn duplicate(number: i32) -> Result<OwnedFd, rustix::io::Errno> {
    if number < 0 {
        return Err(rustix::io::Errno::BADF);
    }
    // SAFETY: fcntl refuses a number that is no descriptor; the copy is new and belongs to the caller.
    unsafe {
        let copy = libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3);
        if copy < 0 { Err(rustix::io::Errno::BADF) } else { Ok(OwnedFd::from_raw_fd(copy)) }
    }
}

/// A descriptor that is readable after SIGHUP, SIGTERM or SIGINT; these signals have no other effect afterwards.
pub fn end_signals() -> std::io::Result<OwnedFd> {
    // SAFETY: initialises a signal set of this frame, blocks its signals in this thread, makes a descriptor.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGHUP, libc::SIGTERM, libc::SIGINT] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(std::io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd as _;
    use rustix::process::{Signal, WaitId, WaitIdOptions};

    /// RLIMIT_FSIZE and the ignored signals of `yes`, started with this limit.
    fn started(file_size: Option<u64>) -> (String, u64) {
        let open = |path: &str| std::fs::File::options().read(true).write(path == "/dev/null").open(path).unwrap();
        let (executable, null) = (open("/usr/bin/yes"), open("/dev/null"));
        let (socket, _far) = std::os::unix::net::UnixStream::pair().unwrap();
        let spec = Spec {
            executable: executable.as_fd(),
            role: "yes",
            socket: socket.into(),
            log: null.as_fd(),
            null: null.as_fd(),
            ids: None,
            outlives: false,
            file_size,
            group: None,
        };
        let spawned = spawn(spec).unwrap();
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", spawned.pid)).unwrap();
        // This is the child before its exec, at first.
        while read("comm").trim() != "yes" {
            std::thread::yield_now();
        }
        let limit = read("limits").lines().find_map(|l| Some(l.strip_prefix("Max file size")?.to_owned())).unwrap();
        let ignored = read("status").lines().find_map(|l| Some(l.strip_prefix("SigIgn:")?.trim().to_owned())).unwrap();
        rustix::process::pidfd_send_signal(&spawned.pidfd, Signal::KILL).unwrap();
        rustix::process::waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
        (limit.split_whitespace().take(2).collect::<Vec<_>>().join(" "), u64::from_str_radix(&ignored, 16).unwrap())
    }

    #[test]
    fn a_process_starts_with_its_own_file_size_limit_and_gets_an_error_beyond_it() {
        let beyond = 1 << (libc::SIGXFSZ - 1);
        let (limit, ignored) = started(Some(1 << 20));
        assert_eq!((limit.as_str(), ignored & beyond), ("1048576 1048576", beyond));
        assert_ne!(started(None).0, limit);
    }
}
