//! Registers of the 16550A (National Semiconductor PC16550D data sheet, June 1995, section 8).
use bitfield_struct::bitfield;
use bulkhead_bus::exercise::Register;

/// Receiver buffer and transmitter holding register; divisor latch low with DLAB.
pub const DATA: u64 = 0;
/// Interrupt enable; divisor latch high with DLAB.
pub const IER: u64 = 1;
/// Interrupt identification (read), FIFO control (write).
pub const IIR_FCR: u64 = 2;
/// Line control.
pub const LCR: u64 = 3;
/// Modem control.
pub const MCR: u64 = 4;
/// Line status.
pub const LSR: u64 = 5;
/// Modem status.
pub const MSR: u64 = 6;
/// Scratch.
pub const SCR: u64 = 7;

/// Entries of each FIFO.
pub const FIFO: usize = 16;

/// Interrupt enable register (8.5).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct InterruptEnable {
    /// Received data available, and character time-out.
    pub received: bool,
    /// Transmitter holding register empty.
    pub transmitter_empty: bool,
    /// Receiver line status.
    pub line_status: bool,
    /// Modem status.
    pub modem_status: bool,
    #[bits(4)]
    __: u8,
}

/// FIFO control register (8.4).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct FifoControl {
    /// Both FIFOs on.
    pub enable: bool,
    /// Clear the receiver's.
    pub reset_receiver: bool,
    /// Clear the transmitter's.
    pub reset_transmitter: bool,
    /// DMA mode, without effect.
    pub dma: bool,
    #[bits(2)]
    __: u8,
    /// Trigger level: 1, 4, 8, 14.
    #[bits(2)]
    pub trigger: u8,
}

/// Line control register (8.3): the parts that have an effect.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct LineControl {
    /// Bits of a character less 5.
    #[bits(2)]
    pub word_length: u8,
    #[bits(4)]
    __: u8,
    /// Send a break.
    pub set_break: bool,
    /// Registers 0 and 1 are the divisor latch.
    pub dlab: bool,
}

/// Modem control register (8.7).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ModemControl {
    /// Data terminal ready.
    pub dtr: bool,
    /// Request to send.
    pub rts: bool,
    /// Output without a fixed use.
    pub out1: bool,
    /// On PCs, gates the interrupt to the interrupt controller.
    pub out2: bool,
    /// Local loop-back.
    pub loopback: bool,
    #[bits(3)]
    __: u8,
}

/// Line status register (8.6).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct LineStatus {
    /// Data ready.
    pub data_ready: bool,
    /// Overrun.
    pub overrun: bool,
    /// Parity error.
    pub parity: bool,
    /// Framing error.
    pub framing: bool,
    /// Break.
    pub break_interrupt: bool,
    /// Transmitter holding register empty.
    pub thre: bool,
    /// Transmitter empty.
    pub temt: bool,
    /// An error in the receiver FIFO.
    pub fifo_error: bool,
}

/// Modem status register (8.8).
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ModemStatus {
    /// Clear to send has changed.
    pub dcts: bool,
    /// Data set ready has changed.
    pub ddsr: bool,
    /// Ring indicator has gone low.
    pub teri: bool,
    /// Carrier detect has changed.
    pub ddcd: bool,
    /// Clear to send.
    pub cts: bool,
    /// Data set ready.
    pub dsr: bool,
    /// Ring indicator.
    pub ri: bool,
    /// Carrier detect.
    pub dcd: bool,
}

/// Interrupt identification (table II): bits 3–0, highest priority first in the order of the constants.
pub mod iir {
    /// No interrupt.
    pub const NONE: u8 = 0x01;
    /// Receiver line status.
    pub const LINE_STATUS: u8 = 0x06;
    /// Received data available.
    pub const RECEIVED: u8 = 0x04;
    /// Character time-out.
    pub const TIMEOUT: u8 = 0x0c;
    /// Transmitter holding register empty.
    pub const TRANSMITTER_EMPTY: u8 = 0x02;
    /// Modem status.
    pub const MODEM_STATUS: u8 = 0x00;
    /// Bits 7–6: FIFOs on.
    pub const FIFOS_ON: u8 = 0xc0;
}

/// The registers, for the mutator and for reports.
pub(super) const REGISTERS: &[Register] = &[
    Register::new("RBR, THR, DLL", "8, table II", 0, DATA as u32, 1).words(&[0, 1, 12, 0x41, 0xff]),
    Register::new("IER, DLM", "8.5", 0, IER as u32, 1).words(&[
        0,
        InterruptEnable::new().with_received(true).into_bits() as u64,
        InterruptEnable::new().with_transmitter_empty(true).into_bits() as u64,
        InterruptEnable::new().with_line_status(true).into_bits() as u64,
        InterruptEnable::new().with_modem_status(true).into_bits() as u64,
        0x0f,
    ]),
    Register::new("IIR, FCR", "8.4, table II", 0, IIR_FCR as u32, 1).words(&[
        0,
        FifoControl::new().with_enable(true).into_bits() as u64,
        FifoControl::new().with_enable(true).with_trigger(1).into_bits() as u64,
        FifoControl::new().with_enable(true).with_trigger(2).into_bits() as u64,
        FifoControl::new().with_enable(true).with_trigger(3).into_bits() as u64,
        FifoControl::new().with_enable(true).with_reset_receiver(true).into_bits() as u64,
        FifoControl::new().with_enable(true).with_reset_transmitter(true).into_bits() as u64,
    ]),
    Register::new("LCR", "8.3", 0, LCR as u32, 1).words(&[
        0,
        LineControl::new().with_word_length(3).into_bits() as u64,
        LineControl::new().with_word_length(3).with_dlab(true).into_bits() as u64,
        LineControl::new().with_set_break(true).into_bits() as u64,
    ]),
    Register::new("MCR", "8.7", 0, MCR as u32, 1).words(&[
        0,
        ModemControl::new().with_out2(true).into_bits() as u64,
        ModemControl::new().with_dtr(true).with_rts(true).with_out2(true).into_bits() as u64,
        ModemControl::new().with_loopback(true).into_bits() as u64,
        ModemControl::new().with_loopback(true).with_out1(true).with_rts(true).into_bits() as u64,
        0x1f,
    ]),
    Register::new("LSR", "8.6", 0, LSR as u32, 1),
    Register::new("MSR", "8.8", 0, MSR as u32, 1),
    Register::new("SCR", "8", 0, SCR as u32, 1).words(&[0, 0x55, 0xaa]),
];
