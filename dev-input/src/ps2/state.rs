//! The saved state of the keyboard controller and its two devices.

/// Version of [`Ps2State`].
pub(crate) const VERSION: u32 = 1;

/// All of it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Ps2State {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) command_byte: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) status: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) output: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) output_port: u32,
    #[prost(uint32, tag = "6")]
    pub(crate) pending: u32,
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) keyboard_queue: Vec<u8>,
    #[prost(bytes = "vec", tag = "8")]
    pub(crate) mouse_queue: Vec<u8>,
    /// Keyboard: pending command, enabled, set, LEDs, rate.
    #[prost(bytes = "vec", tag = "9")]
    pub(crate) keyboard: Vec<u8>,
    /// What the keys of set 3 do beside going down, 32 bytes each for releases and repetitions; empty: as after power-on.
    #[prost(bytes = "vec", tag = "11")]
    pub(crate) keyboard_kinds: Vec<u8>,
    /// Mouse: pending command, reporting, remote, wrap, scaling, resolution, rate, kind, buttons, knock sequence.
    #[prost(bytes = "vec", tag = "10")]
    pub(crate) mouse: Vec<u8>,
}
