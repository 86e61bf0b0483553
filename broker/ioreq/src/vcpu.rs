//! The state of one vCPU's request.
use bulkhead_wire::Posted;
use bulkhead_xen_abi::ioreq::Ioreq;

/// The use of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An access to a region; the reply's value or payload is the answer.
    Access,
    /// A write to a region.
    Write {
        /// Index of the region in the declaration.
        region: u16,
        /// Offset in the region, in bytes.
        offset: u64,
    },
    /// A write to configuration space.
    ConfigWrite {
        /// Offset of the first byte in configuration space.
        offset: u8,
        /// Number of bytes.
        size: u8,
        /// The written value.
        value: u32,
    },
    /// A barrier: INVALIDATE, UNPLUG, RESET.
    Barrier,
}

/// A request for which devices have not replied yet.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// The copy from Xen's page.
    pub(crate) request: Ioreq,
    pub(crate) purpose: Purpose,
    /// Channels that have not answered yet.
    pub(crate) channels: Vec<usize>,
    /// Ticks since it was sent.
    pub(crate) ticks: u32,
    /// The write, if it is to be repeated should the device's process die before its reply.
    pub(crate) again: Option<Posted>,
    /// The answer for the guest, if it is known already (for the access that started a barrier).
    pub(crate) data: Option<u64>,
}

/// The state of a vCPU's request. Xen crashes the domain if its states go backwards, so a request that was taken is answered
/// exactly once: `Idle` → take → (`Waiting` or `Blocked`)* → complete → `Idle`.
#[derive(Clone, Debug, Default)]
pub(crate) enum VcpuState {
    /// No request was taken.
    #[default]
    Idle,
    /// Taken, and sent to devices.
    Waiting(Waiting),
    /// Taken, but earlier buffered writes must be handled first.
    Blocked(Ioreq),
}
