//! Display devices, a PV frame buffer's back end, and viewers.
pub mod fbdev;
mod frame;
mod sinks;
pub mod vfb;
pub mod vga;
pub mod vnc;

pub use sinks::{Sink, Sinks};
