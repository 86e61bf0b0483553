//! A role: how its process is described to the broker and how its device is made. What the rest of the project has to know of it is
//! its [`Kind`].
use crate::error::BuildError;
use bulkhead_bus::Declaration;
use bulkhead_plan::{DeviceConfig, Kind};
use bulkhead_runtime::{Built, Resources};

/// What this executable does under one name.
pub(crate) struct Role {
    /// What others know of it.
    pub(crate) kind: &'static Kind,
    /// What the guest sees of it.
    pub(crate) seen: Seen,
    /// Makes the device of its configuration and what it was given, inside the sandbox.
    pub(crate) build: fn(&DeviceConfig, Resources) -> Result<Built, BuildError>,
}

/// Whether the guest sees registers of it.
pub(crate) enum Seen {
    /// It does: these. The broker asks this of the configuration, never of the process.
    ByGuest(fn(&DeviceConfig) -> Result<Visible, BuildError>),
    /// It does not.
    No,
}

/// What the broker has to know of a device.
pub(crate) struct Visible {
    /// Its registers, lines and PCI functions.
    pub(crate) declaration: Declaration,
    /// Bytes of the expansion ROM whose contents come as a descriptor, or 0.
    pub(crate) rom: u32,
    /// Where its video RAM is: guest frame and pages.
    pub(crate) video_ram: Option<(u64, u32)>,
    /// It is not there before its process is, and the guest may eject it.
    pub(crate) added: bool,
}

impl Visible {
    /// A device without ROM and video RAM, there from the start.
    pub(crate) fn new(declaration: Declaration) -> Self {
        Self { declaration, rom: 0, video_ram: None, added: false }
    }
}

/// The plan gives a role another's configuration: it is not to be started.
pub(crate) fn wrong(config: &DeviceConfig) -> BuildError {
    BuildError::Config(config.kind().role)
}
