//! libxl's argument vector → [`Machine`]. The table [`OPTIONS`] is the only place that says what becomes of an option;
//! docs/compat.md is printed from it.
mod asked;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod toolstacks;

use crate::disk::Properties;
use crate::errors::Code;
use crate::machine::{
    self, Backing, Chardev, Kernel, Machine, MachineDrive, Monitor, Nic, NicOther, Serial, Sim, Video, Vnc,
};
use crate::options::Options;
use crate::placement::Placement;
pub use asked::{Question, question};
use bulkhead_bus::nic::{NicLease, NicSettings};
use bulkhead_bus::{LAYOUTS, UsbDevice, WhenFull};
use bulkhead_plan::{DriveId, Level, NicModel};
use table::Fate::{Ignored, Implemented, Refused, Substituted};
pub use table::{Fate, OPTIONS, OptionSpec, Verdict, lookup, markdown, verdicts};
use table::{KEYS, MAX_NICS, USB_PORTS};

/// Why the arguments cannot be used: one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArgumentError {
    /// No such option.
    #[error("{0}: unknown option")]
    Unknown(String),
    /// A value is missing.
    #[error("{0}: a value must follow")]
    Missing(String),
    /// The value is wrong.
    #[error("{option} {value}: {why}")]
    Value {
        /// The option.
        option: String,
        /// As it was given.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// QEMU has it, this device model does not.
    #[error("{option}: not supported: {why}")]
    Refused {
        /// The option, with its value.
        option: String,
        /// What is missing.
        why: &'static str,
    },
    /// Something that must be there is not.
    #[error("{0}")]
    Incomplete(&'static str),
}

/// A machine, and lines for the log about options that were ignored or substituted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The machine.
    pub machine: Machine,
    /// What to tell the operator.
    pub notes: Vec<String>,
}

fn wrong(option: &str, value: &str, why: impl Into<String>) -> ArgumentError {
    ArgumentError::Value { option: format!("-{option}"), value: value.to_owned(), why: why.into() }
}

/// What `-usbdevice` calls a device.
fn usb_device(name: &str) -> Option<UsbDevice> {
    match name {
        "tablet" => Some(UsbDevice::Tablet),
        "mouse" => Some(UsbDevice::Mouse),
        "keyboard" | "kbd" => Some(UsbDevice::Keyboard),
        _ => None,
    }
}

impl ArgumentError {
    /// Its number.
    pub fn code(&self) -> Code {
        if matches!(self, Self::Refused { .. }) { Code::Unsupported } else { Code::Argument }
    }
}

/// Parses the arguments, without argv\[0\].
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Parsed, ArgumentError> {
    let mut machine = Machine::default();
    let mut notes = Vec::new();
    let mut monitors = Vec::new();
    let mut chardevs: Vec<(String, Chardev)> = Vec::new();
    let mut cds = Vec::new();
    let (mut cards, mut others, mut rules, mut leases) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut kernel = (None, None, None);
    let (mut substituted, mut substitutes) = (None, true);
    let mut xen_platform = false;
    // Serial ports that name a chardev, by their place; chardevs that are no QMP server's.
    let mut named: Vec<(usize, String)> = Vec::new();
    let mut ends: Vec<(String, Serial)> = Vec::new();
    let mut all_disks = Properties::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')).filter(|n| !n.is_empty());
        let Some(name) = name else { return Err(ArgumentError::Unknown(argument)) };
        let takes = lookup(name, None).or_else(|| OPTIONS.iter().find(|o| o.name.split(' ').next() == Some(name)));
        let value = match takes {
            Some(spec) if spec.value => Some(arguments.next().ok_or(ArgumentError::Missing(argument.clone()))?),
            Some(_) => None,
            None => return Err(ArgumentError::Unknown(argument)),
        };
        let shown = value.as_ref().map_or(argument.clone(), |v| format!("{argument} {v}"));
        let Some(spec) = lookup(name, value.as_deref()) else {
            return Err(ArgumentError::Refused { option: shown, why: "no such device here" });
        };
        match spec.fate {
            Refused(why) => return Err(ArgumentError::Refused { option: shown, why }),
            Ignored(why) => {
                notes.push(format!("{shown}: ignored: {why}"));
                continue;
            }
            Substituted(why) => {
                substituted.get_or_insert_with(|| shown.clone());
                notes.push(format!("{shown}: {why}"));
            }
            Implemented(_) => {}
        }
        let value = value.unwrap_or_default();
        let bad = |why: &str| wrong(name, &value, why);
        let options = Options::parse(&value);
        check_keys(spec, &value, &options, &mut notes)?;
        match name {
            "xen-domid" => {
                machine.domid = Some(number(&value).filter(|d| *d < 0x7ff0).ok_or(bad("not a domain's number"))?)
            }
            // A name without a key may have any form.
            "name" => machine.name = options.head("guest").map_or(value.clone(), str::to_owned),
            "S" => machine.stopped = true,
            "xen-attach" => machine.attach = true,
            "chardev" => {
                let id = options.get("id").ok_or(bad("id= is missing"))?.to_owned();
                let chardev = match options.head("backend") {
                    Some("socket") => {
                        let listens =
                            options.flag("server", false) == Some(true) && options.flag("wait", true) == Some(false);
                        if !listens {
                            return Err(bad("only server=on,wait=off"));
                        }
                        match (options.get("path"), options.get("fd").map(number)) {
                            (Some(path), None) => Chardev::Path(path.to_owned()),
                            (None, Some(Some(fd))) => Chardev::Fd(fd),
                            _ => return Err(bad("one of path= and fd= must be there")),
                        }
                    }
                    // A channel, which is opened when its back end is, or a serial port's.
                    Some("pty") => {
                        ends.push((id, Serial::Pty));
                        continue;
                    }
                    Some("null") => {
                        ends.push((id, Serial::Null));
                        continue;
                    }
                    Some("file") => {
                        let path = options.get("path").ok_or(bad("path= is missing"))?;
                        let append = options.flag("append", false).ok_or(bad("append is on or off"))?;
                        let end = if append { Serial::Append } else { Serial::File };
                        ends.push((id, end(path.to_owned())));
                        continue;
                    }
                    _ => return Err(bad("only socket, pty, file and null")),
                };
                chardevs.push((id, chardev));
            }
            "mon" => {
                if options.get("mode") != Some("control") {
                    return Err(bad("only mode=control"));
                }
                monitors.push(options.head("chardev").ok_or(bad("chardev= is missing"))?.to_owned());
            }
            "qmp" | "qmp-pretty" => {
                let path = options.head.as_deref().and_then(|h| h.strip_prefix("unix:")).filter(|p| !p.is_empty());
                let path = path.ok_or(bad("unix:PATH,server=on,wait=off is known"))?;
                if options.flag("server", false) != Some(true) || options.flag("wait", true) != Some(false) {
                    return Err(bad("only server=on,wait=off"));
                }
                let id = format!("compat_monitor{}", monitors.len());
                chardevs.push((id.clone(), Chardev::Path(path.to_owned())));
                monitors.push(id);
            }
            "no-fd-bootchk" => machine.unsigned_floppy = true,
            "global" => match value.strip_prefix("ide-hd.").map(|p| Options::parse(&format!("ide-hd,{p}"))) {
                Some(property) if property.pairs.iter().all(|(key, _)| Properties::KEYS.contains(&key.as_str())) => {
                    all_disks.take(&property).map_err(bad)?;
                }
                _ => notes.push(format!("{shown}: ignored")),
            },
            "pidfile" => machine.pid_file = Some(value),
            "serial" => {
                if let Some(id) = value.strip_prefix("chardev:") {
                    named.push((machine.serials.len(), id.to_owned()));
                }
                let serial = if value.starts_with("chardev:") { Some(Serial::Null) } else { Serial::parse(&value) };
                machine.serials.push(serial.ok_or(bad(
                    "pty, file:PATH, null, none, unix:PATH[,server=on,wait=off], chardev:ID or /dev/… is known",
                ))?);
            }
            "usb" => drop(machine.usb.get_or_insert_default()),
            "usbdevice" => {
                let device = usb_device(&value).ok_or(ArgumentError::Refused {
                    option: shown,
                    why: "USB devices other than tablet, mouse and keyboard",
                })?;
                machine.usb.get_or_insert_default().push(device);
            }
            "vnc" => {
                machine.vnc = if value == "none" { None } else { Some(Vnc::parse(&value).map_err(bad)?) };
                for (key, _) in options.pairs.iter().filter(|(key, _)| Vnc::IGNORED.contains(&key.as_str())) {
                    notes.push(format!("-vnc {key}=: ignored"));
                }
            }
            "k" => {
                if LAYOUTS.contains(&value.as_str()) {
                    machine.layout = value;
                } else {
                    notes.push(format!(
                        "{shown}: no such layout here ({}); VNC viewers that tell characters only type as on {}",
                        LAYOUTS.join(", "),
                        machine.layout
                    ));
                }
            }
            "boot" => {
                // A machine ends with its guest's reset, so `once` is for all of its life. Without either the order stays.
                let order = options.get("once").or(options.head("order")).unwrap_or(&machine.boot).to_owned();
                if order.len() > 3 || order.chars().any(|c| !matches!(c, 'a' | 'c' | 'd' | 'n')) {
                    return Err(bad("order and once are of the letters a, c, d, n, at most three"));
                }
                machine.boot = order;
                machine.menu.shown = options.flag("menu", false).ok_or(bad("menu is on or off"))?;
                let wait = options.get("splash-time").map(|t| number(t).ok_or(bad("splash-time is 0 to 65535 ms")));
                machine.menu.wait = wait.transpose()?;
                // -1 is never. Without a word the firmware tries again after a minute.
                let never = |t| (t == "-1").then_some(u32::MAX);
                let retry = options.get("reboot-timeout").map(|t| {
                    let ms = never(t).or_else(|| number(t).filter(|ms| *ms <= 0xffff));
                    ms.ok_or(bad("reboot-timeout is -1 to 65535 ms"))
                });
                machine.menu.retry = retry.transpose()?;
            }
            "m" => {
                let mib = mebibytes(options.head("size").unwrap_or(""));
                machine.memory_mib = mib.filter(|m| (1..=1 << 24).contains(m)).ok_or(bad("not a number of MiB"))?;
            }
            "smp" => {
                let max: Option<u16> = options.get("maxcpus").map_or(options.head("cpus"), Some).and_then(number);
                // Without a number of its own, all that there may be.
                let now = options.head("cpus").map_or(max, number);
                let max = now.and(max).filter(|n| (1..=bulkhead_wire::MAX_VCPUS as u16).contains(n));
                machine.vcpus = max.ok_or(bad("1 to 128 vCPUs"))?;
                machine.online =
                    now.filter(|n| (1..=machine.vcpus).contains(n)).ok_or(bad("more vCPUs than maxcpus"))?;
            }
            "machine" | "M" if options.flag("igd-passthru", false) != Some(false) => {
                return Err(ArgumentError::Refused { option: shown, why: "igd-passthru" });
            }
            "machine" | "M" => match options.head("type") {
                Some(kind) if is_kind(kind, "xenfv") => machine.xen_platform = true,
                // Its xen-platform device, if it has one, is a -device.
                Some(kind) if is_kind(kind, "pc") => machine.xen_platform = false,
                Some("none") => machine.probe = true,
                Some("xenpv") => machine.attach = true,
                _ => return Err(bad("xenfv, xenpv, pc or none, or a version of xenfv or pc")),
            },
            "image-backing" => {
                machine.backing = match value.as_str() {
                    "any" => Backing::Any,
                    "directory" => Backing::Directory,
                    "none" => Backing::None,
                    _ => return Err(bad("any, directory or none")),
                };
            }
            // Looked at before this is read (attach.rs).
            "pv-others" if matches!(value.as_str(), "qemu" | "leave") => {}
            "pv-others" => return Err(bad("qemu or leave")),
            "image-full" => {
                machine.full = match value.as_str() {
                    "report" => WhenFull::Report,
                    "stop" => WhenFull::Stop,
                    _ => return Err(bad("report or stop")),
                };
            }
            "placement" => machine.placement = Placement::try_from(value.as_str()).map_err(bad)?,
            "substitutes" => {
                substitutes = match value.as_str() {
                    "allow" => true,
                    "refuse" => false,
                    _ => return Err(bad("allow or refuse")),
                };
            }
            "kernel" => kernel.0 = Some(value),
            "initrd" => kernel.1 = Some(value),
            "append" => kernel.2 = Some(value),
            "net" | "nic" | "parallel" | "xen-domid-restrict" => {}
            "vga" => match value.as_str() {
                "none" => machine.video = None,
                _ => machine.video = machine.video.or(Some(Video::default())),
            },
            "std-vga" => machine.video = machine.video.or(Some(Video::default())),
            "runas" => machine.user = Some(value),
            "chroot" => machine.chroot = Some(value),
            "run-with" => {
                machine.user = options.get("user").map(str::to_owned).or(machine.user);
                machine.chroot = options.get("chroot").map(str::to_owned).or(machine.chroot);
            }
            "netdev" => {
                let id = options.get("id").ok_or(bad("id= is missing"))?.to_owned();
                let other = match options.head("type") {
                    Some("tap") => match (options.get("ifname"), options.get("fd").map(number)) {
                        (Some(name), None) => NicOther::Tap(name.to_owned()),
                        (None, Some(Some(fd))) => NicOther::OpenTap(fd),
                        _ => return Err(bad("one of ifname= and fd= must be there")),
                    },
                    _ if options.flag("server", false) != Some(false) => return Err(bad("only server=off")),
                    _ if options.get("addr.type") != Some("unix") => return Err(bad("only addr.type=unix")),
                    _ => NicOther::Stream(options.get("addr.path").ok_or(bad("addr.path= is missing"))?.to_owned()),
                };
                others.push((id, other));
            }
            "nic-rules" => {
                let id = options.get("id").map(str::to_owned);
                let pairs: Vec<_> = options.pairs.iter().filter(|(k, _)| k != "id").cloned().collect();
                if options.head.is_some() || pairs.is_empty() {
                    return Err(bad("level=off, level=guard or level=addresses,ip=…"));
                }
                rules.push((value, id, pairs));
            }
            "nic-lease" => {
                let id = options.get("id").ok_or(bad("id=nicN is missing"))?.to_owned();
                let pairs: Vec<_> = options.pairs.iter().filter(|(k, _)| k != "id").cloned().collect();
                let lease = NicLease::parse(&pairs).map_err(|why| wrong(name, &value, why.to_string()))?;
                leases.push((value, id, lease));
            }
            "drive" => {
                let drive = MachineDrive::parse(&options).map_err(|why| wrong(name, &value, why))?;
                if drive.at.is_none() {
                    cds.push(drive);
                } else {
                    machine.add_drive(drive).map_err(|why| wrong(name, &value, why))?;
                }
            }
            "device" => match options.head("driver") {
                Some("VGA" | "cirrus-vga") => {
                    let mib = options.get("vgamem_mb").map_or(Some(16), number).ok_or(bad("vgamem_mb is a number"))?;
                    // QEMU rounds up to a power of two; below 16 MiB the frame buffer of the larger modes has no room.
                    let mib: u32 = Some(mib).filter(|m| (1..=256).contains(m)).ok_or(bad("vgamem_mb is 1 to 256"))?;
                    let mib = mib.next_power_of_two();
                    machine.video = Some(Video { mib });
                }
                Some(model @ ("e1000" | "rtl8139")) => {
                    let model = if model == "e1000" { NicModel::E1000 } else { NicModel::Rtl8139 };
                    let mac =
                        options.get("mac").and_then(machine::mac).ok_or(bad("mac= is an address of six bytes"))?;
                    let id = options.get("id").and_then(|id| id.strip_prefix("nic")).and_then(number::<u8>);
                    let index = id.unwrap_or(u8::try_from(cards.len()).unwrap_or(u8::MAX));
                    cards.push((index, options.get("netdev").ok_or(bad("netdev= is missing"))?.to_owned(), model, mac));
                }
                Some(driver @ ("ide-cd" | "ide-hd")) => {
                    let (bus, unit) = (options.get("bus"), options.get("unit").and_then(number::<u8>));
                    let bus = bus.and_then(|b| b.strip_prefix("ide.")).and_then(number::<u8>);
                    let id = options.get("drive").unwrap_or("");
                    let at = cds.iter().position(|d: &MachineDrive| d.id == id).ok_or(bad("there is no such drive"))?;
                    let (Some(bus @ 0..=1), Some(unit @ 0..=1)) = (bus, unit) else {
                        return Err(bad("bus is ide.0 or ide.1, unit 0 or 1"));
                    };
                    let mut drive = cds.swap_remove(at);
                    if driver == "ide-hd" {
                        drive.properties.take(&options).map_err(bad)?;
                    }
                    drive.cdrom = driver == "ide-cd";
                    drive.read_only |= drive.cdrom;
                    if drive.file.is_none() && !drive.cdrom {
                        return Err(bad("a disk needs file="));
                    }
                    drive.at = Some(DriveId::ide(bus.wrapping_mul(2).wrapping_add(unit)));
                    options.get("id").unwrap_or(id).clone_into(&mut drive.id);
                    machine.add_drive(drive).map_err(|why| wrong(name, &value, why))?;
                }
                Some("xen-platform") => xen_platform = true,
                Some("piix3-usb-uhci" | "usb-ehci") => {
                    machine.usb.get_or_insert_default();
                    if let Some(at) = options.get("addr") {
                        // Above all that is placed here.
                        let hex = |text: &str, last: u8| {
                            u8::from_str_radix(text.trim_start_matches("0x"), 16).ok().filter(|n| *n <= last)
                        };
                        let (device, function) = at.split_once('.').unwrap_or((at, "0"));
                        let place = hex(device, 0x1f).filter(|d| *d >= 0x10).zip(hex(function, 7));
                        machine.usb_at = Some(place.ok_or(bad("addr is 10 to 1f, with a function 0 to 7: 1d.2"))?);
                    }
                }
                Some(driver @ ("usb-tablet" | "usb-mouse" | "usb-kbd")) => {
                    let usb = machine
                        .usb
                        .as_mut()
                        .ok_or(bad("there is no controller before it (-usb or -device piix3-usb-uhci)"))?;
                    usb.extend(usb_device(driver.trim_start_matches("usb-")));
                }
                _ => return Err(bad("no such device here")),
            },
            "sandbox" => {
                match options.get("level") {
                    Some("strict") => machine.level = Some(Level::Strict),
                    Some("kernel") => machine.level = Some(Level::Kernel),
                    // QEMU's: there is a sandbox in any case, and its level is not these words'.
                    None if matches!(options.head("enable"), Some("on" | "off")) => {
                        notes.push(format!(
                            "{shown}: ignored: the sandbox is always on; level= says how much it enforces"
                        ));
                    }
                    _ => return Err(bad("level=strict or level=kernel, or QEMU's on,…")),
                }
            }
            "sim" => {
                machine.sim = Some(Sim::parse(&options).ok_or(bad("ioreq=FD,kick=FD,trace=FD,memory=FD,thread=TID"))?)
            }
            _ => return Err(ArgumentError::Unknown(argument)),
        }
    }
    for monitor in monitors {
        let chardev = chardevs.iter().find(|(id, _)| *id == monitor).map(|(_, c)| c.clone());
        let chardev = chardev.ok_or_else(|| wrong("mon", &monitor, "there is no chardev of this id"))?;
        machine.monitors.push(Monitor { id: monitor, chardev });
    }
    for (place, id) in named {
        let sockets = chardevs.iter().filter_map(|(name, chardev)| match chardev {
            Chardev::Path(path) => Some((name.clone(), Serial::UnixServer(path.clone()))),
            Chardev::Fd(_) => None,
        });
        let end = ends.iter().cloned().chain(sockets).find(|(name, _)| *name == id).map(|(_, end)| end);
        let end = end.ok_or_else(|| wrong("serial", &format!("chardev:{id}"), "there is no chardev of this id"))?;
        if let Some(serial) = machine.serials.get_mut(place) {
            *serial = end;
        }
    }
    for (index, netdev, model, mac) in cards {
        let at = others
            .iter()
            .position(|(id, _)| *id == netdev)
            .ok_or_else(|| wrong("device", &netdev, "there is no -netdev of this id"))?;
        if machine.nics.iter().any(|n| n.index == index) {
            return Err(wrong("device", &netdev, "two network cards of one number"));
        }
        machine.nics.push(Nic {
            model,
            index,
            mac,
            end: others.swap_remove(at).1,
            lease: None,
            settings: NicSettings::default(),
        });
    }
    if let Some((id, _)) = others.first() {
        return Err(wrong("netdev", id, "network cards: no -device refers to it"));
    }
    for (value, id, lease) in leases {
        let nic = machine.nics.iter_mut().find(|n| id == format!("nic{}", n.index));
        nic.ok_or_else(|| wrong("nic-lease", &value, "there is no network card of this id"))?.lease = Some(lease);
    }
    for (value, id, pairs) in rules {
        let meant = |nic: &Nic| id.as_ref().is_none_or(|id| *id == format!("nic{}", nic.index));
        if id.is_some() && !machine.nics.iter().any(meant) {
            return Err(wrong("nic-rules", &value, "there is no network card of this id"));
        }
        for nic in machine.nics.iter_mut().filter(|n| meant(n)) {
            nic.settings.change(&pairs).map_err(|why| wrong("nic-rules", &value, why.to_string()))?;
        }
    }
    if machine.nics.len() > MAX_NICS {
        return Err(ArgumentError::Incomplete("more than eight network cards"));
    }
    if machine.usb.as_ref().is_some_and(|u| u.len() > USB_PORTS) {
        return Err(ArgumentError::Incomplete("more than two USB devices: the controller has two ports"));
    }
    if let Some(option) = substituted.filter(|_| !substitutes) {
        return Err(ArgumentError::Refused {
            option,
            why: "something else would take its place (-substitutes refuse)",
        });
    }
    match kernel {
        (Some(file), initrd, append) => {
            machine.kernel = Some(Kernel { file, initrd, command_line: append.unwrap_or_default() })
        }
        (None, Some(_), _) => return Err(ArgumentError::Incomplete("-initrd: there is no -kernel")),
        // Some toolstacks always give one.
        (None, None, Some(_)) => notes.push("-append: ignored: there is no -kernel".to_owned()),
        (None, None, None) => {}
    }
    if let Some(cd) = cds.first() {
        return Err(wrong("drive", &cd.id, "no -device ide-cd or ide-hd refers to it"));
    }
    machine.xen_platform |= xen_platform;
    for disk in machine.drives.iter_mut().filter(|d| !d.cdrom) {
        let own = std::mem::replace(&mut disk.properties, all_disks.clone());
        disk.properties.overlay(own);
    }
    if !machine.probe && machine.domid.is_none() {
        return Err(ArgumentError::Incomplete("-xen-domid is missing"));
    }
    Ok(Parsed { machine, notes })
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// A size as QEMU writes it: a number of MiB, or one with a unit.
fn mebibytes(text: &str) -> Option<u64> {
    let (digits, factor) = match text.strip_suffix(|c: char| c.is_ascii_alphabetic()) {
        None => (text, 1),
        Some(digits) => match text.chars().next_back()?.to_ascii_uppercase() {
            'M' => (digits, 1),
            'G' => (digits, 1 << 10),
            'T' => (digits, 1 << 20),
            _ => return None,
        },
    };
    number::<u64>(digits)?.checked_mul(factor)
}

/// Whether a machine type is this one, or a version of it: `pc-0.10`, `pc-i440fx-8.2`, `xenfv-4.2`.
fn is_kind(text: &str, kind: &str) -> bool {
    let version = |v: &str| v.starts_with(|c: char| c.is_ascii_digit());
    match text.strip_prefix(kind) {
        Some("") => true,
        Some(rest) => rest.strip_prefix("-i440fx").unwrap_or(rest).strip_prefix('-').is_some_and(version),
        None => false,
    }
}

/// The keys of an option: a note for each that is ignored, an error for one that is not known.
fn check_keys(spec: &OptionSpec, value: &str, options: &Options, notes: &mut Vec<String>) -> Result<(), ArgumentError> {
    let Some((name, obeyed, ignored)) = KEYS.iter().find(|(name, ..)| *name == spec.name) else { return Ok(()) };
    for (key, _) in options.pairs.iter().filter(|(key, _)| !obeyed.contains(&key.as_str())) {
        if !ignored.contains(&key.as_str()) {
            return Err(wrong(name.split(' ').next().unwrap_or(name), value, format!("{key}= is not known here")));
        }
        // What libxl always writes is not worth a line.
        if !matches!(key.as_str(), "suppress-vmdesc" | "br" | "script" | "downscript" | "id") {
            notes.push(format!("-{name} {key}=: ignored"));
        }
    }
    Ok(())
}
