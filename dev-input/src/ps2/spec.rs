//! The keyboard controller (IBM PS/2 Hardware Interface Technical Reference, 8042), keyboard and mouse commands.
use bitfield_struct::bitfield;

/// Status register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct Status {
    /// Output buffer full.
    pub(crate) obf: bool,
    /// Input buffer full: never, commands take no time here.
    pub(crate) ibf: bool,
    /// The self-test has passed.
    pub(crate) system: bool,
    /// The last write was a command.
    pub(crate) command: bool,
    /// The keyboard is not locked.
    pub(crate) unlocked: bool,
    /// What is in the output buffer comes from the mouse.
    pub(crate) aux: bool,
    pub(crate) timeout: bool,
    pub(crate) parity: bool,
}

/// Command byte.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct CommandByte {
    /// Interrupt 1 for keyboard data.
    pub(crate) keyboard_interrupt: bool,
    /// Interrupt 12 for mouse data.
    pub(crate) mouse_interrupt: bool,
    pub(crate) system: bool,
    __: bool,
    pub(crate) keyboard_disabled: bool,
    pub(crate) mouse_disabled: bool,
    /// Scan code set 2 becomes set 1.
    pub(crate) translate: bool,
    __: bool,
}

/// Controller commands.
pub(crate) mod command {
    pub(crate) const READ_BYTE: u8 = 0x20;
    pub(crate) const WRITE_BYTE: u8 = 0x60;
    pub(crate) const DISABLE_MOUSE: u8 = 0xa7;
    pub(crate) const ENABLE_MOUSE: u8 = 0xa8;
    pub(crate) const TEST_MOUSE: u8 = 0xa9;
    pub(crate) const SELF_TEST: u8 = 0xaa;
    pub(crate) const TEST_KEYBOARD: u8 = 0xab;
    pub(crate) const DISABLE_KEYBOARD: u8 = 0xad;
    pub(crate) const ENABLE_KEYBOARD: u8 = 0xae;
    pub(crate) const READ_INPUT: u8 = 0xc0;
    pub(crate) const READ_OUTPUT: u8 = 0xd0;
    pub(crate) const WRITE_OUTPUT: u8 = 0xd1;
    pub(crate) const WRITE_KEYBOARD_BUFFER: u8 = 0xd2;
    pub(crate) const WRITE_MOUSE_BUFFER: u8 = 0xd3;
    pub(crate) const WRITE_MOUSE: u8 = 0xd4;
    pub(crate) const DISABLE_A20: u8 = 0xdd;
    pub(crate) const ENABLE_A20: u8 = 0xdf;
}

/// Acknowledge.
pub(crate) const ACK: u8 = 0xfa;
/// Send again.
pub(crate) const RESEND: u8 = 0xfe;
/// Self-test passed.
pub(crate) const PASSED: u8 = 0xaa;

/// Scan code set 2 → set 1, as the controller translates (index: set 2).
pub(crate) const TRANSLATION: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, 0x65, 0x38, 0x2a,
    0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05,
    0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, 0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a,
    0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26,
    0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63,
    0x76, 0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53,
    0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

/// evdev code → scan code set 1 (which evdev follows up to 88), or set 1 behind 0xe0.
pub(crate) fn set1(code: u16) -> Option<(bool, u8)> {
    Some(match code {
        1..=83 | 86..=88 => (false, code as u8),
        89 => (false, 0x73),
        92 => (false, 0x79),
        93 => (false, 0x70),
        94 => (false, 0x7b),
        96 => (true, 0x1c),
        97 => (true, 0x1d),
        98 => (true, 0x35),
        99 => (true, 0x37),
        100 => (true, 0x38),
        102 => (true, 0x47),
        103 => (true, 0x48),
        104 => (true, 0x49),
        105 => (true, 0x4b),
        106 => (true, 0x4d),
        107 => (true, 0x4f),
        108 => (true, 0x50),
        109 => (true, 0x51),
        110 => (true, 0x52),
        111 => (true, 0x53),
        121 => (false, 0x7e),
        124 => (false, 0x7d),
        125 => (true, 0x5b),
        126 => (true, 0x5c),
        127 => (true, 0x5d),
        _ => return None,
    })
}

/// The set 2 code that the controller would translate to this one of set 1.
pub(crate) fn set2(set1: u8) -> u8 {
    match set1 {
        // F7 and SysRq lie above the table.
        0x41 => 0x83,
        0x54 => 0x84,
        _ => TRANSLATION.iter().position(|c| *c == set1).unwrap_or(0) as u8,
    }
}

/// evdev code → scan code set 3, where that is another than set 2's.
const SET3: &[(u16, u8)] = &[
    (1, 0x08),
    (59, 0x07),
    (60, 0x0f),
    (61, 0x17),
    (62, 0x1f),
    (63, 0x27),
    (64, 0x2f),
    (65, 0x37),
    (66, 0x3f),
    (67, 0x47),
    (68, 0x4f),
    (87, 0x56),
    (88, 0x5e),
    (29, 0x11),
    (56, 0x19),
    (58, 0x14),
    (43, 0x5c),
    (86, 0x13),
    (69, 0x76),
    (70, 0x5f),
    (99, 0x57),
    (119, 0x62),
    (100, 0x39),
    (97, 0x58),
    (110, 0x67),
    (111, 0x64),
    (102, 0x6e),
    (107, 0x65),
    (104, 0x6f),
    (109, 0x6d),
    (105, 0x61),
    (103, 0x63),
    (108, 0x60),
    (106, 0x6a),
    (98, 0x77),
    (55, 0x7e),
    (74, 0x84),
    (78, 0x7c),
    (96, 0x79),
    (125, 0x8b),
    (126, 0x8c),
    (127, 0x8d),
    (92, 0x86),
    (93, 0x87),
    (94, 0x85),
    (124, 0x5d),
    (121, 0x7b),
];

/// Codes of set 3 that say that they are let go, after power-on, and do not repeat: the shifts, left Control and Alt, Caps Lock.
pub(crate) const RELEASED: &[u8] = &[0x11, 0x12, 0x14, 0x19, 0x59];

/// Codes of set 3 that do neither after power-on. All others repeat.
pub(crate) const MADE_ONLY: &[u8] = &[
    0x07, 0x08, 0x0f, 0x17, 0x1f, 0x27, 0x2f, 0x37, 0x39, 0x3f, 0x47, 0x4f, 0x56, 0x57, 0x58, 0x5e, 0x5f, 0x62, 0x65,
    0x67, 0x69, 0x6b, 0x6c, 0x6d, 0x6e, 0x6f, 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x79, 0x7a, 0x7d, 0x7e,
    0x84, 0x8b, 0x8c, 0x8d,
];

/// evdev code → scan code set 3: a byte for each key, none behind another.
pub(crate) fn set3(code: u16) -> Option<u8> {
    let other = SET3.iter().find(|(evdev, _)| *evdev == code).map(|(_, set3)| *set3);
    other.or_else(|| set1(code).filter(|(extended, _)| !extended).map(|(_, set1)| set2(set1)))
}
