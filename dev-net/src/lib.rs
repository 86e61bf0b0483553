//! Network cards, and what they have in common with each other: frames with work left to do on them, and where frames come from
//! and go to.
//!
//! | file | what |
//! |---|---|
//! | `frame.rs` | a frame and its offloads |
//! | `offload.rs` | checksums and segmentation in software |
//! | `filter.rs` | what a guest may send |
//! | `port.rs` | a card's socket: filter, cable, what waits, loopback |
//! | `dhcp.rs` | an answer from a static lease |
//! | `capture.rs` | frames as pcap, for people |
//! | `backend/` | the other side of the cable |
//! | `eeprom.rs` | the memory that both cards have |
//! | `e1000/` | Intel 82540EM |
//! | `rtl8139/` | Realtek RTL8139C+ |
pub mod backend;
mod capture;
mod dhcp;
pub mod e1000;
mod eeprom;
pub mod filter;
pub mod frame;
pub mod offload;
mod port;
pub mod rtl8139;

/// The descriptor of a card that is readable when frames have come.
pub const FRAMES: u32 = 0;
