//! The broker. One thread, one event loop; it owns the ioreq channel, decides which device an access goes to, which
//! interrupt a line is, where a BAR is decoded. It never waits for a device: a request is put into its cell and the
//! reply completes the vCPU's request.
//!
//! | file | what |
//! |---|---|
//! | `edge.rs` | the hypervisor: Xen, or the simulated machine |
//! | `route.rs` | address → channel and region |
//! | `pci.rs` | BARs: what is decoded where; link routing |
//! | `cf8.rs` | PCI's address register |
//! | `channel.rs` | one device: its ring, its interrupt lines, its deadline |
//! | `presence.rs` | whether the guest has a device: unplugged, hot-plugged, ejected |
//! | `vcpu.rs` | the state of one vCPU's request: idle, waiting, blocked |
//! | `dispatcher.rs`, `dispatcher/` | the dispatcher: what happens to a request, and to its reply; what is where on the bus |
//! | `event_loop.rs` | waiting |

mod cf8;
mod channel;
mod dispatcher;
mod edge;
mod event_loop;
mod pci;
mod presence;
mod route;
mod vcpu;

pub use channel::ServedDevice;
pub use dispatcher::{Action, Dispatcher};
pub use edge::{Edge, SimEdge, XenEdge};
pub use event_loop::run;
