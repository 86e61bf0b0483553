//! What is said on the sockets.
use super::{FdUse, MachinePlan, Slot};
#[cfg(doc)]
use crate::nic::NicSettings;
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

/// What a process asks; the discriminant is the first byte of [`FromProcess`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ask {
    /// Areas mapped and sealed. `arg`: for the broker the slot whose channel it is.
    Sealed = 1,
    /// In the sandbox.
    Ready = 2,
    /// Broker: the channel of slot `arg` is dead; `extra` is a [`Death`].
    ChannelDead = 3,
    /// Broker: video RAM is now at guest frame `extra`.
    VramAt = 4,
    /// Control: kill and restart slot `arg`.
    Restart = 5,
    /// Control: end the machine; `arg` 0 just end, 1 the guest is powered off, 2 rebooted.
    Stop = 6,
    /// Control: give the descriptor of this message to slot `arg`; the answer is a token.
    GiveFd = 7,
    /// Broker: the channel of slot `arg` is in use.
    Attached = 9,
    /// Control: make a file named `name` in the dump directory and give it to slot `arg`; the answer is a token.
    Dump = 8,
    /// Control: the process table.
    Processes = 10,
    /// Control: drive `extra` of slot `arg` has the medium of this message, or none any more; the answer is the token by which
    /// the process knows it.
    Medium = 11,
    /// Control, in a stub domain: the CDs that have come since the disk with number `extra`.
    Disks = 12,
    /// Control: the network card in slot `arg` has the settings in `name` ([`NicSettings::to_bytes`]) from now on, on its
    /// interface and in later lives.
    Nic = 13,
    /// Control: what the rules on the interface of the card in slot `arg` have dropped.
    Dropped = 14,
    /// Broker: the guest has unplugged the device in slot `arg`; its process ends now and is not started again. With `extra` not 0
    /// only what these bits of the protocol's mask mean: the disks of a controller, which no later life has.
    Unplugged = 15,
    /// Control: the device in slot `arg`, which is one that may be added, comes now; answered when the broker has it.
    Plug = 16,
    /// Broker: the guest has ejected the device in slot `arg`; its process ends now. It may be added again.
    Ejected = 17,
}

impl Ask {
    /// The request that `value` stands for.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Sealed,
            2 => Self::Ready,
            3 => Self::ChannelDead,
            4 => Self::VramAt,
            5 => Self::Restart,
            6 => Self::Stop,
            7 => Self::GiveFd,
            8 => Self::Dump,
            9 => Self::Attached,
            10 => Self::Processes,
            11 => Self::Medium,
            12 => Self::Disks,
            13 => Self::Nic,
            14 => Self::Dropped,
            15 => Self::Unplugged,
            16 => Self::Plug,
            17 => Self::Ejected,
            _ => return None,
        })
    }
}

/// Why the broker gave a device up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Death {
    /// It did not answer in time.
    Deadline = 1,
    /// It broke the protocol.
    Protocol = 2,
}

/// A message from a process: 80 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FromProcess {
    /// What is asked.
    pub ask: Ask,
    /// See [`Ask`].
    pub arg: u8,
    /// Number that an answer carries.
    pub serial: u32,
    /// See [`Ask`].
    pub extra: u64,
    /// A file name for [`Ask::Dump`], padded with zeroes; settings for [`Ask::Nic`].
    pub name: [u8; 64],
}

impl FromProcess {
    /// Bytes of the message.
    pub const LEN: usize = 80;

    /// A message without name.
    pub fn new(ask: Ask, arg: u8, extra: u64) -> Self {
        Self { ask, arg, serial: 0, extra, name: [0; 64] }
    }

    /// Encodes it.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let [ask, arg, _, _, serial @ ..] = &mut bytes;
        *ask = self.ask as u8;
        *arg = self.arg;
        let parts = self.serial.to_le_bytes().into_iter().chain(self.extra.to_le_bytes()).chain(self.name);
        for (to, from) in serial.iter_mut().zip(parts) {
            *to = from;
        }
        bytes
    }

    /// Decodes it. The sender may be hostile: `None` if it is not exactly such a message.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[ask, arg, _, _, s0, s1, s2, s3], rest) = bytes.split_first_chunk::<8>()?;
        let (extra, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            ask: Ask::from_u8(ask)?,
            arg,
            serial: u32::from_le_bytes([s0, s1, s2, s3]),
            extra: u64::from_le_bytes(*extra),
            name: rest.try_into().ok()?,
        })
    }
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
