//! The simulated machine. The launcher, control, the broker and every device are the real processes in their real
//! sandboxes; only Xen is simulated: the ioreq pages are a memfd, events are an eventfd, device model operations
//! arrive as text on a socket, guest memory is a memfd, and the clock moves only on request.

mod faults;
pub mod libqtest;
mod machine;
pub mod qtest;
mod understudies;

pub use faults::Faults;
pub use machine::{Options, Sim, SimError};
pub use understudies::{Cue, REAL_ROLES, Understudies};
