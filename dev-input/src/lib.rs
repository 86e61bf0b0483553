//! Devices that take input from outside: serial ports; keyboard and mouse controller.
#![forbid(unsafe_code)]

pub mod serial;
