//! The runtime of a role's process, called from its `main()`. Device crates know nothing of processes: this crate gives a `Device`
//! a process, a channel, guest memory, a clock and the control service, and enters the sandbox.

mod call;
mod control;
mod event_loop;
mod facts;
mod frame_buffer;
mod link;
mod log;
mod memory;
mod packet;
mod process;
mod trace;

pub use call::{Call, Called, FacetError, InvalidCall};
pub use control::{ControlHandle, ControlRequest, Done, LoadError, SaveError, serve as serve_control};
pub use event_loop::{Build, Prepared, Resources, run_device};
pub use facts::{Facts, FunctionFacts};
pub use frame_buffer::{FrameBuffer, FrameBufferError};
pub use link::{Link, LinkError, Received};
pub use log::set_level;
pub use memory::{ForeignMemory, GrantMemory, LoggedMemory, MemfdMemory, map_list, map_video_ram};
pub use packet::receive_packet;
pub use process::{Fds, Process, StartError, answer_once, end, read_saved};
