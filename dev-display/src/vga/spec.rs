//! Registers of the VGA (IBM VGA Technical Reference, as in FreeVGA) and the Bochs DISPI interface (VBE 0xB0C5).
use bitfield_struct::bitfield;

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
