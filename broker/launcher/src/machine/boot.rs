//! fw_cfg: direct boot and the firmware's menu.
use super::DeviceKind;
use super::Machine;
use super::host::{Host, Part};
use super::option::{ArgumentError, Arguments, Fate, Given, Group, Keys, OptionSpec, flag, keys, number, option};
use crate::failure::Failure;
use Fate::Implemented;
use bulkhead_bus::BootMenu;
use bulkhead_plan::{DeviceConfig, FdUse, kind};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

pub(super) static DEVICE: DeviceKind = DeviceKind {
    kinds: &[&kind::FWCFG],
    arguments: Group { options: OPTIONS, keys: KEYS, arguments: || Box::new(DirectBoot::default()) },
    open,
};

const OPTIONS: &[OptionSpec] = &[
    option(
        "boot",
        Implemented(
            "order, once (for the machine's life, which ends when the guest restarts), menu, splash-time, reboot-timeout; without an order it is disk, floppy, CD; the keys splash and strict are ignored",
        ),
        "boot",
    ),
    flag("no-fd-bootchk", Implemented("the firmware does not look for a floppy disk's signature"), ""),
    option("kernel", Implemented("a Linux bzImage; in a stub domain a file of that domain"), "kernel"),
    option("initrd", Implemented("with -kernel"), "ramdisk"),
    option("append", Implemented("with -kernel; alone it is ignored, as some toolstacks always give it"), "cmdline"),
];

const KEYS: &[Keys] = &[
    // The firmware cannot show a picture; `strict` is for QEMU's own parser.
    keys("boot", &["order", "once", "menu", "splash-time", "reboot-timeout"], &["splash", "strict"]),
];

/// A Linux kernel that the firmware boots directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Path of the kernel.
    pub file: String,
    /// Path of the ramdisk.
    pub initrd: Option<String>,
    /// The kernel's command line.
    pub command_line: String,
}

/// The options of a direct boot, until all arguments are parsed.
#[derive(Default)]
struct DirectBoot {
    kernel: Option<String>,
    initrd: Option<String>,
    append: Option<String>,
}

impl Arguments for DirectBoot {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        match given.name.as_str() {
            "kernel" => self.kernel = Some(given.value.clone()),
            "initrd" => self.initrd = Some(given.value.clone()),
            "append" => self.append = Some(given.value.clone()),
            "no-fd-bootchk" => machine.unsigned_floppy = true,
            _ => boot(given, machine)?,
        }
        Ok(())
    }

    fn finish(&mut self, machine: &mut Machine) -> Result<Vec<String>, ArgumentError> {
        let Self { kernel, initrd, append } = std::mem::take(self);
        match (kernel, initrd, append) {
            (Some(file), initrd, append) => {
                machine.kernel = Some(Kernel { file, initrd, command_line: append.unwrap_or_default() });
            }
            (None, Some(_), _) => return Err(ArgumentError::Incomplete("-initrd: there is no -kernel")),
            // Some toolstacks always write `-append`.
            (None, None, Some(_)) => return Ok(vec!["-append: ignored: there is no -kernel".to_owned()]),
            (None, None, None) => {}
        }
        Ok(Vec::new())
    }
}

/// `-boot`: the order, and the firmware's menu.
fn boot(given: &Given, machine: &mut Machine) -> Result<(), ArgumentError> {
    let (options, bad) = (&given.options, |why: &str| given.bad(why));
    // A machine ends with its guest's reset, so `once` counts for all of it. Without both keys the order stays.
    let order = options.get("once").or(options.head("order")).unwrap_or(&machine.boot).to_owned();
    if order.len() > 3 || order.chars().any(|c| !matches!(c, 'a' | 'c' | 'd' | 'n')) {
        return Err(bad("order and once are of the letters a, c, d, n, at most three"));
    }
    machine.boot = order;
    machine.menu.shown = options.flag("menu", false).ok_or(bad("menu is on or off"))?;
    let wait = options.get("splash-time").map(|t| number(t).ok_or(bad("splash-time is 0 to 65535 ms")));
    machine.menu.wait = wait.transpose()?;
    // -1: the firmware never retries. Without the key it retries after a minute.
    let never = |t| (t == "-1").then_some(u32::MAX);
    let retry = options.get("reboot-timeout").map(|t| {
        let ms = never(t).or_else(|| number(t).filter(|ms| *ms <= 0xffff));
        ms.ok_or(bad("reboot-timeout is -1 to 65535 ms"))
    });
    machine.menu.retry = retry.transpose()?;
    Ok(())
}

/// fw_cfg; `None` without a kernel and without settings of the menu.
pub fn open(host: &mut Host) -> Result<Vec<Part>, Failure> {
    let machine = host.machine;
    let kernel = machine.kernel.as_ref();
    let open = |what, path: Option<&str>| {
        let opened = |path: &str| {
            file(path, host.stubdom)
                .map_err(|fault| Failure::Kernel { file: BootFile { what, path: path.to_owned() }, fault })
        };
        path.map(opened).transpose()
    };
    let initrd = open("ramdisk", kernel.and_then(|k| k.initrd.as_deref()))?;
    let image = open("kernel", kernel.map(|k| k.file.as_str()))?;
    if image.is_none() && machine.menu == BootMenu::default() {
        return Ok(Vec::new());
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
    Ok(vec![Part { kept, ..Part::new(config) }])
}

/// Opens a kernel or ramdisk; also returns its size. The process that serves it parses it.
fn file(path: &str, stubdom: bool) -> Result<(OwnedFd, u64), BootFault> {
    let fail = |e: rustix::io::Errno| BootFault::System(e.into());
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .map_err(|e| if stubdom && e == rustix::io::Errno::NOENT { BootFault::InDom0(e.into()) } else { fail(e) })?;
    let stat = rustix::fs::fstat(&fd).map_err(fail)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
        return Err(BootFault::NoFile);
    }
    rustix::io::ioctl_fionbio(&fd, false).map_err(fail)?;
    Ok((fd, u64::try_from(stat.st_size).unwrap_or(0)))
}

/// A file of a direct boot, in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFile {
    /// `kernel` or `ramdisk`.
    pub what: &'static str,
    /// As the toolstack names it.
    pub path: String,
}

impl std::fmt::Display for BootFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.what, self.path)
    }
}

/// What is wrong with a file of a direct boot.
#[derive(Debug, thiserror::Error)]
pub enum BootFault {
    /// A call of the kernel fails.
    #[error("{0}")]
    System(#[source] std::io::Error),
    /// A stub domain lacks it.
    #[error("{0}: libxl names a file of dom0, which this stub domain does not have")]
    InDom0(#[source] std::io::Error),
    /// A directory or a device.
    #[error("not a file")]
    NoFile,
}
