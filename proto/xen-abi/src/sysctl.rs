//! Xen's scheduler (public/sysctl.h). The version of this interface changes with Xen's releases; the parts used here are the same
//! from 4.14 to 4.21.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// __HYPERVISOR_sysctl.
pub const HYPERVISOR_SYSCTL: u64 = 35;
/// XEN_SYSCTL_sched_id.
pub const SCHED_ID: u32 = 4;
/// XEN_SYSCTL_scheduler_op.
pub const SCHEDULER_OP: u32 = 19;
/// XEN_SYSCTL_SCHEDOP_getinfo.
pub const SCHEDOP_GETINFO: u32 = 1;
/// XEN_SCHEDULER_CREDIT.
pub const SCHEDULER_CREDIT: u32 = 5;
/// XEN_SCHEDULER_CREDIT2.
pub const SCHEDULER_CREDIT2: u32 = 6;
/// Interface versions. Xen refuses all but its own with EACCES and without an effect.
pub const VERSIONS: core::ops::RangeInclusive<u32> = 0x13..=0x1f;

/// xen_sysctl with xen_sysctl_sched_id, or with xen_sysctl_scheduler_op and its parameters, and room for all that Xen writes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct Scheduler {
    /// XEN_SYSCTL_*.
    pub cmd: u32,
    /// One of [`VERSIONS`].
    pub interface_version: u32,
    /// [`SCHEDULER_OP`]: the pool of CPUs. [`SCHED_ID`] answers here.
    pub pool: u32,
    /// The scheduler, which must be the pool's.
    pub scheduler: u32,
    /// XEN_SYSCTL_SCHEDOP_*.
    pub op: u32,
    /// Zero.
    pub pad: u32,
    /// Answer: credit has its time slice here, credit2 the rate limit in microseconds.
    pub first: u32,
    /// Answer: credit has its rate limit here.
    pub second: u32,
    /// Fields that are not used here.
    pub rest: [u64; 13],
}

const _: () = assert!(size_of::<Scheduler>() == 136);
