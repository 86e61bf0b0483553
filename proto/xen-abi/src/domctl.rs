//! The state of a domain (public/domctl.h). The version of this interface changes with Xen's releases; the parts used here have not
//! changed from 4.14 to 4.20.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// __HYPERVISOR_domctl.
pub const HYPERVISOR_DOMCTL: u64 = 36;
/// XEN_DOMCTL_getdomaininfo.
pub const GETDOMAININFO: u32 = 5;
/// Interface versions, tried from the newest on. Xen refuses all but its own with EACCES and without an effect.
pub const VERSIONS: core::ops::RangeInclusive<u32> = 0x11..=0x1f;

/// XEN_DOMINF_dying: it is being destroyed.
pub const DYING: u32 = 1;
/// XEN_DOMINF_shutdown: it has shut down or crashed.
pub const SHUTDOWN: u32 = 1 << 2;

/// xen_domctl with xen_domctl_getdomaininfo: the fields that are used, and room for all that Xen writes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub struct GetDomainInfo {
    /// XEN_DOMCTL_*.
    pub cmd: u32,
    /// One of [`VERSIONS`].
    pub interface_version: u32,
    /// The requested domain. If there is no domain of this number, Xen answers for the next one.
    pub domain: u16,
    /// Zero.
    pub pad: [u16; 3],
    /// Answer: the domain.
    pub answer: u16,
    /// Zero.
    pub pad1: u16,
    /// Answer: [`DYING`], [`SHUTDOWN`] and others.
    pub flags: u32,
    /// Fields that are not used here.
    pub rest: [u64; 30],
}

const _: () = {
    assert!(core::mem::offset_of!(GetDomainInfo, answer) == 16);
    assert!(core::mem::offset_of!(GetDomainInfo, flags) == 20);
};
