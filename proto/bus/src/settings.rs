//! Settings that both devices and the launcher's parser of arguments use.
use serde::{Deserialize, Serialize};

/// The result of a write for which the host's storage is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WhenFull {
    /// The write fails, and the guest sees the error.
    #[default]
    Report,
    /// The write waits until there is space, and the guest waits for it.
    Stop,
}

/// A USB device that can be plugged into the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsbDevice {
    /// An absolute pointer.
    Tablet,
    /// A relative pointer.
    Mouse,
    /// A keyboard.
    Keyboard,
}

impl UsbDevice {
    /// QEMU's driver name of it. Saved machines have it: it does not change.
    pub fn driver(self) -> &'static str {
        match self {
            Self::Tablet => "usb-tablet",
            Self::Mouse => "usb-mouse",
            Self::Keyboard => "usb-kbd",
        }
    }

    /// The device with this QEMU driver name.
    pub fn of_driver(driver: &str) -> Option<Self> {
        match driver {
            "usb-tablet" => Some(Self::Tablet),
            "usb-mouse" => Some(Self::Mouse),
            "usb-kbd" => Some(Self::Keyboard),
            _ => None,
        }
    }
}

/// Settings of the firmware's boot menu.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootMenu {
    /// The firmware shows its menu.
    pub shown: bool,
    /// Milliseconds that the menu waits for a key.
    pub wait: Option<u16>,
    /// Milliseconds after which the firmware retries a failed boot.
    pub retry: Option<u32>,
}

/// Keyboard layouts for viewers' characters; the first is the default.
pub const LAYOUTS: [&str; 7] = ["en-us", "en-gb", "de", "fr", "es", "it", "sv"];

/// Strings with which a disk identifies itself; `None` leaves the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    /// Serial number, at most 20 ASCII characters.
    pub serial: Option<String>,
    /// The version of its firmware.
    pub version: Option<String>,
    /// Model, at most 40 ASCII characters.
    pub model: Option<String>,
}

/// The firmware's translation of BIOS addresses, with cylinders up to 1023, into the disk's own. The numbers are SeaBIOS'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Translation {
    /// None: both are the same.
    None = 0,
    /// Through the sector's number, with at most 255 heads.
    Lba = 1,
    /// Heads are doubled and cylinders halved.
    Large = 2,
    /// As `Large`, with 15 heads in place of 16.
    Rechs = 3,
}

/// Geometry of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskGeometry {
    /// Index of the drive, as in its configuration.
    pub drive: u8,
    /// Number of cylinders.
    pub cylinders: u16,
    /// Number of heads.
    pub heads: u8,
    /// Sectors per track.
    pub sectors: u8,
    /// The firmware's translation.
    pub translation: Translation,
}
