//! Registers of the VGA (IBM VGA Technical Reference, as in FreeVGA) and the Bochs DISPI interface (VBE 0xB0C5).
use super::region;
use bitfield_struct::bitfield;
use bulkhead_bus::exercise::Register;

/// Sequencer registers.
pub(crate) mod seq {
    pub(crate) const CLOCKING: usize = 1;
    pub(crate) const MAP_MASK: usize = 2;
    pub(crate) const CHARACTER_MAP: usize = 3;
    pub(crate) const MEMORY_MODE: usize = 4;
    pub(crate) const COUNT: usize = 5;
    /// The implemented bits of each register.
    pub(crate) const BITS: [u8; COUNT] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e];
}

/// Graphics controller registers. `memory.rs` uses those of reads and writes by index: 0 set/reset, 1 enable set/reset, 2 colour
/// compare, 3 data rotate and function select, 7 colour don't care, 8 bit mask.
pub(crate) mod gfx {
    pub(crate) const READ_MAP: usize = 4;
    pub(crate) const MODE: usize = 5;
    pub(crate) const MISC: usize = 6;
    pub(crate) const COUNT: usize = 9;
    /// The implemented bits of each register.
    pub(crate) const BITS: [u8; COUNT] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
}

/// CRT controller registers.
pub(crate) mod crtc {
    pub(crate) const HORIZONTAL_END: usize = 0x01;
    pub(crate) const VERTICAL_TOTAL: usize = 0x06;
    pub(crate) const OVERFLOW: usize = 0x07;
    pub(crate) const PRESET_ROW_SCAN: usize = 0x08;
    pub(crate) const MAX_SCAN_LINE: usize = 0x09;
    pub(crate) const CURSOR_START: usize = 0x0a;
    pub(crate) const CURSOR_END: usize = 0x0b;
    pub(crate) const START_HIGH: usize = 0x0c;
    pub(crate) const START_LOW: usize = 0x0d;
    pub(crate) const CURSOR_HIGH: usize = 0x0e;
    pub(crate) const CURSOR_LOW: usize = 0x0f;
    pub(crate) const VERTICAL_SYNC_END: usize = 0x11;
    pub(crate) const VERTICAL_END: usize = 0x12;
    pub(crate) const OFFSET: usize = 0x13;
    pub(crate) const UNDERLINE: usize = 0x14;
    pub(crate) const MODE: usize = 0x17;
    pub(crate) const LINE_COMPARE: usize = 0x18;
    pub(crate) const COUNT: usize = 0x19;
}

/// Attribute controller registers.
pub(crate) mod attr {
    pub(crate) const MODE: usize = 0x10;
    pub(crate) const PLANE_ENABLE: usize = 0x12;
    pub(crate) const PANNING: usize = 0x13;
    /// A bit of the index register: the display uses the palette, and the processor cannot access it.
    pub(crate) const PALETTE_SOURCE: u8 = 0x20;
    pub(crate) const COLOR_SELECT: usize = 0x14;
    pub(crate) const COUNT: usize = 0x15;
    /// The implemented bits of each register: sixteen colours, mode, overscan, planes, panning, colour select.
    pub(crate) const BITS: [u8; COUNT] = [
        0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0x3f, 0xef, 0xff,
        0x3f, 0x0f, 0x0f,
    ];
}

/// DISPI registers.
pub(crate) mod dispi {
    pub(crate) const ID: usize = 0;
    pub(crate) const XRES: usize = 1;
    pub(crate) const YRES: usize = 2;
    pub(crate) const BPP: usize = 3;
    pub(crate) const ENABLE: usize = 4;
    pub(crate) const BANK: usize = 5;
    pub(crate) const VIRT_WIDTH: usize = 6;
    pub(crate) const VIRT_HEIGHT: usize = 7;
    pub(crate) const X_OFFSET: usize = 8;
    pub(crate) const Y_OFFSET: usize = 9;
    pub(crate) const VIDEO_MEMORY_64K: usize = 10;
    pub(crate) const COUNT: usize = 11;
    /// The first and the last supported version.
    pub(crate) const ID0: u16 = 0xb0c0;
    pub(crate) const ID5: u16 = 0xb0c5;
    /// The largest mode.
    pub(crate) const MAX_X: u16 = 16000;
    pub(crate) const MAX_Y: u16 = 12000;
}

/// DISPI's enable register.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(crate) struct DispiEnable {
    pub(crate) enabled: bool,
    /// Reading the resolution registers returns the largest values.
    pub(crate) get_capabilities: bool,
    #[bits(3)]
    __: u8,
    /// DAC registers have 8 bits.
    pub(crate) dac_8bit: bool,
    pub(crate) lfb: bool,
    /// Do not clear video RAM.
    pub(crate) no_clear: bool,
    __: u8,
}

/// Sequencer 1, clocking mode.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct ClockingMode {
    /// Characters have eight dots; otherwise nine.
    pub(crate) eight_dots: bool,
    #[bits(4)]
    __: u8,
    pub(crate) screen_off: bool,
    #[bits(2)]
    __: u8,
}

/// Sequencer 4, memory mode.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct MemoryMode {
    __: bool,
    /// More than 64 KiB; always the case.
    extended: bool,
    /// A write reaches all planes; otherwise the even ones at even addresses and the odd ones at odd addresses.
    pub(crate) sequential: bool,
    /// Address bits 0 and 1 select the plane.
    pub(crate) chain_4: bool,
    #[bits(4)]
    __: u8,
}

/// Graphics controller 5, mode.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct GraphicsMode {
    #[bits(2)]
    write_mode: u8,
    __: bool,
    /// Read mode 1.
    pub(crate) compare: bool,
    /// Address bit 0 is bit 0 of the plane that is read.
    pub(crate) odd_even: bool,
    /// Pixels of two bits, as in the CGA.
    pub(crate) packed: bool,
    /// Pixels of eight bits.
    pub(crate) wide: bool,
    __: bool,
}

/// Graphics controller 6, miscellaneous.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct GraphicsMisc {
    pub(crate) graphics: bool,
    /// Another bit replaces address bit 0.
    pub(crate) chain_odd_even: bool,
    /// The processor's window to video RAM.
    #[bits(2)]
    pub(crate) map: u8,
    #[bits(4)]
    __: u8,
}

/// CRT controller 9, maximum scan line.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct MaxScanLine {
    /// Lines of a row of characters, less one.
    #[bits(5)]
    pub(crate) lines: u8,
    __: bool,
    /// Bit 9 of the line compare.
    pub(crate) line_compare: bool,
    /// Every line is shown twice.
    pub(crate) double_scan: bool,
}

/// CRT controller 0x14, underline location.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct Underline {
    #[bits(5)]
    pub(crate) line: u8,
    count_by_4: bool,
    /// Addresses count doublewords.
    pub(crate) doubleword: bool,
    __: bool,
}

/// CRT controller 0x17, mode control.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct CrtcMode {
    /// Address bit 13 comes from the counter; otherwise it is bit 0 of the line within the row.
    pub(crate) row_scan_13: bool,
    /// The same for address bit 14 and bit 1 of the line.
    pub(crate) row_scan_14: bool,
    #[bits(3)]
    __: u8,
    /// In word mode bit 15 of the counter is address bit 0; otherwise bit 13.
    pub(crate) wrap_15: bool,
    /// Addresses count bytes, not words.
    pub(crate) byte_mode: bool,
    __: bool,
}

/// Attribute controller 0x10, mode control.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct AttributeMode {
    graphics: bool,
    /// Attributes as in the MDA, with underlines.
    pub(crate) mono: bool,
    /// The ninth dot of line graphics characters repeats the eighth.
    pub(crate) line_graphics: bool,
    /// Attribute bit 7 means blinking; otherwise it belongs to the background colour.
    pub(crate) blink: bool,
    __: bool,
    /// Panning ends at the line compare.
    pub(crate) pixel_panning: bool,
    wide: bool,
    /// Bits 4 and 5 of a colour come from the colour select register.
    pub(crate) palette_size: bool,
}

const fn register(name: &'static str, section: &'static str, region: u16, offset: u32, size: u8) -> Register {
    Register::new(name, section, region as u8, offset, size)
}

/// A register of the Bochs interface in BAR 2, which has no index there.
const fn direct(name: &'static str, index: usize) -> Register {
    register(name, BOCHS, region::MMIO, DISPI_BLOCK.wrapping_add((index as u32) << 1), 2)
}

/// Offset of the Bochs interface's registers in BAR 2.
pub(crate) const DISPI_BLOCK: u32 = 0x500;
/// Offset of ports 0x3c0-0x3df in BAR 2.
pub(crate) const VGA_BLOCK: u32 = 0x400;

const GENERAL: &str = "VGA, General Registers";
const SEQUENCER: &str = "VGA, Sequencer Registers";
const GRAPHICS: &str = "VGA, Graphics Controller Registers";
const CRT: &str = "VGA, CRT Controller Registers";
const ATTRIBUTE: &str = "VGA, Attribute Controller Registers";
const DAC: &str = "VGA, Video Digital-to-Analog Converter";
const MEMORY: &str = "VGA, Video Memory Read/Write Operations";
const BOCHS: &str = "Bochs VBE 0xB0C5";
const BLOCKS: &str = "QEMU, standard-vga.rst";

const CRTC_INDICES: &[u64] = &[
    crtc::HORIZONTAL_END as u64,
    crtc::OVERFLOW as u64,
    crtc::PRESET_ROW_SCAN as u64,
    crtc::MAX_SCAN_LINE as u64,
    crtc::CURSOR_START as u64,
    crtc::START_HIGH as u64,
    crtc::VERTICAL_SYNC_END as u64,
    crtc::VERTICAL_END as u64,
    crtc::OFFSET as u64,
    crtc::UNDERLINE as u64,
    crtc::MODE as u64,
    crtc::LINE_COMPARE as u64,
    crtc::COUNT as u64,
];
const DISPI_INDICES: &[u64] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0xffff];
const ENABLES: &[u64] = &[0, 0x01, 0x02, 0x20, 0x41, 0x61, 0x81, 0xc1, 0xe1];
const WIDTHS: &[u64] = &[0, 1, 8, 13, 64, 320, 640, 1024, dispi::MAX_X as u64, 0xffff];
const HEIGHTS: &[u64] = &[0, 1, 8, 48, 200, 480, 768, dispi::MAX_Y as u64, 0xffff];

/// The card's registers that have an address. Those behind an index are set by recipes.
pub(super) const REGISTERS: &[Register] = &[
    register("CRT Controller Address, mono", CRT, region::MONO_CRTC, 0, 1).words(CRTC_INDICES),
    register("CRT Controller Data, mono", CRT, region::MONO_CRTC, 1, 1),
    register("Input Status 1, mono", GENERAL, region::MONO_STATUS, 0, 1).words(&[0, 0x10]),
    register("Attribute Address", ATTRIBUTE, region::VGA, 0x0, 1).words(&[0, 0x10, 0x12, 0x13, 0x14, 0x20, 0x30, 0x3f]),
    register("Attribute Data", ATTRIBUTE, region::VGA, 0x1, 1),
    register("Miscellaneous Output", GENERAL, region::VGA, 0x2, 1).words(&[0x00, 0x63, 0x67, 0xe3, 0xa6]),
    register("Sequencer Address", SEQUENCER, region::VGA, 0x4, 1).words(&[0, 1, 2, 3, 4, 5, 7]),
    register("Sequencer Data", SEQUENCER, region::VGA, 0x5, 1).words(&[0, 1, 2, 3, 4, 6, 8, 0x0e, 0x0f, 0x20, 0x21]),
    register("PEL Mask", DAC, region::VGA, 0x6, 1).words(&[0, 0x0f, 0xff]),
    register("PEL Address, read mode", DAC, region::VGA, 0x7, 1).words(&[0, 1, 0xfe, 0xff]),
    register("PEL Address, write mode", DAC, region::VGA, 0x8, 1).words(&[0, 1, 0xfe, 0xff]),
    register("PEL Data", DAC, region::VGA, 0x9, 1).words(&[0, 0x3f, 0x40, 0xff]),
    register("Feature Control", GENERAL, region::VGA, 0xa, 1),
    register("Miscellaneous Output, read", GENERAL, region::VGA, 0xc, 1),
    register("Graphics Address", GRAPHICS, region::VGA, 0xe, 1).words(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15]),
    register("Graphics Data", GRAPHICS, region::VGA, 0xf, 1).words(&[0, 1, 2, 3, 5, 8, 0x0f, 0x10, 0x18, 0x40, 0xff]),
    register("CRT Controller Address", CRT, region::COLOR_CRTC, 0, 1).words(CRTC_INDICES),
    register("CRT Controller Data", CRT, region::COLOR_CRTC, 1, 1),
    register("Input Status 1", GENERAL, region::COLOR_STATUS, 0, 1).words(&[0, 0x10]),
    register("VBE index", BOCHS, region::DISPI, 0, 2).words(DISPI_INDICES),
    register("VBE data", BOCHS, region::DISPI, 1, 2).words(ENABLES),
    register("0xa0000", MEMORY, region::WINDOW, 0, 1),
    register("0xa0000, end of a bank", MEMORY, region::WINDOW, 0xfff8, 8),
    register("0xb0000", MEMORY, region::WINDOW, 0x1_0000, 2),
    register("0xb8000", MEMORY, region::WINDOW, 0x1_8000, 4),
    register("0xbffff", MEMORY, region::WINDOW, 0x1_ffff, 1),
    register("EDID", BLOCKS, region::MMIO, 0, 4),
    register("EDID, preferred timing", BLOCKS, region::MMIO, 0x36, 2),
    register("Miscellaneous Output, BAR 2", BLOCKS, region::MMIO, VGA_BLOCK + 2, 1).words(&[0, 0x67]),
    register("Sequencer Address, BAR 2", BLOCKS, region::MMIO, VGA_BLOCK + 4, 1).words(&[1, 2, 4]),
    register("CRT Controller Address, BAR 2", BLOCKS, region::MMIO, VGA_BLOCK + 0x14, 1).words(CRTC_INDICES),
    register("CRT Controller Data, BAR 2", BLOCKS, region::MMIO, VGA_BLOCK + 0x15, 1),
    register("Input Status 1, BAR 2", BLOCKS, region::MMIO, VGA_BLOCK + 0x1a, 1),
    direct("VBE ID", dispi::ID).words(&[dispi::ID0 as u64, dispi::ID5 as u64, 0xb0c6]),
    direct("VBE XRES", dispi::XRES).words(WIDTHS),
    direct("VBE YRES", dispi::YRES).words(HEIGHTS),
    direct("VBE BPP", dispi::BPP).words(&[0, 4, 7, 8, 15, 16, 24, 32]),
    direct("VBE ENABLE", dispi::ENABLE).words(ENABLES),
    direct("VBE BANK", dispi::BANK).words(&[0, 1, 3, 4, 15, 16, 0xffff]),
    direct("VBE VIRT_WIDTH", dispi::VIRT_WIDTH).words(WIDTHS),
    direct("VBE VIRT_HEIGHT", dispi::VIRT_HEIGHT).words(HEIGHTS),
    direct("VBE X_OFFSET", dispi::X_OFFSET).words(&[0, 1, 7, 8, 640, 0xffff]),
    direct("VBE Y_OFFSET", dispi::Y_OFFSET).words(&[0, 1, 480, 0xffff]),
    direct("VBE VIDEO_MEMORY_64K", dispi::VIDEO_MEMORY_64K),
    register("extension block's size", BLOCKS, region::MMIO, 0x600, 4),
    register("frame buffer's byte order", BLOCKS, region::MMIO, 0x604, 4).words(&[0x1e1e_1e1e, 0xbebe_bebe]),
];
