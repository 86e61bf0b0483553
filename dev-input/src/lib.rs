//! Devices that take input from outside: serial ports; keyboard and mouse controller; USB; the PV keyboard's back end.
#![forbid(unsafe_code)]

pub mod ps2;
pub mod serial;
pub mod usb;
pub mod vkbd;
