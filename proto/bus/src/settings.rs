//! Settings that both a device and whoever configures it name.
use serde::{Deserialize, Serialize};

/// What becomes of a write that the host's storage has no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenFull {
    /// The guest is told that it failed.
    #[default]
    Report,
    /// It waits until there is room, and the guest with it.
    Stop,
}

/// What is plugged into the USB controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsbDevice {
    /// A pointer that knows its place.
    Tablet,
    /// A pointer that knows its movement.
    Mouse,
    /// A keyboard.
    Keyboard,
}

impl UsbDevice {
    /// What QEMU calls a device of this kind.
    pub fn of_driver(driver: &str) -> Option<Self> {
        match driver {
            "usb-tablet" => Some(Self::Tablet),
            "usb-mouse" => Some(Self::Mouse),
            "usb-kbd" => Some(Self::Keyboard),
            _ => None,
        }
    }
}

/// What the firmware does before and after it tries to boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMenu {
    /// It shows its menu.
    pub shown: bool,
    /// Milliseconds that it waits there.
    pub wait: Option<u16>,
    /// Milliseconds after which a boot that failed is tried again.
    pub retry: Option<u32>,
}

/// Keyboard layouts that viewers' characters can be looked up in; the first is what is taken when nobody says.
pub const LAYOUTS: [&str; 7] = ["en-us", "en-gb", "de", "fr", "es", "it", "sv"];

/// What a disk says it is, where somebody has named it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// Its serial number.
    pub serial: Option<String>,
    /// The version of its firmware.
    pub version: Option<String>,
    /// Its model.
    pub model: Option<String>,
}

/// How the firmware makes an address of old software's, with cylinders up to 1023, one of the disk's: numbers of SeaBIOS'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Translation {
    /// They are the disk's.
    None = 0,
    /// By the number of the sector, with 255 heads at most.
    Lba = 1,
    /// Heads are doubled and cylinders halved.
    Large = 2,
    /// The same, with 15 heads for 16 at first.
    Rechs = 3,
}

/// Cylinders, heads and sectors of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskGeometry {
    /// The drive's index.
    pub drive: u8,
    /// Cylinders.
    pub cylinders: u16,
    /// Heads.
    pub heads: u8,
    /// Sectors of a track.
    pub sectors: u8,
    /// What the firmware makes of them.
    pub translation: Translation,
}
