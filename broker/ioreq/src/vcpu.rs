//! One vCPU's slot.
use bulkhead_wire::Posted;
use bulkhead_xen_abi::ioreq::Ioreq;

/// What the reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// An access to a region; the reply's value or payload is the answer.
    Access,
    /// The same, a write.
    Write {
        /// Region.
        region: u16,
        /// Byte in it.
        offset: u64,
    },
    /// A write to configuration space.
    ConfigWrite {
        /// Register.
        offset: u8,
        /// Bytes.
        size: u8,
        /// What the guest wrote.
        value: u32,
    },
    /// A barrier: INVALIDATE, UNPLUG, RESET.
    Barrier,
}

/// A request that devices work on.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    /// As copied from Xen's page.
    pub(crate) request: Ioreq,
    pub(crate) purpose: Purpose,
    /// Channels that have not answered yet.
    pub(crate) channels: Vec<usize>,
    /// Ticks since it was sent.
    pub(crate) ticks: u32,
    /// The write, if it is made again should the device's process die before it answers.
    pub(crate) again: Option<Posted>,
    /// The answer for the guest if it is known already (the access that started a barrier).
    pub(crate) data: Option<u64>,
}

/// The slot. Xen crashes the domain if its states go backwards, so a request that was taken is answered exactly once:
/// `Idle` → take → (`Waiting` or `Blocked`)* → complete → `Idle`.
#[derive(Clone, Debug, Default)]
pub(crate) enum Slot {
    /// Nothing was taken.
    #[default]
    Idle,
    /// Taken, and handed to devices.
    Waiting(Waiting),
    /// Taken, but earlier buffered writes have to go first.
    Blocked(Ioreq),
}
