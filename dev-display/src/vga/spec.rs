//! Registers of the VGA (IBM VGA Technical Reference, as in FreeVGA) and the Bochs DISPI interface (VBE 0xB0C5).
use bitfield_struct::bitfield;

/// Sequencer registers.
pub(crate) mod seq {
    pub(crate) const CLOCKING: usize = 1;
    pub(crate) const MAP_MASK: usize = 2;
    pub(crate) const CHARACTER_MAP: usize = 3;
    pub(crate) const MEMORY_MODE: usize = 4;
    pub(crate) const COUNT: usize = 5;
}

/// Graphics controller registers.
pub(crate) mod gfx {
    pub(crate) const SET_RESET: usize = 0;
    pub(crate) const ENABLE_SET_RESET: usize = 1;
    pub(crate) const COLOR_COMPARE: usize = 2;
    pub(crate) const DATA_ROTATE: usize = 3;
    pub(crate) const READ_MAP: usize = 4;
    pub(crate) const MODE: usize = 5;
    pub(crate) const MISC: usize = 6;
    pub(crate) const COLOR_DONT_CARE: usize = 7;
    pub(crate) const BIT_MASK: usize = 8;
    pub(crate) const COUNT: usize = 9;
}

/// CRT controller registers.
pub(crate) mod crtc {
    pub(crate) const HORIZONTAL_END: usize = 0x01;
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
    /// A bit of the index register: the palette is the display's, not the processor's.
    pub(crate) const PALETTE_SOURCE: u8 = 0x20;
    pub(crate) const COLOR_SELECT: usize = 0x14;
    pub(crate) const COUNT: usize = 0x15;
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
    /// The version offered.
    pub(crate) const ID5: u16 = 0xb0c5;
    /// Largest mode that is ever set.
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
    /// Keep what is in video memory.
    pub(crate) no_clear: bool,
    __: u8,
}

/// Sequencer 1, clocking mode.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct ClockingMode {
    /// Characters of eight dots, not nine.
    pub(crate) eight_dots: bool,
    #[bits(4)]
    __: u8,
    pub(crate) screen_off: bool,
    #[bits(2)]
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

/// CRT controller 0x17, mode control.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct CrtcMode {
    /// Address bit 13 is the address's own; otherwise bit 0 of the line within the row.
    pub(crate) row_scan_13: bool,
    /// The same of bit 14 and bit 1.
    pub(crate) row_scan_14: bool,
    #[bits(4)]
    __: u8,
    /// Addresses count bytes, not words.
    pub(crate) byte_mode: bool,
    __: bool,
}

/// Attribute controller 0x10, mode control.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct AttributeMode {
    graphics: bool,
    /// Attributes of the MDA: underlines.
    pub(crate) mono: bool,
    /// The ninth dot of line graphics is the eighth.
    pub(crate) line_graphics: bool,
    /// Attribute bit 7 blinks; otherwise it is the background's.
    pub(crate) blink: bool,
    __: bool,
    /// Panning ends at the line compare.
    pub(crate) pixel_panning: bool,
    wide: bool,
    /// Bits 4 and 5 of a colour are colour select's.
    pub(crate) palette_size: bool,
}
