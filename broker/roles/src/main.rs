//! Every process except the launcher is this executable, so that all share its text; argv\[0\] is the role. Only `bulkhead-dm`
//! starts it.
//!
//! | file | what |
//! |---|---|
//! | `role.rs`, `error.rs` | a role; why its device cannot be built |
//! | `board.rs`, `blk.rs`, `net.rs`, `input.rs`, `display.rs` | the roles of each device crate |
//! | `xenbus.rs`, `grant.rs`, `vchan.rs` | roles without a device crate |
//! | `intake/` | a question about an image |
//! | `saved_console.rs` | the consoles by which the state of a stub domain's guest goes and comes |
//! | `token_bucket.rs` | the limit on calls to `xenbus` and `grant` |
//! | `frontend.rs`, `viewer.rs` | devices' access to a PV front end, and to a surface |
mod blk;
mod board;
mod display;
mod error;
mod frontend;
mod grant;
mod input;
mod intake;
mod net;
mod role;
mod saved_console;
mod token_bucket;
mod vchan;
mod viewer;
mod xenbus;

use bulkhead_bus::shown;
use bulkhead_ioreq::ServedDevice;
use bulkhead_plan::{DeviceConfig, FdUse, KINDS, MachinePlan, NicModel};
use bulkhead_runtime::{Fds, Resources, run_device};
use error::BuildError;
use role::{Prepared, Role, Seen, Visible};
use std::process::ExitCode;

/// The role of a device.
fn role_of(config: &DeviceConfig) -> &'static Role {
    match config {
        DeviceConfig::Platform { .. } => &board::PLATFORM,
        DeviceConfig::FwCfg { .. } => &board::FWCFG,
        DeviceConfig::Ide { .. } => &blk::IDE,
        DeviceConfig::Qdisk { .. } => &blk::QDISK,
        DeviceConfig::Nic { model: NicModel::E1000, .. } => &net::E1000_CARD,
        DeviceConfig::Nic { model: NicModel::Rtl8139, .. } => &net::RTL8139_CARD,
        DeviceConfig::Ps2 => &input::PS2,
        DeviceConfig::Usb { .. } => &input::USB,
        DeviceConfig::Serial { .. } => &input::SERIAL,
        DeviceConfig::Vkbd { .. } => &input::VKBD,
        DeviceConfig::Console { .. } => &input::CONSOLE,
        DeviceConfig::Vga { .. } => &display::VGA,
        DeviceConfig::Vnc { .. } => &display::VNC,
        DeviceConfig::Fbdev { .. } => &display::FBDEV,
        DeviceConfig::Vfb { .. } => &display::VFB,
        DeviceConfig::Vchan { .. } => &vchan::VCHAN,
        DeviceConfig::Xenbus { .. } => &xenbus::XENBUS,
        DeviceConfig::Grant { .. } => &grant::GRANT,
    }
}

fn main() -> ExitCode {
    bulkhead_policy::end_on_panic();
    let name = std::env::args().next().unwrap_or_default();
    let result = match (name.as_str(), KINDS.iter().find(|kind| kind.role == name)) {
        ("control", _) => bulkhead_control::run(),
        ("broker", _) => bulkhead_ioreq::run(describe),
        ("intake", _) => intake::run(),
        (bulkhead_policy::STARTER, _) => {
            return match bulkhead_policy::serve_starter(|| {
                bulkhead_xen::XenstoreQueue::open().map_err(std::io::Error::other)
            }) {
                Ok(()) => ExitCode::SUCCESS,
                Err(e) => {
                    eprintln!("starter: {e}");
                    ExitCode::FAILURE
                }
            };
        }
        (_, Some(kind)) => run_device(kind.role, prepare),
        (_, None) => {
            eprintln!("bulkhead-roles: this is started by bulkhead-dm, not by hand");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => bulkhead_runtime::end(0),
        Err(e) => {
            eprintln!("{}", shown(&e.to_string()));
            bulkhead_runtime::end(1)
        }
    }
}

/// The descriptions of the devices, for the broker.
fn describe(plan: &MachinePlan, fds: &mut Fds) -> Result<Vec<ServedDevice>, BuildError> {
    let mut devices = Vec::new();
    for device in &plan.devices {
        let Visible { declaration, rom, video_ram, added } = match role_of(&device.config).seen {
            Seen::ByGuest(seen) => seen(&device.config)?,
            Seen::No => Visible::new(bulkhead_bus::Declaration::default()),
        };
        let rom = match fds.take(&FdUse::Rom(device.slot)) {
            Some(fd) if rom != 0 => {
                let mut bytes = vec![0; rom as usize];
                rustix::io::pread(&fd, bytes.as_mut_slice(), 0).map_err(BuildError::Rom)?;
                Some(bytes)
            }
            _ => None,
        };
        let (slot, name) = (device.slot, device.name.clone());
        devices.push(ServedDevice { slot, name, declaration, rom, video_ram, added });
    }
    Ok(devices)
}

/// Prepares a device from its configuration and resources.
fn prepare(config: &DeviceConfig, resources: Resources) -> Result<Prepared, BuildError> {
    let role = role_of(config);
    if role.kind != config.kind() {
        return Err(BuildError::Role { role: role.kind.role, config: config.kind().role });
    }
    (role.prepare)(config, resources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::nic::NicSettings;
    use bulkhead_bus::{BootMenu, DiskIdentity, WhenFull};
    use bulkhead_plan::{DriveConfig, DriveId, NicEnd, VncAddress};

    /// One configuration of each kind.
    fn configs() -> Vec<DeviceConfig> {
        let nic = |model| DeviceConfig::Nic {
            model,
            index: 0,
            device: 4,
            mac: [2; 6],
            rom: 0,
            end: NicEnd::Tap,
            lease: None,
            settings: NicSettings::default(),
        };
        let disk = DriveConfig {
            at: DriveId::PV,
            cdrom: false,
            read_only: false,
            size: None,
            id: String::new(),
            file: None,
            formats: Vec::new(),
            grows_to: 0,
            full: WhenFull::Report,
            identity: DiskIdentity::default(),
            geometry: None,
        };
        let boot = String::new();
        vec![
            DeviceConfig::Platform {
                vcpus: 1,
                online: 1,
                xen_platform: true,
                boot,
                unsigned_floppy: false,
                disks: Vec::new(),
                serial: false,
                unplug: true,
            },
            DeviceConfig::Ide { drives: Vec::new() },
            DeviceConfig::Vga { device: 2, vram: 8 << 20, gfn: 0x10_0000, rom: 0 },
            DeviceConfig::Ps2,
            DeviceConfig::FwCfg {
                vcpus: 1,
                online: 1,
                memory_mib: 16,
                menu: BootMenu::default(),
                kernel: None,
                initrd: None,
                command_line: String::new(),
            },
            nic(NicModel::E1000),
            nic(NicModel::Rtl8139),
            DeviceConfig::Usb { devices: Vec::new(), device: 1, function: 2, added: false },
            DeviceConfig::Serial { index: 0, listens: false, limit: None },
            DeviceConfig::Fbdev { spread: false },
            DeviceConfig::Vnc {
                name: String::new(),
                at: VncAddress::Unix(String::new()),
                password: false,
                layout: String::new(),
            },
            DeviceConfig::Xenbus { callers: Vec::new() },
            DeviceConfig::Grant { callers: Vec::new() },
            DeviceConfig::Qdisk { devid: 0, disk, emulated: None, discard: false },
            DeviceConfig::Vkbd { devid: 0 },
            DeviceConfig::Console { devid: 0, listens: false, limit: None },
            DeviceConfig::Vfb { devid: 0 },
            DeviceConfig::Vchan { port: 0 },
        ]
    }

    #[test]
    fn every_kind_has_its_role_and_what_the_guest_sees_is_declared() {
        let configs = configs();
        for kind in KINDS {
            assert!(configs.iter().any(|c| c.kind() == *kind), "{} is not tested here", kind.role);
        }
        for config in &configs {
            let (role, kind) = (role_of(config), config.kind());
            assert_eq!(role.kind, kind);
            match role.seen {
                Seen::ByGuest(seen) => {
                    let visible = seen(config).unwrap();
                    assert!(kind.guest_visible && !visible.declaration.regions.is_empty(), "{}", kind.role);
                    // A process has guest memory if and only if its declaration has DMA.
                    let memory = kind.memory == bulkhead_plan::Memory::Guest;
                    assert_eq!(visible.declaration.dma, memory, "{}", kind.role);
                }
                Seen::No => assert!(!kind.guest_visible, "{}", kind.role),
            }
        }
    }

    /// A file that cannot be read: it is open for writing alone.
    fn unreadable() -> rustix::fd::OwnedFd {
        use rustix::fs::{MemfdFlags, Mode, OFlags};
        let file = rustix::fs::memfd_create("image", MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, &[0xff; 65536]).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    /// Images were parsed before the filter was on. What runs before it gets files here that nobody can read.
    #[test]
    fn images_and_kernels_are_read_by_nobody_before_the_filter() {
        let at = DriveId::ide(0);
        let disk = |formats: &[bulkhead_plan::ImageFormat]| DriveConfig {
            at,
            cdrom: false,
            read_only: false,
            size: Some(65536),
            id: "x".into(),
            file: Some("x".into()),
            formats: formats.into(),
            grows_to: 0,
            full: WhenFull::Report,
            identity: DiskIdentity::default(),
            geometry: None,
        };
        use bulkhead_plan::ImageFormat::{Qcow2, Raw};
        let ide = |formats: &[_]| DeviceConfig::Ide { drives: vec![disk(formats)] };
        let kernel = DeviceConfig::FwCfg {
            vcpus: 1,
            online: 1,
            memory_mib: 16,
            menu: BootMenu::default(),
            kernel: Some(65536),
            initrd: Some(65536),
            command_line: String::new(),
        };
        for (config, reads) in [(ide(&[Raw]), false), (ide(&[Qcow2]), true), (ide(&[Qcow2, Raw]), true), (kernel, true)]
        {
            let uses = [FdUse::Drive(at), FdUse::Backing(at, 1), FdUse::Kernel, FdUse::Initrd];
            let mut fds = Fds::default();
            fds.add(uses.to_vec(), uses.iter().map(|_| unreadable()).collect());
            let resources = Resources { domid: 1, fds, memory: std::sync::Arc::new(bulkhead_bus::NoMemory) };
            let prepared = prepare(&config, resources).unwrap();
            assert_eq!((prepared.build)().is_err(), reads, "{config:?}");
        }
        // A PV disk takes its image the same way.
        let mut fds = Fds::default();
        fds.add(vec![FdUse::Drive(at)], vec![unreadable()]);
        let medium = blk::Medium::new(&disk(&[Qcow2]), &mut fds).unwrap().unwrap();
        assert!(medium.open().is_err());
    }
}
