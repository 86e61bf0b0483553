//! Display devices.
pub mod vga;
