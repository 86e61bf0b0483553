//! Registers and descriptors of the RTL8139C+ (Realtek, RTL8139C(L)+ data sheet 1.6, chapters 5, 6 and 7; RTL8139D data sheet for
//! their common parts).
use bitfield_struct::bitfield;

/// Offsets (table 5).
pub(super) mod reg {
    /// The address, six bytes.
    pub(crate) const IDR: usize = 0x00;
    /// The multicast table, eight bytes.
    pub(crate) const MAR: usize = 0x08;
    /// C mode: four transmit status registers. C+ mode: address of the tally counters' dump, 64 bits.
    pub(crate) const TSD: usize = 0x10;
    pub(crate) const DTCCR: usize = 0x10;
    /// C mode: transmit addresses, four of them. C+ mode: the two transmit rings, 64 bits each.
    pub(crate) const TSAD: usize = 0x20;
    pub(crate) const TNPDS: usize = 0x20;
    pub(crate) const THPDS: usize = 0x28;
    /// C mode: the receive buffer.
    pub(crate) const RBSTART: usize = 0x30;
    pub(crate) const CR: usize = 0x37;
    pub(crate) const CAPR: usize = 0x38;
    pub(crate) const CBR: usize = 0x3a;
    pub(crate) const IMR: usize = 0x3c;
    pub(crate) const ISR: usize = 0x3e;
    pub(crate) const TCR: usize = 0x40;
    pub(crate) const RCR: usize = 0x44;
    pub(crate) const TCTR: usize = 0x48;
    pub(crate) const MPC: usize = 0x4c;
    pub(crate) const EECR: usize = 0x50;
    pub(crate) const CONFIG0: usize = 0x51;
    pub(crate) const CONFIG1: usize = 0x52;
    pub(crate) const TIMER_INT: usize = 0x54;
    pub(crate) const MSR: usize = 0x58;
    pub(crate) const CONFIG3: usize = 0x59;
    pub(crate) const CONFIG4: usize = 0x5a;
    pub(crate) const RERID: usize = 0x5e;
    /// Transmit status of all four descriptors.
    pub(crate) const TSAD_ALL: usize = 0x60;
    pub(crate) const BMCR: usize = 0x62;
    pub(crate) const BMSR: usize = 0x64;
    pub(crate) const ANAR: usize = 0x66;
    pub(crate) const ANLPAR: usize = 0x68;
    pub(crate) const ANER: usize = 0x6a;
    pub(crate) const CONFIG5: usize = 0xd8;
    pub(crate) const TPPOLL: usize = 0xd9;
    /// The 8169's limit of a packet. This card does not have it, and drivers distinguish the two by it (iPXE, Linux).
    pub(crate) const RMS: usize = 0xda;
    pub(crate) const CPCR: usize = 0xe0;
    pub(crate) const RDSAR: usize = 0xe4;
}

/// Causes of an interrupt (5.7).
pub(super) mod cause {
    pub(crate) const RECEIVED: u16 = 1;
    pub(crate) const SENT: u16 = 1 << 2;
    pub(crate) const SEND_ERROR: u16 = 1 << 3;
    /// C+: there is no receive descriptor; C: the buffer is full.
    pub(crate) const OVERFLOW: u16 = 1 << 4;
    pub(crate) const LINK: u16 = 1 << 5;
    pub(crate) const SOFTWARE: u16 = 1 << 8;
    pub(crate) const TIMER: u16 = 1 << 14;
}

/// Command register (5.5).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct Command {
    /// C mode: the receive buffer is empty.
    pub(super) empty: bool,
    __: bool,
    pub(super) transmit: bool,
    pub(super) receive: bool,
    pub(super) reset: bool,
    #[bits(3)]
    __: u8,
}

/// Receive configuration (5.9).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Rcr {
    pub(super) all: bool,
    pub(super) own: bool,
    pub(super) multicast: bool,
    pub(super) broadcast: bool,
    pub(super) runts: bool,
    pub(super) errors: bool,
    __: bool,
    /// A frame continues up to 1.5 KiB after the buffer's end instead of wrapping.
    pub(super) wrap: bool,
    #[bits(3)]
    __: u8,
    /// Size of the buffer: 8, 16, 32 or 64 KiB.
    #[bits(2)]
    pub(super) buffer: u8,
    #[bits(19)]
    __: u32,
}

/// C+ command (5.28).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(super) struct PlusCommand {
    pub(super) transmit: bool,
    pub(super) receive: bool,
    #[bits(3)]
    __: u8,
    pub(super) checksums: bool,
    /// VLAN tags are removed from received frames.
    pub(super) vlan: bool,
    #[bits(9)]
    __: u16,
}

/// Transmit status, C mode (5.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct TransmitStatus {
    #[bits(13)]
    pub(super) size: u16,
    /// The card has finished with the buffer.
    pub(super) own: bool,
    __: bool,
    pub(super) ok: bool,
    #[bits(14)]
    __: u16,
    pub(super) abort: bool,
    __: bool,
}

/// Bytes of a C+ descriptor.
pub(super) const DESCRIPTOR: u64 = 16;
/// Descriptors of a C+ ring at most (7.2).
pub(super) const RING: u32 = 64;

/// First word of a C+ transmit descriptor (7.2.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct TransmitWord {
    /// Bytes of the buffer.
    pub(super) size: u16,
    /// Checksums to make, unless it is a large send.
    pub(super) tcp: bool,
    pub(super) udp: bool,
    pub(super) ip: bool,
    #[bits(8)]
    __: u8,
    /// Cut it into segments; their size is in bits 16 to 26 then.
    pub(super) large: bool,
    pub(super) last: bool,
    pub(super) first: bool,
    pub(super) end_of_ring: bool,
    /// The descriptor belongs to the card.
    pub(super) own: bool,
}

impl TransmitWord {
    /// The word after sending: without errors, and without the segment size, which shares their bits.
    pub(super) fn sent(self) -> Self {
        Self::from_bits(self.into_bits() & 0xf000_ffff).with_own(false)
    }

    /// Bytes of a segment.
    pub(super) fn segment(self) -> u16 {
        (self.into_bits() >> 16) as u16 & 0x07ff
    }
}

/// Second word of both: a VLAN tag is there.
pub(super) const TRANSMIT_TAG: u32 = 1 << 17;
pub(super) const RECEIVE_TAG: u32 = 1 << 16;

/// First word of a C+ receive descriptor (7.2.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct ReceiveWord {
    /// Bytes of the buffer; after reception, bytes of the frame.
    #[bits(13)]
    pub(super) size: u16,
    pub(super) tcp_bad: bool,
    pub(super) udp_bad: bool,
    pub(super) ip_bad: bool,
    /// 1 TCP in IP, 2 UDP in IP, 3 IP.
    #[bits(2)]
    pub(super) protocol: u8,
    #[bits(6)]
    __: u8,
    pub(super) broadcast: bool,
    pub(super) own_address: bool,
    pub(super) multicast: bool,
    /// A frame alignment error; never set here.
    pub(super) misaligned: bool,
    pub(super) last: bool,
    pub(super) first: bool,
    pub(super) end_of_ring: bool,
    pub(super) own: bool,
}
