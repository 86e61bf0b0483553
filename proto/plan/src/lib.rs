//! What the launcher tells the processes that it starts, and what they may ask of it: the resource plane.
//!
//! One SEQPACKET socket per process. Launcher → process: [`ToProcess`], JSON, with descriptors. Process → launcher:
//! [`FromProcess`], fixed size, because the launcher parses nothing that a process has composed.
//!
//! | file | what |
//! |---|---|
//! | `kind.rs` | what is the same for all processes of a role |
//! | `config.rs` | what one device is configured with |
//! | `messages.rs` | what the launcher says |
//! | `ask.rs` | what a process says |
//! | `fd_use.rs` | descriptors that travel with messages |
mod ask;
mod config;
mod fd_use;
pub mod kind;
mod messages;

pub use ask::{Ask, Death, Ending, FromProcess};
pub use config::{DeviceConfig, DriveConfig, DriveId, ImageFormat, NicEnd, NicModel, PvNodes, VideoRam, VncAddress};
pub use fd_use::{FdUse, Sink};
pub use kind::{Input, KINDS, Kind, Memory, Picture, Starts};
pub use messages::{FrontDisk, ProcessRow, SessionPacket, ToProcess};

use serde::{Deserialize, Serialize};

/// Number of a process's place: 0 control, 1 broker, devices from 2. A restarted process has the slot of the dead one.
pub type Slot = u8;
/// Slot of control.
pub const CONTROL: Slot = 0;
/// Slot of the broker.
pub const BROKER: Slot = 1;
/// First slot of a device.
pub const FIRST_DEVICE: Slot = 2;

/// A device and its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSlot {
    /// Its slot.
    pub slot: Slot,
    /// For people: the role, with a number if there are several.
    pub name: String,
    /// What it is.
    pub config: DeviceConfig,
}

/// How the sandbox treats what the kernel lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Everything that the profiles name must be enforced; Landlock ABI 6 (Linux 6.12) with all scopes.
    Strict,
    /// What this kernel has; what it lacks is printed.
    Kernel,
}

/// What runs the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Real Xen.
    Xen,
    /// The simulated machine.
    Sim,
}

/// The machine, as every process is told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePlan {
    /// The guest's domid.
    pub domid: u16,
    /// Its name.
    pub name: String,
    /// vCPUs that it can have.
    pub vcpus: u16,
    /// vCPUs that it starts with.
    pub online: u16,
    /// What runs it.
    pub mode: Mode,
    /// The sandbox's level.
    pub level: Level,
    /// The devices.
    pub devices: Vec<DeviceSlot>,
    /// Other ends of serial ports and PV consoles: what QMP calls each, and which it is: `serial0`, `pty:/dev/pts/1`.
    pub chardevs: Vec<(String, String)>,
    /// The machine starts stopped (-S) and says `prelaunch`.
    pub stopped: bool,
    /// Where screenshots by name go; nowhere in a stub domain.
    pub dump_dir: Option<String>,
}
