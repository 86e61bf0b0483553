//! fw_cfg's ports, keys and DMA descriptor (QEMU's docs/specs/fw_cfg.rst).
use bitfield_struct::bitfield;

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
