//! The saved state of the controller.
use crate::ata::state::DriveState;

/// Version of [`IdeState`].
pub(crate) const VERSION: u32 = 1;

/// The saved state of the function and both channels.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IdeState {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) channels: Vec<ChannelState>,
}

/// The saved state of one channel.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ChannelState {
    #[prost(uint32, tag = "1")]
    pub(crate) control: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) device: u32,
    #[prost(bool, tag = "3")]
    pub(crate) interrupt: bool,
    #[prost(uint32, tag = "4")]
    pub(crate) bm_command: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) bm_status: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) bm_table: u32,
    #[prost(message, repeated, tag = "7")]
    pub(crate) drives: Vec<DriveState>,
    /// A command was in progress. The restoring process cannot continue it: the drive aborts it, and the driver retries.
    #[prost(bool, tag = "8")]
    pub(crate) busy: bool,
    /// Writes to registers were lost: see `lost_writes`.
    #[prost(bool, tag = "9")]
    pub(crate) stale: bool,
    /// Address of the next entry of the PRD table, and the number of its used bytes; 0: the table's first entry.
    #[prost(uint32, tag = "10")]
    pub(crate) bm_next: u32,
    #[prost(uint32, tag = "11")]
    pub(crate) bm_used: u32,
    /// The pending interrupt belongs to the drive that is not selected.
    #[prost(bool, tag = "12")]
    pub(crate) interrupt_of_other: bool,
}
