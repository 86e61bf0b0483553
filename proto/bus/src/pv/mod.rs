//! Back ends of PV devices: their handshake with the front end in xenstore, and the front end as they reach it.
mod back_end;
pub mod exercise;

pub use back_end::{
    BUFFER_PAGES, BackEnd, ConnectFault, EVENTS, Frontend, Handshake, NODES, PORT, Piece, Side, State, number,
};
