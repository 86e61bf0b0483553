//! The state of a domain (public/domctl.h). This interface has a version that changes with Xen's releases; of what is used
//! here only the number has changed from 4.14 to 4.20.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// __HYPERVISOR_domctl.
pub const HYPERVISOR_DOMCTL: u64 = 36;
/// XEN_DOMCTL_getdomaininfo.
pub const GETDOMAININFO: u32 = 5;
/// Interface versions, the newest first. Xen refuses another than its own with EACCES and does nothing.
pub const VERSIONS: core::ops::RangeInclusive<u32> = 0x11..=0x1f;

/// XEN_DOMINF_dying: it is being destroyed.
pub const DYING: u32 = 1;
/// XEN_DOMINF_shutdown: it has ended, by itself or by a crash.
pub const SHUTDOWN: u32 = 1 << 2;

/// xen_domctl with xen_domctl_getdomaininfo: the fields that are used, and room for all that Xen writes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct GetDomainInfo {
    /// XEN_DOMCTL_*.
    pub cmd: u32,
    /// One of [`VERSIONS`].
    pub interface_version: u32,
    /// The domain that is asked for; the answer is of the next one if there is none of this number.
    pub domain: u16,
    /// Zero.
    pub pad: [u16; 3],
    /// Answer: the domain.
    pub answer: u16,
    /// Zero.
    pub pad1: u16,
    /// Answer: [`DYING`], [`SHUTDOWN`] and others.
    pub flags: u32,
    /// What is not used here.
    pub rest: [u64; 30],
}

const _: () = {
    assert!(core::mem::offset_of!(GetDomainInfo, answer) == 16);
    assert!(core::mem::offset_of!(GetDomainInfo, flags) == 20);
};
