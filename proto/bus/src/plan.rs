//! What the launcher tells the processes that it starts, and what they may ask of it: the resource plane.
//!
//! One SEQPACKET socket per process. Launcher → process: [`ToProcess`], JSON, with descriptors. Process → launcher:
//! [`FromProcess`], fixed size, because the launcher parses nothing that a process has composed.
use crate::nic::{NicLease, NicSettings};
use serde::{Deserialize, Serialize};

/// Number of a process's place: 0 control, 1 broker, devices from 2. A restarted process has the slot of the dead one.
pub type Slot = u8;
/// Slot of control.
pub const CONTROL: Slot = 0;
/// Slot of the broker.
pub const BROKER: Slot = 1;
/// First slot of a device.
pub const FIRST_DEVICE: Slot = 2;

/// Formats of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// The disk's bytes.
    Raw,
    /// QEMU's qcow2.
    Qcow2,
}

/// What becomes of a write that the host's storage has no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenFull {
    /// The guest is told that it failed.
    #[default]
    Report,
    /// It waits until there is room, and the guest with it.
    Stop,
}

/// One ATA or ATAPI drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveConfig {
    /// 0 primary master, 1 primary slave, 2 secondary master, 3 secondary slave.
    pub index: u8,
    /// A CD-ROM drive; otherwise a disk.
    pub cdrom: bool,
    /// No writes.
    pub read_only: bool,
    /// Bytes of the medium; `None`: no medium (CD only).
    pub size: Option<u64>,
    /// libxl's name for it, `ide-<devid>`, by which QMP changes its medium; QEMU's name of a disk, `ide0-hd0`.
    pub id: String,
    /// The medium's file as the arguments name it, for people.
    pub file: Option<String>,
    /// Formats of the medium and of what it is based on, in this order; the descriptors are [`FdUse::Drive`] and [`FdUse::Backing`].
    pub formats: Vec<ImageFormat>,
    /// What becomes of a write that the medium has no room for.
    pub full: WhenFull,
}

/// What is plugged into the USB controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsbDevice {
    /// A pointer that knows its place.
    Tablet,
    /// A pointer that knows its movement.
    Mouse,
    /// A keyboard.
    Keyboard,
}

impl UsbDevice {
    /// What QEMU calls a device of this kind.
    pub fn of_driver(driver: &str) -> Option<Self> {
        match driver {
            "usb-tablet" => Some(Self::Tablet),
            "usb-mouse" => Some(Self::Mouse),
            "usb-kbd" => Some(Self::Keyboard),
            _ => None,
        }
    }
}

/// Models of network cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// Intel 82540EM.
    E1000,
    /// Realtek RTL8139C+.
    Rtl8139,
}

/// What a network card's descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicEnd {
    /// A tap with virtio_net_hdr.
    Tap,
    /// A packet socket with it, which tells VLAN tags beside the frame.
    Packet,
    /// A stream socket with QEMU's framing.
    Stream,
}

/// What the firmware does before and after it tries to boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMenu {
    /// It shows its menu.
    pub shown: bool,
    /// Milliseconds that it waits there.
    pub wait: Option<u16>,
    /// Milliseconds after which a boot that failed is tried again.
    pub retry: Option<u32>,
}

/// Keyboard layouts that viewers' characters can be looked up in; the first is what is taken when nobody says.
pub const LAYOUTS: [&str; 7] = ["en-us", "en-gb", "de", "fr", "es", "it", "sv"];

/// The directories of a PV device in xenstore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvNodes {
    /// The back end's.
    pub back: String,
    /// The guest's.
    pub front: String,
}

/// Where viewers connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VncAddress {
    /// A TCP port.
    Tcp {
        /// The address that was asked for.
        host: String,
        /// The port.
        port: u16,
        /// It is one of IPv6.
        ipv6: bool,
    },
    /// A Unix socket.
    Unix(String),
}

/// Configuration of one device process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceConfig {
    /// The board.
    Platform {
        /// Highest vCPU number + 1, for CMOS 0x5f.
        vcpus: u16,
        /// vCPUs that are there from the start.
        online: u16,
        /// The xen-platform device is there (xen_platform_pci=1).
        xen_platform: bool,
        /// Boot order in QEMU's letters, at most three.
        boot: String,
        /// PIIX4's configuration space tells that COM1 exists.
        serial: bool,
        /// The guest may unplug its emulated disks: a PV back end serves them.
        unplug: bool,
    },
    /// PIIX3's IDE function.
    Ide {
        /// The drives.
        drives: Vec<DriveConfig>,
    },
    /// Standard VGA.
    Vga {
        /// Device number on bus 0.
        device: u8,
        /// Bytes of video RAM.
        vram: u32,
        /// Guest frame number where video RAM is now.
        gfn: u64,
        /// Bytes of the expansion ROM, a power of two.
        rom: u32,
    },
    /// Keyboard and mouse controller.
    Ps2,
    /// fw_cfg: a kernel to boot, settings of the firmware's menu.
    FwCfg {
        /// vCPUs that can be.
        vcpus: u16,
        /// vCPUs that the guest starts with.
        online: u16,
        /// RAM in MiB.
        memory_mib: u64,
        /// The firmware's menu.
        menu: BootMenu,
        /// Bytes of the kernel, if there is one.
        kernel: Option<u64>,
        /// Bytes of the ramdisk, if there is one.
        initrd: Option<u64>,
        /// The kernel's command line.
        command_line: String,
    },
    /// A network card.
    Nic {
        /// Which.
        model: NicModel,
        /// 0 for the first network card.
        index: u8,
        /// Device number on bus 0.
        device: u8,
        /// Its address.
        mac: [u8; 6],
        /// Bytes of the expansion ROM, a power of two, or 0.
        rom: u32,
        /// What its other end is.
        end: NicEnd,
        /// What the guest is told when it asks by DHCP; otherwise its question goes out.
        lease: Option<NicLease>,
        /// The cable, and what may go out; what is set while the guest runs is set here too, for later lives.
        settings: NicSettings,
    },
    /// The PIIX3's USB function, there or elsewhere.
    Usb {
        /// What is plugged in, at most two.
        devices: Vec<UsbDevice>,
        /// Device number on bus 0.
        device: u8,
        /// Its function.
        function: u8,
        /// It is not there until `device_add` asks for it, and the guest may eject it.
        added: bool,
    },
    /// A serial port.
    Serial {
        /// 0 = COM1.
        index: u8,
        /// Its descriptor is a socket that listens.
        listens: bool,
    },
    /// The picture on a Linux frame buffer, keys and pointer from evdev. The guest sees nothing of it.
    Fbdev {
        /// Places of the pointer come as 0 to 0x7fff over the whole screen, not as pixels.
        spread: bool,
    },
    /// The picture for viewers that connect by RFB (VNC), keys and pointer from them. The guest sees nothing of it.
    Vnc {
        /// The guest's name, for viewers' titles.
        name: String,
        /// Where it listens.
        at: VncAddress,
        /// Viewers are asked for a password; none is right until one is set.
        password: bool,
        /// Keyboard layout by which keys are found for viewers that tell characters only.
        layout: String,
    },
    /// Holds the connection to xenstored for the back ends of PV devices.
    Xenbus {
        /// Each back end's two directories, in the order of the descriptors.
        devices: Vec<PvNodes>,
    },
    /// Holds the devices of granted pages for the back ends of PV devices, one for each in the order of the descriptors.
    Grant,
    /// The back end of a PV disk.
    Qdisk {
        /// xenbus' number of the device.
        devid: u32,
        /// The disk; without a size until the guest has unplugged the emulated disk with the same image.
        disk: DriveConfig,
        /// The emulated disk with the same image: its index on the IDE controller.
        emulated: Option<u8>,
        /// Sectors that the guest does not need may be given back.
        discard: bool,
    },
    /// The back end of a PV keyboard and pointer.
    Vkbd {
        /// xenbus' number of the device.
        devid: u32,
    },
    /// The back end of a PV console.
    Console {
        /// xenbus' number of the device, 0 for a domain's first one.
        devid: u32,
        /// Its descriptor is a socket that listens.
        listens: bool,
    },
    /// The back end of a PV frame buffer.
    Vfb {
        /// xenbus' number of the device.
        devid: u32,
    },
    /// QMP over a vchan. The guest sees nothing of it.
    Vchan {
        /// Local port of its event channel.
        port: u32,
    },
}

impl DeviceConfig {
    /// Whether the guest sees anything of it. What it does not see lives by the host's clock, in the simulated machine too.
    pub fn seen(&self) -> bool {
        !matches!(self, Self::Fbdev { .. } | Self::Vnc { .. } | Self::Vchan { .. } | Self::Xenbus { .. } | Self::Grant | Self::Qdisk { .. } | Self::Vkbd { .. } | Self::Console { .. } | Self::Vfb { .. })
    }

    /// The process's name: its profile, its name in logs.
    pub fn role(&self) -> &'static str {
        match self {
            Self::Platform { .. } => "platform",
            Self::Ide { .. } => "ide",
            Self::Vga { .. } => "vga",
            Self::Ps2 => "ps2",
            Self::FwCfg { .. } => "fwcfg",
            Self::Nic { model: NicModel::E1000, .. } => "e1000",
            Self::Nic { model: NicModel::Rtl8139, .. } => "rtl8139",
            Self::Serial { .. } => "serial",
            Self::Usb { .. } => "usb",
            Self::Fbdev { .. } => "fbdev",
            Self::Vnc { .. } => "vnc",
            Self::Vchan { .. } => "vchan",
            Self::Xenbus { .. } => "xenbus",
            Self::Grant => "grant",
            Self::Qdisk { .. } => "qdisk",
            Self::Vkbd { .. } => "vkbd",
            Self::Console { .. } => "console",
            Self::Vfb { .. } => "vfb",
        }
    }
}

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

/// What a descriptor is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FdUse {
    /// gRPC: the process serves it; control is the client of the slot named.
    Control(Slot),
    /// The area that the receiver writes.
    OwnArea,
    /// The area that the peer writes.
    PeerArea,
    /// The reply area of the slot's former life, with its last state.
    OldArea,
    /// Doorbell: broker → device.
    RequestBell,
    /// Doorbell: device → broker.
    ReplyBell,
    /// privcmd, restricted to the domain.
    Privcmd,
    /// Event channels, restricted to the domain.
    Evtchn,
    /// The simulated machine: ioreq page, kick, trace socket, guest memory.
    SimIoreq,
    /// See `SimIoreq`.
    SimKick,
    /// See `SimIoreq`.
    SimTrace,
    /// Guest memory of the simulated machine, or video RAM of it.
    SimMemory,
    /// Video RAM of the simulated machine.
    SimVram,
    /// The drive with this index has this medium.
    Drive(u8),
    /// The kernel to boot.
    Kernel,
    /// Its ramdisk.
    Initrd,
    /// What the drive's medium is based on: the drive's index, 1 for the first image below.
    Backing(u8, u8),
    /// A serial port's other end.
    Serial,
    /// A network card's other end.
    Net,
    /// Expansion ROM of the device in the slot named.
    Rom(Slot),
    /// The surface, for the display that draws it.
    Surface,
    /// The surface, for who looks at it.
    SurfaceView,
    /// Doorbell: viewer → display, a picture is wanted.
    FrameBell,
    /// A pipe of [`InputEvent`] records: the write end has who makes input, the read end who takes it.
    Input,
    /// The write end of a pipe of [`InputEvent`] records to USB devices, for who makes input.
    UsbInput,
    /// A pipe of bytes from the USB controller to viewers: which input the guest takes there, bit 0 places, 1 keys, 2 movement.
    UsbTakes,
    /// The same as [`FdUse::UsbInput`] for the PV keyboard.
    PvInput,
    /// The same as [`FdUse::UsbTakes`] for the PV keyboard.
    PvTakes,
    /// The same as [`FdUse::PvInput`] for the PV keyboard of a stub domain's guest.
    GuestInput,
    /// The same as [`FdUse::PvTakes`] for that.
    GuestTakes,
    /// A pipe of records of two 16-bit numbers, from viewers to the display: the size that they wish for.
    Wishes,
    /// A pipe of bytes from a keyboard to viewers: which of its lights shine, bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    Leds,
    /// A socket that listens for viewers.
    Viewers,
    /// privcmd restricted to the domain, for a back end that maps frames which the domain names.
    Frames,
    /// A connection to xenstored, for `xenbus`.
    Xenstore,
    /// A back end's end of its socket to `xenbus`, or there the other end of the back end with this number.
    Nodes(u8),
    /// A back end's end of its socket to `grant`, or there the other end of the back end with this number.
    Grants(u8),
    /// A device of granted pages: for `grant` that of the back end with this number, for a back end (0) the same, to map.
    Gntdev(u8),
    /// The buffer that `grant` copies to and from, of the back end with this number (0 in a back end), if it has one.
    GrantBuffer(u8),
    /// A Linux frame buffer.
    Screen,
    /// An evdev node.
    Events,
    /// Where the machine's state goes when it is saved: libxl's descriptor set 1 in a stub domain.
    SaveStream,
    /// The page of a vchan.
    VchanPage,
    /// QMP sessions between the vchan and control: [`SessionPacket`]s.
    Sessions,
    /// A QMP socket that listens.
    QmpListen,
    /// The read end of the log pipe of the slot named.
    Log(Slot),
    /// Where the guest's log goes.
    LogFile,
}

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

/// An input event, in terms of evdev (linux/input-event-codes.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputEvent {
    /// A key: its evdev code, pressed or not.
    Key {
        /// KEY_*.
        code: u16,
        /// Pressed.
        down: bool,
    },
    /// Relative movement.
    Move {
        /// To the right.
        dx: i32,
        /// Down.
        dy: i32,
        /// Wheel, towards the user positive.
        dz: i32,
    },
    /// A place on the screen, of a pointer that knows it.
    At {
        /// 0 left to 0x7fff right.
        x: u16,
        /// 0 above to 0x7fff below.
        y: u16,
    },
    /// A mouse button: 0 left, 1 right, 2 middle, 3 and 4 at the side.
    Button {
        /// Which.
        button: u8,
        /// Pressed.
        down: bool,
    },
}

impl InputEvent {
    /// Bytes of a record.
    pub const LEN: usize = 8;

    /// As it travels from who makes input to who takes it. Movement is cut to 16 bits.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let short = |v: i32| v.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16;
        let (kind, flag, [x, y, z]) = match self {
            Self::Key { code, down } => (1, down, [code.to_le_bytes(), [0; 2], [0; 2]]),
            Self::Move { dx, dy, dz } => (2, false, [dx, dy, dz].map(|v| short(v).to_le_bytes())),
            Self::Button { button, down } => (3, down, [[button, 0], [0; 2], [0; 2]]),
            Self::At { x, y } => (4, false, [x.to_le_bytes(), y.to_le_bytes(), [0; 2]]),
        };
        let ([x0, x1], [y0, y1], [z0, z1]) = (x, y, z);
        [kind, u8::from(flag), x0, x1, y0, y1, z0, z1]
    }

    /// Decodes a record. Who made it may be hostile: `None` if it is none.
    pub fn from_bytes(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [kind, flag, x0, x1, y0, y1, z0, z1] = bytes;
        let short = |low, high| i32::from(i16::from_le_bytes([low, high]));
        Some(match (kind, flag) {
            (1, 0 | 1) => Self::Key { code: u16::from_le_bytes([x0, x1]), down: flag == 1 },
            (2, 0) => Self::Move { dx: short(x0, x1), dy: short(y0, y1), dz: short(z0, z1) },
            (3, 0 | 1) => Self::Button { button: x0, down: flag == 1 },
            (4, 0) => Self::At { x: u16::from_le_bytes([x0, x1]).min(0x7fff), y: u16::from_le_bytes([y0, y1]).min(0x7fff) },
            _ => return None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn input_records_come_back(kind in 0u8..3, code: u16, down: bool, x: i16, y: i16, z: i16) {
            let (dx, dy, dz) = (i32::from(x), i32::from(y), i32::from(z));
            let event = match kind {
                0 => InputEvent::Key { code, down },
                1 => InputEvent::Move { dx, dy, dz },
                _ => InputEvent::Button { button: code as u8, down },
            };
            prop_assert_eq!(InputEvent::from_bytes(event.to_bytes()), Some(event));
        }

        #[test]
        fn any_record_is_an_event_or_none(bytes: [u8; 8]) {
            if let Some(event) = InputEvent::from_bytes(bytes) {
                prop_assert_eq!(InputEvent::from_bytes(event.to_bytes()), Some(event));
            }
        }

        #[test]
        fn only_whole_messages_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let message = FromProcess::from_bytes(&bytes);
            prop_assert_eq!(message.is_some(), bytes.len() == FromProcess::LEN && (1..=17).contains(&bytes[0]));
            if let Some(message) = message {
                prop_assert_eq!(FromProcess::from_bytes(&message.to_bytes()), Some(message));
            }
        }
    }
}
