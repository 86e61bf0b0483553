//! The launcher's messages to processes, and the packets between the vchan's process and control.
#[cfg(doc)]
use super::Ask;
use super::intake::Question;
use super::{FdUse, Level, MachinePlan, Slot};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A message of the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToProcess {
    /// Always first. The process answers with [`Ask::Sealed`], the broker with [`Ask::ChannelSealed`], when all its areas are
    /// mapped and sealed.
    Start {
        /// The receiver's slot.
        slot: Slot,
        /// The machine's configuration.
        plan: Box<MachinePlan>,
        /// The uses of this message's descriptors, in their order.
        fds: Vec<FdUse>,
    },
    /// For `intake`, always first. The process enters the sandbox and answers with [`Ask::Ready`].
    Intake {
        /// How strictly the sandbox is enforced.
        level: Level,
    },
    /// For `intake`: the image of this message's descriptor. The process answers with an [`Answer`](crate::intake::Answer).
    Image {
        /// The question to answer.
        question: Question,
    },
    /// The peer's area. The process enters the sandbox and answers with [`Ask::Ready`].
    Peer {
        /// The uses of this message's descriptors, in their order.
        fds: Vec<FdUse>,
    },
    /// The launcher has verified the sandbox in /proc; the process begins its work.
    Go,
    /// For the broker: a channel for the device in `slot`. The broker maps and seals its request area and answers with
    /// [`Ask::ChannelSealed`].
    NewChannel {
        /// The device.
        slot: Slot,
        /// The uses of this message's descriptors, in their order.
        fds: Vec<FdUse>,
    },
    /// For the broker: the device in `slot` is ready, and its channel may be used.
    Online {
        /// The device.
        slot: Slot,
        /// The use of this message's descriptor: the device's reply area.
        fds: Vec<FdUse>,
    },
    /// For the broker and control: the device in `slot` is dead.
    Offline {
        /// The device.
        slot: Slot,
        /// The launcher will start it again.
        restart: bool,
        /// The reason, for the log and QMP's event.
        reason: String,
    },
    /// For control: the machine runs, and control copies the logs from now on.
    Running,
    /// Control has been restarted; the process serves the connection of this message.
    Serve,
    /// For control: a connection to the new process in `slot`.
    Client {
        /// The process.
        slot: Slot,
        /// The process's pid in the launcher's namespace.
        pid: u32,
        /// The use of this message's descriptor: the connection.
        fds: Vec<FdUse>,
    },
    /// For viewers: the display has been restarted; the descriptor of this message is its new surface.
    Surface,
    /// For `xenbus` and `grant`: a back end has a new process, and the last one is dead. The descriptor of this message is the
    /// socket to the new one ([`FdUse::Nodes`], [`FdUse::Grants`]). Only this message begins what a back end may use anew.
    Life {
        /// The back end's number in the receiver.
        caller: u8,
    },
    /// The descriptor of this message; a gRPC call names it by `token`.
    Token {
        /// A number that the launcher chooses, unique until it wraps.
        token: u32,
    },
    /// Answer to [`Ask::Processes`].
    Processes {
        /// The request's number.
        serial: u32,
        /// A row for each process, the launcher's first.
        rows: Vec<ProcessRow>,
    },
    /// Answer to [`Ask::Disks`], with a descriptor for each disk that control did not know yet.
    Disks {
        /// The request's number.
        serial: u32,
        /// The disks of the CD drives, oldest first.
        disks: Vec<FrontDisk>,
    },
    /// Answer to [`Ask::Dropped`].
    Dropped {
        /// The request's number.
        serial: u32,
        /// Each rule on the interface: its name, and the frames that it has dropped.
        rules: Vec<(String, u64)>,
    },
    /// For control: the guest has unplugged the device in `slot`, and its process has ended.
    Unplugged {
        /// The device.
        slot: Slot,
    },
    /// Answer to other requests of control.
    Answer {
        /// The request's number.
        serial: u32,
        /// The token if the request has one, else 0; or why the launcher refuses.
        result: Result<u32, RequestRefused>,
    },
}

/// Why the launcher refuses a request. Control does not interpret the reason: it reports the text to its QMP client.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("{0}")]
#[serde(transparent)]
pub struct RequestRefused(pub String);

/// A disk of a stub domain whose PV back end is in another domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontDisk {
    /// xenbus' number of the device; libxl uses the same.
    pub devid: u32,
    /// The kernel's number of this disk (`diskseq`); a disk that replaces it has another number.
    pub diskseq: u64,
}

/// A process, as the launcher sees it in /proc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// The process's name: `ide`, `serial0`.
    pub name: String,
    /// The pid in the launcher's namespace; 0 if the process is dead.
    pub pid: u32,
    /// The user outside of the process's user namespace.
    pub uid: u32,
    /// Seccomp mode in /proc: 0 none, 2 a filter.
    pub seccomp: u8,
    /// Number of system calls that its profile allows; `None` for the launcher.
    pub syscalls: Option<u32>,
    /// Whether PR_SET_NO_NEW_PRIVS is set.
    pub no_new_privs: bool,
    /// Whether it has any capability.
    pub capabilities: bool,
    /// Number of namespaces that it does not share with the process that has read the row, at most 7.
    pub namespaces: u8,
    /// Number of threads.
    pub threads: u32,
    /// Proportional set size in kB.
    pub pss_kb: u64,
    /// Number of restarts.
    pub restarts: u32,
}

/// What a process has done since it started. Control passes it to programs as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Register accesses that it has answered; `None` for the broker.
    pub accesses: Option<u64>,
    /// Writes for which the guest does not wait.
    pub posted: u64,
    /// Returns from waiting for events.
    pub wakeups: u64,
    /// Eventfd writes that tell the broker of an answer or an interrupt; `None` for the broker.
    pub doorbells: Option<u64>,
}

/// First byte of a packet between the vchan's process and control. The second byte is the client's number, which wraps; by it,
/// bytes for an earlier client are kept from the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionPacket {
    /// A client has connected; the session of an earlier one is over.
    Begin = 1,
    /// Bytes from or for the client follow.
    Data = 2,
    /// The client has disconnected.
    End = 3,
}

impl SessionPacket {
    /// Most bytes of a packet.
    pub const MAX: usize = 1026;
    /// Bytes of the packet's head.
    pub const HEAD: usize = 2;

    /// The kind that `value` stands for.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Begin,
            2 => Self::Data,
            3 => Self::End,
            _ => return None,
        })
    }
}
