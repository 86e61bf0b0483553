//! Registers and descriptors of the 82540EM: PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual (Intel
//! 317453), chapters 3 (descriptors), 5 (EEPROM), 8 (PHY) and 13 (registers).
use bitfield_struct::bitfield;
use bulkhead_bus::exercise::{BUFFERS, Field, Holds, Register, Shape, home};

/// Offsets in BAR 0 (table 13-2).
pub(super) mod reg {
    pub(crate) const CTRL: u32 = 0x0000;
    /// CTRL again.
    pub(crate) const CTRL_DUP: u32 = 0x0004;
    pub(crate) const STATUS: u32 = 0x0008;
    pub(crate) const EECD: u32 = 0x0010;
    pub(crate) const EERD: u32 = 0x0014;
    pub(crate) const CTRL_EXT: u32 = 0x0018;
    pub(crate) const MDIC: u32 = 0x0020;
    pub(crate) const VET: u32 = 0x0038;
    pub(crate) const ICR: u32 = 0x00c0;
    pub(crate) const ITR: u32 = 0x00c4;
    pub(crate) const ICS: u32 = 0x00c8;
    pub(crate) const IMS: u32 = 0x00d0;
    pub(crate) const IMC: u32 = 0x00d8;
    pub(crate) const RCTL: u32 = 0x0100;
    pub(crate) const TCTL: u32 = 0x0400;
    pub(crate) const LEDCTL: u32 = 0x0e00;
    pub(crate) const PBA: u32 = 0x1000;
    pub(crate) const RDBAL: u32 = 0x2800;
    pub(crate) const RDBAH: u32 = 0x2804;
    pub(crate) const RDLEN: u32 = 0x2808;
    pub(crate) const RDH: u32 = 0x2810;
    pub(crate) const RDT: u32 = 0x2818;
    pub(crate) const RDTR: u32 = 0x2820;
    pub(crate) const RADV: u32 = 0x282c;
    pub(crate) const TDBAL: u32 = 0x3800;
    pub(crate) const TDBAH: u32 = 0x3804;
    pub(crate) const TDLEN: u32 = 0x3808;
    pub(crate) const TDH: u32 = 0x3810;
    pub(crate) const TDT: u32 = 0x3818;
    pub(crate) const TIDV: u32 = 0x3820;
    pub(crate) const TADV: u32 = 0x382c;
    /// Statistics begin here.
    pub(crate) const STATISTICS: u32 = 0x4000;
    pub(crate) const MPC: u32 = 0x4010;
    pub(crate) const PRC64: u32 = 0x405c;
    pub(crate) const GPRC: u32 = 0x4074;
    pub(crate) const BPRC: u32 = 0x4078;
    pub(crate) const MPRC: u32 = 0x407c;
    pub(crate) const GPTC: u32 = 0x4080;
    pub(crate) const GORCL: u32 = 0x4088;
    pub(crate) const GOTCL: u32 = 0x4090;
    pub(crate) const RNBC: u32 = 0x40a0;
    pub(crate) const RUC: u32 = 0x40a4;
    pub(crate) const ROC: u32 = 0x40ac;
    pub(crate) const TORL: u32 = 0x40c0;
    pub(crate) const TOTL: u32 = 0x40c8;
    pub(crate) const TPR: u32 = 0x40d0;
    pub(crate) const TPT: u32 = 0x40d4;
    pub(crate) const PTC64: u32 = 0x40d8;
    pub(crate) const MPTC: u32 = 0x40f0;
    pub(crate) const BPTC: u32 = 0x40f4;
    pub(crate) const TSCTC: u32 = 0x40f8;
    /// End of the statistics, exclusive.
    pub(crate) const STATISTICS_END: u32 = 0x4128;
    pub(crate) const RXCSUM: u32 = 0x5000;
    /// Multicast table: 128 words.
    pub(crate) const MTA: u32 = 0x5200;
    /// Receive addresses: 16 pairs.
    pub(crate) const RAL: u32 = 0x5400;
    /// VLAN filter table: 128 words.
    pub(crate) const VFTA: u32 = 0x5600;
    /// End of the implemented registers, exclusive.
    pub(crate) const END: u32 = 0x6000;
}

/// Interrupt causes (13.4.17).
pub(super) mod cause {
    /// Transmit descriptor written back.
    pub(crate) const TXDW: u32 = 1;
    /// Transmit queue empty.
    pub(crate) const TXQE: u32 = 1 << 1;
    /// Link status change.
    pub(crate) const LSC: u32 = 1 << 2;
    /// Receive descriptor minimum threshold reached.
    pub(crate) const RXDMT0: u32 = 1 << 4;
    /// Receiver overrun.
    pub(crate) const RXO: u32 = 1 << 6;
    /// Receiver timer: a packet has been received.
    pub(crate) const RXT0: u32 = 1 << 7;
    /// MDIC access complete.
    pub(crate) const MDAC: u32 = 1 << 9;
    /// All implemented causes.
    pub(crate) const ALL: u32 = 0x0001_f6df;
}

/// Device control (13.4.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Ctrl {
    pub(super) full_duplex: bool,
    #[bits(2)]
    __: u8,
    pub(super) link_reset: bool,
    __: bool,
    pub(super) auto_speed: bool,
    pub(super) set_link_up: bool,
    __: bool,
    #[bits(2)]
    pub(super) speed: u8,
    #[bits(16)]
    __: u32,
    /// Resets the card; clears itself.
    pub(super) reset: bool,
    #[bits(3)]
    __: u8,
    /// VLAN tags are inserted and removed.
    pub(super) vlan: bool,
    /// Resets the PHY.
    pub(super) phy_reset: bool,
}

/// Device status (13.4.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Status {
    pub(super) full_duplex: bool,
    pub(super) link_up: bool,
    #[bits(4)]
    __: u8,
    /// 2: 1000 Mbit/s.
    #[bits(2)]
    pub(super) speed: u8,
    #[bits(2)]
    pub(super) auto_speed: u8,
    #[bits(22)]
    __: u32,
}

/// Receive control (13.4.22).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Rctl {
    __: bool,
    pub(super) enable: bool,
    /// Store bad packets.
    pub(super) store_bad: bool,
    pub(super) unicast_all: bool,
    pub(super) multicast_all: bool,
    /// Frames of more than 1522 bytes.
    pub(super) long: bool,
    /// 3: sent frames are received by the card itself.
    #[bits(2)]
    pub(super) loopback: u8,
    /// Number of free descriptors at which RXDMT0 is raised: a half, a quarter, an eighth of the ring.
    #[bits(2)]
    pub(super) threshold: u8,
    #[bits(2)]
    __: u8,
    /// Selects the twelve bits of an address that index the multicast table.
    #[bits(2)]
    pub(super) multicast_offset: u8,
    __: bool,
    pub(super) broadcast: bool,
    #[bits(2)]
    pub(super) buffer_size: u8,
    pub(super) vlan_filter: bool,
    pub(super) cfi_filter: bool,
    pub(super) cfi: bool,
    __: bool,
    pub(super) discard_pause: bool,
    pub(super) pass_mac_control: bool,
    __: bool,
    /// Buffer sizes times 16.
    pub(super) size_extension: bool,
    /// The frame check sequence is not stored.
    pub(super) strip_crc: bool,
    #[bits(5)]
    __: u8,
}

impl Rctl {
    /// Bytes of a receive buffer.
    pub(super) fn buffer(self) -> usize {
        let plain = 2048usize >> self.buffer_size();
        if self.size_extension() && self.buffer_size() != 0 { plain << 4 } else { plain }
    }
}

/// Transmit control (13.4.33).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Tctl {
    __: bool,
    pub(super) enable: bool,
    __: bool,
    /// Frames are padded to 64 bytes.
    pub(super) pad: bool,
    #[bits(28)]
    __: u32,
}

/// EEPROM control (13.4.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Eecd {
    pub(super) clock: bool,
    pub(super) select: bool,
    pub(super) data_in: bool,
    pub(super) data_out: bool,
    #[bits(2)]
    pub(super) flash: u8,
    pub(super) request: bool,
    pub(super) grant: bool,
    pub(super) present: bool,
    #[bits(23)]
    __: u32,
}

/// MDI control (13.4.8).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Mdic {
    pub(super) data: u16,
    #[bits(5)]
    pub(super) register: u8,
    #[bits(5)]
    pub(super) phy: u8,
    /// 1 write, 2 read.
    #[bits(2)]
    pub(super) operation: u8,
    pub(super) ready: bool,
    pub(super) interrupt: bool,
    pub(super) error: bool,
    __: bool,
}

/// Bytes of every descriptor.
pub(super) const DESCRIPTOR: u64 = 16;

/// Command byte of a transmit descriptor (3.3.3.1, 3.3.7.1).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(super) struct Command {
    /// The frame's last descriptor. In a context descriptor: the packet is TCP.
    pub(super) end: bool,
    /// The frame check sequence is added. In a context descriptor: the packet is IPv4.
    pub(super) crc: bool,
    /// Legacy: a checksum is inserted. Others: the packet is segmented.
    pub(super) checksum_or_segment: bool,
    /// The card writes the descriptor's status back.
    pub(super) report: bool,
    pub(super) report_sent: bool,
    /// It is a context or data descriptor, not a legacy one.
    pub(super) extended: bool,
    /// A VLAN tag is inserted.
    pub(super) vlan: bool,
    /// The interrupt may be delayed.
    pub(super) delay: bool,
}

/// A transmit descriptor, as two words.
#[derive(Clone, Copy, Debug)]
pub(super) struct TransmitDescriptor(pub(super) u64, pub(super) u64);

impl TransmitDescriptor {
    pub(super) fn from_bytes(bytes: &[u8; 16]) -> Self {
        let [low, high] =
            [0, 8].map(|at| bytes.get(at..).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_le_bytes(*b)));
        Self(low, high)
    }

    pub(super) fn command(self) -> Command {
        Command::from_bits((self.1 >> 24) as u8)
    }

    /// Bits 20 to 23 of the second word: 0 context, 1 data.
    pub(super) fn kind(self) -> u8 {
        (self.1 >> 20) as u8 & 0x0f
    }

    /// The `n`th byte of the second word.
    pub(super) fn byte(self, n: u32) -> u8 {
        (self.1 >> (n.saturating_mul(8) & 63)) as u8
    }

    /// VLAN tag.
    pub(super) fn special(self) -> u16 {
        (self.1 >> 48) as u16
    }
}

/// Status of a transmit descriptor: done.
pub(super) const TRANSMIT_DONE: u8 = 1;

/// Status and errors of a receive descriptor (3.2.3).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(super) struct ReceiveStatus {
    pub(super) done: bool,
    pub(super) end: bool,
    /// Checksums were not checked.
    pub(super) ignore_checksums: bool,
    pub(super) vlan: bool,
    __: bool,
    pub(super) tcp_checked: bool,
    pub(super) ip_checked: bool,
    /// An address matched by the table only.
    pub(super) inexact: bool,
    #[bits(5)]
    __: u8,
    pub(super) tcp_error: bool,
    pub(super) ip_error: bool,
    pub(super) rx_error: bool,
}

/// Homes of the rings that the fuzzer's mutator makes: the shapes' places.
pub(super) const TRANSMIT_HOME: u64 = home(0);
pub(super) const RECEIVE_HOME: u64 = home(3);

const CTRL: u64 = Ctrl::new().with_full_duplex(true).with_auto_speed(true).with_set_link_up(true).into_bits() as u64;
const RCTL: u64 = Rctl::new().with_enable(true).with_broadcast(true).into_bits() as u64;
const TCTL: u64 = Tctl::new().with_enable(true).into_bits() as u64;

/// An access to the PHY.
const fn mdic(operation: u8, register: u8, data: u16) -> u64 {
    let mdic = Mdic::new().with_operation(operation).with_phy(super::phy::ADDRESS).with_register(register);
    mdic.with_data(data).with_interrupt(register & 1 != 0).into_bits() as u64
}

const fn register(name: &'static str, section: &'static str, offset: u32) -> Register {
    Register::new(name, section, super::REGISTERS as u8, offset, 4)
}

/// The registers, and the window to them.
pub(super) const REGISTERS: &[Register] = &[
    register("CTRL", "13.4.1", reg::CTRL).words(&[
        CTRL,
        CTRL | Ctrl::new().with_vlan(true).into_bits() as u64,
        CTRL | Ctrl::new().with_reset(true).into_bits() as u64,
        CTRL | Ctrl::new().with_phy_reset(true).into_bits() as u64,
        Ctrl::new().with_link_reset(true).into_bits() as u64,
    ]),
    register("CTRL", "table 13-2", reg::CTRL_DUP).words(&[CTRL, 0]),
    register("STATUS", "13.4.2", reg::STATUS),
    register("EECD", "13.4.3", reg::EECD).words(&[0x40, 0x42, 0x43, 0x46, 0x47, 0]),
    register("EERD", "table 13-2", reg::EERD).words(&[1, 0x101, 0x3f01, 0xff01, 0]),
    register("CTRL_EXT", "table 13-2", reg::CTRL_EXT),
    register("MDIC", "13.4.8", reg::MDIC).words(&[
        mdic(1, 0, 0x8000),
        mdic(1, 0, 0x1200),
        mdic(1, 4, 0x01e1),
        mdic(1, 9, 0x0300),
        mdic(1, 16, 0x0360),
        mdic(1, 20, 0x0d60),
        mdic(2, 1, 0),
        mdic(2, 2, 0),
        mdic(2, 5, 0),
        mdic(2, 10, 0),
        mdic(2, 15, 0),
        mdic(2, 17, 0),
        mdic(3, 0, 0),
        Mdic::new().with_operation(2).with_phy(2).into_bits() as u64,
    ]),
    register("VET", "table 13-2", reg::VET).words(&[0x8100, 0x88a8, 0x0800]),
    register("ICR", "13.4.17", reg::ICR).words(&[cause::ALL as u64, cause::RXT0 as u64]),
    register("ITR", "13.4.18", reg::ITR).words(&[0, 1, 200, 0xffff]),
    register("ICS", "table 13-2", reg::ICS).words(&[cause::ALL as u64, cause::LSC as u64, cause::RXO as u64]),
    register("IMS", "table 13-2", reg::IMS).words(&[cause::ALL as u64, cause::TXDW as u64 | cause::RXT0 as u64]),
    register("IMC", "table 13-2", reg::IMC).words(&[u32::MAX as u64, cause::RXT0 as u64]),
    register("RCTL", "13.4.22", reg::RCTL).words(&[
        0,
        RCTL,
        RCTL | Rctl::new().with_unicast_all(true).with_multicast_all(true).into_bits() as u64,
        RCTL | Rctl::new().with_long(true).into_bits() as u64,
        RCTL | Rctl::new().with_strip_crc(true).into_bits() as u64,
        RCTL | Rctl::new().with_buffer_size(1).with_size_extension(true).into_bits() as u64,
        RCTL | Rctl::new().with_buffer_size(3).into_bits() as u64,
        RCTL | Rctl::new().with_vlan_filter(true).into_bits() as u64,
        RCTL | Rctl::new().with_multicast_offset(3).with_threshold(2).into_bits() as u64,
        RCTL | Rctl::new().with_loopback(3).into_bits() as u64,
    ]),
    register("TCTL", "13.4.33", reg::TCTL).words(&[TCTL, TCTL | Tctl::new().with_pad(true).into_bits() as u64, 0]),
    register("LEDCTL", "table 13-2", reg::LEDCTL),
    register("PBA", "table 13-2", reg::PBA),
    register("RDBAL", "table 13-2", reg::RDBAL).words(&[RECEIVE_HOME, BUFFERS]),
    register("RDBAH", "table 13-2", reg::RDBAH).words(&[0, 1]),
    register("RDLEN", "table 13-2", reg::RDLEN).words(&[0x80, 0x100, 0x1000, 0]),
    register("RDH", "table 13-2", reg::RDH).words(&[0, 1, 7, 8]),
    register("RDT", "table 13-2", reg::RDT).words(&[0, 1, 7, 15]),
    register("RDTR", "13.4.30", reg::RDTR).words(&[0, 8, 0x8000_0000, 0x8000_0008]),
    register("RADV", "table 13-2", reg::RADV).words(&[0, 4, 0xffff]),
    register("TDBAL", "table 13-2", reg::TDBAL).words(&[TRANSMIT_HOME, home(1), home(2)]),
    register("TDBAH", "table 13-2", reg::TDBAH).words(&[0, 1]),
    register("TDLEN", "table 13-2", reg::TDLEN).words(&[0x80, 0x100, 0x1000, 0]),
    register("TDH", "table 13-2", reg::TDH).words(&[0, 1, 7, 8]),
    register("TDT", "table 13-2", reg::TDT).words(&[0, 1, 3, 7, 15]),
    register("TIDV", "table 13-2", reg::TIDV).words(&[0, 8, 0xffff]),
    register("TADV", "table 13-2", reg::TADV).words(&[0, 4, 0xffff]),
    register("MPC", "13.7", reg::MPC),
    register("PRC64", "13.7", reg::PRC64),
    register("GPRC", "13.7", reg::GPRC),
    register("BPRC", "13.7", reg::BPRC),
    register("MPRC", "13.7", reg::MPRC),
    register("GPTC", "13.7", reg::GPTC),
    register("GORCL", "13.7", reg::GORCL),
    register("GORCH", "13.7", reg::GORCL + 4),
    register("GOTCL", "13.7", reg::GOTCL),
    register("GOTCH", "13.7", reg::GOTCL + 4),
    register("RNBC", "13.7", reg::RNBC),
    register("RUC", "13.7", reg::RUC),
    register("ROC", "13.7", reg::ROC),
    register("TORL", "13.7", reg::TORL),
    register("TORH", "13.7", reg::TORL + 4),
    register("TOTL", "13.7", reg::TOTL),
    register("TOTH", "13.7", reg::TOTL + 4),
    register("TPR", "13.7", reg::TPR),
    register("TPT", "13.7", reg::TPT),
    register("PTC64", "13.7", reg::PTC64),
    register("MPTC", "13.7", reg::MPTC),
    register("BPTC", "13.7", reg::BPTC),
    register("TSCTC", "13.7", reg::TSCTC),
    register("RXCSUM", "table 13-2", reg::RXCSUM).words(&[0x100, 0x200, 0x300]),
    register("MTA", "13.5", reg::MTA).words(&[u32::MAX as u64, 1 << 16]),
    register("MTA[1]", "13.5", reg::MTA + 4).words(&[1]),
    register("MTA[8]", "13.5", reg::MTA + 32).words(&[1]),
    register("RAL[0]", "13.5", reg::RAL).words(&[0x0000_0002]),
    register("RAH[0]", "13.5", reg::RAL + 4).words(&[0x8000_0100, 0x100]),
    register("RAL[15]", "13.5", reg::RAL + 0x78).words(&[0x0000_3333]),
    register("RAH[15]", "13.5", reg::RAL + 0x7c).words(&[0x8000_0100]),
    register("VFTA", "13.5", reg::VFTA).words(&[u32::MAX as u64, 4]),
    Register::new("IOADDR", "table 13-2", super::WINDOW as u8, 0, 4).words(&[
        reg::CTRL as u64,
        reg::ICR as u64,
        reg::TDT as u64,
        u32::MAX as u64,
    ]),
    Register::new("IODATA", "table 13-2", super::WINDOW as u8, 4, 4),
];

/// Command bytes in the second word of a transmit descriptor.
const fn command(command: Command) -> u64 {
    (command.into_bits() as u64) << 24
}

const LAST: Command = Command::new().with_end(true).with_crc(true).with_report(true);
const COMMANDS: &[u64] = &[
    command(LAST),
    command(Command::new().with_crc(true)),
    command(LAST.with_checksum_or_segment(true)),
    command(LAST.with_vlan(true)),
    command(LAST.with_delay(true)),
    command(LAST.with_report(false)),
];
/// The bits that make a descriptor one of the extended kinds: 0 context, 1 data.
const CONTEXT: u64 = command(Command::new().with_extended(true));
const DATA: u64 = CONTEXT | 1 << 20;

/// What the card reads from memory.
pub(super) const SHAPES: &[Shape] = &[
    Shape {
        name: "legacy transmit descriptor",
        len: DESCRIPTOR as u8,
        fields: &[
            Field::new(0, 8, Holds::Buffer),
            Field::new(8, 2, Holds::Length(1514)),
            Field::new(8, 4, Holds::Flags(COMMANDS)),
            Field::new(10, 1, Holds::Length(80)),
            Field::new(13, 1, Holds::Length(80)),
            Field::new(14, 2, Holds::Any),
        ],
    },
    Shape {
        name: "context descriptor",
        len: DESCRIPTOR as u8,
        fields: &[
            Field::new(0, 4, Holds::Flags(&[0x0021_180e, 0x0000_180e, 0x0025_1c12])),
            Field::new(4, 4, Holds::Flags(&[0x3222, 0x2822, 0x4636, 0x3c36, 0x0600])),
            Field::new(
                8,
                4,
                Holds::Flags(&[CONTEXT | command(LAST), CONTEXT | command(Command::new().with_end(true))]),
            ),
            Field::new(13, 1, Holds::Length(80)),
            Field::new(14, 2, Holds::Flags(&[1460, 64, 63, 0])),
        ],
    },
    Shape {
        name: "data descriptor",
        len: DESCRIPTOR as u8,
        fields: &[
            Field::new(0, 8, Holds::Buffer),
            Field::new(8, 2, Holds::Length(9000)),
            Field::new(
                8,
                4,
                Holds::Flags(&[
                    DATA | command(LAST),
                    DATA | command(LAST.with_checksum_or_segment(true)),
                    DATA | command(LAST.with_vlan(true)),
                    DATA,
                ]),
            ),
            Field::new(13, 1, Holds::Flags(&[0, 1, 2, 3])),
            Field::new(14, 2, Holds::Any),
        ],
    },
    Shape { name: "receive descriptor", len: DESCRIPTOR as u8, fields: &[Field::new(0, 8, Holds::Buffer)] },
];
