//! The broker. One thread, one event loop; it owns the ioreq server, and decides the device of an access, the interrupt of a line
//! and the address of a BAR. It never waits for a device: it writes a request to its cell, and the reply completes the vCPU's
//! request.
//!
//! | file | what |
//! |---|---|
//! | `edge.rs` | the hypervisor: Xen, or the simulated machine |
//! | `route.rs` | address → channel and region |
//! | `pci.rs` | decoded BARs; link routing |
//! | `cf8.rs` | PCI's address register |
//! | `channel.rs` | one device: its ring, its interrupt lines, its deadline |
//! | `presence.rs` | a device's presence in the guest: unplugged, hot-plugged, ejected |
//! | `vcpu.rs` | the state of one vCPU's request: idle, waiting, blocked |
//! | `dispatcher.rs`, `dispatcher/` | the dispatcher: requests, replies and effects; addresses on the bus |
//! | `state.rs` | the broker's part of a saved machine |
//! | `event_loop.rs`, `turns.rs` | the event loop; when it looks at its events |

mod cf8;
mod channel;
mod dirty_log;
mod dispatcher;
mod edge;
mod event_loop;
mod pci;
mod presence;
mod route;
mod state;
mod turns;
mod vcpu;

pub use channel::ServedDevice;
pub use dispatcher::{Action, Dispatcher};
pub use edge::{Edge, SimEdge, XenEdge};
pub use event_loop::run;
pub use state::{Domain, saved_video_ram};
