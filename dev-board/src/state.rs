//! The saved state of the board.

/// Version of [`PlatformState`].
pub(crate) const VERSION: u32 = 1;

/// The complete saved state.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PlatformState {
    #[prost(uint32, tag = "1")]
    pub(crate) version: u32,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(crate) spaces: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) cmos: Vec<u8>,
    #[prost(uint32, tag = "4")]
    pub(crate) cmos_index: u32,
    #[prost(message, optional, tag = "5")]
    pub(crate) pm: Option<PmState>,
    #[prost(bytes = "vec", tag = "6")]
    pub(crate) dma: Vec<u8>,
    #[prost(message, optional, tag = "7")]
    pub(crate) xen: Option<XenState>,
    #[prost(uint32, tag = "8")]
    pub(crate) port92: u32,
    #[prost(uint32, tag = "9")]
    pub(crate) post: u32,
    #[prost(uint32, tag = "10")]
    pub(crate) reset_control: u32,
}

/// The saved registers of power management and hot-plug.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PmState {
    #[prost(uint32, tag = "1")]
    pub(crate) control: u32,
    #[prost(uint32, tag = "2")]
    pub(crate) gpe_status: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) gpe_enable: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) apm_control: u32,
    #[prost(uint32, tag = "5")]
    pub(crate) apm_status: u32,
    /// Numbers of the vCPUs that were plugged in while the guest ran.
    #[prost(uint32, repeated, tag = "6")]
    pub(crate) plugged: Vec<u32>,
    /// PCI devices that were plugged in while the guest ran.
    #[prost(message, optional, tag = "7")]
    pub(crate) pci: Option<PlugState>,
    /// vCPUs that were plugged in at the start, if others were later: libxl counts both when it restores the machine. 0: as many as
    /// this machine starts with.
    #[prost(uint32, tag = "8")]
    pub(crate) online: u32,
}

/// The saved state of PCI hot-plug.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PlugState {
    #[prost(message, repeated, tag = "1")]
    pub(crate) devices: Vec<PciState>,
    /// Devices that the guest is asked to eject, one bit each.
    #[prost(uint32, tag = "2")]
    pub(crate) down: u32,
}

/// A PCI device that was plugged in while the guest ran.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PciState {
    #[prost(uint32, tag = "1")]
    pub(crate) device: u32,
    #[prost(string, tag = "2")]
    pub(crate) id: String,
}

/// The saved state of the xen-platform device.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct XenState {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) config: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(crate) flags: u32,
    #[prost(uint32, tag = "3")]
    pub(crate) product: u32,
    #[prost(uint32, tag = "4")]
    pub(crate) build: u32,
}
