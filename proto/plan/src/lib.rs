//! The resource plane: the launcher's messages to the processes that it starts, and their requests to it.
//!
//! One SEQPACKET socket per process. Launcher → process: [`ToProcess`], JSON, with descriptors. Process → launcher:
//! [`FromProcess`], fixed size, because the launcher parses nothing that a process has composed.
//!
//! | file | what |
//! |---|---|
//! | `kind.rs` | properties that all processes of a role share |
//! | `config.rs` | the configuration of one device |
//! | `messages.rs` | messages of the launcher |
//! | `ask.rs` | requests of a process |
//! | `fd_use.rs` | descriptors that travel with messages |
//! | `intake.rs` | questions about an image, and their answers |
//! | `promise.rs` | what a launcher has promised of its processes, for an operator's check |
//! | `pv_calls.rs` | calls of PV back ends to `xenbus` and `grant`, on sockets of their own |
mod ask;
mod config;
mod fd_use;
pub mod intake;
pub mod kind;
mod messages;
pub mod promise;
pub mod pv_calls;

pub use ask::{Ask, Death, Ending, FromProcess};
pub use config::{
    Caller, DeviceConfig, DriveConfig, DriveId, Facets, FacetsMut, ImageFormat, NicEnd, NicModel, PvNodes, VideoRam,
    VncAddress,
};
pub use fd_use::{FdUse, InputTarget};
pub use kind::{Input, KINDS, Kind, Memory, Picture, Starts};
pub use messages::{Activity, FrontDisk, ProcessRow, RequestRefused, SessionPacket, ToProcess};

use serde::{Deserialize, Serialize};

/// Number of a process's place: 0 control, 1 broker, devices from 2. A restarted process has the slot of the dead one.
pub type Slot = u8;
/// The slot of control.
pub const CONTROL: Slot = 0;
/// The slot of the broker.
pub const BROKER: Slot = 1;
/// The first slot of a device.
pub const FIRST_DEVICE: Slot = 2;

/// Most bytes of a guest's log file, so that a guest cannot fill dom0's disk (XSA-180). Each process has the same share of it.
pub const LOG_SIZE: u64 = 16 << 20;

/// A device and its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSlot {
    /// The slot of its process.
    pub slot: Slot,
    /// Its name in logs and on the command line: the role, with a number if there are several.
    pub name: String,
    /// The device's configuration.
    pub config: DeviceConfig,
}

/// What happens when the kernel lacks a layer of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Everything that the profiles name must be enforced; Landlock ABI 6 (Linux 6.12) with all scopes.
    Strict,
    /// All layers that this kernel has are enforced; the missing ones are printed.
    Kernel,
}

/// Whether the guest is real or simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A domain of real Xen.
    Xen,
    /// The simulated machine of the tests.
    Sim,
}

/// The machine's configuration, as every process receives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePlan {
    /// The guest's domid.
    pub domid: u16,
    /// The guest's name.
    pub name: String,
    /// Most vCPUs of the guest.
    pub vcpus: u16,
    /// vCPUs that the guest starts with.
    pub online: u16,
    /// Real or simulated.
    pub mode: Mode,
    /// How strictly the sandbox is enforced.
    pub level: Level,
    /// All device processes.
    pub devices: Vec<DeviceSlot>,
    /// Host ends of serial ports and PV consoles: QMP's label and the file name of each, as `serial0` and `pty:/dev/pts/1`.
    pub chardevs: Vec<(String, String)>,
    /// `stop` has come, and no `cont` after it: what starts now stands still.
    pub paused: bool,
    /// The machine starts stopped (-S), and QMP reports `prelaunch`. False once a `cont` or `stop` has come.
    pub stopped: bool,
    /// Nanoseconds by which the machine's clock is ahead of the host's, for a machine that was saved on another one.
    pub clock: i64,
    /// The host's boot (/proc/sys/kernel/random/boot_id), by which a saved machine's domain is known again; empty if it is not known.
    pub boot: String,
    /// The guest's directory for screenshots that QMP names; `None` in a stub domain and with dm_restrict.
    pub dump_dir: Option<String>,
    /// Bytes that the guest's log file had before the guest.
    pub log_begins: u64,
}
