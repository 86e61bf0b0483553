//! The USB controller.
use super::Machine;
use super::host::{Host, Part};
use super::option::{ArgumentError, Arguments, Fate, Given, Group, OptionSpec, QUBES, flag, option};
use super::{DeviceKind, board};
use crate::failure::Failure;
use Fate::{Implemented, Refused, Substituted};
use bulkhead_bus::UsbDevice;
use bulkhead_plan::{DeviceConfig, kind};

pub(super) static DEVICE: DeviceKind = DeviceKind {
    kinds: &[&kind::USB],
    arguments: Group { options: OPTIONS, keys: &[], arguments: || Box::new(Controller) },
    open,
};

const USB_2: Fate = Refused("USB 2 and 3 (usbversion=1 is there)");

const OPTIONS: &[OptionSpec] = &[
    flag("usb", Implemented("the PIIX3's UHCI controller, two ports"), "usb"),
    option("device piix3-usb-uhci", Implemented("two ports"), "usbversion=1"),
    option("device usb-ehci", Substituted("the PIIX3's UHCI controller takes its place"), QUBES),
    option("device ich9-usb-ehci1", USB_2, "usbversion=2"),
    option("device ich9-usb-uhci1", USB_2, "usbversion=2"),
    option("device ich9-usb-uhci2", USB_2, "usbversion=2"),
    option("device ich9-usb-uhci3", USB_2, "usbversion=2"),
    option("device nec-usb-xhci", USB_2, "usbversion=3"),
    option("usbdevice", Implemented("tablet, mouse, keyboard; others are refused, and more than two"), "usbdevice"),
    option("device usb-tablet", Implemented("with a controller"), ""),
    option("device usb-mouse", Implemented("with a controller"), ""),
    option("device usb-kbd", Implemented("with a controller"), ""),
    option("device usb-redir", Refused("USB devices of other machines"), "spiceusbredirection"),
];

/// Ports of the controller.
const PORTS: usize = 2;

/// The device of `-usbdevice NAME`.
fn device(name: &str) -> Option<UsbDevice> {
    match name {
        "tablet" => Some(UsbDevice::Tablet),
        "mouse" => Some(UsbDevice::Mouse),
        "keyboard" | "kbd" => Some(UsbDevice::Keyboard),
        _ => None,
    }
}

struct Controller;

impl Arguments for Controller {
    fn take(&mut self, given: &mut Given, machine: &mut Machine) -> Result<(), ArgumentError> {
        match (given.name.as_str(), given.options.head("driver")) {
            ("usbdevice", _) => {
                let device = device(&given.value);
                let device =
                    device.ok_or_else(|| given.refused("USB devices other than tablet, mouse and keyboard"))?;
                machine.usb.get_or_insert_default().push(device);
            }
            ("device", Some(driver @ ("usb-tablet" | "usb-mouse" | "usb-kbd"))) => {
                let usb = machine.usb.as_mut();
                let missing = "there is no controller before it (-usb or -device piix3-usb-uhci)";
                usb.ok_or_else(|| given.bad(missing))?.extend(device(driver.trim_start_matches("usb-")));
            }
            // `-usb` or a `-device` of a controller.
            _ => {
                machine.usb.get_or_insert_default();
                if let Some(at) = given.options.get("addr") {
                    // Device numbers from 0x10 on, which no other device has.
                    let hex = |text: &str, last: u8| {
                        u8::from_str_radix(text.trim_start_matches("0x"), 16).ok().filter(|n| *n <= last)
                    };
                    let (device, function) = at.split_once('.').unwrap_or((at, "0"));
                    let place = hex(device, 0x1f).filter(|d| *d >= 0x10).zip(hex(function, 7));
                    let place = place.ok_or_else(|| given.bad("addr is 10 to 1f, with a function 0 to 7: 1d.2"))?;
                    machine.usb_at = Some(place);
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, machine: &mut Machine) -> Result<Vec<String>, ArgumentError> {
        if machine.usb.as_ref().is_some_and(|u| u.len() > PORTS) {
            return Err(ArgumentError::Incomplete("more than two USB devices: the controller has two ports"));
        }
        Ok(Vec::new())
    }
}

/// The controller: from the start, or for hot-plug at the first PCI device number after the network cards.
pub fn open(host: &mut Host) -> Result<Vec<Part>, Failure> {
    let config = match &host.machine.usb {
        Some(devices) => {
            let (device, function) = host.machine.usb_at.unwrap_or((1, 2));
            DeviceConfig::Usb { devices: devices.clone(), device, function, added: false }
        }
        None => {
            let device = board::first_card(host).saturating_add(host.machine.nics.len() as u8);
            DeviceConfig::Usb { devices: Vec::new(), device, function: 0, added: true }
        }
    };
    Ok(vec![Part { kept: vec![host.memory()?], ..Part::new(config) }])
}
