//! Registers and descriptors of the RTL8139C+ (Realtek, RTL8139C(L)+ data sheet 1.6, chapters 5, 6 and 7; RTL8139D data sheet for
//! their common parts).
use bitfield_struct::bitfield;
use bulkhead_bus::exercise::{BUFFERS, Field, Holds, Register, Shape, home};

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

/// Homes of the rings that the fuzzer's mutator makes: the shapes' places.
pub(super) const TRANSMIT_HOME: u64 = home(0);
pub(super) const RECEIVE_HOME: u64 = home(1);
/// And of C mode's receive buffer.
pub(super) const BUFFER_HOME: u64 = home(2);

const RCR: u64 = Rcr::new().with_own(true).with_broadcast(true).into_bits() as u64;
const PLUS: u64 = PlusCommand::new().with_transmit(true).with_receive(true).into_bits() as u64;
const BOTH: u64 = Command::new().with_transmit(true).with_receive(true).into_bits() as u64;
/// A request to send a buffer of C mode.
const fn send(size: u16) -> u64 {
    TransmitStatus::new().with_size(size).into_bits() as u64
}

const fn register(name: &'static str, section: &'static str, offset: usize, size: u8) -> Register {
    Register::new(name, section, 1, offset as u32, size)
}

/// The registers, in memory space; some in I/O space.
pub(super) const REGISTERS: &[Register] = &[
    register("IDR0", "5.1", reg::IDR, 4).words(&[0x0000_0002, 0x0000_9902]),
    register("IDR4", "5.1", reg::IDR + 4, 4).words(&[0x0100]),
    register("MAR0", "5", reg::MAR, 4).words(&[u32::MAX as u64]),
    register("MAR4", "5", reg::MAR + 4, 4).words(&[u32::MAX as u64]),
    register("TSD0", "5.4", reg::TSD, 4).words(&[send(60), send(1514), send(1793), send(0)]),
    register("TSD1", "5.4", reg::TSD + 4, 4).words(&[send(60), 0x2000]),
    register("TSD2", "5.4", reg::TSD + 8, 4).words(&[send(60)]),
    register("TSD3", "5.4", reg::TSD + 12, 4).words(&[send(60)]),
    register("DTCCR", "6.1", reg::DTCCR, 4).words(&[BUFFERS | 8, BUFFERS | 9, 1]),
    register("DTCCR", "6.1", reg::DTCCR + 4, 4).words(&[0, 1]),
    register("TSAD0", "5", reg::TSAD, 4).words(&[BUFFERS, TRANSMIT_HOME]),
    register("TSAD1", "5", reg::TSAD + 4, 4).words(&[BUFFERS, 0]),
    register("THPDS", "7.2", reg::THPDS, 4).words(&[TRANSMIT_HOME, BUFFERS]),
    register("THPDS", "7.2", reg::THPDS + 4, 4).words(&[0, BUFFERS]),
    register("RBSTART", "5", reg::RBSTART, 4).words(&[BUFFER_HOME, BUFFERS]),
    register("CR", "5.5", reg::CR, 1).words(&[BOTH, 4, 8, 0, Command::new().with_reset(true).into_bits() as u64]),
    register("CAPR", "5.6", reg::CAPR, 2).words(&[0xfff0, 0, 0x100]),
    register("CBR", "5.6", reg::CBR, 2),
    register("IMR", "5.7", reg::IMR, 2).words(&[0xffff, cause::RECEIVED as u64 | cause::SENT as u64]),
    register("ISR", "5.7", reg::ISR, 2).words(&[0xffff, cause::RECEIVED as u64, cause::OVERFLOW as u64]),
    register("IMR, ISR", "5.7", reg::IMR, 4).words(&[u32::MAX as u64, 0xffff_0000]),
    register("TCR", "5.8", reg::TCR, 4).words(&[0, 0x0006_0000, 0x0002_0000]),
    register("RCR", "5.9", reg::RCR, 4).words(&[
        RCR,
        RCR | Rcr::new().with_all(true).into_bits() as u64,
        RCR | Rcr::new().with_multicast(true).into_bits() as u64,
        RCR | Rcr::new().with_wrap(true).into_bits() as u64,
        RCR | Rcr::new().with_buffer(3).into_bits() as u64,
    ]),
    register("TCTR", "5.14", reg::TCTR, 4),
    register("MPC", "5", reg::MPC, 4),
    register("9346CR", "5.10", reg::EECR, 1).words(&[0xc0, 0x80, 0x88, 0x8c, 0x8a, 0x8e, 0]),
    register("CONFIG0", "5.10", reg::CONFIG0, 1),
    register("CONFIG1", "5.10", reg::CONFIG1, 1),
    register("TimerInt", "5.14", reg::TIMER_INT, 4).words(&[1, 1000, u32::MAX as u64, 0]),
    register("MSR", "5.15", reg::MSR, 1),
    register("CONFIG3", "5.10", reg::CONFIG3, 1),
    register("CONFIG4", "5.10", reg::CONFIG4, 1),
    register("RERID", "5", reg::RERID, 1),
    register("TSAD", "5.18", reg::TSAD_ALL, 2),
    register("BMCR", "table 5", reg::BMCR, 2).words(&[0x8000, 0x1200, 0x1000]),
    register("BMSR", "table 5", reg::BMSR, 2),
    register("ANAR", "table 5", reg::ANAR, 2),
    register("ANLPAR", "table 5", reg::ANLPAR, 2),
    register("ANER", "table 5", reg::ANER, 2),
    register("CONFIG5", "5.10", reg::CONFIG5, 1),
    register("TPPoll", "7.2", reg::TPPOLL, 1).words(&[0x40, 0x80, 0xc0, 1]),
    register("RMS", "table 5", reg::RMS, 2),
    register("CPCR", "5.28", reg::CPCR, 2).words(&[
        PLUS,
        PLUS | PlusCommand::new().with_checksums(true).with_vlan(true).into_bits() as u64,
        1,
        2,
        0,
    ]),
    register("RDSAR", "7.2", reg::RDSAR, 4).words(&[RECEIVE_HOME, BUFFERS]),
    register("RDSAR", "7.2", reg::RDSAR + 4, 4).words(&[0, 1]),
    Register::new("CR", "5.5", 0, reg::CR as u32, 1).words(&[BOTH, 0x10]),
    Register::new("ISR", "5.7", 0, reg::ISR as u32, 2).words(&[0xffff]),
    Register::new("TPPoll", "7.2", 0, reg::TPPOLL as u32, 1).words(&[0x40]),
];

const OWN: TransmitWord = TransmitWord::new().with_own(true).with_first(true).with_last(true);
const GIVEN: ReceiveWord = ReceiveWord::new().with_own(true);

/// What the card reads from memory.
pub(super) const SHAPES: &[Shape] = &[
    Shape {
        name: "C+ transmit descriptor",
        len: DESCRIPTOR as u8,
        fields: &[
            Field::new(0, 2, Holds::Length(1514)),
            Field::new(
                0,
                4,
                Holds::Flags(&[
                    OWN.into_bits() as u64,
                    OWN.with_end_of_ring(true).into_bits() as u64,
                    OWN.with_ip(true).with_tcp(true).into_bits() as u64,
                    OWN.with_ip(true).with_udp(true).into_bits() as u64,
                    // Segments of 1460 bytes.
                    OWN.with_large(true).into_bits() as u64 | 1460 << 16,
                    OWN.with_last(false).into_bits() as u64,
                    OWN.with_first(false).into_bits() as u64,
                ]),
            ),
            Field::new(4, 4, Holds::Flags(&[0, TRANSMIT_TAG as u64 | 0x0500])),
            Field::new(8, 4, Holds::Buffer),
        ],
    },
    Shape {
        name: "C+ receive descriptor",
        len: DESCRIPTOR as u8,
        fields: &[
            Field::new(0, 2, Holds::Length(1600)),
            Field::new(
                0,
                4,
                Holds::Flags(&[GIVEN.into_bits() as u64, GIVEN.with_end_of_ring(true).into_bits() as u64]),
            ),
            Field::new(8, 4, Holds::Buffer),
        ],
    },
];
