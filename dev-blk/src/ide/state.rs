//! The saved state of the controller.
use crate::ata::state::DriveState;

/// Version of [`IdeState`].
pub(crate) const VERSION: u32 = 1;

/// The function and both channels.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IdeState {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) channels: Vec<ChannelState>,
}

/// One channel.
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
    /// A command was under way. Who takes the state over cannot finish it: the drive aborts it, the driver retries.
    #[prost(bool, tag = "8")]
    pub(crate) busy: bool,
    /// Registers are not what the guest believes: see `lost_writes`.
    #[prost(bool, tag = "9")]
    pub(crate) stale: bool,
    /// The entry of the PRD table that is next, and how many of its bytes are used; 0: the table's first.
    #[prost(uint32, tag = "10")]
    pub(crate) bm_next: u32,
    #[prost(uint32, tag = "11")]
    pub(crate) bm_used: u32,
    /// The interrupt is that of the drive that is not selected.
    #[prost(bool, tag = "12")]
    pub(crate) interrupt_of_other: bool,
}
