//! Hot-plug: query-cpus-fast, query-hotpluggable-cpus, query-pci, and device_add and device_del of vCPUs and USB devices.
use crate::clients::CallError;
use crate::outcome::{Outcome, QmpError};
use crate::session_state::Shared;
use bulkhead_bus::UsbDevice;
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::{BROKER, Slot, Starts, kind};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::PoisonError;

/// The driver's name of a vCPU, which libxl reads from query-hotpluggable-cpus and sends with device_add.
const CPU: &str = "xen-vcpu";
/// The driver's name of the USB controller that may be added to a running guest.
const UHCI: &str = "piix3-usb-uhci";

impl Shared {
    fn board(&self) -> Option<Slot> {
        self.slot_of(|c| std::ptr::eq(c.kind(), &kind::PLATFORM))
    }

    /// The numbers of the plugged-in vCPUs, from the board's process.
    async fn cpus(&self) -> Result<BTreeSet<u16>, QmpError> {
        let facts = match self.board() {
            Some(slot) => self.clients.facts(slot).await,
            None => None,
        };
        let facts = facts.ok_or_else(|| QmpError::generic("the board's process does not answer"))?;
        Ok(facts.vcpus.into_iter().filter_map(|n| u16::try_from(n).ok()).collect())
    }

    /// query-cpus-fast: libxl takes the list for the map of vCPUs that are online.
    pub(crate) async fn query_cpus(&self) -> Outcome {
        let cpu = |n| {
            let path = format!("/machine/cpu[{n}]");
            json!({ "cpu-index": n, "thread-id": 0, "qom-path": path, "target": "x86_64", "props": props(n) })
        };
        Ok(self.cpus().await?.into_iter().map(cpu).collect())
    }

    /// query-hotpluggable-cpus: every place for a vCPU, with a path if the vCPU is plugged in.
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

    /// device_del: removes a USB device, or requests the guest to eject the USB controller.
    pub(crate) async fn device_del(&self, arguments: &Value) -> Outcome {
        let id = arguments.get("id").and_then(Value::as_str).unwrap_or_default();
        if id.starts_with("cpu-") {
            return Err(QmpError::generic("a vCPU cannot be removed by QMP; a guest releases vCPUs by xenstore"));
        }
        if !id.is_empty() && self.added_usb().is_some() && self.plug_pci(0, id).await.is_ok() {
            return Ok(json!({}));
        }
        let gone = self.plug_usb(arguments, "").await?;
        self.event("DEVICE_DELETED", &json!({ "device": id, "path": format!("/machine/peripheral/{id}") }));
        Ok(gone)
    }

    /// Slot of the USB controller that may be added, and its device number on bus 0.
    fn added_usb(&self) -> Option<(Slot, u8)> {
        let added = self.plan.devices.iter().filter(|d| d.config.starts() == Starts::WhenAdded);
        added.filter_map(|d| Some((d.slot, d.config.facets().usb?))).next()
    }

    /// device_add of a USB controller, which libxl sends for `usbctrl` of the type devicemodel.
    async fn add_usb_controller(&self, driver: &str, arguments: &Value) -> Outcome {
        let id = arguments
            .get("id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty())
            .ok_or_else(|| QmpError::generic("Parameter 'id' is missing"))?;
        if driver != UHCI {
            return Err(QmpError::generic(format!(
                "'{driver}': only USB 1 is supported, '{UHCI}' ('version=1' in usbctrl)"
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

    /// Requests the board to notify the guest that PCI device `device` was added or, with 0, to request ejection of the device
    /// `id`. The call is repeated if the board's process is restarted meanwhile: without the notification, the guest would not
    /// rescan the bus.
    async fn plug_pci(&self, device: u32, id: &str) -> Result<(), QmpError> {
        let board = self.board().ok_or_else(|| QmpError::generic("the guest has no board"))?;
        let call = Call::PlugPci(v1::PciPlug { device, id: id.to_owned() });
        self.clients.call_again(board, call).await.map_err(|e| match e {
            CallError::NotRunning => QmpError::generic("the board's process does not run"),
            e => QmpError::generic(e.to_string()),
        })
    }

    /// Plugs in a USB device with this driver or, if `driver` is empty, unplugs it.
    async fn plug_usb(&self, arguments: &Value, driver: &str) -> Outcome {
        let id = arguments
            .get("id")
            .and_then(Value::as_str)
            .filter(|id| !id.is_empty())
            .ok_or_else(|| QmpError::generic("Parameter 'id' is missing"))?;
        let slot = self.slot_of(|c| c.facets().usb.is_some());
        let slot = slot.ok_or_else(|| QmpError::generic("the guest has no USB controller"))?;
        let call = Call::PlugUsb(v1::UsbPlug { id: id.to_owned(), driver: driver.to_owned() });
        let done = self.clients.call(slot, call).await.map_err(|e| match e {
            CallError::NotRunning if self.added_usb().is_some() => {
                QmpError::generic("the guest has no USB controller ('usb=1' or 'usbctrl' gives it one)")
            }
            CallError::NotRunning => QmpError::generic("the USB controller's process does not run"),
            e => QmpError::generic(e.to_string()),
        });
        done.map(|()| json!({}))
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
        let board = self.board().ok_or_else(|| QmpError::generic("the guest has no board"))?;
        let call = Call::PlugCpu(v1::Cpu { index: u32::from(cpu) });
        self.clients.call(board, call).await.map_err(|e| match e {
            CallError::NotRunning => QmpError::generic("the board's process does not run"),
            e => QmpError::generic(e.to_string()),
        })?;
        Ok(json!({}))
    }

    /// query-pci: every function in the broker's map of the bus.
    pub(crate) async fn query_pci(&self) -> Outcome {
        let facts = self.clients.facts(BROKER).await.ok_or_else(|| QmpError::generic("the broker does not answer"))?;
        let devices: Vec<Value> = facts.functions.iter().map(function).collect();
        Ok(json!([{ "bus": 0, "devices": devices }]))
    }
}

fn props(cpu: u16) -> Value {
    json!({ "socket-id": cpu, "core-id": 0, "thread-id": 0 })
}

/// A function in QMP's form (qapi/pci.json).
fn function(f: &v1::PciFunction) -> Value {
    json!({
        "bus": 0, "slot": f.device, "function": f.function, "qdev_id": f.of,
        "id": { "vendor": f.vendor, "device": f.model },
        "class_info": { "class": f.class >> 8 },
        "irq": f.irq, "irq_pin": f.pin, "regions": [],
    })
}
