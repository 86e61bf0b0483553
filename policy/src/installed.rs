//! The system call filters of a running process, as the kernel has them.
//!
//! The kernel shows them by ptrace to root, on a kernel with CONFIG_CHECKPOINT_RESTORE, and to nobody who has a filter himself. So
//! the launcher cannot read them: it counts them ([`crate::verify`]). The tests read them
//! (docs/decisions/0029-whose-filter.md).
use crate::{LAUNCHER, Profile, RUNNING, STARTER, STARTING};
use std::io::{Error, ErrorKind, Result};

/// PTRACE_SECCOMP_GET_FILTER (linux/ptrace.h).
const SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
/// Most instructions of a filter (the kernel's BPF_MAXINSNS).
const INSTRUCTIONS: usize = 4096;
/// Bytes of an instruction.
const INSTRUCTION: usize = 8;

/// A thread that this process has stopped.
struct Stopped(libc::pid_t);

impl Stopped {
    /// Stops a thread without a signal. A system call in which it waits is made again afterwards.
    fn new(thread: libc::pid_t) -> Result<Self> {
        // SAFETY: ptrace requests without memory.
        unsafe {
            if libc::ptrace(libc::PTRACE_SEIZE, thread, 0, 0) != 0 {
                return Err(Error::last_os_error());
            }
            // From now on it is detached in every case.
            let stopped = Self(thread);
            if libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0, 0) != 0 {
                return Err(Error::last_os_error());
            }
            let mut status = 0;
            while libc::waitpid(thread, &raw mut status, libc::__WALL) < 0 {
                let error = Error::last_os_error();
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            if libc::WIFSTOPPED(status) { Ok(stopped) } else { Err(Error::from_raw_os_error(libc::ESRCH)) }
        }
    }

    /// The filter with this number, from 0, the oldest; `None` beyond the newest.
    fn filter(&self, number: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = vec![0u8; INSTRUCTIONS.saturating_mul(INSTRUCTION)];
        // SAFETY: the kernel writes a whole filter, which is not longer than the buffer.
        let n = unsafe { libc::ptrace(SECCOMP_GET_FILTER, self.0, number, bytes.as_mut_ptr()) };
        let Ok(n) = usize::try_from(n) else {
            let error = Error::last_os_error();
            return if error.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(error) };
        };
        bytes.truncate(n.saturating_mul(INSTRUCTION));
        Ok(Some(bytes))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: a ptrace request without memory. It fails if the thread has ended.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

/// The filters of one thread, the oldest first, in the form in which profiles are compiled.
///
/// # Errors
/// `EPERM`: this process may not trace it; `EACCES`: it is not root, or has a filter itself; `EINVAL` or `EIO`: this kernel shows
/// no filters; `ESRCH`: there is no such thread.
pub fn filters(thread: i32) -> Result<Vec<Vec<u8>>> {
    let stopped = Stopped::new(thread)?;
    let mut all = Vec::new();
    while let Some(filter) = stopped.filter(all.len())? {
        all.push(filter);
    }
    Ok(all)
}

/// Compares the filters of all threads of a process that a starter has started with its profile's and, below it, the starter's.
/// Returns the violations.
///
/// # Errors
/// As [`filters`].
pub fn check(pid: i32, profile: &Profile) -> Result<Vec<String>> {
    newest(pid, &[(profile.role, profile.filter), (STARTER, STARTING.filter)])
}

/// The same for the launcher of a prepared machine.
///
/// # Errors
/// As [`filters`].
pub fn check_launcher(pid: i32) -> Result<Vec<String>> {
    newest(pid, &[(LAUNCHER, RUNNING.filter), (STARTER, STARTING.filter)])
}

/// The same for a starter.
///
/// # Errors
/// As [`filters`].
pub fn check_starter(pid: i32) -> Result<Vec<String>> {
    newest(pid, &[(STARTER, STARTING.filter)])
}

/// Compares the newest filters of each thread with these, the newest first. Older ones are the host's.
fn newest(pid: i32, expected: &[(&str, &[u8])]) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let filters = filters(thread)?;
        let mut newest = filters.iter().rev();
        for (role, expected) in expected {
            if newest.next().map(Vec::as_slice) != Some(*expected) {
                wrong.push(format!("thread {thread} of {pid} does not have the filter of {role} at its place"));
            }
        }
    }
    Ok(wrong)
}
