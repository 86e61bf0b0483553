//! What the launcher says on the sockets, and the packets of the vchan.
#[cfg(doc)]
use super::Ask;
use super::{FdUse, MachinePlan, Slot};
use serde::{Deserialize, Serialize};

/// What the launcher says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToProcess {
    /// Who you are; always first. Answer with [`Ask::Sealed`] when all areas are mapped and sealed.
    Start {
        /// Your slot.
        slot: Slot,
        /// The machine.
        plan: Box<MachinePlan>,
        /// What the descriptors of this message are for, in order.
        fds: Vec<FdUse>,
    },
    /// The peer's area. Enter the sandbox, answer with [`Ask::Ready`].
    Peer {
        /// What the descriptors of this message are for, in order.
        fds: Vec<FdUse>,
    },
    /// You have been looked at; begin.
    Go,
    /// For the broker: a channel for the device in `slot`; map and seal its request area, answer with [`Ask::Sealed`].
    NewChannel {
        /// The device.
        slot: Slot,
        /// What the descriptors of this message are for, in order.
        fds: Vec<FdUse>,
    },
    /// For the broker: the device in `slot` is ready; use the channel.
    Online {
        /// The device.
        slot: Slot,
        /// What the descriptors of this message are for: its reply area.
        fds: Vec<FdUse>,
    },
    /// For broker and control: the device in `slot` is dead; `reason` is for the log.
    Offline {
        /// The device.
        slot: Slot,
        /// It will be restarted.
        restart: bool,
        /// Why.
        reason: String,
    },
    /// For control: the machine runs; the logs are yours from now on.
    Running,
    /// Control has been restarted: serve this connection.
    Serve,
    /// For control: a connection to the process in `slot`, which is new.
    Client {
        /// The process.
        slot: Slot,
        /// Its pid in the launcher's namespace.
        pid: u32,
        /// The socket.
        fds: Vec<FdUse>,
    },
    /// For viewers: the display has been started again; the descriptor of this message is its new surface.
    Surface,
    /// The descriptor of this message is the one that a gRPC call will name by `token`.
    Token {
        /// The number.
        token: u32,
    },
    /// Answer to [`Ask::Processes`].
    Processes {
        /// Number of the request.
        serial: u32,
        /// The processes, the launcher first.
        rows: Vec<ProcessRow>,
    },
    /// Answer to [`Ask::Disks`]; a descriptor for each that control did not know yet.
    Disks {
        /// Number of the request.
        serial: u32,
        /// The CD drives' disks.
        disks: Vec<FrontDisk>,
    },
    /// Answer to [`Ask::Dropped`].
    Dropped {
        /// Number of the request.
        serial: u32,
        /// Names of the rules on the interface, frames that each has dropped.
        rules: Vec<(String, u64)>,
    },
    /// For control: the guest has unplugged the device in `slot`, and its process is gone.
    Unplugged {
        /// The device.
        slot: Slot,
    },
    /// Answer to a request of control: the token, or why not.
    Answer {
        /// Number of the request.
        serial: u32,
        /// Result.
        result: Result<u32, String>,
    },
}

/// A disk that a stub domain has as front end of a back end elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontDisk {
    /// xenbus' number of the device, by which libxl knows it.
    pub devid: u32,
    /// The kernel's number of this disk; one that comes in its place has another.
    pub diskseq: u64,
}

/// A process, as the launcher sees it in /proc.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRow {
    /// Its place: `ide`, `serial0`.
    pub name: String,
    /// In the launcher's namespace; 0 if it is dead.
    pub pid: u32,
    /// User outside of its namespace.
    pub uid: u32,
    /// Seccomp mode: 0 none, 2 a filter.
    pub seccomp: u8,
    /// System calls that its profile allows; none for the launcher.
    pub syscalls: Option<u32>,
    /// PR_SET_NO_NEW_PRIVS.
    pub no_new_privs: bool,
    /// It has any capability.
    pub capabilities: bool,
    /// Namespaces that are its own.
    pub namespaces: u8,
    /// Threads.
    pub threads: u32,
    /// Proportional set size, kB.
    pub pss_kb: u64,
    /// How often it was started again.
    pub restarts: u32,
}

/// First byte of a packet between the vchan's process and control. The second is the number of the client, which goes round: what was
/// said to an earlier one is not for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SessionPacket {
    /// A client has come; what an earlier one had is over.
    Begin = 1,
    /// Bytes of it, or for it, follow.
    Data = 2,
    /// It has gone.
    End = 3,
}

impl SessionPacket {
    /// Most bytes of a packet.
    pub const MAX: usize = 1026;
    /// Bytes of it before those that are carried.
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
