//! The saved state of a drive. The transport fills in the registers of a command; a drive leaves them empty.

/// The saved state of one drive.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DriveState {
    /// Current and previous: features, count, LBA low, mid, high.
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) registers: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) status: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) error: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) multiple: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) sense: u32,
    #[prost(bool, tag = "6")]
    pub(crate) present: bool,
    #[prost(uint32, tag = "7")]
    pub(crate) dma_mode: u32,
    #[prost(bool, tag = "8")]
    pub(crate) locked: bool,
    #[prost(bool, tag = "9")]
    pub(crate) tray_open: bool,
    #[prost(bool, tag = "10")]
    pub(crate) attention: bool,
    #[prost(uint32, tag = "11")]
    pub(crate) event: u32,
    #[prost(message, optional, tag = "12")]
    pub(crate) counters: Option<CountersState>,
    /// Heads and sectors per track, a byte each; 0: the default translation.
    #[prost(uint32, tag = "13")]
    pub(crate) translation: u32,
    #[prost(bool, tag = "14")]
    pub(crate) no_write_cache: bool,
    #[prost(bool, tag = "15")]
    pub(crate) no_look_ahead: bool,
    /// A software reset keeps all settings.
    #[prost(bool, tag = "16")]
    pub(crate) keep_settings: bool,
    #[prost(uint32, tag = "17")]
    pub(crate) power: u32,
    /// The guest has opened the tray, and the medium is on it.
    #[prost(bool, tag = "18")]
    pub(crate) medium_on_open_tray: bool,
}

/// The saved counts of a drive's operations.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct CountersState {
    #[prost(uint64, tag = "1")]
    pub(crate) reads: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) bytes_read: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) writes: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) bytes_written: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) flushes: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) trims: u64,
    #[prost(uint64, tag = "7")]
    pub(crate) failed: u64,
}
