//! Display devices, and the viewer of a stub domain.
pub mod fbdev;
mod sinks;
pub mod vga;
pub mod vnc;

pub use sinks::{Sink, Sinks};
