//! Direct boot and the firmware's menu: fw_cfg.
use super::{Failure, Host, Part, errno};
use crate::errors::{Code, Coded as _};
use bulkhead_bus::BootMenu;
use bulkhead_plan::{DeviceConfig, FdUse};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// fw_cfg, if there is something to tell the firmware.
pub fn open(host: &Host) -> Result<Option<Part>, Failure> {
    let machine = host.machine;
    let kernel = machine.kernel.as_ref();
    let open =
        |what, path: Option<&str>| path.map(|path| file(what, path, host.stubdom)).transpose().coded(Code::Kernel);
    let initrd = open("ramdisk", kernel.and_then(|k| k.initrd.as_deref()))?;
    let image = open("kernel", kernel.map(|k| k.file.as_str()))?;
    if image.is_none() && machine.menu == BootMenu::default() {
        return Ok(None);
    }
    let config = DeviceConfig::FwCfg {
        vcpus: machine.vcpus,
        online: machine.online,
        memory_mib: machine.memory_mib,
        menu: machine.menu.clone(),
        kernel: image.as_ref().map(|(_, bytes)| *bytes),
        initrd: initrd.as_ref().map(|(_, bytes)| *bytes),
        command_line: kernel.map(|k| k.command_line.clone()).unwrap_or_default(),
    };
    let mut kept = Vec::new();
    kept.extend(image.map(|(fd, _)| (FdUse::Kernel, fd)));
    kept.extend(initrd.map(|(fd, _)| (FdUse::Initrd, fd)));
    kept.push(host.memory()?);
    Ok(Some(Part { kept, ..Part::new(config) }))
}

/// A kernel or its ramdisk, open, and its size. What is in it is looked at by the process that serves it.
fn file(what: &str, path: &str, stubdom: bool) -> Result<(OwnedFd, u64), Failure> {
    let what = format!("{what} {path}");
    let fd =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map_err(|e| {
            let why = errno(&what, e);
            if stubdom && e == rustix::io::Errno::NOENT {
                format!("{why}: libxl names a file of dom0, which this stub domain does not have")
            } else {
                why
            }
        })?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| errno(&what, e))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(format!("{what}: not a file"));
    }
    rustix::io::ioctl_fionbio(&fd, false).map_err(|e| errno(&what, e))?;
    Ok((fd, u64::try_from(stat.st_size).unwrap_or(0)))
}
