//! The saved state of a serial port.

/// Version of this message.
pub const VERSION: u32 = 1;

/// The registers and FIFOs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SerialState {
    /// See [`VERSION`].
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// Interrupt enable.
    #[prost(uint32, tag = "2")]
    pub ier: u32,
    /// FIFO control.
    #[prost(uint32, tag = "3")]
    pub fcr: u32,
    /// Line control.
    #[prost(uint32, tag = "4")]
    pub lcr: u32,
    /// Modem control.
    #[prost(uint32, tag = "5")]
    pub mcr: u32,
    /// Line status without the bits that follow from the FIFOs.
    #[prost(uint32, tag = "6")]
    pub lsr_errors: u32,
    /// Modem status.
    #[prost(uint32, tag = "7")]
    pub msr: u32,
    /// Scratch.
    #[prost(uint32, tag = "8")]
    pub scr: u32,
    /// Divisor latch.
    #[prost(uint32, tag = "9")]
    pub divisor: u32,
    /// Received characters that the guest has not read.
    #[prost(bytes = "vec", tag = "10")]
    pub received: Vec<u8>,
    /// Characters of the guest that the back end has not accepted.
    #[prost(bytes = "vec", tag = "11")]
    pub unsent: Vec<u8>,
    /// The interrupt "transmitter holding register empty" is pending.
    #[prost(bool, tag = "12")]
    pub thre_pending: bool,
    /// The character time-out is pending.
    #[prost(bool, tag = "13")]
    pub timeout_pending: bool,
    /// When the character time-out ends, on the machine's clock; 0: it does not run, or is not known.
    #[prost(uint64, tag = "14")]
    pub timeout_deadline: u64,
    /// When unsent characters are dropped.
    #[prost(uint64, tag = "15")]
    pub stuck_deadline: u64,
    /// When the back end accepts output again.
    #[prost(uint64, tag = "16")]
    pub retry_deadline: u64,
}
