//! Configuration of the devices.
#[cfg(doc)]
use super::FdUse;
use super::kind::{self, Kind, Starts};
use bulkhead_bus::nic::{NicLease, NicSettings};
use bulkhead_bus::{BootMenu, DiskGeometry, DiskIdentity, UsbDevice, WhenFull};
use serde::{Deserialize, Serialize};

/// Formats of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// The disk's bytes.
    Raw,
    /// QEMU's qcow2.
    Qcow2,
}

/// Which drive of a guest: a controller, and a port of it. With it a configuration, its descriptors and requests about it find
/// each other; the process of a controller serves the ports of that one only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveId {
    /// The controller: 0 is the PIIX3's IDE function.
    pub controller: u8,
    /// Its port. On the PIIX3: 0 primary master, 1 primary slave, 2 secondary master, 3 secondary slave.
    pub port: u8,
}

impl DriveId {
    /// The only drive of a PV disk's process.
    pub const PV: Self = Self { controller: 0, port: 0 };

    /// The drive at a port of the PIIX3's IDE function.
    pub fn ide(port: u8) -> Self {
        Self { controller: 0, port }
    }
}

/// One ATA or ATAPI drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriveConfig {
    /// Where it is.
    pub at: DriveId,
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
    /// What a disk says it is.
    pub identity: DiskIdentity,
    /// How a disk is addressed by cylinder, head and sector.
    pub geometry: Option<DiskGeometry>,
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
    /// A tap without it.
    Bare,
    /// A packet socket with it, which tells VLAN tags beside the frame.
    Packet,
    /// A stream socket with QEMU's framing.
    Stream,
}

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

/// A place of video RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoRam {
    /// Guest frame number of its first page.
    pub gfn: u64,
    /// Its bytes.
    pub bytes: u32,
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
        /// The firmware does not look for a floppy disk's signature.
        unsigned_floppy: bool,
        /// The emulated disks.
        disks: Vec<DiskGeometry>,
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
        /// The emulated disk with the same image.
        emulated: Option<DriveId>,
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
    /// What all devices of its role have in common.
    pub fn kind(&self) -> &'static Kind {
        match self {
            Self::Platform { .. } => &kind::PLATFORM,
            Self::Ide { .. } => &kind::IDE,
            Self::Vga { .. } => &kind::VGA,
            Self::Ps2 => &kind::PS2,
            Self::FwCfg { .. } => &kind::FWCFG,
            Self::Nic { model: NicModel::E1000, .. } => &kind::E1000,
            Self::Nic { model: NicModel::Rtl8139, .. } => &kind::RTL8139,
            Self::Serial { .. } => &kind::SERIAL,
            Self::Usb { .. } => &kind::USB,
            Self::Fbdev { .. } => &kind::FBDEV,
            Self::Vnc { .. } => &kind::VNC,
            Self::Vchan { .. } => &kind::VCHAN,
            Self::Xenbus { .. } => &kind::XENBUS,
            Self::Grant => &kind::GRANT,
            Self::Qdisk { .. } => &kind::QDISK,
            Self::Vkbd { .. } => &kind::VKBD,
            Self::Console { .. } => &kind::CONSOLE,
            Self::Vfb { .. } => &kind::VFB,
        }
    }

    /// When its process starts.
    pub fn starts(&self) -> Starts {
        match self {
            Self::Usb { added: true, .. } => Starts::WhenAdded,
            Self::Qdisk { emulated: Some(_), .. } => Starts::AtHandOff,
            _ => self.kind().starts,
        }
    }

    /// Where the video RAM is that it draws in; one for each kind with [`kind::Memory::VideoRam`].
    pub fn video_ram(&self) -> Option<VideoRam> {
        match self {
            Self::Vga { gfn, vram, .. } => Some(VideoRam { gfn: *gfn, bytes: *vram }),
            _ => None,
        }
    }

    /// Its name for people: the role, with a number where a guest may have several.
    pub fn name(&self) -> String {
        let role = self.kind().role;
        match self {
            Self::Serial { index, .. } => format!("{role}{index}"),
            Self::Nic { index, .. } => format!("nic{index}"),
            Self::Qdisk { devid, .. } | Self::Console { devid, .. } => format!("{role}{devid}"),
            Self::Platform { .. }
            | Self::Ide { .. }
            | Self::Vga { .. }
            | Self::Ps2
            | Self::FwCfg { .. }
            | Self::Usb { .. }
            | Self::Fbdev { .. }
            | Self::Vnc { .. }
            | Self::Vchan { .. }
            | Self::Xenbus { .. }
            | Self::Grant
            | Self::Vkbd { .. }
            | Self::Vfb { .. } => role.to_owned(),
        }
    }
}
