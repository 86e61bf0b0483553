//! Network cards, and what they have in common with each other: frames with work left to do on them, and where frames come from
//! and go to.
//!
//! | file | what |
//! |---|---|
//! | `frame.rs` | a frame and its offloads |
//! | `offload.rs` | checksums and segmentation in software |
//! | `filter.rs` | what a guest may send |
//! | `backend/` | the other side of the cable |
//! | `e1000/` | Intel 82540EM |
pub mod backend;
pub mod e1000;
pub mod filter;
pub mod frame;
pub mod offload;
