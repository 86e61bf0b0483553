//! The pages that an ioreq server shares with Xen (public/hvm/ioreq.h).
use bitfield_struct::bitfield;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// No request.
pub const STATE_IOREQ_NONE: u8 = 0;
/// Xen has put a request there.
pub const STATE_IOREQ_READY: u8 = 1;
/// The server has taken it.
pub const STATE_IOREQ_INPROCESS: u8 = 2;
/// The server has answered.
pub const STATE_IORESP_READY: u8 = 3;

/// Access to an I/O port.
pub const IOREQ_TYPE_PIO: u8 = 0;
/// Access to memory.
pub const IOREQ_TYPE_COPY: u8 = 1;
/// Access to PCI configuration space.
pub const IOREQ_TYPE_PCI_CONFIG: u8 = 2;
/// The guest has set its clock.
pub const IOREQ_TYPE_TIMEOFFSET: u8 = 7;
/// Drop all mappings of guest memory.
pub const IOREQ_TYPE_INVALIDATE: u8 = 8;

/// The direction of a read: from the device to the guest.
pub const IOREQ_READ: u8 = 1;
/// The direction of a write.
pub const IOREQ_WRITE: u8 = 0;

/// Byte 30 of a request.
#[bitfield(u8)]
#[derive(PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct IoreqBits {
    /// STATE_*.
    #[bits(4)]
    pub state: u8,
    /// `data` is the guest-physical address of the operand.
    pub data_is_ptr: bool,
    /// 1 = read.
    pub read: bool,
    /// String operations go downwards.
    pub df: bool,
    __: bool,
}

/// One vCPU's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ioreq {
    /// Port, guest-physical address, or sbdf << 32 | register.
    pub addr: u64,
    /// Data, or the operand's address.
    pub data: u64,
    /// Elements.
    pub count: u32,
    /// Bytes of one element.
    pub size: u32,
    /// The vCPU's event channel port in its domain.
    pub vp_eport: u32,
    /// Padding.
    pub pad0: u16,
    /// State and flags.
    pub bits: IoreqBits,
    /// IOREQ_TYPE_*.
    pub kind: u8,
}

/// Offset of [`Ioreq::bits`].
pub const IOREQ_BITS_AT: usize = 30;
/// Number of requests in the page.
pub const IOREQS_PER_PAGE: usize = 128;

/// Slots of the ring of buffered requests.
pub const BUFFERED_SLOTS: u32 = 511;
/// Offset of the ring's read pointer.
pub const BUFFERED_READ_AT: usize = 0;
/// Offset of the ring's write pointer.
pub const BUFFERED_WRITE_AT: usize = 4;
/// Offset of the slots, 8 bytes each.
pub const BUFFERED_SLOTS_AT: usize = 8;

/// A buffered request, as one 64-bit number.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct BufferedIoreq {
    /// IOREQ_TYPE_*.
    pub kind: u8,
    __: bool,
    /// 1 = read.
    pub read: bool,
    /// log2 of the size; 8 bytes take two slots, the second with the high half of the data.
    #[bits(2)]
    pub size: u8,
    /// Address below 1 MiB.
    #[bits(20)]
    pub addr: u32,
    /// Data of a write.
    pub data: u32,
}

#[expect(clippy::arithmetic_side_effects, reason = "evaluated at compile time")]
const _: () = {
    assert!(size_of::<Ioreq>() == 32);
    assert!(core::mem::offset_of!(Ioreq, vp_eport) == 24);
    assert!(core::mem::offset_of!(Ioreq, bits) == IOREQ_BITS_AT);
    assert!(size_of::<Ioreq>() * IOREQS_PER_PAGE == 4096);
    assert!(BUFFERED_SLOTS_AT + BUFFERED_SLOTS as usize * 8 == 4096);
};
