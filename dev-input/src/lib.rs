//! Input devices: serial ports; keyboard and mouse controller; USB; back ends of PV keyboards and consoles.
#![forbid(unsafe_code)]

pub mod console;
pub mod ps2;
mod records;
pub mod serial;
pub mod usb;
pub mod vkbd;
