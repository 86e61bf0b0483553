//! Configuration of the devices.
#[cfg(doc)]
use super::FdUse;
use super::kind::{self, Kind, Starts};
use bulkhead_bus::nic::{NicLease, NicSettings};
use bulkhead_bus::pv::Means;
use bulkhead_bus::{BootMenu, DiskGeometry, DiskIdentity, UsbDevice, WhenFull};
use serde::{Deserialize, Serialize};

/// Format of a disk image.
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
    /// The guest may not write to the medium.
    pub read_only: bool,
    /// Bytes of the medium; `None` without a medium (CD only).
    pub size: Option<u64>,
    /// The drive's name in QMP: libxl's `ide-<devid>` for a drive whose medium changes, QEMU's `ide0-hd0` for a disk.
    pub id: String,
    /// The medium's file as the arguments name it; only reported in QMP's answers.
    pub file: Option<String>,
    /// Formats of the medium and of its backing files, in this order; the descriptors are [`FdUse::Drive`] and [`FdUse::Backing`].
    pub formats: Vec<ImageFormat>,
    /// Most bytes that the medium's file may come to have, for [`DeviceConfig::file_size`]: 0 for a block device and for a medium that
    /// is not written.
    pub grows_to: u64,
    /// How a write fails when the host's storage is full.
    pub full: WhenFull,
    /// Serial number, firmware version and model that a disk reports.
    pub identity: DiskIdentity,
    /// Cylinders, heads and sectors of a disk, if the launcher knows them.
    pub geometry: Option<DiskGeometry>,
}

/// The emulated part of a network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicModel {
    /// Intel 82540EM.
    E1000,
    /// Realtek RTL8139C+.
    Rtl8139,
}

/// The kind of a network card's descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NicEnd {
    /// A tap whose frames begin with a virtio_net_hdr.
    Tap,
    /// A tap without that header.
    Bare,
    /// A packet socket with that header; it reports VLAN tags beside the frame.
    Packet,
    /// A stream socket with QEMU's framing.
    Stream,
}

/// A back end that `xenbus` or `grant` serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller<T> {
    /// Its number in that process, as in [`FdUse::Nodes`] and [`FdUse::Grants`].
    pub number: u8,
    /// Its role, which determines what it may use ([`kind::Kind::back_end`]).
    pub role: String,
    /// What that process needs to know of it.
    pub about: T,
}

impl<T> Caller<T> {
    /// What it may use; `None` if its role is no back end.
    pub fn means(&self) -> Option<&'static Means> {
        kind::of_role(&self.role)?.back_end
    }
}

/// The directories of a PV device in xenstore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PvNodes {
    /// The back end's directory.
    pub back: String,
    /// The front end's directory.
    pub front: String,
}

/// The address on which the VNC server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VncAddress {
    /// A TCP port.
    Tcp {
        /// The host name or address of the arguments.
        host: String,
        /// The port on which it listens.
        port: u16,
        /// The socket is an IPv6 socket.
        ipv6: bool,
    },
    /// A Unix socket's path.
    Unix(String),
}

/// Where video RAM is in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoRam {
    /// Guest frame number of its first page.
    pub gfn: u64,
    /// Bytes of video RAM.
    pub bytes: u32,
}

/// Configuration of one device process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceConfig {
    /// The board's own registers: chipset, CMOS, power management.
    Platform {
        /// Highest vCPU number + 1, for CMOS 0x5f.
        vcpus: u16,
        /// vCPUs that are plugged in when the guest starts.
        online: u16,
        /// The guest has the xen-platform device (xen_platform_pci=1).
        xen_platform: bool,
        /// Boot order in QEMU's letters, at most three.
        boot: String,
        /// The firmware boots a floppy disk without checking its signature.
        unsigned_floppy: bool,
        /// Geometries of the emulated disks, for CMOS.
        disks: Vec<DiskGeometry>,
        /// PIIX4's configuration space reports a COM1.
        serial: bool,
        /// The guest may unplug its emulated disks: a PV back end serves them.
        unplug: bool,
    },
    /// PIIX3's IDE function.
    Ide {
        /// The drives of both channels.
        drives: Vec<DriveConfig>,
    },
    /// Standard VGA.
    Vga {
        /// Device number on bus 0.
        device: u8,
        /// Bytes of video RAM.
        vram: u32,
        /// Guest frame number of video RAM when the process starts.
        gfn: u64,
        /// Bytes of the expansion ROM, a power of two.
        rom: u32,
    },
    /// Keyboard and mouse controller.
    Ps2,
    /// fw_cfg: a kernel to boot, settings of the firmware's menu.
    FwCfg {
        /// Most vCPUs of the guest.
        vcpus: u16,
        /// vCPUs that the guest starts with.
        online: u16,
        /// The guest's RAM in MiB.
        memory_mib: u64,
        /// Settings of the firmware's boot menu.
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
        /// The emulated part.
        model: NicModel,
        /// 0 for the first network card.
        index: u8,
        /// Device number on bus 0.
        device: u8,
        /// The card's hardware address.
        mac: [u8; 6],
        /// Bytes of the expansion ROM, a power of two, or 0.
        rom: u32,
        /// The kind of the descriptor that carries its frames.
        end: NicEnd,
        /// The card's own answer to the guest's DHCP requests; without it they are sent like other frames.
        lease: Option<NicLease>,
        /// Link state and rules for sent frames. Changes at run time are stored here too, for restarts of the process.
        settings: NicSettings,
    },
    /// The PIIX3's USB function, in PIIX3 or at another place on bus 0.
    Usb {
        /// USB devices that are plugged in at the start, at most two.
        devices: Vec<UsbDevice>,
        /// Device number on bus 0.
        device: u8,
        /// Function number of that device.
        function: u8,
        /// The function appears only when QMP's `device_add` asks for it, and the guest may eject it.
        added: bool,
    },
    /// A serial port.
    Serial {
        /// 0 = COM1.
        index: u8,
        /// Its descriptor is a listening socket.
        listens: bool,
        /// Its descriptor is a file ([`FdUse::Serial`], with [`FdUse::SerialEarlier`]) that may have so many bytes.
        limit: Option<u64>,
    },
    /// The picture on a Linux frame buffer, keys and pointer from evdev. The guest sees nothing of it.
    Fbdev {
        /// The kernel reports absolute pointer positions as 0 to 0x7fff over the whole screen, not as pixels.
        spread: bool,
    },
    /// The picture for viewers that connect by RFB (VNC), keys and pointer from them. The guest sees nothing of it.
    Vnc {
        /// The guest's name, for viewers' titles.
        name: String,
        /// The address on which it listens.
        at: VncAddress,
        /// Viewers need a password; all are refused until QMP sets one.
        password: bool,
        /// Keyboard layout for viewers that send characters without scancodes.
        layout: String,
    },
    /// Holds the connection to xenstored for the back ends of PV devices.
    Xenbus {
        /// The back ends and their directories.
        callers: Vec<Caller<PvNodes>>,
    },
    /// Holds the devices of granted pages for the back ends of PV devices.
    Grant {
        /// The back ends that have a grant device.
        callers: Vec<Caller<()>>,
    },
    /// The back end of a PV disk.
    Qdisk {
        /// xenbus' number of the device.
        devid: u32,
        /// The disk; it has no size until the guest has unplugged the emulated disk with the same image.
        disk: DriveConfig,
        /// The emulated disk with the same image.
        emulated: Option<DriveId>,
        /// The guest may discard sectors.
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
        /// Its descriptor is a listening socket.
        listens: bool,
        /// As in [`DeviceConfig::Serial`].
        limit: Option<u64>,
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

/// Properties that only some devices have. Other code asks for them here, and names no device.
#[derive(Clone, Copy, Debug)]
pub struct Facets<'a> {
    /// Emulated drives: of a disk controller.
    pub drives: &'a [DriveConfig],
    /// Cable and rules: of a network card.
    pub nic: Option<&'a NicSettings>,
    /// Device number on bus 0: of a USB controller.
    pub usb: Option<u8>,
    /// Of each kind with [`kind::Memory::VideoRam`].
    pub video_ram: Option<VideoRam>,
    /// The event that starts its process, if it is not its kind's.
    pub starts: Option<Starts>,
}

/// [`Facets`] that change while the machine runs.
#[derive(Debug)]
pub struct FacetsMut<'a> {
    /// Emulated drives.
    pub drives: &'a mut [DriveConfig],
    /// Cable and rules of a network card.
    pub nic: Option<&'a mut NicSettings>,
    /// Guest frame number of the first page of video RAM.
    pub video_ram_gfn: Option<&'a mut u64>,
}

impl DeviceConfig {
    /// The properties that all devices of its role share.
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
            Self::Grant { .. } => &kind::GRANT,
            Self::Qdisk { .. } => &kind::QDISK,
            Self::Vkbd { .. } => &kind::VKBD,
            Self::Console { .. } => &kind::CONSOLE,
            Self::Vfb { .. } => &kind::VFB,
        }
    }

    /// Its properties that only some devices have.
    pub fn facets(&self) -> Facets<'_> {
        let none = Facets { drives: &[], nic: None, usb: None, video_ram: None, starts: None };
        match self {
            Self::Ide { drives } => Facets { drives, ..none },
            Self::Vga { gfn, vram, .. } => Facets { video_ram: Some(VideoRam { gfn: *gfn, bytes: *vram }), ..none },
            Self::Nic { settings, .. } => Facets { nic: Some(settings), ..none },
            Self::Usb { device, added, .. } => {
                Facets { usb: Some(*device), starts: added.then_some(Starts::WhenAdded), ..none }
            }
            Self::Qdisk { emulated, .. } => Facets { starts: emulated.is_some().then_some(Starts::AtHandOff), ..none },
            Self::Platform { .. }
            | Self::Ps2
            | Self::FwCfg { .. }
            | Self::Serial { .. }
            | Self::Fbdev { .. }
            | Self::Vnc { .. }
            | Self::Vchan { .. }
            | Self::Xenbus { .. }
            | Self::Grant { .. }
            | Self::Vkbd { .. }
            | Self::Console { .. }
            | Self::Vfb { .. } => none,
        }
    }

    /// The properties that change while the machine runs, for later lives of its process.
    pub fn facets_mut(&mut self) -> FacetsMut<'_> {
        let none = FacetsMut { drives: &mut [], nic: None, video_ram_gfn: None };
        match self {
            Self::Ide { drives } => FacetsMut { drives, ..none },
            Self::Vga { gfn, .. } => FacetsMut { video_ram_gfn: Some(gfn), ..none },
            Self::Nic { settings, .. } => FacetsMut { nic: Some(settings), ..none },
            Self::Platform { .. }
            | Self::Ps2
            | Self::FwCfg { .. }
            | Self::Serial { .. }
            | Self::Usb { .. }
            | Self::Fbdev { .. }
            | Self::Vnc { .. }
            | Self::Vchan { .. }
            | Self::Xenbus { .. }
            | Self::Grant { .. }
            | Self::Qdisk { .. }
            | Self::Vkbd { .. }
            | Self::Console { .. }
            | Self::Vfb { .. } => none,
        }
    }

    /// Most bytes of a file that its process may write, the largest of its files' (RLIMIT_FSIZE); `None`: as its profile says.
    pub fn file_size(&self) -> Option<u64> {
        match self {
            Self::Ide { drives } => Some(drives.iter().map(|d| d.grows_to).max().unwrap_or(0)),
            Self::Qdisk { disk, .. } => Some(disk.grows_to),
            Self::Serial { limit, .. } | Self::Console { limit, .. } => Some(limit.unwrap_or(0)),
            Self::Platform { .. }
            | Self::Vga { .. }
            | Self::Ps2
            | Self::FwCfg { .. }
            | Self::Nic { .. }
            | Self::Usb { .. }
            | Self::Fbdev { .. }
            | Self::Vnc { .. }
            | Self::Vchan { .. }
            | Self::Xenbus { .. }
            | Self::Grant { .. }
            | Self::Vkbd { .. }
            | Self::Vfb { .. } => None,
        }
    }

    /// The event that starts its process.
    pub fn starts(&self) -> Starts {
        self.facets().starts.unwrap_or(self.kind().starts)
    }

    /// Its name in logs and on the command line: the role, with a number where a guest may have several.
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
            | Self::Grant { .. }
            | Self::Vkbd { .. }
            | Self::Vfb { .. } => role.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_process_is_that_of_its_largest_file() {
        let drive = |grows_to| DriveConfig {
            at: DriveId::ide(0),
            cdrom: false,
            read_only: false,
            size: None,
            id: String::new(),
            file: None,
            formats: Vec::new(),
            grows_to,
            full: WhenFull::Report,
            identity: DiskIdentity::default(),
            geometry: None,
        };
        let ide = |drives: &[u64]| DeviceConfig::Ide { drives: drives.iter().map(|d| drive(*d)).collect() }.file_size();
        assert_eq!([ide(&[]), ide(&[0]), ide(&[7, 9, 8])], [Some(0), Some(0), Some(9)]);
        let qdisk = DeviceConfig::Qdisk { devid: 0, disk: drive(5), emulated: None, discard: true };
        assert_eq!((qdisk.file_size(), DeviceConfig::Ps2.file_size()), (Some(5), None));
        let serial = |limit| DeviceConfig::Serial { index: 0, listens: false, limit }.file_size();
        assert_eq!([serial(None), serial(Some(7))], [Some(0), Some(7)], "a terminal is no file");
    }
}
