//! Displays: the VGA and a PV frame buffer's back end; and their viewers: a frame buffer and a VNC server.
pub mod fbdev;
mod frame;
mod sinks;
pub mod vfb;
pub mod vga;
pub mod vnc;

pub use sinks::{Sink, Sinks};
