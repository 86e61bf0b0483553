//! All fuzz targets. A test compares the table with the files in `fuzz/targets`.
use bulkhead_bus::exercise::{self, Target};

/// What a target's input is, and what is done with it.
#[derive(Clone, Copy)]
pub enum Body {
    /// A device: settings and records.
    Device(&'static Target),
    /// Anything else: bytes.
    Bytes(fn(&[u8]) -> Result<(), String>),
}

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// The folder of its crate.
    pub folder: &'static str,
    /// Who is hostile, and by what.
    pub hostile: &'static str,
    /// It has `unsafe` code below it: the address sanitizer watches it.
    pub sanitized: bool,
    /// The sources that it is meant to cover, as beginnings of paths below the folder.
    pub sources: &'static [&'static str],
    /// What it does.
    pub body: Body,
}

impl Entry {
    /// Runs one input.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub fn run(&self, bytes: &[u8]) -> Result<(), String> {
        match self.body {
            Body::Device(target) => exercise::exercise(target, bytes),
            Body::Bytes(run) => run(bytes),
        }
    }

    /// The device, if it is one.
    pub fn device(&self) -> Option<&'static Target> {
        match self.body {
            Body::Device(target) => Some(target),
            Body::Bytes(_) => None,
        }
    }

    /// The cargo feature of the target's crate: the folder's last name.
    pub fn feature(&self) -> &'static str {
        self.folder.rsplit('/').next().unwrap_or(self.folder)
    }
}

const fn device(
    target: &'static Target,
    folder: &'static str,
    hostile: &'static str,
    sources: &'static [&'static str],
) -> Entry {
    Entry { name: target.name, folder, hostile, sanitized: false, sources, body: Body::Device(target) }
}

const fn bytes(
    name: &'static str,
    folder: &'static str,
    hostile: &'static str,
    sources: &'static [&'static str],
    run: fn(&[u8]) -> Result<(), String>,
) -> Entry {
    Entry { name, folder, hostile, sanitized: false, sources, body: Body::Bytes(run) }
}

/// Every target.
pub static TARGETS: &[Entry] = &[
    device(
        &bulkhead_dev_blk::ide::TARGET,
        "dev-blk",
        "registers, PRD tables, packets, storage, saved states",
        &["src/ide/", "src/ata/"],
    ),
    device(
        &bulkhead_dev_net::e1000::TARGET,
        "dev-net",
        "registers, descriptors, frames, saved states",
        &[
            "src/e1000/",
            "src/port.rs",
            "src/filter.rs",
            "src/offload.rs",
            "src/dhcp.rs",
            "src/frame.rs",
            "src/eeprom.rs",
        ],
    ),
    device(
        &bulkhead_dev_net::rtl8139::TARGET,
        "dev-net",
        "registers, descriptors, frames, saved states",
        &[
            "src/rtl8139/",
            "src/port.rs",
            "src/filter.rs",
            "src/offload.rs",
            "src/dhcp.rs",
            "src/frame.rs",
            "src/eeprom.rs",
        ],
    ),
    device(&bulkhead_dev_display::vga::TARGET, "dev-display", "registers, video memory, saved states", &["src/vga/"]),
    device(&bulkhead_dev_input::ps2::TARGET, "dev-input", "registers, input, saved states", &["src/ps2/"]),
    device(
        &bulkhead_dev_input::serial::TARGET,
        "dev-input",
        "registers, the other end, saved states",
        &["src/serial/"],
    ),
    device(&bulkhead_dev_input::usb::TARGET, "dev-input", "registers, schedules, input, saved states", &["src/usb/"]),
    device(&bulkhead_dev_board::TARGET, "dev-board", "registers, saved states", &["src/"]),
    device(&bulkhead_dev_board::fw_cfg::TARGET, "dev-board", "registers, DMA, saved states", &["src/fw_cfg/"]),
    device(&bulkhead_dev_blk::qdisk::TARGET, "dev-blk", "ring, requests, xenstore nodes", &["src/qdisk/"]),
    device(&bulkhead_dev_display::vfb::TARGET, "dev-display", "ring, frames, xenstore nodes", &["src/vfb/"]),
    device(&bulkhead_dev_input::vkbd::TARGET, "dev-input", "ring, xenstore nodes", &["src/vkbd/"]),
    device(&bulkhead_dev_input::console::TARGET, "dev-input", "ring, xenstore nodes", &["src/console/"]),
    device(&bulkhead_dev_display::vnc::TARGET, "dev-display", "a viewer's messages", &["src/vnc/"]),
    Entry {
        sanitized: true,
        ..bytes(
            "hostile_device",
            "proto/ring",
            "a device's half of the shared memory",
            &["src/"],
            bulkhead_ring::exercise::hostile_device,
        )
    },
    Entry {
        sanitized: true,
        ..bytes(
            "hostile_broker",
            "proto/ring",
            "the broker's half of the shared memory",
            &["src/"],
            bulkhead_ring::exercise::hostile_broker,
        )
    },
    bytes("stream", "proto/stream", "a saved machine", &["src/"], bulkhead_stream::exercise),
    bytes("argv", "broker/launcher", "arguments", &["src/argv"], argv),
    bytes("qmp", "broker/control", "lines of QMP", &["src/"], |b| {
        bulkhead_control::exercise(b);
        Ok(())
    }),
];

fn argv(bytes: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(bytes);
    match bulkhead_launcher::argv::parse(text.split('\n').map(str::to_owned)) {
        Err(e) if e.to_string().is_empty() => Err("arguments are refused without a reason".into()),
        _ => Ok(()),
    }
}

/// The target of this name.
///
/// # Errors
/// There is none; the text names all.
pub fn find(name: &str) -> Result<&'static Entry, String> {
    TARGETS.iter().find(|t| t.name == name).ok_or_else(|| {
        let all: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
        format!("there is no target {name}; there are {}", all.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_table_is_the_targets_that_are_there() {
        let top = crate::top();
        let out = std::process::Command::new("git")
            .args(["ls-files", "*/fuzz/targets/*.rs"])
            .current_dir(&top)
            .output()
            .unwrap();
        let files: BTreeSet<String> = String::from_utf8(out.stdout).unwrap().lines().map(str::to_owned).collect();
        let table = TARGETS.iter().map(|t| format!("{}/fuzz/targets/{}.rs", t.folder, t.name)).collect();
        assert_eq!(
            files.iter().filter(|f| !f.starts_with("integration/fuzz/")).cloned().collect::<BTreeSet<_>>(),
            table
        );
        let manifest = std::fs::read_to_string(top.join("integration/fuzz/targets/Cargo.toml")).unwrap();
        for target in TARGETS {
            assert!(manifest.contains(&format!("name = \"{}\"\n", target.name)), "{}", target.name);
            assert!(manifest.contains(&format!("required-features = [\"{}\"]", target.feature())), "{}", target.name);
            assert!(
                top.join(target.folder).join("fuzz/seeds").join(target.name).is_dir(),
                "{} has no seeds",
                target.name
            );
            for source in target.sources {
                let there = std::fs::read_dir(top.join(target.folder).join("src")).unwrap().count() > 0;
                assert!(there && source.starts_with("src/"), "{}: {source}", target.name);
            }
        }
    }
}
