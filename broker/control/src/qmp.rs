//! The QMP commands of libxl and operators: their table, and the calls of their functions. Other commands return CommandNotFound.
mod input;
mod picture;
mod session;

use crate::outcome::{Outcome, QmpError};
use crate::session_state::{RunState, Shared};
use bulkhead_control_api::v1;
use bulkhead_plan::Ending;
use rustix::fd::OwnedFd;
use serde_json::{Value, json};
use std::sync::PoisonError;
use std::time::Duration;

pub(crate) use input::exercise;
use picture::Screenshot;
pub(crate) use session::{Connection, session};

/// The version of QEMU that the greeting reports: libxl sends its newer commands to 8 and later only.
const VERSION: (u32, u32, u32) = (8, 2, 0);
/// Every command, and its remark in docs/compat.md.
pub const COMMANDS: &[(&str, &str)] = &[
    ("qmp_capabilities", ""),
    ("query-commands", ""),
    ("query-version", "8.2.0, so that libxl sends what newer versions take"),
    ("query-status", "prelaunch, running, paused"),
    ("query-command-line-options", "run-with, for libxl's probe"),
    ("cont", "all processes; without a `stop` it does nothing"),
    (
        "stop",
        "answered when nothing of the guest's devices is under way; after 30 s with an error, and `cont` goes on (docs/lifecycle.md)",
    ),
    ("quit", ""),
    ("system_reset", "the guest restarts"),
    ("system_wakeup", "an error: S3 is refused, so no guest sleeps"),
    ("query-chardev", "serial ports"),
    ("query-vnc", "where the server listens, and its viewers"),
    ("change-vnc-password", "sets the viewers' password; an empty one refuses all viewers"),
    ("set_password", "the same; protocol=vnc"),
    ("query-cpus-fast", "the vCPUs that are plugged in"),
    ("query-hotpluggable-cpus", ""),
    (
        "device_add",
        "a vCPU; usb-tablet, usb-mouse, usb-kbd; piix3-usb-uhci, if there is no USB controller (the guest hears of it by ACPI)",
    ),
    (
        "device_del",
        "what was plugged into USB by `device_add`; a USB controller that was added, when the guest has ejected it",
    ),
    ("query-pci", "bus 0"),
    ("query-block", ""),
    ("query-blockstats", "counted since the guest started, also over restarts of the process"),
    ("query-fdsets", "in a stub domain also the CDs that libxl attaches: stub-devid:N"),
    ("add-fd", "up to 16"),
    ("remove-fd", ""),
    ("eject", "a CD drive by libxl's id (ide-5632); a tray that the guest has locked only with force"),
    ("blockdev-change-medium", "a descriptor set (/dev/fdset/N), raw or host_device"),
    ("set_link", "a network card's cable"),
    ("screendump", "PNG, to /var/lib/bulkhead/dump/GUEST/NAME or to a descriptor of add-fd; in a stub domain nowhere"),
    ("send-key", "up to 16 keys at once"),
    ("input-send-event", "keys, relative movement, buttons, wheel"),
    (
        "xen-save-devices-state",
        "to a descriptor of add-fd, whose set is removed; a live one gives the locks of the images back until cont",
    ),
    ("xen-load-devices-state", "an error"),
    (
        "xen-set-global-dirty-log",
        "refused if the machine cannot be saved; pages that devices write are told to Xen from then on",
    ),
    (
        "x-bulkhead-migratable",
        "whether the guest can be saved and moved now, why not, and the sizes of its state's parts",
    ),
    ("x-bulkhead-restart", "kills a device's process"),
    ("x-bulkhead-processes", "the process table"),
    ("x-bulkhead-logs", "the last lines of all processes"),
    ("x-bulkhead-events", "what has happened to devices"),
    ("x-bulkhead-statistics", "counters of all processes"),
    ("x-bulkhead-activity", "accesses, posted writes, wake-ups and doorbells of all processes"),
    ("x-bulkhead-metrics", "the counters, and the process table, as Prometheus reads them"),
    ("x-bulkhead-lights", "the PS/2 keyboard's lights"),
    ("x-bulkhead-inspect", "every register of a device"),
    ("x-bulkhead-screenshot", "a PNG of at most 8 MiB in the answer"),
    ("x-bulkhead-net-set", "cable and rules of a card"),
    ("x-bulkhead-net-show", "cards, and what was dropped"),
    ("x-bulkhead-capture", "a card's frames as pcap"),
    ("x-bulkhead-trace", "a device's accesses as lines of the qtest protocol"),
];

/// What a command returns.
pub(crate) enum Returned {
    Value(Value),
    /// `{"png": "…"}`, sent piece by piece.
    Picture(Screenshot),
}

fn version() -> Value {
    let (major, minor, micro) = VERSION;
    let qemu = json!({ "micro": micro, "minor": minor, "major": major });
    json!({ "qemu": qemu, "package": format!("bulkhead {}", env!("CARGO_PKG_VERSION")) })
}

impl Shared {
    /// Executes one command.
    pub(crate) async fn execute(
        &self,
        name: &str,
        arguments: &Value,
        fd: Option<OwnedFd>,
    ) -> Result<Returned, QmpError> {
        let value = match name {
            "qmp_capabilities" => Ok(json!({})),
            "query-version" => Ok(version()),
            "query-status" => {
                let status = match self.state() {
                    RunState::Prelaunch => "prelaunch",
                    RunState::Running => "running",
                    RunState::Paused => "paused",
                };
                Ok(json!({ "status": status, "running": status == "running", "singlestep": false }))
            }
            "cont" => self.go_on().await,
            "stop" => self.stop().await,
            "query-chardev" => {
                let ports = self
                    .plan
                    .chardevs
                    .iter()
                    .map(|(label, shown)| json!({ "label": label, "filename": shown, "frontend-open": true }));
                Ok(Value::Array(ports.collect()))
            }
            "query-vnc" => self.query_vnc().await,
            "change-vnc-password" | "set_password" => self.set_vnc_password(arguments).await,
            "query-command-line-options" => Ok(json!([{ "option": "run-with", "parameters": [
                { "name": "chroot", "type": "string" }, { "name": "user", "type": "string" } ] }])),
            "query-commands" => Ok(COMMANDS.iter().map(|(name, _)| json!({ "name": name })).collect()),
            "query-cpus-fast" => self.query_cpus().await,
            "query-hotpluggable-cpus" => self.query_hotpluggable_cpus().await,
            "device_add" => self.device_add(arguments).await,
            "device_del" => self.device_del(arguments).await,
            "query-pci" => self.query_pci().await,
            "query-block" => self.query_block().await,
            "query-blockstats" => self.query_blockstats().await,
            "system_wakeup" => Err(QmpError::generic("Unable to wake up: guest is not in suspended state")),
            "query-fdsets" => self.query_fdsets().await,
            "eject" => self.eject(arguments).await,
            "blockdev-change-medium" => self.change_medium(arguments).await,
            "add-fd" => self.add_fd(arguments, fd),
            "remove-fd" => self.remove_fd(arguments),
            "quit" => {
                // The answer is sent first.
                let launcher = self.launcher.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _ = launcher.stop(Ending::Quit).await;
                });
                Ok(json!({}))
            }
            "system_reset" => self.launcher.stop(Ending::Reboot).await.map(|()| json!({})).map_err(QmpError::generic),
            "screendump" => self.screendump(arguments).await,
            "send-key" => self.send_key(arguments).await,
            "input-send-event" => self.input(arguments).await,
            "xen-save-devices-state" => self.save_devices(arguments).await,
            "x-bulkhead-migratable" => self.migratable().await,
            "xen-set-global-dirty-log" => self.dirty_log(arguments).await,
            "xen-load-devices-state" => {
                Err(QmpError::generic("a running machine takes no state; -incoming does, when it starts"))
            }
            "x-bulkhead-restart" => {
                let name = arguments.get("device").and_then(Value::as_str).unwrap_or("");
                let device = self.plan.devices.iter().find(|d| d.name == name);
                let slot = device.ok_or_else(|| QmpError::not_found(format!("there is no device {name:?}")))?.slot;
                self.launcher.restart(slot).await.map(|()| json!({})).map_err(QmpError::generic)
            }
            "x-bulkhead-processes" => {
                let rows = self.launcher.processes().await.map_err(QmpError::generic)?;
                Ok(json!({
                    "name": self.plan.name,
                    "domid": self.plan.domid,
                    "level": self.plan.level,
                    "landlock": self.landlock,
                    "processes": rows,
                }))
            }
            "x-bulkhead-logs" => {
                let count = arguments.get("lines").and_then(Value::as_u64).unwrap_or(200).min(2000);
                Ok(json!(self.recent.last(count as usize)))
            }
            "x-bulkhead-events" => {
                let after = arguments.get("after").and_then(Value::as_u64).unwrap_or(0);
                Ok(self.past.lock().unwrap_or_else(PoisonError::into_inner).since(after))
            }
            "x-bulkhead-statistics" => self.statistics().await,
            "x-bulkhead-activity" => self.activity().await,
            "x-bulkhead-lights" => self.lights().await,
            "x-bulkhead-metrics" => self.metrics().await,
            "set_link" => self.set_link(arguments).await,
            "x-bulkhead-net-set" => self.net_set(arguments).await,
            "x-bulkhead-net-show" => self.net_show().await,
            "x-bulkhead-trace" => self.trace(arguments).await,
            "x-bulkhead-capture" => self.capture(arguments).await,
            "x-bulkhead-screenshot" => return self.screenshot().await.map(Returned::Picture),
            "x-bulkhead-inspect" => self.inspect(arguments).await,
            _ => Err(QmpError::no_command(format!("The command {name} has not been found"))),
        };
        value.map(Returned::Value)
    }

    async fn inspect(&self, arguments: &Value) -> Outcome {
        let name = arguments.get("device").and_then(Value::as_str).unwrap_or("broker");
        let slot = match name {
            "broker" => Some(bulkhead_plan::BROKER),
            _ => self.plan.devices.iter().find(|d| d.name == name).map(|d| d.slot),
        };
        let client = match slot {
            Some(slot) => self.clients.wait(slot).await,
            None => None,
        };
        let mut client = client.ok_or_else(|| QmpError::not_found(format!("there is no running device {name:?}")))?;
        let registers =
            client.inspect(v1::Empty {}).await.map_err(|e| QmpError::generic(e.message()))?.into_inner().registers;
        let counters =
            client.statistics(v1::Empty {}).await.map_err(|e| QmpError::generic(e.message()))?.into_inner().counters;
        let registers: serde_json::Map<_, _> =
            registers.into_iter().map(|r| (r.name, Value::String(r.value))).collect();
        let counters: serde_json::Map<_, _> = counters.into_iter().map(|c| (c.name, json!(c.value))).collect();
        Ok(json!({ "registers": registers, "statistics": counters }))
    }
}

#[cfg(test)]
mod facts;
#[cfg(test)]
mod fake;
#[cfg(test)]
pub(crate) mod tests;
