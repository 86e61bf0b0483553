//! Back ends of PV devices: their handshake with the front end in xenstore, and their calls to the two processes that hold descriptors
//! which Xen cannot restrict to a domain.
mod back_end;
mod calls;
pub mod exercise;

pub use back_end::{BackEnd, ConnectFault, EVENTS, Frontend, Handshake, NODES, PORT, State, number};
pub use calls::{BUFFER_PAGES, GRANTS, GrantCall, GrantReply, Piece, Side, VALUE, XenbusCall, XenbusReply};
