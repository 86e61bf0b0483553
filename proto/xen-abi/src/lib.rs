//! Structs and constants of Xen's public headers (xen/include/public, MIT) and of Linux' Xen device nodes
//! (include/uapi/xen). Plain data, x86-64, little endian. `tests/headers.rs` compares all of it with the headers of
//! Debian's libxen-dev.
#![no_std]

pub mod dm_op;
pub mod domctl;
pub mod ioctl;
pub mod ioreq;
pub mod memory;
pub mod sysctl;
pub mod vchan;
pub mod xenstore;

/// A domain's number.
pub type DomId = u16;

/// Reasons of a shutdown (public/sched.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Shutdown {
    /// Clean power off.
    PowerOff = 0,
    /// Reboot.
    Reboot = 1,
    /// The guest, or a process that it depends on, has crashed.
    Crash = 3,
}
