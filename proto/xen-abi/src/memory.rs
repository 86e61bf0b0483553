//! Memory operations (public/memory.h).
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// __HYPERVISOR_memory_op.
pub const HYPERVISOR_MEMORY_OP: u64 = 12;
/// XENMEM_populate_physmap.
pub const POPULATE_PHYSMAP: u64 = 6;
/// XENMEM_resource_ioreq_server.
pub const RESOURCE_IOREQ_SERVER: u32 = 0;

/// xen_memory_reservation.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryReservation {
    /// Array of guest frames.
    pub extent_start: u64,
    /// Its length.
    pub nr_extents: u64,
    /// log2 of the pages of each.
    pub extent_order: u32,
    /// XENMEMF_*.
    pub mem_flags: u32,
    /// Domain.
    pub domid: u16,
    /// Zero.
    pub pad: [u16; 3],
}

const _: () = assert!(size_of::<MemoryReservation>() == 32);
