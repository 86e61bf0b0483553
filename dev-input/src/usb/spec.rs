//! Registers and memory structures of the Universal Host Controller Interface (Intel, UHCI Design Guide 1.1, sections 2 and 3), and
//! the parts of USB 2.0 (chapter 9) and HID 1.11 that its devices need.
use bitfield_struct::bitfield;
use bulkhead_bus::exercise::{Field, Holds, Register, Shape, home};

/// Offsets of the registers (UHCI 2.1).
pub(crate) mod reg {
    pub(crate) const COMMAND: u64 = 0x00;
    pub(crate) const STATUS: u64 = 0x02;
    pub(crate) const INTERRUPTS: u64 = 0x04;
    pub(crate) const FRAME_NUMBER: u64 = 0x06;
    pub(crate) const FRAME_LIST: u64 = 0x08;
    pub(crate) const SOF: u64 = 0x0c;
    pub(crate) const PORT: u64 = 0x10;
    pub(crate) const END: u64 = 0x14;
}

/// Command (UHCI 2.1.1).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) run: bool,
    pub(crate) host_reset: bool,
    pub(crate) global_reset: bool,
    pub(crate) global_suspend: bool,
    pub(crate) global_resume: bool,
    pub(crate) debug: bool,
    pub(crate) configured: bool,
    pub(crate) max_packet: bool,
    __: u8,
}

/// Status (UHCI 2.1.2). Writing ones clears bits.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) interrupt: bool,
    pub(crate) error: bool,
    pub(crate) resume: bool,
    pub(crate) host_error: bool,
    pub(crate) process_error: bool,
    pub(crate) halted: bool,
    #[bits(10)]
    __: u16,
}

/// Interrupt enables (UHCI 2.1.3).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(crate) struct Interrupts {
    pub(crate) error: bool,
    pub(crate) resume: bool,
    pub(crate) complete: bool,
    pub(crate) short: bool,
    #[bits(12)]
    __: u16,
}

/// A root port (UHCI 2.1.7).
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub(crate) struct PortStatus {
    pub(crate) connected: bool,
    pub(crate) connect_change: bool,
    pub(crate) enabled: bool,
    pub(crate) enable_change: bool,
    /// Levels of D+ and D-, for diagnostics. Both stay 0: QEMU's do, and its qtest compares whole registers.
    #[bits(2)]
    pub(crate) lines: u8,
    pub(crate) resume: bool,
    /// Always one.
    pub(crate) one: bool,
    pub(crate) low_speed: bool,
    pub(crate) reset: bool,
    #[bits(2)]
    __: u8,
    pub(crate) suspend: bool,
    #[bits(3)]
    __: u8,
}

/// A link to a queue head or transfer descriptor (UHCI 3.2.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) terminate: bool,
    pub(crate) queue: bool,
    pub(crate) depth_first: bool,
    __: bool,
    #[bits(28)]
    pub(crate) pointer: u32,
}

impl Link {
    pub(crate) fn address(self) -> u64 {
        u64::from(self.pointer()) << 4
    }
}

/// Control and status of a transfer descriptor (UHCI 3.2.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(crate) struct Control {
    /// Number of bytes less one; 0x7ff is zero bytes.
    #[bits(11)]
    pub(crate) actual: u16,
    #[bits(5)]
    __: u8,
    __: bool,
    pub(crate) bit_stuffing: bool,
    pub(crate) timeout: bool,
    pub(crate) nak: bool,
    pub(crate) babble: bool,
    pub(crate) buffer: bool,
    pub(crate) stalled: bool,
    pub(crate) active: bool,
    pub(crate) on_complete: bool,
    pub(crate) isochronous: bool,
    pub(crate) low_speed: bool,
    #[bits(2)]
    pub(crate) errors: u8,
    pub(crate) short: bool,
    #[bits(2)]
    __: u8,
}

/// The transaction of a transfer descriptor (UHCI 3.2.3).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) pid: u8,
    #[bits(7)]
    pub(crate) device: u8,
    #[bits(4)]
    pub(crate) endpoint: u8,
    pub(crate) toggle: bool,
    __: bool,
    /// Number of bytes less one; 0x7ff is zero bytes.
    #[bits(11)]
    pub(crate) length: u16,
}

/// Packet identifiers.
pub(crate) mod pid {
    pub(crate) const OUT: u8 = 0xe1;
    pub(crate) const IN: u8 = 0x69;
    pub(crate) const SETUP: u8 = 0x2d;
}

/// Requests (USB 2.0, 9.4; HID 1.11, 7.2): bmRequestType in the high byte, bRequest in the low one.
pub(crate) mod request {
    pub(crate) const GET_DEVICE_STATUS: u16 = 0x8000;
    pub(crate) const GET_INTERFACE_STATUS: u16 = 0x8100;
    pub(crate) const GET_ENDPOINT_STATUS: u16 = 0x8200;
    pub(crate) const CLEAR_ENDPOINT_FEATURE: u16 = 0x0201;
    pub(crate) const SET_ENDPOINT_FEATURE: u16 = 0x0203;
    pub(crate) const SET_ADDRESS: u16 = 0x0005;
    pub(crate) const GET_DESCRIPTOR: u16 = 0x8006;
    pub(crate) const GET_INTERFACE_DESCRIPTOR: u16 = 0x8106;
    pub(crate) const GET_CONFIGURATION: u16 = 0x8008;
    pub(crate) const SET_CONFIGURATION: u16 = 0x0009;
    pub(crate) const GET_INTERFACE: u16 = 0x810a;
    pub(crate) const SET_INTERFACE: u16 = 0x010b;
    pub(crate) const GET_REPORT: u16 = 0xa101;
    pub(crate) const GET_IDLE: u16 = 0xa102;
    pub(crate) const GET_PROTOCOL: u16 = 0xa103;
    pub(crate) const SET_REPORT: u16 = 0x2109;
    pub(crate) const SET_IDLE: u16 = 0x210a;
    pub(crate) const SET_PROTOCOL: u16 = 0x210b;
}

/// Types of descriptors (USB 2.0, table 9-5; HID 1.11, 7.1).
pub(crate) mod descriptor {
    pub(crate) const DEVICE: u8 = 1;
    pub(crate) const CONFIGURATION: u8 = 2;
    pub(crate) const STRING: u8 = 3;
    pub(crate) const INTERFACE: u8 = 4;
    pub(crate) const ENDPOINT: u8 = 5;
    pub(crate) const HID: u8 = 0x21;
    pub(crate) const REPORT: u8 = 0x22;
}

/// Places of the shapes in [`SHAPES`].
pub(super) mod shape {
    pub(crate) const FRAME_LIST: u8 = 0;
    pub(crate) const QUEUE: u8 = 1;
    pub(crate) const DESCRIPTOR: u8 = 2;
    pub(crate) const REQUEST: u8 = 3;
}

/// Bits of a link.
const TERMINATE: u64 = 1;
const QUEUE: u64 = 2;
const DEPTH_FIRST: u64 = 4;

/// A token's PID, device, endpoint and length.
pub(super) const fn token(pid: u8, device: u8, endpoint: u8, length: u16) -> u32 {
    Token::new()
        .with_pid(pid)
        .with_device(device)
        .with_endpoint(endpoint)
        .with_length(length.wrapping_sub(1) & 0x7ff)
        .into_bits()
}

const ACTIVE: Control = Control::new().with_active(true).with_errors(3);

/// The structures in guest memory (UHCI 3), and the data of a SETUP (USB 2.0, 9.3).
pub(super) const SHAPES: &[Shape] = &[
    Shape {
        name: "frame list pointer (3.1)",
        len: 4,
        fields: &[Field::new(0, 4, Holds::Link(shape::QUEUE, &[QUEUE, QUEUE, TERMINATE]))],
    },
    Shape {
        name: "queue head (3.3)",
        len: 16,
        fields: &[
            Field::new(0, 4, Holds::Link(shape::QUEUE, &[QUEUE, TERMINATE, TERMINATE, 0])),
            Field::new(4, 4, Holds::Link(shape::DESCRIPTOR, &[0, 0, 0, TERMINATE, DEPTH_FIRST])),
        ],
    },
    Shape {
        name: "transfer descriptor (3.2)",
        len: 32,
        fields: &[
            Field::new(0, 4, Holds::Link(shape::DESCRIPTOR, &[0, DEPTH_FIRST, DEPTH_FIRST, TERMINATE, QUEUE])),
            Field::new(
                4,
                4,
                Holds::Flags(&[
                    ACTIVE.into_bits() as u64,
                    ACTIVE.with_on_complete(true).into_bits() as u64,
                    ACTIVE.with_short(true).into_bits() as u64,
                    ACTIVE.with_short(true).with_on_complete(true).into_bits() as u64,
                    ACTIVE.with_isochronous(true).into_bits() as u64,
                    ACTIVE.with_nak(true).into_bits() as u64,
                    Control::new().with_stalled(true).into_bits() as u64,
                ]),
            ),
            Field::new(
                8,
                4,
                Holds::Flags(&[
                    token(pid::SETUP, 0, 0, 8) as u64,
                    token(pid::SETUP, 1, 0, 8) as u64,
                    token(pid::IN, 0, 0, 8) as u64,
                    token(pid::IN, 1, 0, 64) as u64,
                    token(pid::IN, 1, 1, 8) as u64,
                    token(pid::IN, 2, 1, 8) as u64,
                    token(pid::IN, 1, 1, 3) as u64,
                    token(pid::OUT, 0, 0, 0) as u64,
                    token(pid::OUT, 1, 0, 8) as u64,
                    token(pid::IN, 1, 0, 0) as u64,
                    token(pid::IN, 1, 0, 1280) as u64,
                    token(pid::OUT, 1, 0, 1281) as u64,
                ]),
            ),
            Field::new(12, 4, Holds::Link(shape::REQUEST, &[0])),
        ],
    },
    Shape {
        name: "request (USB 2.0, 9.3)",
        len: 8,
        fields: &[
            Field::new(0, 1, Holds::Flags(&[0x80, 0x81, 0x82, 0xa1, 0x00, 0x01, 0x02, 0x21])),
            Field::new(1, 1, Holds::Length(11)),
            Field::new(2, 2, Holds::Flags(&[0, 1, 2, 0x0100, 0x0200, 0x0300, 0x0301, 0x0302, 0x2100, 0x2200, 0x0400])),
            Field::new(4, 2, Holds::Flags(&[0, 0x81, 0x01])),
            Field::new(6, 2, Holds::Length(64)),
        ],
    },
];

/// The I/O registers, for the mutator and for reports.
pub(super) const REGISTERS: &[Register] = &[
    Register::new("USBCMD", "2.1.1", 0, reg::COMMAND as u32, 2).words(&[
        Command::new().with_run(true).into_bits() as u64,
        Command::new().with_run(true).with_configured(true).with_max_packet(true).into_bits() as u64,
        0,
        Command::new().with_host_reset(true).into_bits() as u64,
        Command::new().with_global_reset(true).into_bits() as u64,
        Command::new().with_global_suspend(true).into_bits() as u64,
        Command::new().with_global_suspend(true).with_global_resume(true).into_bits() as u64,
        Command::new().with_debug(true).with_run(true).into_bits() as u64,
    ]),
    Register::new("USBSTS", "2.1.2", 0, reg::STATUS as u32, 2).words(&[
        0x3f,
        Status::new().with_interrupt(true).into_bits() as u64,
        Status::new().with_error(true).into_bits() as u64,
        Status::new().with_process_error(true).with_host_error(true).into_bits() as u64,
    ]),
    Register::new("USBINTR", "2.1.3", 0, reg::INTERRUPTS as u32, 2).words(&[0, 0x0f, 1, 2, 4, 8]),
    Register::new("FRNUM", "2.1.4", 0, reg::FRAME_NUMBER as u32, 2).words(&[0, 0x3ff, 0x7ff]),
    Register::new("FRBASEADD", "2.1.5", 0, reg::FRAME_LIST as u32, 4).words(&[home(shape::FRAME_LIST), 0, 0xfff0_0000]),
    Register::new("SOFMOD", "2.1.6", 0, reg::SOF as u32, 1).words(&[64, 0, 127]),
    Register::new("PORTSC1", "2.1.7", 0, reg::PORT as u32, 2).words(PORT_WORDS),
    Register::new("PORTSC2", "2.1.7", 0, reg::PORT as u32 + 2, 2).words(PORT_WORDS),
];

const PORT_WORDS: &[u64] = &[
    PortStatus::new().with_reset(true).into_bits() as u64,
    PortStatus::new().with_enabled(true).into_bits() as u64,
    PortStatus::new().with_enabled(true).with_connect_change(true).with_enable_change(true).into_bits() as u64,
    PortStatus::new().with_enabled(true).with_suspend(true).into_bits() as u64,
    PortStatus::new().with_enabled(true).with_resume(true).into_bits() as u64,
    0,
];
