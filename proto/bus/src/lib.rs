//! The interface of a device: it declares regions, answers accesses to them, drives its own interrupt lines, reads and writes guest
//! memory, and sets timers. It knows no address, no interrupt number, no other device.
//!
//! A device reaches its surroundings only through a [`Context`]; in tests all of it is fake ([`fake`]).

mod auxiliary;
mod context;
mod device;
pub mod exercise;
mod facets;
pub mod fake;
pub mod faults;
pub mod guard;
mod input;
mod inspect;
mod memory;
pub mod nic;
pub mod pci;
pub mod pv;
mod region;
mod settings;
mod shown;

pub use auxiliary::{Auxiliary, Unseen};
pub use context::{Clock, Context, Effects, GuestLog, Lines, MarkKeeper, Marks, TimerId, Timers};
pub use device::{Access, Device, IoError, IoResult, Ready, Reset, Shadows, StateError, Surface, bus_read, bus_write};
pub use facets::{
    Board, BoardError, Callers, Card, Display, DriveCounters, DriveError, DriveFacts, Drives, Input, PasswordError,
    UsbBus, UsbError, ViewerAddress, Viewers,
};
pub use input::InputEvent;
pub use inspect::Inspect;
pub use memory::{DmaError, GuestMemory, NoMemory, Segment};
pub use region::{Area, Declaration, Line, Permissions, Region, RegionId, UNPLUG_NICS};
pub use settings::{BootMenu, DiskGeometry, DiskIdentity, LAYOUTS, Translation, UsbDevice, WhenFull};
pub use shown::shown;
