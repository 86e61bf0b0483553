//! fw_cfg's ports, keys and DMA descriptor (QEMU's docs/specs/fw_cfg.rst).
use bitfield_struct::bitfield;
use bulkhead_bus::exercise::{BUFFERS, Field, Holds, Register, Shape, home};

/// The selector port, 16 bits; the data port, 8 bits, follows it.
pub(super) const SELECTOR: u16 = 0x510;
/// The address of a DMA descriptor: two big-endian halves, the higher first.
pub(super) const DMA_ADDRESS: u16 = 0x514;
/// The value of the DMA address registers when they are read.
pub(super) const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";
/// Bytes of a DMA descriptor.
pub(super) const DESCRIPTOR: usize = 16;

/// Keys of entries.
pub(super) mod key {
    pub(crate) const SIGNATURE: u16 = 0x00;
    pub(crate) const ID: u16 = 0x01;
    pub(crate) const CPUS: u16 = 0x05;
    pub(crate) const KERNEL_ADDRESS: u16 = 0x07;
    pub(crate) const KERNEL_SIZE: u16 = 0x08;
    pub(crate) const INITRD_SIZE: u16 = 0x0b;
    pub(crate) const BOOT_MENU: u16 = 0x0e;
    pub(crate) const MAX_CPUS: u16 = 0x0f;
    pub(crate) const KERNEL_DATA: u16 = 0x11;
    pub(crate) const INITRD_DATA: u16 = 0x12;
    pub(crate) const CMDLINE_ADDRESS: u16 = 0x13;
    pub(crate) const CMDLINE_SIZE: u16 = 0x14;
    pub(crate) const CMDLINE_DATA: u16 = 0x15;
    pub(crate) const SETUP_ADDRESS: u16 = 0x16;
    pub(crate) const SETUP_SIZE: u16 = 0x17;
    pub(crate) const SETUP_DATA: u16 = 0x18;
    pub(crate) const FILES: u16 = 0x19;
    /// The first key of a file in the directory.
    pub(crate) const FIRST_FILE: u16 = 0x20;
}

/// Value of the ID entry: the register interface (bit 0) and DMA (bit 1).
pub(super) const ID: u32 = 1 | 2;

/// The first word of a DMA descriptor.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(super) struct Control {
    /// Set by the device: the transfer has failed.
    pub(super) error: bool,
    pub(super) read: bool,
    pub(super) skip: bool,
    pub(super) select: bool,
    pub(super) write: bool,
    #[bits(11)]
    __: u16,
    /// The key to select, if `select` is set.
    pub(super) key: u16,
}

/// Bits of a selector by which other device models mark writes and keys of the architecture. Here they name keys without entry.
pub(super) const KEY_MARKS: [u16; 2] = [0x4000, 0x8000];

/// All keys that can have an entry; there are at most four files.
pub(super) const KEYS: &[u64] = &[
    key::SIGNATURE as u64,
    key::ID as u64,
    key::CPUS as u64,
    key::KERNEL_ADDRESS as u64,
    key::KERNEL_SIZE as u64,
    key::INITRD_SIZE as u64,
    key::BOOT_MENU as u64,
    key::MAX_CPUS as u64,
    key::KERNEL_DATA as u64,
    key::INITRD_DATA as u64,
    key::CMDLINE_ADDRESS as u64,
    key::CMDLINE_SIZE as u64,
    key::CMDLINE_DATA as u64,
    key::SETUP_ADDRESS as u64,
    key::SETUP_SIZE as u64,
    key::SETUP_DATA as u64,
    key::FILES as u64,
    key::FIRST_FILE as u64,
    key::FIRST_FILE as u64 + 1,
    key::FIRST_FILE as u64 + 2,
    key::FIRST_FILE as u64 + 3,
    key::FIRST_FILE as u64 + 4,
];

/// A big-endian word, as the value of a little-endian access.
const fn big(word: u64) -> u64 {
    (word as u32).swap_bytes() as u64
}

/// Low halves of the addresses of descriptors.
const DESCRIPTORS: &[u64] =
    &[big(home(0)), big(home(0) + 16), big(home(0) + 32), big(home(0) + 48), big(0xfff8), big(0xfff0_0000)];

/// fw_cfg's registers.
pub(super) const REGISTERS: &[Register] = &[
    Register::new("Selector", "Selector (Control) Register", 0, 0, 2).words(KEYS),
    Register::new("Data", "Data Register", 0, 1, 1),
    Register::new("DMA Address, high half", "Guest-side DMA Interface", 1, 0, 4).words(&[0, big(1), 0xffff_ffff]),
    Register::new("DMA Address, low half", "Guest-side DMA Interface", 1, 4, 4).words(DESCRIPTORS),
];

/// The first word of a descriptor, big-endian.
const fn control(control: Control, key: u16) -> u64 {
    big(control.with_key(key).into_bits() as u64)
}

const SELECT: Control = Control::new().with_select(true);

/// FWCfgDmaAccess, whose fields are big-endian.
pub(super) const SHAPES: &[Shape] = &[Shape {
    name: "FWCfgDmaAccess",
    len: DESCRIPTOR as u8,
    fields: &[
        Field::new(
            0,
            4,
            Holds::Flags(&[
                control(Control::new().with_read(true), 0),
                control(Control::new().with_skip(true), 0),
                control(Control::new().with_write(true), 0),
                control(Control::new().with_error(true), 0),
                control(SELECT, key::FILES),
                control(SELECT.with_read(true), key::SIGNATURE),
                control(SELECT.with_read(true), key::SETUP_DATA),
                control(SELECT.with_read(true), key::KERNEL_DATA),
                control(SELECT.with_read(true), key::INITRD_DATA),
                control(SELECT.with_read(true), key::FIRST_FILE),
                control(SELECT.with_skip(true), key::KERNEL_DATA),
                control(SELECT.with_write(true), key::CMDLINE_DATA),
            ]),
        ),
        Field::new(
            4,
            4,
            Holds::Flags(&[
                0,
                big(1),
                big(4),
                big(64),
                big(1024),
                big(5000),
                big(5120),
                big(0x8000),
                big(0xfff0),
                big(0x1_0000),
                big(0xffff_ffff),
            ]),
        ),
        // The low half of the address's low word is enough for the memory of a run.
        Field::new(14, 2, Holds::Flags(&[big(BUFFERS) >> 16, big(BUFFERS + 0x1000) >> 16, big(0xff00) >> 16, 0xffff])),
    ],
}];
