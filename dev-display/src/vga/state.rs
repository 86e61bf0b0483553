//! The saved state of the display: its registers. Video RAM is guest memory and is saved with it.

/// Version of [`VgaState`].
pub(crate) const VERSION: u32 = 1;

/// The saved state of the card: every register.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct VgaState {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) config: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) sequencer: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(crate) graphics: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) crtc: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) attribute: Vec<u8>,
    #[prost(bytes = "vec", tag = "7")]
    pub(crate) palette: Vec<u8>,
    #[prost(uint32, repeated, tag = "8")]
    pub(crate) dispi: Vec<u32>,
    /// Indices: sequencer, graphics, CRTC, attribute, DISPI, DAC read, DAC write, DAC component.
    #[prost(uint32, repeated, tag = "9")]
    pub(crate) indices: Vec<u32>,
    /// Misc output, feature control, DAC mask, attribute flip-flop, DAC reading.
    #[prost(uint32, repeated, tag = "10")]
    pub(crate) misc: Vec<u32>,
    #[prost(uint32, tag = "11")]
    pub(crate) latch: u32,
    /// Red and green of an incompletely written colour.
    #[prost(bytes = "vec", tag = "12")]
    pub(crate) dac_held: Vec<u8>,
    /// The monitor's preferred mode, if it is not the default.
    #[prost(uint32, repeated, tag = "20")]
    pub(crate) preferred: Vec<u32>,
}
