//! Back ends of PV devices: how they meet the guest's end in xenstore, and what they ask of the two processes that hold what Xen cannot
//! restrict.
mod back_end;
mod calls;
pub mod exercise;

pub use back_end::{BackEnd, EVENTS, Frontend, Meeting, NODES, PORT, State, number};
pub use calls::{BUFFER_PAGES, GRANTS, GrantCall, GrantReply, Piece, Side, VALUE, XenbusCall, XenbusReply};
