//! A role: the description of its device for the broker, and the construction of the device. Properties that other crates need are
//! in its [`Kind`].
use crate::error::BuildError;
use bulkhead_bus::Declaration;
use bulkhead_plan::{DeviceConfig, Kind};
use bulkhead_runtime::Resources;

/// A device that is built behind the filter.
pub(crate) type Prepared = bulkhead_runtime::Prepared<BuildError>;

/// A role of this executable.
pub(crate) struct Role {
    /// Its properties for other crates.
    pub(crate) kind: &'static Kind,
    /// Its registers in the guest, if it has any.
    pub(crate) seen: Seen,
    /// Creates the device's threads and takes its descriptors. The device itself is built behind the filter.
    pub(crate) prepare: fn(&DeviceConfig, Resources) -> Result<Prepared, BuildError>,
}

/// The guest's view of a role.
pub(crate) enum Seen {
    /// It has registers. The broker derives them from the configuration, never from the process.
    ByGuest(fn(&DeviceConfig) -> Result<Visible, BuildError>),
    /// The guest does not see it.
    No,
}

/// The broker's knowledge of a device.
pub(crate) struct Visible {
    /// Its registers, lines and PCI functions.
    pub(crate) declaration: Declaration,
    /// Bytes of the expansion ROM, whose contents the launcher passes as a descriptor, or 0.
    pub(crate) rom: u32,
    /// First guest frame and number of pages of its video RAM.
    pub(crate) video_ram: Option<(u64, u32)>,
    /// It is absent until its process has been added, and the guest may eject it.
    pub(crate) added: bool,
}

impl Visible {
    /// A device without ROM and video RAM that is present from the start.
    pub(crate) fn new(declaration: Declaration) -> Self {
        Self { declaration, rom: 0, video_ram: None, added: false }
    }
}

/// The error for a role that has the configuration of another.
pub(crate) fn wrong(config: &DeviceConfig) -> BuildError {
    BuildError::Config(config.kind().role)
}
