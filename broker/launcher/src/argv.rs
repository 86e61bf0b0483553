//! libxl's argument vector → [`Machine`]. The table [`OPTIONS`] is the only place that says what becomes of an option;
//! docs/compat.md is printed from it.
use crate::machine::{self, Chardev, Drive, Kernel, Machine, Monitor, Nic, NicOther, Serial, Sim, Video};
use crate::options::Options;
use bulkhead_bus::nic::{NicLease, NicSettings};
use bulkhead_bus::plan::{Level, NicModel};

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

/// What becomes of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is obeyed.
    Implemented,
    /// It has no meaning here; it is logged.
    Ignored(&'static str),
    /// Something else takes its place; it is logged.
    Substituted(&'static str),
    /// An error.
    Refused(&'static str),
}

/// An option of the table.
#[derive(Clone, Copy, Debug)]
pub struct OptionSpec {
    /// Without dash; a second word narrows it down: `device VGA`.
    pub name: &'static str,
    /// A value follows.
    pub value: bool,
    /// What becomes of it.
    pub fate: Fate,
}

const fn option(name: &'static str, value: bool, fate: Fate) -> OptionSpec {
    OptionSpec { name, value, fate }
}

use Fate::{Ignored, Implemented, Refused, Substituted};

/// Network cards of a guest: what libxl can number, and slots of the bus that are free.
const MAX_NICS: usize = 8;

/// Every option that libxl emits (4.17 to 4.22), and those that operators add.
pub const OPTIONS: &[OptionSpec] = &[
    option("xen-domid", true, Implemented),
    option("no-shutdown", false, Ignored("the launcher stays until libxl ends it")),
    option("chardev", true, Implemented),
    option("mon", true, Implemented),
    option("nodefaults", false, Ignored("there are no defaults")),
    option("no-user-config", false, Ignored("no QEMU configuration is read")),
    option("name", true, Implemented),
    option("S", false, Implemented),
    option("vnc", true, Ignored("there is no VNC server yet; query-vnc says that it is off")),
    option("display", true, Ignored("no window is opened")),
    option("display sdl", true, Refused("a window in dom0")),
    option("nographic", false, Ignored("no window is opened")),
    option("k", true, Ignored("keys are named by their position, not by a keymap")),
    option("serial", true, Implemented),
    option("monitor", true, Ignored("there is no human monitor")),
    option("boot", true, Implemented),
    option("m", true, Implemented),
    option("smp", true, Implemented),
    option("machine", true, Implemented),
    option("M", true, Implemented),
    option("accel", true, Ignored("Xen is the accelerator")),
    option("net none", true, Implemented),
    option("net", true, Refused("network cards")),
    option("netdev tap", true, Implemented),
    option("netdev stream", true, Implemented),
    option("netdev", true, Refused("network cards on anything but a tap or a stream")),
    option("nic-rules", true, Implemented),
    option("nic-lease", true, Implemented),
    option("drive", true, Implemented),
    option("device VGA", true, Implemented),
    option("device cirrus-vga", true, Substituted("the standard VGA takes its place")),
    option("device ide-cd", true, Implemented),
    option("device e1000", true, Implemented),
    option("device rtl8139", true, Implemented),
    option("device qxl-vga", true, Refused("the QXL display")),
    option("device lsi53c895a", true, Refused("SCSI disks (sd*)")),
    option("device scsi-hd", true, Refused("SCSI disks (sd*)")),
    option("device ahci", true, Refused("AHCI (hdtype=\"ahci\")")),
    option("device ide-hd", true, Refused("AHCI (hdtype=\"ahci\")")),
    option("device piix3-usb-uhci", true, Refused("USB")),
    option("device ich9-usb-ehci1", true, Refused("USB")),
    option("device ich9-usb-uhci1", true, Refused("USB")),
    option("device ich9-usb-uhci2", true, Refused("USB")),
    option("device ich9-usb-uhci3", true, Refused("USB")),
    option("device nec-usb-xhci", true, Refused("USB")),
    option("device usb-tablet", true, Refused("USB")),
    option("device xen-pvdevice", true, Refused("vendor_device")),
    option("device intel-hda", true, Refused("sound")),
    option("device hda-duplex", true, Refused("sound")),
    option("device ac97", true, Refused("sound")),
    option("device es1370", true, Refused("sound")),
    option("device sb16", true, Refused("sound")),
    option("usb", false, Refused("USB")),
    option("usbdevice", true, Refused("USB")),
    option("spice", true, Refused("SPICE")),
    option("kernel", true, Implemented),
    option("initrd", true, Implemented),
    option("append", true, Implemented),
    option("incoming", true, Refused("restoring a saved guest")),
    option("no-acpi", false, Ignored("hvmloader makes the ACPI tables")),
    option("xen-domid-restrict", false, Refused("dm_restrict")),
    option("chroot", true, Refused("dm_restrict")),
    option("run-with", true, Refused("dm_restrict")),
    option("runas", true, Refused("device_model_user")),
    option("xen-attach", false, Substituted("given to the host's QEMU before anything is parsed (attach.rs)")),
    option("sandbox", true, Implemented),
    option("sim", true, Implemented),
];

/// Keys of the options that are implemented: option, keys that are obeyed, keys that are logged and ignored. Any other key
/// is an error, because it asks for something that would silently not be there.
const KEYS: &[(&str, &[&str], &[&str])] = &[
    ("chardev", &["backend", "id", "path", "fd", "server", "wait"], &[]),
    ("mon", &["chardev", "mode"], &[]),
    // The firmware shows no picture, and strict concerns QEMU's own parser.
    ("boot", &["order", "once", "menu", "splash-time", "reboot-timeout"], &["splash", "strict"]),
    ("m", &["size"], &[]),
    ("smp", &["cpus", "maxcpus"], &["sockets", "cores", "threads"]),
    ("machine", &["type", "accel"], &["suppress-vmdesc", "max-ram-below-4g"]),
    ("M", &["type", "accel"], &["suppress-vmdesc", "max-ram-below-4g"]),
    ("drive", &["file", "if", "index", "media", "format", "readonly", "id", "cache"], &[]),
    // The bridge is what the hotplug script puts it into; it, not this program, brings the interface up.
    ("netdev tap", &["type", "id", "ifname"], &["br", "script", "downscript"]),
    ("netdev stream", &["type", "id", "server", "addr.type", "addr.path"], &[]),
    ("device e1000", &["driver", "id", "netdev", "mac"], &[]),
    ("device rtl8139", &["driver", "id", "netdev", "mac"], &[]),
    ("sandbox", &["level"], &[]),
    ("device VGA", &["driver", "vgamem_mb"], &["id"]),
    ("device cirrus-vga", &["driver", "vgamem_mb"], &["id"]),
    ("device ide-cd", &["driver", "id", "drive", "bus", "unit"], &[]),
];

/// The keys of an option: a note for each that is ignored, an error for one that is not known.
fn check_keys(spec: &OptionSpec, value: &str, options: &Options, notes: &mut Vec<String>) -> Result<(), ArgumentError> {
    let Some((name, obeyed, ignored)) = KEYS.iter().find(|(name, ..)| *name == spec.name) else { return Ok(()) };
    for (key, _) in options.pairs.iter().filter(|(key, _)| !obeyed.contains(&key.as_str())) {
        if !ignored.contains(&key.as_str()) {
            return Err(wrong(name.split(' ').next().unwrap_or(name), value, format!("{key}= is not known here")));
        }
        // What libxl always writes is not worth a line.
        if !matches!(key.as_str(), "suppress-vmdesc" | "br" | "script" | "downscript") {
            notes.push(format!("-{name} {key}=: ignored"));
        }
    }
    Ok(())
}

/// Finds the entry of an option, the narrower one first.
pub fn lookup(name: &str, value: Option<&str>) -> Option<&'static OptionSpec> {
    let first = value.and_then(|v| v.split(',').next()).unwrap_or("");
    let narrow = format!("{name} {}", ["driver=", "type="].iter().find_map(|k| first.strip_prefix(k)).unwrap_or(first));
    OPTIONS.iter().find(|o| o.name == narrow).or_else(|| OPTIONS.iter().find(|o| o.name == name))
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

/// Parses the arguments, without argv\[0\].
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Parsed, ArgumentError> {
    let mut machine = Machine::default();
    let mut notes = Vec::new();
    let mut monitors = Vec::new();
    let mut chardevs: Vec<(String, Chardev)> = Vec::new();
    let mut cds = Vec::new();
    let (mut cards, mut others, mut rules, mut leases) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut kernel = (None, None, None);
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
            Substituted(why) => notes.push(format!("{shown}: {why}")),
            Implemented => {}
        }
        let value = value.unwrap_or_default();
        let bad = |why: &str| wrong(name, &value, why);
        let options = Options::parse(&value);
        check_keys(spec, &value, &options, &mut notes)?;
        match name {
            "xen-domid" => machine.domid = Some(number(&value).filter(|d| *d < 0x7ff0).ok_or(bad("not a domain's number"))?),
            "name" => machine.name = value,
            "S" => machine.stopped = true,
            "chardev" => {
                let id = options.get("id").ok_or(bad("id= is missing"))?.to_owned();
                let chardev = match options.head("backend") {
                    Some("socket") => {
                        let listens = options.flag("server", false) == Some(true) && options.flag("wait", true) == Some(false);
                        if !listens {
                            return Err(bad("only server=on,wait=off"));
                        }
                        match (options.get("path"), options.get("fd").map(number)) {
                            (Some(path), None) => Chardev::Path(path.to_owned()),
                            (None, Some(Some(fd))) => Chardev::Fd(fd),
                            _ => return Err(bad("one of path= and fd= must be there")),
                        }
                    }
                    Some("pty") => return Err(ArgumentError::Refused { option: shown, why: "channels" }),
                    _ => return Err(bad("only socket")),
                };
                chardevs.push((id, chardev));
            }
            "mon" => {
                if options.get("mode") != Some("control") {
                    return Err(bad("only mode=control"));
                }
                monitors.push(options.head("chardev").ok_or(bad("chardev= is missing"))?.to_owned());
            }
            "serial" => {
                let serial = Serial::parse(&value).ok_or(bad("pty, file:PATH, null, none, unix:PATH[,server=on,wait=off] or /dev/… is known"))?;
                machine.serials.push(serial);
            }
            "boot" => {
                // A machine ends with its guest's reset, so `once` is for all of its life.
                let order = options.get("once").or(options.head("order")).unwrap_or("");
                if order.len() > 3 || order.chars().any(|c| !matches!(c, 'a' | 'c' | 'd' | 'n')) {
                    return Err(bad("order and once are of the letters a, c, d, n, at most three"));
                }
                order.clone_into(&mut machine.boot);
                machine.menu.shown = options.flag("menu", false).ok_or(bad("menu is on or off"))?;
                let wait = options.get("splash-time").map(|t| number(t).ok_or(bad("splash-time is 0 to 65535 ms")));
                machine.menu.wait = wait.transpose()?;
                // QEMU's -1: never.
                let retry = options.get("reboot-timeout").filter(|t| *t != "-1");
                let retry = retry.map(|t| number(t).filter(|t| *t <= 0xffff).ok_or(bad("reboot-timeout is -1 to 65535 ms")));
                machine.menu.retry = retry.transpose()?;
            }
            "m" => {
                let size = options.head("size").unwrap_or("");
                let size = size.strip_suffix(['M', 'm']).unwrap_or(size);
                machine.memory_mib = number(size).filter(|m| (1..=1 << 24).contains(m)).ok_or(bad("not a number of MiB"))?;
            }
            "smp" => {
                let now = options.head("cpus").and_then(number);
                let max = options.get("maxcpus").map_or(now, number);
                let max = now.and(max).filter(|n| (1..=bulkhead_wire::MAX_VCPUS as u16).contains(n));
                machine.vcpus = max.ok_or(bad("1 to 128 vCPUs"))?;
                machine.online = now.filter(|n| (1..=machine.vcpus).contains(n)).ok_or(bad("more vCPUs than maxcpus"))?;
            }
            "machine" | "M" => match options.head("type") {
                Some("xenfv") => machine.xen_platform = true,
                Some("pc") => machine.xen_platform = false,
                Some("none") => machine.probe = true,
                Some("xenpv") => {
                    let why = "serving the PV back ends of a guest without emulated devices";
                    return Err(ArgumentError::Refused { option: shown, why });
                }
                _ => return Err(bad("xenfv, pc or none")),
            },
            "kernel" => kernel.0 = Some(value),
            "initrd" => kernel.1 = Some(value),
            "append" => kernel.2 = Some(value),
            "net" => {}
            "netdev" => {
                let id = options.get("id").ok_or(bad("id= is missing"))?.to_owned();
                let other = match options.head("type") {
                    Some("tap") => NicOther::Tap(options.get("ifname").ok_or(bad("ifname= is missing"))?.to_owned()),
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
                let lease = NicLease::parse(&pairs).map_err(|why| wrong(name, &value, why))?;
                leases.push((value, id, lease));
            }
            "drive" => {
                let drive = Drive::parse(&options).map_err(|why| wrong(name, &value, why))?;
                if drive.cdrom && drive.index.is_none() {
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
                    let mac = options.get("mac").and_then(machine::mac).ok_or(bad("mac= is an address of six bytes"))?;
                    let id = options.get("id").and_then(|id| id.strip_prefix("nic")).and_then(number::<u8>);
                    let index = id.unwrap_or(u8::try_from(cards.len()).unwrap_or(u8::MAX));
                    cards.push((index, options.get("netdev").ok_or(bad("netdev= is missing"))?.to_owned(), model, mac));
                }
                Some("ide-cd") => {
                    let (bus, unit) = (options.get("bus"), options.get("unit").and_then(number::<u8>));
                    let bus = bus.and_then(|b| b.strip_prefix("ide.")).and_then(number::<u8>);
                    let id = options.get("drive").unwrap_or("");
                    let at = cds.iter().position(|d: &Drive| d.id == id).ok_or(bad("there is no such drive"))?;
                    let (Some(bus @ 0..=1), Some(unit @ 0..=1)) = (bus, unit) else {
                        return Err(bad("bus is ide.0 or ide.1, unit 0 or 1"));
                    };
                    let mut drive = cds.swap_remove(at);
                    drive.index = Some(bus.wrapping_mul(2).wrapping_add(unit));
                    options.get("id").unwrap_or(id).clone_into(&mut drive.id);
                    machine.add_drive(drive).map_err(|why| wrong(name, &value, why))?;
                }
                _ => return Err(bad("no such device here")),
            },
            "sandbox" => {
                machine.level = Some(match options.get("level") {
                    Some("strict") => Level::Strict,
                    Some("kernel") => Level::Kernel,
                    _ => return Err(bad("level=strict or level=kernel")),
                });
            }
            "sim" => machine.sim = Some(Sim::parse(&options).ok_or(bad("ioreq=FD,kick=FD,trace=FD,memory=FD"))?),
            _ => return Err(ArgumentError::Unknown(argument)),
        }
    }
    for monitor in monitors {
        let chardev = chardevs.iter().find(|(id, _)| *id == monitor).map(|(_, c)| c.clone());
        let chardev = chardev.ok_or_else(|| wrong("mon", &monitor, "there is no chardev of this id"))?;
        machine.monitors.push(Monitor { id: monitor, chardev });
    }
    for (index, netdev, model, mac) in cards {
        let at = others.iter().position(|(id, _)| *id == netdev).ok_or_else(|| wrong("device", &netdev, "there is no -netdev of this id"))?;
        if machine.nics.iter().any(|n| n.index == index) {
            return Err(wrong("device", &netdev, "two network cards of one number"));
        }
        machine.nics.push(Nic { model, index, mac, end: others.swap_remove(at).1, lease: None, settings: NicSettings::default() });
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
            nic.settings.change(&pairs).map_err(|why| wrong("nic-rules", &value, why))?;
        }
    }
    if machine.nics.len() > MAX_NICS {
        return Err(ArgumentError::Incomplete("more than eight network cards"));
    }
    match kernel {
        (Some(file), initrd, append) => machine.kernel = Some(Kernel { file, initrd, command_line: append.unwrap_or_default() }),
        (None, Some(_), _) => return Err(ArgumentError::Incomplete("-initrd: there is no -kernel")),
        // Some toolstacks always give one.
        (None, None, Some(_)) => notes.push("-append: ignored: there is no -kernel".to_owned()),
        (None, None, None) => {}
    }
    if let Some(cd) = cds.first() {
        return Err(wrong("drive", &cd.id, "no -device ide-cd refers to it"));
    }
    if !machine.probe && machine.domid.is_none() {
        return Err(ArgumentError::Incomplete("-xen-domid is missing"));
    }
    Ok(Parsed { machine, notes })
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::plan::BootMenu;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    const LIBXL: &str = "-xen-domid 7 -no-shutdown
        -chardev socket,id=libxl-cmd,path=/var/run/xen/qmp-libxl-7,server=on,wait=off -mon chardev=libxl-cmd,mode=control
        -chardev socket,id=libxenstat-cmd,path=/var/run/xen/qmp-libxenstat-7,server=on,wait=off
        -mon chardev=libxenstat-cmd,mode=control -nodefaults -no-user-config -name win10 -vnc 127.0.0.1:0,to=99
        -display none -serial pty -device VGA,vgamem_mb=16 -boot order=dc -smp 2,maxcpus=4 -net none
        -machine xenfv,suppress-vmdesc=on -m 2032
        -drive file=/dev/vg/win10,if=ide,index=0,media=disk,format=raw,cache=writeback
        -drive if=none,readonly=on,id=ide-5632,file=/iso/win.iso,format=raw
        -device ide-cd,id=ide-5632,drive=ide-5632,bus=ide.1,unit=0";

    #[test]
    fn what_libxl_4_17_emits_for_a_bios_guest() {
        let Parsed { machine, notes } = parse(words(LIBXL)).unwrap();
        assert_eq!((machine.domid, machine.name.as_str(), machine.online, machine.vcpus, machine.memory_mib), (Some(7), "win10", 2, 4, 2032));
        assert_eq!(machine.monitors.len(), 2);
        assert_eq!(machine.serials, [Serial::Pty]);
        assert_eq!(machine.video, Some(Video { mib: 16 }));
        assert_eq!(machine.boot, "dc");
        assert!(machine.xen_platform && !machine.stopped && !machine.probe);
        let drives: Vec<_> = machine.drives.iter().map(|d| (d.index, d.cdrom, d.read_only, d.id.as_str())).collect();
        assert_eq!(drives, [(Some(0), false, false, "ide0-0"), (Some(2), true, true, "ide-5632")]);
        assert!(notes.iter().any(|n| n.starts_with("-vnc")), "{notes:?}");
    }

    #[test]
    fn the_probe_of_4_20() {
        let text = "-S -no-user-config -nodefaults -nographic -machine none,accel=xen
            -chardev socket,id=libxl-cmd,fd=12,server=on,wait=off -mon chardev=libxl-cmd,mode=control";
        let machine = parse(words(text)).unwrap().machine;
        assert!(machine.probe && machine.stopped);
        assert_eq!(machine.monitors[0].chardev, Chardev::Fd(12));
    }

    #[test]
    fn what_is_not_there_yet_is_refused_by_name() {
        for (text, why) in [
            ("-device e1000,id=nic0,netdev=net0,mac=00:16:3e:11:22:33", "there is no -netdev"),
            ("-netdev type=tap,id=net0,ifname=vif7.0-emu", "network cards: no -device"),
            ("-netdev type=user,id=net0", "network cards on anything but a tap or a stream"),
            ("-netdev stream,id=net0,server=on,addr.type=unix,addr.path=/s", "server=off"),
            ("-netdev stream,id=net0,addr.type=inet,addr.host=::1", "addr.host= is not known"),
            ("-nic-rules id=nic3,level=guard", "no network card of this id"),
            ("-nic-rules guard", "level=off"),
            ("-nic-lease id=nic0,ip=10.0.0.5", "1 to 30 bits"),
            ("-nic-lease ip=10.0.0.5/24", "id=nicN"),
            ("-nic-lease id=nic3,ip=10.0.0.5/24", "no network card"),
            ("-device ne2k_pci,id=nic0,netdev=net0,mac=00:16:3e:11:22:33", "no such device"),
            ("-device e1000,id=nic0,netdev=net0,mac=01:16:3e:11:22:33", "mac="),
            ("-device e1000,id=nic0,netdev=net0,mac=00:16:3e", "mac="),
            ("-usbdevice tablet", "USB"),
            ("-device ahci,id=ahci0", "AHCI"),
            ("-initrd /boot/initrd", "there is no -kernel"),
            ("-boot order=c,menu=perhaps", "menu is on or off"),
            ("-boot order=c,splash-time=99999", "0 to 65535"),
            ("-boot once=z", "letters"),
            ("-incoming fd:11", "restoring"),
            ("-device no-such-thing", "no such device"),
            ("-no-such-option", "unknown option"),
            ("-m", "a value must follow"),
            ("-m lots", "not a number"),
            ("-smp 200", "1 to 128"),
            ("-boot order=xyz", "letters"),
            ("-drive file=/x,if=ide,index=9,format=raw", "index"),
            ("-drive file=/x,if=ide,index=0,format=qcow2", "format"),
            ("-drive file=/x,if=ide,index=0,format=raw,throttling.iops-total=5", "throttling.iops-total= is not known"),
            ("-drive file=/x,if=ide,index=0,format=raw,cache=unsafe", "cache"),
            ("-machine xenfv,igd-passthru=on", "igd-passthru"),
            ("-device VGA,vgamem_mb=4096", "1 to 256"),
            ("-sandbox on", "level=strict or level=kernel"),
            ("bare", "unknown option"),
        ] {
            let error = parse(words(&format!("-xen-domid 7 {text}"))).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains('\n'), "one line");
        }
    }

    #[test]
    fn network_cards_are_paired_with_their_taps_in_libxls_order() {
        let text = "-xen-domid 7 -device e1000,id=nic0,netdev=net0,mac=00:16:3e:11:22:33 -netdev type=tap,id=net0,ifname=vif7.0-emu,br=xenbr0,script=no,downscript=no
            -device rtl8139,id=nic1,netdev=net1,mac=00:16:3e:11:22:34 -netdev type=tap,id=net1,ifname=vif7.1-emu,br=xenbr0,script=no,downscript=no";
        let Parsed { machine, notes } = parse(words(text)).unwrap();
        let tap = |name: &str| NicOther::Tap(name.to_owned());
        let nics: Vec<_> = machine.nics.iter().map(|n| (n.model, n.index, n.mac[5], n.end.clone())).collect();
        assert_eq!((nics, notes), (vec![(NicModel::E1000, 0, 0x33, tap("vif7.0-emu")), (NicModel::Rtl8139, 1, 0x34, tap("vif7.1-emu"))], vec![]));
        let rules = format!("{text} -nic-rules level=guard -nic-rules id=nic1,level=addresses,ip=10.0.0.5,link=off");
        let nics = parse(words(&rules)).unwrap().machine.nics;
        assert_eq!((nics[0].settings.link, nics[1].settings.link, nics[0].settings.rules.guard), (true, false, true));
        assert!(nics[0].settings.rules.addresses.is_none() && nics[1].settings.rules.addresses.is_some());
        assert!(parse(words(&format!("{text} -nic-rules level=strict"))).unwrap_err().to_string().contains("off, guard or addresses"));
        let text = "-xen-domid 7 -device e1000,id=nic0,netdev=net0,mac=00:16:3e:11:22:33 -netdev stream,id=net0,server=off,addr.type=unix,addr.path=/run/passt";
        assert_eq!(parse(words(text)).unwrap().machine.nics[0].end, NicOther::Stream("/run/passt".to_owned()));
    }

    #[test]
    fn a_kernel_and_the_menu() {
        let all = ["-xen-domid", "7", "-kernel", "/boot/a,b", "-initrd", "/boot/i", "-append", "root=/dev/xvda1 quiet", "-boot", "order=dc,once=n,menu=on,splash-time=500,reboot-timeout=-1"];
        let machine = parse(all.map(str::to_owned)).unwrap().machine;
        let kernel = Kernel { file: "/boot/a,b".into(), initrd: Some("/boot/i".into()), command_line: "root=/dev/xvda1 quiet".into() };
        assert_eq!((machine.kernel, machine.boot.as_str()), (Some(kernel), "n"));
        assert_eq!(machine.menu, BootMenu { shown: true, wait: Some(500), retry: None });
        let parsed = parse(words("-xen-domid 7 -append quiet")).unwrap();
        assert_eq!((parsed.machine.kernel, parsed.notes.len()), (None, 1));
    }

    #[test]
    fn cirrus_is_served_by_the_standard_vga_and_logged() {
        let parsed = parse(words("-xen-domid 1 -device cirrus-vga,vgamem_mb=8")).unwrap();
        assert_eq!(parsed.machine.video, Some(Video { mib: 8 }));
        assert_eq!(parsed.notes.len(), 1);
    }

    #[test]
    fn each_option_stands_once_in_the_table() {
        for (i, o) in OPTIONS.iter().enumerate() {
            assert!(OPTIONS.iter().skip(i + 1).all(|p| p.name != o.name), "{}", o.name);
        }
    }

    proptest! {
        #[test]
        fn mutated_arguments_give_a_machine_or_one_line(at in 0usize..60, what in ".{0,12}", cut in any::<bool>()) {
            let mut all = words(LIBXL);
            let at = at % all.len();
            if cut { all.remove(at); } else { all[at] = what; }
            if let Err(e) = parse(all) {
                prop_assert!(!e.to_string().is_empty());
            }
        }
    }
}
