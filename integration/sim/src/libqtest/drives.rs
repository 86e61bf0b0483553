//! Translates the drives of QEMU's tests to bulkhead-dm's arguments: places by order, drives named by node, properties of all
//! disks, storage with faults.
use super::Pairs;

/// An injected fault of a drive, from a blkdebug script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scripted {
    /// Index of the drive.
    pub drive: u8,
    /// The fault is in a flush (QEMU's `flush_to_disk`); no other event is supported.
    pub flush: bool,
    /// The machine stops, and `cont` retries the job (QEMU's `werror=stop`); otherwise the guest gets the error.
    pub stops: bool,
}

/// The drives of a command line.
#[derive(Debug, Default)]
pub struct Drives {
    /// Each `-drive` and `-blockdev` that a `-device` refers to.
    loose: Vec<Pairs>,
    /// The machine's drives, in the order of the command line.
    placed: Vec<Placed>,
    /// `-global ide-hd.KEY=VALUE`.
    globals: Vec<(String, String)>,
    /// A drive has a debugging back end.
    pub debugged: bool,
    /// The faults of the scripts.
    pub scripted: Vec<Scripted>,
}

#[derive(Debug)]
struct Placed {
    index: Option<u8>,
    drive: Pairs,
    /// Properties of the `-device`, if the drive has one.
    device: Option<Pairs>,
}

/// The supported events of a script's faults, and whether each is a flush.
const EVENTS: [(&str, bool); 2] = [("flush_to_disk", true), ("flush_to_os", true)];

impl Drives {
    /// Adds a `-drive`.
    pub fn drive(&mut self, text: &str) {
        let drive = Pairs::parse("file", text);
        // A drive without a medium, for devices that this machine does not have.
        if drive.get("file") == Some("null-co://") {
            return;
        }
        match drive.get("if").unwrap_or("ide") {
            "none" => self.loose.push(drive),
            _ => {
                self.placed.push(Placed { index: drive.get("index").and_then(|i| i.parse().ok()), drive, device: None })
            }
        }
    }

    /// Adds a `-blockdev` over a file.
    pub fn blockdev(&mut self, text: &str) -> Result<(), String> {
        let node = Pairs::parse("driver", text);
        let (Some("file"), Some(name), Some(file)) = (node.get("driver"), node.get("node-name"), node.get("filename"))
        else {
            return Err(format!("-blockdev {text}: only driver=file"));
        };
        self.loose.push(Pairs::parse("file", &format!("id={name},file={file},format=raw")));
        Ok(())
    }

    /// Adds a `-global`; returns whether it concerns disks.
    pub fn global(&mut self, text: &str) -> bool {
        let property = text.strip_prefix("ide-hd.").and_then(|p| p.split_once('='));
        self.globals.extend(property.map(|(k, v)| (k.to_owned(), v.to_owned())));
        property.is_some()
    }

    /// Adds a `-device ide-hd` or `-device ide-cd`.
    pub fn device(&mut self, text: &str) -> Result<(), String> {
        let device = Pairs::parse("driver", text);
        let drive = match device.get("drive") {
            Some(id) => {
                let at = self.loose.iter().position(|d| d.get("id") == Some(id));
                self.loose.swap_remove(at.ok_or_else(|| format!("-device {text}: there is no such drive"))?)
            }
            None => Pairs::default(),
        };
        let number = |key: &str| device.get(key).map(|n| n.trim_start_matches("ide.").parse::<u8>().unwrap_or(u8::MAX));
        let bus = number("bus").unwrap_or(0);
        let unit = number("unit").or_else(|| {
            let taken = |unit: u8| self.placed.iter().any(|p| p.index == Some(bus.wrapping_mul(2).wrapping_add(unit)));
            (0..2).find(|unit| !taken(*unit))
        });
        let (0..=1, Some(unit @ 0..=1)) = (bus, unit) else { return Err(format!("-device {text}: no such place")) };
        self.placed.push(Placed { index: Some(bus.wrapping_mul(2).wrapping_add(unit)), drive, device: Some(device) });
        Ok(())
    }

    /// bulkhead-dm's arguments for all drives.
    pub fn arguments(&mut self) -> Result<Vec<String>, String> {
        let mut out = Vec::new();
        for n in 0..self.placed.len() {
            let free = (0..4u8).find(|i| !self.placed.iter().any(|p| p.index == Some(*i)));
            let Some(placed) = self.placed.get_mut(n) else { continue };
            placed.index = placed.index.or(free);
            let index = placed.index.ok_or("more drives than there are places")?;
            let driver = placed.device.as_ref().and_then(|d| d.get("driver"));
            let cd = driver == Some("ide-cd") || (driver.is_none() && placed.drive.get("media") == Some("cdrom"));
            let mut file = placed.drive.get("file").unwrap_or("").to_owned();
            if let Some((script, path)) = file.strip_prefix("blkdebug:").and_then(|f| f.split_once(':')) {
                let stops = ["rerror", "werror"].iter().all(|k| placed.drive.get(k) == Some("stop"));
                self.scripted.extend(script_of(script, index, stops)?);
                self.debugged = true;
                file = path.to_owned();
            }
            let mut format = placed.drive.get("format").unwrap_or("raw").to_owned();
            if !cd && placed.drive.get("readonly") == Some("on") {
                format.push_str(",readonly=on");
            }
            let medium = if file.is_empty() { String::new() } else { format!("file={file},") };
            // Properties of a disk are passed in QEMU's syntax, which bulkhead-dm accepts from toolstacks.
            let mut properties: Vec<(String, String)> = if cd { Vec::new() } else { self.globals.clone() };
            for (key, value) in placed.device.iter().flat_map(|d| &d.0) {
                if !["driver", "drive", "bus", "unit", "id"].contains(&key.as_str()) {
                    properties.push((key.clone(), value.clone()));
                }
            }
            if properties.is_empty() {
                let media = if cd { "cdrom" } else { "disk" };
                out.extend(["-drive".into(), format!("{medium}if=ide,index={index},media={media},format={format}")]);
                continue;
            }
            let driver = if cd { "ide-cd" } else { "ide-hd" };
            let properties: String = properties.iter().map(|(k, v)| format!(",{k}={v}")).collect();
            out.extend(["-drive".into(), format!("{medium}if=none,id=drive{index},format={format}")]);
            out.extend([
                "-device".into(),
                format!("{driver},drive=drive{index},bus=ide.{},unit={}{properties}", index / 2, index % 2),
            ]);
        }
        Ok(out)
    }
}

/// Parses the fault of a blkdebug script.
fn script_of(path: &str, drive: u8, stops: bool) -> Result<Option<Scripted>, String> {
    if path.is_empty() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let injected = text.split('[').find_map(|part| part.strip_prefix("inject-error]")).unwrap_or("");
    let event = injected.lines().find_map(|l| l.strip_prefix("event = ")).map(|e| e.trim_matches('"'));
    match event.and_then(|e| EVENTS.iter().find(|(name, _)| *name == e)) {
        Some((_, flush)) => Ok(Some(Scripted { drive, flush: *flush, stops })),
        None => Err(format!("{path}: no event that is known here")),
    }
}
