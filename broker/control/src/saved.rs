//! Saved machines: control asks every process for its state and writes the stream; when a machine goes on, it compares the machine that was
//! saved with its own.
use crate::outcome::{Outcome, QmpError};
use crate::session_state::{RunState, Shared};
use bulkhead_bus::Clock;
use bulkhead_bus::nic::NicSettings;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::{BROKER, DeviceConfig, DeviceSlot, DriveConfig, MachinePlan, NicModel, Slot, Starts};
use bulkhead_stream::{Name, Section};
use prost::Message as _;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Version of [`MachineState`], and of the payloads of all processes: each has a version of its own inside.
const VERSION: u32 = 1;
const PAYLOAD: u16 = 1;
const _: () = assert!(bulkhead_stream::PAYLOAD + 64 == bulkhead_control_api::STATE_MAX);
/// Time in which another device model ends that has the guest's images, and between two looks.
const LOCKS: Duration = Duration::from_secs(10);
const LOCKS_AGAIN: Duration = Duration::from_millis(100);
/// Time for dom0 to take something of what is written to a console, and between two tries.
const CONSOLE: Duration = Duration::from_secs(10);
const CONSOLE_AGAIN: Duration = Duration::from_millis(1);
/// Zeroes behind a state on a console: more than its ring and the kernel's buffer have room for (xen/include/public/io/console.h).
const PADDING: usize = 4096;
/// Why there is no live migration of a guest whose device model is in a stub domain.
const STUBDOM: &str = "live migration is not supported in a stub domain yet";
/// Most facts of a state.
const FACTS: usize = 64;

/// What the guest can see of the machine, and its arguments decide.
#[derive(Clone, PartialEq, prost::Message)]
struct MachineState {
    #[prost(uint32, tag = "1")]
    version: u32,
    /// A text for each device, by its name.
    #[prost(btree_map = "string, string", tag = "2")]
    facts: BTreeMap<String, String>,
    /// The settings of network cards, by name: commands may have changed them.
    #[prost(btree_map = "string, bytes", tag = "3")]
    nics: BTreeMap<String, Vec<u8>>,
}

/// Why a saved machine is not this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OtherMachine {
    #[error("the saved machine's description does not decode")]
    Decode,
    #[error("the saved machine is described by a later release")]
    Version,
    #[error("the saved machine has {name} ({saved}), this one has not")]
    Missing { name: String, saved: String },
    #[error("this machine has {name} ({here}), the saved one has not")]
    More { name: String, here: String },
    #[error("{name} was {saved} when the machine was saved, and is {here} here")]
    Differs { name: String, saved: String, here: String },
}

fn drive(drive: &DriveConfig) -> String {
    let kind = if drive.cdrom { "a CD drive" } else { "a disk" };
    let size = drive.size.filter(|_| !drive.cdrom).map_or(String::new(), |bytes| format!(" of {bytes} bytes"));
    format!("{kind}{size} at place {}", drive.at.port)
}

/// What the guest sees of a device; `None` if it sees nothing. Saved machines have these texts: a change of one refuses those of earlier
/// releases.
fn fact(config: &DeviceConfig) -> Option<String> {
    Some(match config {
        DeviceConfig::Platform { vcpus, xen_platform, serial, .. } => {
            format!("a board for {vcpus} vCPUs, xen-platform {xen_platform}, serial port {serial}")
        }
        DeviceConfig::Ide { drives } => drives.iter().map(drive).collect::<Vec<_>>().join(", "),
        DeviceConfig::Vga { device, vram, rom, .. } => {
            format!("a display with {} MiB at device {device}, firmware of {rom} bytes", vram >> 20)
        }
        DeviceConfig::Nic { model, device, mac, rom, .. } => {
            let model = match model {
                NicModel::E1000 => "e1000",
                NicModel::Rtl8139 => "rtl8139",
            };
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            format!("{model} {mac} at device {device}, firmware of {rom} bytes")
        }
        DeviceConfig::Usb { devices, device, function, .. } => {
            let devices = devices.iter().map(|d| d.driver()).collect::<Vec<_>>().join(", ");
            format!("a USB controller at {device}.{function} with [{devices}]")
        }
        DeviceConfig::FwCfg { kernel, .. } => format!("a configuration device, kernel {}", kernel.is_some()),
        DeviceConfig::Ps2 => "a keyboard controller".to_owned(),
        DeviceConfig::Serial { index, .. } => format!("COM{}", index.saturating_add(1)),
        DeviceConfig::Fbdev { .. }
        | DeviceConfig::Vnc { .. }
        | DeviceConfig::Xenbus { .. }
        | DeviceConfig::Grant { .. }
        | DeviceConfig::Qdisk { .. }
        | DeviceConfig::Vkbd { .. }
        | DeviceConfig::Console { .. }
        | DeviceConfig::Vfb { .. }
        | DeviceConfig::Vchan { .. } => return None,
    })
}

fn facts(plan: &MachinePlan) -> BTreeMap<String, String> {
    let visible = plan.devices.iter().filter(|d| d.config.starts() == Starts::AtOnce);
    visible.filter_map(|d| Some((d.name.clone(), fact(&d.config)?))).collect()
}

/// Compares a saved machine with this one. Returns the network cards' settings that are not those of the plan.
///
/// # Errors
/// The first difference.
pub(crate) fn compare(saved: &[u8], plan: &MachinePlan) -> Result<Vec<(Slot, NicSettings)>, OtherMachine> {
    let saved = MachineState::decode(saved).map_err(|_| OtherMachine::Decode)?;
    if saved.version > VERSION {
        return Err(OtherMachine::Version);
    }
    if saved.facts.len() > FACTS || saved.nics.len() > FACTS {
        return Err(OtherMachine::Decode);
    }
    let mine = facts(plan);
    for (name, saved) in &saved.facts {
        match mine.get(name) {
            None => return Err(OtherMachine::Missing { name: name.clone(), saved: saved.clone() }),
            Some(here) if here != saved => {
                return Err(OtherMachine::Differs { name: name.clone(), saved: saved.clone(), here: here.clone() });
            }
            Some(_) => {}
        }
    }
    if let Some((name, here)) = mine.into_iter().find(|(name, _)| !saved.facts.contains_key(name)) {
        return Err(OtherMachine::More { name, here });
    }
    let mut changed = Vec::new();
    for device in &plan.devices {
        let (Some(here), Some(saved)) = (device.config.facets().nic, saved.nics.get(&device.name)) else { continue };
        let saved = saved.first_chunk().filter(|bytes| bytes.len() == saved.len()).and_then(NicSettings::from_bytes);
        let saved = saved.ok_or(OtherMachine::Decode)?;
        if saved != *here {
            changed.push((device.slot, saved));
        }
    }
    Ok(changed)
}

impl Shared {
    /// `xen-save-devices-state`. A machine that runs is stopped for it, and goes on.
    pub(crate) async fn save_devices(&self, arguments: &Value) -> Outcome {
        let filename = arguments.get("filename").and_then(Value::as_str);
        let filename = filename.ok_or_else(|| QmpError::generic("Parameter 'filename' is missing"))?;
        let to = self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).named(filename)?;
        let to = to.ok_or_else(|| QmpError::generic("the state goes to a descriptor of add-fd: /dev/fdset/N"))?;
        let done = self.save_to(&to, arguments).await;
        // libxl forgets its sets, whatever comes of them; one for each save would be too many.
        self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).used_up(filename);
        done.map(|()| json!({}))
    }

    async fn save_to(&self, to: &Arc<OwnedFd>, arguments: &Value) -> Result<(), QmpError> {
        self.can_save().await?;
        // Without the argument it is live, as QEMU has it.
        let live = arguments.get("live").and_then(Value::as_bool) != Some(false);
        if live && self.stubdom() {
            // Its disks' locks are those of dom0's device model, which nobody tells.
            return Err(QmpError::generic(format!("{STUBDOM}; the guest goes on here")));
        }
        let _one = self.order.lock().await;
        if self.state() != RunState::Running {
            if live && !self.logs_dirty.load(Ordering::Relaxed) {
                return Err(QmpError::generic(
                    "pages that devices have written were not logged (xen-set-global-dirty-log): a copy of the memory would not be the guest's",
                ));
            }
            self.write_state(to).await?;
            if live {
                // Another device model goes on with the images now, or this one takes them again.
                self.launcher.locks(false).await.map_err(|e| QmpError::generic(format!("the images: {e}")))?;
            }
            return Ok(());
        }
        let done = match self.set_running(false).await {
            Ok(_) => self.write_state(to).await,
            Err(why) => Err(why),
        };
        self.set_running(true).await?;
        done
    }

    /// `x-bulkhead-migratable`: whether this machine can be saved now, and moved; why not; the sizes of its parts.
    pub(crate) async fn migratable(&self) -> Outcome {
        let save = self.can_save().await.err().map(|why| why.description);
        let migrate = save.clone().or_else(|| self.stubdom().then(|| STUBDOM.to_owned()));
        let one = self.turn.lock().await;
        // They are those of a machine that may run: another moment has others. The broker's has the guest's pages that Xen was not told: it is
        // asked only when the machine stands still.
        let parts = self.devices().await;
        drop(one);
        let whole = parts.as_ref().map_err(|why| why.description.clone()).and_then(|parts| {
            let sections: Vec<_> = sections(parts);
            bulkhead_stream::write(0, &sections).map(|_| ()).map_err(|why| why.to_string())
        });
        let (save, migrate) = match whole {
            Ok(()) => (save, migrate),
            Err(why) => (save.or_else(|| Some(why.clone())), migrate.or(Some(why))),
        };
        let parts = parts.unwrap_or_default();
        let sections: Vec<_> =
            parts.iter().map(|(n, bytes)| json!({ "name": n.text(), "bytes": bytes.len() })).collect();
        let bytes: usize = parts.iter().map(|(_, bytes)| bytes.len()).sum();
        Ok(json!({
            "save": save.is_none(), "not-saved-because": save,
            "migrate": migrate.is_none(), "not-migrated-because": migrate,
            "bytes": bytes, "sections": sections, "oldest-reader": bulkhead_stream::OLDEST_READER.to_string(),
        }))
    }

    /// Whether the state goes to dom0 by a console.
    fn stubdom(&self) -> bool {
        self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).of_stub_domain()
    }

    /// `stop`.
    pub(crate) async fn stop(&self) -> Outcome {
        let _one = self.order.lock().await;
        self.set_running(false).await
    }

    /// `xen-set-global-dirty-log`, with which libxl begins every save, and ends it. What cannot be saved is said here, before the guest is
    /// suspended: xl would look after it no longer. Once it is answered, Xen hears of every page that a device writes.
    pub(crate) async fn dirty_log(&self, arguments: &Value) -> Outcome {
        // xapi sends the text `true`.
        let enable = arguments.get("enable").is_some_and(|on| on == &json!(true) || on == &json!("true"));
        if enable {
            self.can_save().await?;
        }
        let done = self.clients.call(BROKER, Call::LogDirty(enable)).await;
        // Who does not know whether Xen was told lets no guest go on elsewhere.
        self.logs_dirty.store(enable && done.is_ok(), Ordering::Relaxed);
        match done {
            Err(e) if enable => Err(QmpError::generic(format!("the broker: {e}; the guest runs on"))),
            _ => Ok(json!({})),
        }
    }

    /// Whether this machine can be saved.
    async fn can_save(&self) -> Result<(), QmpError> {
        for device in self.plan.devices.iter().filter(|d| d.config.kind().guest_visible) {
            let added = device.config.starts() == Starts::WhenAdded;
            let why = match (added, self.clients.get(device.slot)) {
                (true, None) | (false, Some(_)) => continue,
                (true, Some(_)) => "a controller that was added while the machine ran cannot be saved yet",
                (false, None) if self.is_unplugged(device) => continue,
                // It may be starting.
                (false, None) if self.clients.wait(device.slot).await.is_some() => continue,
                (false, None) => "its process does not run",
            };
            return Err(QmpError::generic(format!("{}: {why}; the guest runs on", device.name)));
        }
        Ok(())
    }

    /// Whether the guest has unplugged the whole device.
    fn is_unplugged(&self, device: &DeviceSlot) -> bool {
        device.config.facets().nic.is_some() && self.nics.get(device.slot).is_none()
    }

    /// `cont`. The first one of a machine that was saved gives network cards the settings that they had.
    pub(crate) async fn go_on(&self) -> Outcome {
        let _one = self.order.lock().await;
        let next = || self.saved_nics.lock().unwrap_or_else(PoisonError::into_inner).first().copied();
        while let Some(slot) = next() {
            // Nothing of the guest leaves under other rules: whoever asks again tries again.
            if let Some(settings) = self.nics.get(slot) {
                self.apply(slot, settings).await?;
            }
            self.saved_nics.lock().unwrap_or_else(PoisonError::into_inner).retain(|other| *other != slot);
        }
        self.lock_images().await?;
        self.set_running(true).await
    }

    /// Takes the locks of the images, which a live save has given away. Who had the guest meanwhile may just be ending.
    async fn lock_images(&self) -> Result<(), QmpError> {
        let begun = tokio::time::Instant::now();
        loop {
            match self.launcher.locks(true).await {
                Ok(()) => return Ok(()),
                Err(why) if begun.elapsed() >= LOCKS => return Err(QmpError::generic(why.to_string())),
                Err(_) => tokio::time::sleep(LOCKS_AGAIN).await,
            }
        }
    }

    async fn write_state(&self, to: &Arc<OwnedFd>) -> Result<(), QmpError> {
        let one = self.turn.lock().await;
        let parts = self.parts().await?;
        drop(one);
        let sections = sections(&parts);
        let now = Clock::ahead(self.plan.clock).now();
        let mut stream = bulkhead_stream::write(now, &sections).map_err(QmpError::generic)?;
        let (bytes, patience) = (stream.len(), if self.stubdom() { CONSOLE } else { Duration::ZERO });
        if self.stubdom() {
            // When the last of it is in the console's ring, dom0 has taken the state out.
            stream.resize(bytes.saturating_add(PADDING), 0);
        }
        let written = write_all(to.as_fd(), &stream, patience).await;
        written.map_err(|e| QmpError::generic(format!("writing the state: {e}")))?;
        tracing::info!(bytes, sections = sections.len(), "the machine was saved");
        Ok(())
    }

    /// Asks for the states of all: the broker's, and those of [`Self::devices`].
    async fn parts(&self) -> Result<Vec<(Name, Vec<u8>)>, QmpError> {
        let broker = self.clients.save(BROKER).await.map_err(|e| QmpError::generic(format!("the broker: {e}")))?;
        let mut parts = self.devices().await?;
        parts.push((Name::BROKER, broker));
        Ok(parts)
    }

    /// The machine's description, and the state of each device that the guest sees.
    async fn devices(&self) -> Result<Vec<(Name, Vec<u8>)>, QmpError> {
        let nics = self.plan.devices.iter();
        let nics = nics.filter_map(|d| Some((d.name.clone(), self.nics.get(d.slot)?.to_bytes().to_vec())));
        let machine = MachineState { version: VERSION, facts: facts(&self.plan), nics: nics.collect() }.encode_to_vec();
        let mut parts = vec![(Name::MACHINE, machine)];
        for device in self.plan.devices.iter().filter(|d| d.config.kind().guest_visible) {
            let added = device.config.starts() == Starts::WhenAdded;
            // One that the guest has unplugged, and one that was not added, have no process.
            if self.clients.get(device.slot).is_none() && (added || self.is_unplugged(device)) {
                continue;
            }
            let failed = |why: &dyn std::fmt::Display| QmpError::generic(format!("{}: {why}", device.name));
            let name = Name::new(&device.name).ok_or_else(|| failed(&"its name is none of a section"))?;
            let state = self.clients.save(device.slot).await.map_err(|e| failed(&e))?;
            parts.push((name, state));
        }
        Ok(parts)
    }
}

fn sections(parts: &[(Name, Vec<u8>)]) -> Vec<Section<'_>> {
    parts.iter().map(|(name, payload)| Section { name: *name, version: PAYLOAD, oldest: PAYLOAD, payload }).collect()
}

/// Writes to a file from its begin. Who reads from the other end is waited for as long as this, each time that nothing can be written.
async fn write_all(to: rustix::fd::BorrowedFd<'_>, bytes: &[u8], patience: Duration) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(to, true)?;
    let (mut rest, mut last) = (bytes, tokio::time::Instant::now());
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(n) => {
                rest = rest.get(n..).unwrap_or_default();
                last = tokio::time::Instant::now();
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if last.elapsed() < patience => tokio::time::sleep(CONSOLE_AGAIN).await,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
