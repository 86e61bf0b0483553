//! The IDE controller and its drives. Their images are opened in `images.rs`.
use super::DeviceKind;
use super::Machine;
use super::disk::Properties;
use super::host::{Host, Part};
use super::images::{self, Backing, Writable};
use super::option::{
    ArgumentError, Arguments, Fate, Given, Group, Keys, OptionSpec, XENOPSD, bytes, keys, number, option, wrong,
};
use crate::failure::Failure;
use crate::options::Options;
use Fate::{Implemented, Refused};
use bulkhead_bus::WhenFull;
use bulkhead_plan::{DeviceConfig, DriveId, FdUse, ImageFormat, kind};

pub(super) static DEVICE: DeviceKind = DeviceKind {
    kinds: &[&kind::IDE],
    arguments: Group { options: OPTIONS, keys: KEYS, arguments: || Box::new(Drives::default()) },
    open,
};

const OPTIONS: &[OptionSpec] = &[
    option("drive", Implemented("if=ide or none, format=raw, host_device or qcow2, cache=writeback"), "disk"),
    option("device ide-cd", Implemented("on bus ide.0 or ide.1"), "disk, devtype=cdrom"),
    option(
        "device ide-hd",
        Implemented("on bus ide.0 or ide.1; serial, ver, model, cyls with heads and secs, bios-chs-trans"),
        XENOPSD,
    ),
    option(
        "global",
        Implemented(
            "ide-hd.KEY=VALUE with the keys of -device ide-hd, for all disks; other devices' revisions and subsystem numbers are as without",
        ),
        XENOPSD,
    ),
    option(
        "image-backing",
        Implemented(
            "files that an image may be based on: any, directory (of the guest's image, or below), none; not QEMU's",
        ),
        "",
    ),
    option(
        "image-directories",
        Implemented(
            "where images of disks that are added may lie, besides the directories of those of the start: any, or directories with colons between them; not QEMU's",
        ),
        "",
    ),
    option(
        "image-full",
        Implemented(
            "a write that the host has no room for: report it to the guest, or stop (it waits until there is room); not QEMU's",
        ),
        "",
    ),
    option(
        "image-limit",
        Implemented(
            "most bytes of a qcow2 image's file, which grows while the guest writes: none, or a number with K, M, G or T; not QEMU's",
        ),
        "",
    ),
    option("device ahci", Refused("AHCI (hdtype=\"ahci\")"), "hdtype=\"ahci\""),
    option("device lsi53c895a", Refused("SCSI disks (sd*)"), "disk sd*"),
    option("device scsi-hd", Refused("SCSI disks (sd*)"), "disk sd*"),
];

const KEYS: &[Keys] = &[
    keys(
        "drive",
        &["file", "if", "index", "media", "format", "readonly", "read-only", "id", "cache"],
        // Discards always reach the image, and an image is never opened again with other rights.
        &["auto-read-only", "discard", "detect-zeroes"],
    ),
    // Properties of disks, which have no effect on a CD.
    keys("device ide-cd", &["driver", "id", "drive", "bus", "unit"], &["bios-chs-trans", "bootindex", "ver"]),
    keys(
        "device ide-hd",
        &["driver", "id", "drive", "bus", "unit", "serial", "ver", "model", "cyls", "heads", "secs", "bios-chs-trans"],
        &["bootindex"],
    ),
];

/// A disk or CD drive, as the arguments describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineDrive {
    /// Controller and port; `None` until a `-device` names them.
    pub at: Option<DriveId>,
    /// A CD-ROM drive.
    pub cdrom: bool,
    /// The guest cannot write.
    pub read_only: bool,
    /// Path of the image; `None` for an empty CD drive.
    pub file: Option<String>,
    /// The image's format, which is never guessed.
    pub format: ImageFormat,
    /// The drive's name in QMP.
    pub id: String,
    /// Identity and geometry of a disk.
    pub properties: Properties,
}

impl MachineDrive {
    /// Parses `-drive`.
    pub fn parse(options: &Options) -> Result<Self, &'static str> {
        let format = match options.get("format") {
            None | Some("raw" | "host_device") => ImageFormat::Raw,
            Some("qcow2") => ImageFormat::Qcow2,
            Some(_) => return Err("this image format is not supported (raw and qcow2 are)"),
        };
        // A write completes in the host's page cache, and FLUSH waits for the medium: that is writeback, the only mode.
        if !matches!(options.get("cache"), None | Some("writeback")) {
            return Err("cache= is writeback");
        }
        let interface = options.get("if").unwrap_or("ide");
        let media = options.get("media").unwrap_or("disk");
        // Two spellings of one key.
        let read_only = options.flag("readonly", false).zip(options.flag("read-only", false));
        let read_only = read_only.map(|(a, b)| a || b).ok_or("readonly is on or off")?;
        let index =
            options.get("index").map(|i| i.parse::<u8>().ok().filter(|i| *i < 4)).map(|i| i.ok_or("index is 0 to 3"));
        let index = index.transpose()?;
        let file = options.get("file").filter(|f| !f.is_empty()).map(str::to_owned);
        let properties = Properties::default();
        match interface {
            "ide" => {
                let index = index.ok_or("index= is missing")?;
                let cdrom = media == "cdrom";
                if file.is_none() && !cdrom {
                    return Err("a disk needs file=");
                }
                let id = format!("ide{}-{}{}", index / 2, if cdrom { "cd" } else { "hd" }, index % 2);
                Ok(Self {
                    at: Some(DriveId::ide(index)),
                    cdrom,
                    read_only: read_only || cdrom,
                    file,
                    format,
                    id,
                    properties,
                })
            }
            "none" => {
                let id = options.get("id").ok_or("id= is missing")?.to_owned();
                // `-device` says whether it is a CD.
                Ok(Self { at: None, cdrom: media == "cdrom", read_only, file, format, id, properties })
            }
            _ => Err("if= is ide or none"),
        }
    }
}

/// Drives, until all arguments are parsed.
#[derive(Default)]
struct Drives {
    /// Drives without a `-device` yet.
    unplaced: Vec<MachineDrive>,
    /// Properties of all disks, from `-global ide-hd.…`.
    of_all: Properties,
}

impl Arguments for Drives {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        match (given.name.as_str(), given.value.as_str()) {
            ("drive", _) => {
                let drive = MachineDrive::parse(&given.options).map_err(|why| given.bad(why))?;
                if drive.at.is_none() {
                    self.unplaced.push(drive);
                } else {
                    add(machine, drive).map_err(|why| given.bad(why))?;
                }
            }
            ("device", _) => {
                let drive = self.place(given)?;
                add(machine, drive).map_err(|why| given.bad(why))?;
            }
            ("global", value) => match value.strip_prefix("ide-hd.").map(|p| Options::parse(&format!("ide-hd,{p}"))) {
                Some(property) if property.pairs.iter().all(|(key, _)| Properties::KEYS.contains(&key.as_str())) => {
                    self.of_all.take(&property).map_err(|why| given.bad(why))?;
                }
                _ => given.notes.push(format!("{}: ignored", given.shown)),
            },
            ("image-backing", "any") => machine.images.backing = Backing::Any,
            ("image-backing", "directory") => machine.images.backing = Backing::Directory,
            ("image-backing", "none") => machine.images.backing = Backing::None,
            ("image-backing", _) => return Err(given.bad("any, directory or none")),
            ("image-directories", value) => {
                let bad = || given.bad("any, or absolute paths with colons between them");
                machine.writable = Writable::parse(value).ok_or_else(bad)?;
            }
            ("image-limit", "none") => machine.images.limit = None,
            ("image-limit", value) => {
                let limit = bytes(value).ok_or_else(|| given.bad("none, or bytes, as 40G (K, M, G or T)"))?;
                machine.images.limit = Some(limit);
            }
            ("image-full", "report") => machine.images.full = WhenFull::Report,
            ("image-full", "stop") => machine.images.full = WhenFull::Stop,
            _ => return Err(given.bad("report or stop")),
        }
        Ok(())
    }

    fn finish(&mut self, machine: &mut Machine) -> Result<Vec<String>, ArgumentError> {
        if let Some(drive) = self.unplaced.first() {
            return Err(wrong("drive", &drive.id, "no -device ide-cd or ide-hd refers to it"));
        }
        for disk in machine.drives.iter_mut().filter(|d| !d.cdrom) {
            let own = std::mem::replace(&mut disk.properties, self.of_all.clone());
            disk.properties.overlay(own);
        }
        Ok(Vec::new())
    }
}

impl Drives {
    /// Takes the drive that a `-device ide-cd` or `ide-hd` refers to, and gives it its place.
    fn place(&mut self, given: &Given) -> Result<MachineDrive, ArgumentError> {
        let (options, bad) = (&given.options, |why: &str| given.bad(why));
        let (bus, unit) = (options.get("bus"), options.get("unit").and_then(number::<u8>));
        let bus = bus.and_then(|b| b.strip_prefix("ide.")).and_then(number::<u8>);
        let id = options.get("drive").unwrap_or("");
        let at = self.unplaced.iter().position(|d| d.id == id).ok_or(bad("there is no such drive"))?;
        let (Some(bus @ 0..=1), Some(unit @ 0..=1)) = (bus, unit) else {
            return Err(bad("bus is ide.0 or ide.1, unit 0 or 1"));
        };
        let mut drive = self.unplaced.swap_remove(at);
        drive.cdrom = options.head("driver") == Some("ide-cd");
        if !drive.cdrom {
            drive.properties.take(options).map_err(bad)?;
        }
        drive.read_only |= drive.cdrom;
        if drive.file.is_none() && !drive.cdrom {
            return Err(bad("a disk needs file="));
        }
        drive.at = Some(DriveId::ide(bus.wrapping_mul(2).wrapping_add(unit)));
        options.get("id").unwrap_or(id).clone_into(&mut drive.id);
        Ok(drive)
    }
}

/// Adds a drive; an error if its place is taken.
fn add(machine: &mut Machine, drive: MachineDrive) -> Result<(), &'static str> {
    if machine.drives.iter().any(|d| d.at == drive.at) {
        return Err("two drives in one place");
    }
    machine.drives.push(drive);
    Ok(())
}

/// The IDE controller with the machine's emulated drives.
pub fn open(host: &mut Host) -> Result<Vec<Part>, Failure> {
    let machine = host.machine;
    let (mut drives, mut kept) = (Vec::new(), Vec::new());
    for drive in &machine.drives {
        let (fds, config) = images::drive(drive, &host.images, &host.intake)?;
        kept.extend(fds);
        drives.push(config);
    }
    kept.push(host.memory()?);
    if let Some(faults) = machine.sim.as_ref().and_then(|s| s.faults) {
        for _ in &drives {
            kept.push((FdUse::Faults, host.sim(faults)?));
        }
    }
    Ok(vec![Part { kept, ..Part::new(DeviceConfig::Ide { drives }) }])
}
