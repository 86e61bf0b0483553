//! What is plugged in: query-cpus-fast, query-hotpluggable-cpus, device_add and device_del of vCPUs and USB devices, query-pci.
use crate::qmp::{Outcome, QmpError, Shared};
use bulkhead_bus::UsbDevice;
use bulkhead_control_api::v1;
use bulkhead_plan::{BROKER, DeviceConfig, Slot};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

/// How long a process that has died may take to be back.
const PATIENCE: Duration = Duration::from_secs(2);

/// What libxl is told that a vCPU is, and says again when it adds one.
const CPU: &str = "xen-vcpu";
/// The USB controller that may be added.
const UHCI: &str = "piix3-usb-uhci";

impl Shared {
    /// The registers of a process by name; `None` if it does not answer. One that has just died is started again: that is
    /// waited for.
    pub(crate) async fn registers(&self, slot: Slot) -> Option<BTreeMap<String, String>> {
        let begun = tokio::time::Instant::now();
        loop {
            let mut client = self.clients.wait(slot).await?;
            match client.inspect(v1::Empty {}).await {
                Ok(answer) => {
                    return Some(answer.into_inner().registers.into_iter().map(|r| (r.name, r.value)).collect());
                }
                Err(e) if begun.elapsed() >= PATIENCE => {
                    tracing::warn!("slot {slot} does not answer: {}", e.message());
                    return None;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn board(&self) -> Option<Slot> {
        self.slot_of(|c| matches!(c, DeviceConfig::Platform { .. }))
    }

    /// The vCPUs that are plugged in: the board knows.
    async fn cpus(&self) -> Result<BTreeSet<u16>, QmpError> {
        let registers = match self.board() {
            Some(slot) => self.registers(slot).await,
            None => None,
        };
        let registers = registers.ok_or_else(|| QmpError::generic("the board's process does not answer"))?;
        Ok(registers
            .get("PM.vCPUs")
            .into_iter()
            .flat_map(|list| list.split(','))
            .filter_map(|n| n.parse().ok())
            .collect())
    }

    /// query-cpus-fast: libxl takes the list for the map of vCPUs that are online.
    pub(crate) async fn query_cpus(&self) -> Outcome {
        let cpu = |n| json!({ "cpu-index": n, "thread-id": 0, "qom-path": format!("/machine/cpu[{n}]"), "target": "x86_64", "props": props(n) });
        Ok(self.cpus().await?.into_iter().map(cpu).collect())
    }

    /// query-hotpluggable-cpus: every place, with a path if there is a vCPU in it.
    pub(crate) async fn query_hotpluggable_cpus(&self) -> Outcome {
        let there = self.cpus().await?;
        let place = |n| {
            let mut out = json!({ "type": CPU, "vcpus-count": 1, "props": props(n) });
            if let (Some(map), true) = (out.as_object_mut(), there.contains(&n)) {
                map.insert("qom-path".into(), json!(format!("/machine/cpu[{n}]")));
            }
            out
        };
        Ok((0..self.plan.vcpus).rev().map(place).collect())
    }

    /// device_del: what was plugged into the USB controller, or that one, which the guest is asked to eject.
    pub(crate) async fn device_del(&self, arguments: &Value) -> Outcome {
        let id = arguments.get("id").and_then(Value::as_str).unwrap_or_default();
        if id.starts_with("cpu-") {
            return Err(QmpError::generic("a vCPU cannot be taken away here; a guest gives vCPUs back by xenstore"));
        }
        if !id.is_empty() && self.added_usb().is_some() && self.plug_pci(0, id).await.is_ok() {
            return Ok(json!({}));
        }
        let gone = self.plug_usb(arguments, "").await?;
        crate::run::event(
            self,
            "DEVICE_DELETED",
            &json!({ "device": id, "path": format!("/machine/peripheral/{id}") }),
        );
        Ok(gone)
    }

    /// The USB controller that may be added: its slot, its number on bus 0.
    fn added_usb(&self) -> Option<(Slot, u8)> {
        self.plan.devices.iter().find_map(|d| match d.config {
            DeviceConfig::Usb { device, added: true, .. } => Some((d.slot, device)),
            _ => None,
        })
    }

    /// device_add of a USB controller: what `usbctrl` of the type devicemodel asks for.
    async fn add_usb_controller(&self, driver: &str, arguments: &Value) -> Outcome {
        let id = arguments
            .get("id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty())
            .ok_or_else(|| QmpError::generic("Parameter 'id' is missing"))?;
        if driver != UHCI {
            return Err(QmpError::generic(format!(
                "'{driver}': only USB 1 is there, '{UHCI}' ('version=1' in usbctrl)"
            )));
        }
        let (slot, device) = self
            .added_usb()
            .ok_or_else(|| QmpError::generic("the guest has a USB controller ('usb=1'), and there is one at most"))?;
        self.launcher.plug(slot).await.map_err(|e| QmpError::generic(format!("'{driver}': {e}")))?;
        id.clone_into(&mut self.usb_id.lock().unwrap_or_else(PoisonError::into_inner));
        self.plug_pci(u32::from(device), id).await?;
        Ok(json!({}))
    }

    /// Tells the board that a PCI device has come, or (0) that the guest is to eject the one of this name. A board that dies just now is
    /// started again; without its word the guest would never look.
    async fn plug_pci(&self, device: u32, id: &str) -> Result<(), QmpError> {
        let begun = tokio::time::Instant::now();
        loop {
            let board = match self.board() {
                Some(slot) => self.clients.wait(slot).await,
                None => None,
            };
            let mut board = board.ok_or_else(|| QmpError::generic("the board's process does not run"))?;
            match board.plug_pci(v1::PciPlug { device, id: id.to_owned() }).await {
                Ok(_) => return Ok(()),
                Err(e) if e.code() == tonic::Code::FailedPrecondition || begun.elapsed() >= PATIENCE => {
                    return Err(QmpError::generic(e.message()));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Plugs a USB device in, or out.
    async fn plug_usb(&self, arguments: &Value, driver: &str) -> Outcome {
        let id = arguments
            .get("id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty())
            .ok_or_else(|| QmpError::generic("Parameter 'id' is missing"))?;
        let slot = self.plan.devices.iter().find(|d| matches!(d.config, DeviceConfig::Usb { .. })).map(|d| d.slot);
        let slot = slot.ok_or_else(|| QmpError::generic("the guest has no USB controller"))?;
        let mut client = self.clients.wait(slot).await.ok_or_else(|| {
            QmpError::generic(if self.added_usb().is_some() {
                "the guest has no USB controller ('usb=1' or 'usbctrl' gives it one)"
            } else {
                "the USB controller's process does not run"
            })
        })?;
        client
            .plug_usb(v1::UsbPlug { id: id.to_owned(), driver: driver.to_owned() })
            .await
            .map_err(|e| QmpError::generic(e.message()))?;
        Ok(json!({}))
    }

    /// device_add: a vCPU, or a USB device.
    pub(crate) async fn device_add(&self, arguments: &Value) -> Outcome {
        let driver = arguments.get("driver").and_then(Value::as_str);
        let driver = driver.ok_or_else(|| QmpError::generic("Parameter 'driver' is missing"))?;
        if UsbDevice::of_driver(driver).is_some() {
            return self.plug_usb(arguments, driver).await;
        }
        if driver.ends_with("-uhci") || driver.ends_with("-ehci") || driver.ends_with("-xhci") {
            return self.add_usb_controller(driver, arguments).await;
        }
        if driver != CPU {
            return Err(QmpError::generic(format!(
                "'{driver}' cannot be added to a running guest; a vCPU ('{CPU}'), a USB controller ('{UHCI}'), usb-tablet, usb-mouse and usb-kbd can"
            )));
        }
        // libxl sends numbers as strings or as numbers, by version.
        let number = |key: &str| match arguments.get(key) {
            Some(Value::String(text)) => text.parse::<u64>().ok(),
            Some(value) => value.as_u64(),
            None => Some(0),
        };
        let cpu = number("socket-id").and_then(|n| u16::try_from(n).ok());
        let (Some(cpu), Some(0), Some(0)) = (cpu, number("core-id"), number("thread-id")) else {
            return Err(QmpError::generic("socket-id is the vCPU's number, core-id and thread-id are 0"));
        };
        let client = match self.board() {
            Some(slot) => self.clients.wait(slot).await,
            None => None,
        };
        let mut client = client.ok_or_else(|| QmpError::generic("the board's process does not run"))?;
        client.plug_cpu(v1::Cpu { index: u32::from(cpu) }).await.map_err(|e| QmpError::generic(e.message()))?;
        Ok(json!({}))
    }

    /// query-pci: every function, as the broker's map of the bus has it.
    pub(crate) async fn query_pci(&self) -> Outcome {
        let registers = self.registers(BROKER).await.ok_or_else(|| QmpError::generic("the broker does not answer"))?;
        let devices: Vec<Value> = registers.iter().filter_map(|(name, value)| function(name, value)).collect();
        Ok(json!([{ "bus": 0, "devices": devices }]))
    }
}

fn props(cpu: u16) -> Value {
    json!({ "socket-id": cpu, "core-id": 0, "thread-id": 0 })
}

/// A line of the broker's map: `nic0.pci 04.0` = `8086:100e 020000 irq 11 pin 1`.
fn function(name: &str, value: &str) -> Option<Value> {
    let (device, at) = name.split_once(".pci ")?;
    let (slot, function) = at.split_once('.')?;
    let words: Vec<&str> = value.split(' ').collect();
    let [id, class, "irq", irq, "pin", pin] = words.as_slice() else { return None };
    let (vendor, model) = id.split_once(':')?;
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    Some(json!({
        "bus": 0, "slot": hex(slot)?, "function": hex(function)?, "qdev_id": device,
        "id": { "vendor": hex(vendor)?, "device": hex(model)? },
        "class_info": { "class": hex(class)? >> 8 },
        "irq": irq.parse::<u32>().ok()?, "irq_pin": pin.parse::<u32>().ok()?, "regions": [],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_brokers_map() {
        let nic = function("nic0.pci 1f.2", "8086:100e 020000 irq 11 pin 1").unwrap();
        assert_eq!(
            (&nic["slot"], &nic["function"], &nic["id"]["device"], &nic["class_info"]["class"]),
            (&json!(31), &json!(2), &json!(0x100e), &json!(0x200))
        );
        for (name, value) in [
            ("nic0.online", "true"),
            ("nic0.pci 04.0", "unknown"),
            ("nic0.pci 4", "8086:100e 020000 irq 11 pin 1"),
            ("x.pci 04.0", "z:z 0 irq 1 pin 1"),
        ] {
            assert_eq!(function(name, value), None, "{name}");
        }
    }
}
