//! Display devices, and the viewer of a stub domain.
pub mod fbdev;
pub mod vga;
pub mod vnc;
