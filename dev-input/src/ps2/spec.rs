//! The keyboard controller (IBM PS/2 Hardware Interface Technical Reference, 8042), keyboard and mouse commands.
use bitfield_struct::bitfield;
use bulkhead_bus::exercise::Register;

/// Status register.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub(crate) struct Status {
    /// Output buffer full.
    pub(crate) obf: bool,
    /// Input buffer full: never set, because commands take no time here.
    pub(crate) ibf: bool,
    /// The self-test has passed.
    pub(crate) system: bool,
    /// The last write was a command.
    pub(crate) command: bool,
    /// The keyboard is not locked.
    pub(crate) unlocked: bool,
    /// The byte in the output buffer comes from the mouse.
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

/// Commands of the keyboard (IBM PS/2 Hardware Interface Technical Reference, Keyboard, "Commands from the System").
pub(crate) mod key_command {
    pub(crate) const LEDS: u8 = 0xed;
    pub(crate) const ECHO: u8 = 0xee;
    pub(crate) const SCAN_CODE_SET: u8 = 0xf0;
    pub(crate) const IDENTIFY: u8 = 0xf2;
    pub(crate) const RATE: u8 = 0xf3;
    pub(crate) const ENABLE: u8 = 0xf4;
    pub(crate) const DISABLE: u8 = 0xf5;
    pub(crate) const DEFAULTS: u8 = 0xf6;
    /// All keys: 0xf7 to 0xfa; the keys that follow: 0xfb to 0xfd.
    pub(crate) const ALL_REPEAT: u8 = 0xf7;
    pub(crate) const KEY_REPEATS: u8 = 0xfb;
    pub(crate) const KEY_MADE_ONLY: u8 = 0xfd;
    pub(crate) const RESET: u8 = 0xff;
}

/// Commands of the mouse (IBM PS/2 Hardware Interface Technical Reference, Mouse).
pub(crate) mod mouse_command {
    pub(crate) const SCALING_ONE: u8 = 0xe6;
    pub(crate) const SCALING_TWO: u8 = 0xe7;
    pub(crate) const RESOLUTION: u8 = 0xe8;
    pub(crate) const STATUS: u8 = 0xe9;
    pub(crate) const STREAM: u8 = 0xea;
    pub(crate) const READ: u8 = 0xeb;
    pub(crate) const NO_WRAP: u8 = 0xec;
    pub(crate) const WRAP: u8 = 0xee;
    pub(crate) const REMOTE: u8 = 0xf0;
    pub(crate) const IDENTIFY: u8 = 0xf2;
    pub(crate) const RATE: u8 = 0xf3;
    pub(crate) const ENABLE: u8 = 0xf4;
    pub(crate) const DISABLE: u8 = 0xf5;
    pub(crate) const DEFAULTS: u8 = 0xf6;
    pub(crate) const RESET: u8 = 0xff;
}

/// Answer: acknowledge.
pub(crate) const ACK: u8 = 0xfa;
/// Answer: the byte was not understood, send it again.
pub(crate) const RESEND: u8 = 0xfe;
/// Answer: the self-test has passed.
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

/// The two ports, for the mutator and for reports.
pub(super) const REGISTERS: &[Register] = &[
    Register::new("data", "8042, Input and Output Buffers", 0, 0, 1).words(&[
        key_command::LEDS as u64,
        key_command::ECHO as u64,
        key_command::SCAN_CODE_SET as u64,
        key_command::IDENTIFY as u64,
        key_command::RATE as u64,
        key_command::ENABLE as u64,
        key_command::DISABLE as u64,
        key_command::DEFAULTS as u64,
        key_command::ALL_REPEAT as u64,
        key_command::KEY_REPEATS as u64,
        key_command::KEY_MADE_ONLY as u64,
        key_command::RESET as u64,
        mouse_command::SCALING_TWO as u64,
        mouse_command::RESOLUTION as u64,
        mouse_command::STATUS as u64,
        mouse_command::READ as u64,
        0,
        1,
        2,
        3,
        7,
        0x47,
        80,
        100,
        200,
    ]),
    Register::new("status and command", "8042, Status Register, Commands", 1, 0, 1).words(&[
        command::READ_BYTE as u64,
        command::WRITE_BYTE as u64,
        command::DISABLE_MOUSE as u64,
        command::ENABLE_MOUSE as u64,
        command::TEST_MOUSE as u64,
        command::SELF_TEST as u64,
        command::TEST_KEYBOARD as u64,
        command::DISABLE_KEYBOARD as u64,
        command::ENABLE_KEYBOARD as u64,
        command::READ_INPUT as u64,
        command::READ_OUTPUT as u64,
        command::WRITE_OUTPUT as u64,
        command::WRITE_KEYBOARD_BUFFER as u64,
        command::WRITE_MOUSE_BUFFER as u64,
        command::WRITE_MOUSE as u64,
        command::DISABLE_A20 as u64,
        command::ENABLE_A20 as u64,
        0xf0,
        0xfe,
        0xff,
    ]),
];
