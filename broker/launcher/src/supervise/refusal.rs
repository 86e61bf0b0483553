//! Why a request of control's is refused. It is turned into text once, where the answer is made.
use super::dumps::{MOST_BYTES, MOST_FILES};
use crate::failure::Failure;
use crate::machine::nics::missing_modules;
use bulkhead_plan::DriveId;
use std::io;

/// Why a request of control's is refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// The slot is empty, or is control's or the broker's.
    #[error("there is no such device")]
    NoDevice,
    /// The process is being restarted, or the device waits for its start.
    #[error("it has no process now")]
    NoProcess,
    /// The device's process is not restarted any more.
    #[error("it has died too often and stays dead")]
    Dead,
    /// A descriptor can be handed only to a device that runs.
    #[error("that process does not run")]
    NotRunning,
    /// Control has sent the request alone.
    #[error("no descriptor came with the request")]
    NoDescriptor,
    /// The port has no drive, or a disk.
    #[error("there is no CD drive at port {} of controller {}", .0.port, .0.controller)]
    NoCdDrive(DriveId),
    /// The disks are found by their nodes.
    #[error("xenstored does not answer")]
    XenstoreSilent,
    /// Another process has an image's lock.
    #[error("{name}: the disk image is locked by another process")]
    Locked {
        /// The device's name in logs.
        name: String,
    },
    /// The guest may write its images.
    #[error("the machine runs: it keeps the locks of its images")]
    Runs,
    /// The size of a new medium cannot be found out.
    #[error("the medium: {0}")]
    Medium(#[source] io::Error),
    /// Bytes that are no settings of a network card.
    #[error("settings of a network card")]
    NicSettings,
    /// The slot is empty, or the guest has unplugged its card.
    #[error("there is no such network card")]
    NoNic,
    /// The slot has another device.
    #[error("this is no network card")]
    NotANic,
    /// The launcher may not change interfaces any more.
    #[error("{card}: dm_restrict has taken the right to change rules on an interface away; nothing was changed")]
    Restricted {
        /// The card's name: `nic0`.
        card: String,
    },
    /// The kernel refuses the rules on a card's interface.
    #[error("rules on the interface of {card}: {source}{}", missing_modules(.source))]
    Rules {
        /// The card's name: `nic0`.
        card: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// Only the USB controller can be added.
    #[error("this is no device that may be added")]
    NotHotPluggable,
    /// Control and the guest have added and ejected it in turn.
    #[error("it has come and gone too often within a minute")]
    HotPlugTooOften,
    /// The process of its earlier life has not exited yet.
    #[error("it is just being ejected")]
    BeingEjected,
    /// The guest has it.
    #[error("it is there already")]
    Present,
    /// Its process cannot be started.
    #[error(transparent)]
    Start(Failure),
    /// Its process has died again and again while it was added.
    #[error("{name}: died too often")]
    DiedTooOften {
        /// The device's name in logs.
        name: String,
    },
    /// A dump's name could lead out of the directory.
    #[error("a file name of letters, digits, '.', '-' and '_'")]
    DumpName,
    /// A stub domain has no files, and with dm_restrict none can be made.
    #[error("no file can be made for pictures here; x-bulkhead-screenshot answers with the picture")]
    NoDumps,
    /// A process can still write the last dump.
    #[error("the last picture is not complete; if it stays so, restart the display (bulkhead restart)")]
    DumpUnfinished,
    /// The guest has as many dumps as it may have.
    #[error("{directory} is full (at most {MOST_FILES} files, {} MiB): remove pictures there", MOST_BYTES >> 20)]
    DumpsFull {
        /// The guest's directory.
        directory: String,
    },
    /// A dump's file cannot be made.
    #[error("{path}: {source}")]
    Dump {
        /// The file or its directory.
        path: String,
        /// The kernel's error.
        source: io::Error,
    },
}
