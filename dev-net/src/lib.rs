//! Network cards, and their shared parts: frames with offloads, rules, and back ends.
//!
//! | file | what |
//! |---|---|
//! | `frame.rs` | a frame and its offloads |
//! | `offload.rs` | checksums and segmentation in software |
//! | `filter.rs` | rules for the frames that a guest sends |
//! | `port.rs` | a card's port: filter, link, queues, loopback |
//! | `dhcp.rs` | answers to DHCP from a static lease |
//! | `capture.rs` | frames as pcap, for people |
//! | `backend/` | the host's side of the link |
//! | `eeprom.rs` | the serial EEPROM of both cards |
//! | `exercised/` | the outside of a card for fuzzing |
//! | `e1000/` | Intel 82540EM |
//! | `rtl8139/` | Realtek RTL8139C+ |
mod announce;
pub mod backend;
mod capture;
mod dhcp;
pub mod e1000;
mod eeprom;
mod exercised;
pub mod filter;
pub mod frame;
pub mod offload;
mod port;
pub mod rtl8139;

/// Ready number of a card's back end, which is readable when frames have arrived.
pub const FRAMES: u32 = 0;
