//! Back ends of PV devices: their handshake with the front end in xenstore, the front end as they reach it, and what each kind may
//! use.
mod back_end;
pub mod exercise;
pub mod means;
#[cfg(test)]
mod silence;

pub use back_end::{
    BUFFER_PAGES, BackEnd, ConnectFault, EVENTS, Frontend, Handshake, NODES, PORT, Piece, Side, State, number,
};
pub use means::Means;
