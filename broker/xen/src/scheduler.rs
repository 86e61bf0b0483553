//! Reads the settings of Xen's scheduler, only to show them to people.
use crate::{Result, XenError};
use bulkhead_xen_abi::{ioctl, sysctl};
use rustix::fd::AsRawFd as _;

/// The scheduler of the pool of CPUs that dom0 is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Xen's credit scheduler, with its rate limit: the least microseconds that a vCPU runs before another may preempt it.
    Credit(u32),
    /// Xen's credit2 scheduler, with its rate limit in microseconds.
    Credit2(u32),
    /// Another scheduler, by its number; it has no such limit.
    Other(u32),
}

/// Reads the settings. Needs the right to sysctl, which dom0's root has.
pub fn scheduler() -> Result<Scheduler> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/xen/privcmd", flags, rustix::fs::Mode::empty())
        .map_err(|e| XenError::new("/dev/xen/privcmd", e))?;
    for version in sysctl::VERSIONS.rev() {
        let ask = |cmd, scheduler, op| {
            let mut arg = sysctl::Scheduler {
                cmd,
                interface_version: version,
                pool: 0,
                scheduler,
                op,
                pad: 0,
                first: 0,
                second: 0,
                rest: [0; 13],
            };
            let call = ioctl::Hypercall { op: sysctl::HYPERVISOR_SYSCTL, arg: [(&raw mut arg) as u64, 0, 0, 0, 0] };
            // SAFETY: Xen reads and writes one xen_sysctl, for which the structure is large enough; the commands have no pointers.
            let r = unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const call) };
            if r < 0 { Err(XenError::last("sysctl")) } else { Ok(arg) }
        };
        let scheduler = match ask(sysctl::SCHED_ID, 0, 0) {
            Ok(answer) => answer.pool,
            Err(e) if e.source.raw_os_error() == Some(libc::EACCES) => continue,
            Err(e) => return Err(e),
        };
        let limits = |scheduler| ask(sysctl::SCHEDULER_OP, scheduler, sysctl::SCHEDOP_GETINFO);
        return Ok(match scheduler {
            sysctl::SCHEDULER_CREDIT => Scheduler::Credit(limits(scheduler)?.second),
            sysctl::SCHEDULER_CREDIT2 => Scheduler::Credit2(limits(scheduler)?.first),
            other => Scheduler::Other(other),
        });
    }
    Err(XenError {
        what: "sysctl: this Xen's interface version is not known",
        source: std::io::ErrorKind::Unsupported.into(),
    })
}
