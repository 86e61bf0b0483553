//! Control: speaks QMP with libxl and operators, gRPC with every process, and writes the guest's log. It holds no
//! right worth stealing: no ioreq page, no guest memory, no path of the host. What it needs of the host it asks of the
//! launcher.

mod block;
mod board;
mod capture;
mod captures;
mod clients;
mod fdsets;
mod json;
mod keys;
mod launcher;
mod log;
mod media;
mod metrics;
mod nic_settings;
mod nics;
mod outcome;
mod past;
mod qmp;
mod run;
mod session_state;
mod sessions;
mod vnc;

pub use qmp::COMMANDS;
pub use run::run;

/// A QMP client's bytes, cut into commands and parsed as a session does it: the body of the fuzz target. Returns how many
/// pieces there were.
pub fn exercise(bytes: &[u8]) -> usize {
    let mut splitter = json::Splitter::default();
    let mut pieces = 0usize;
    for chunk in bytes.chunks(17) {
        splitter.push(chunk);
        while let Some(piece) = splitter.next() {
            pieces = pieces.saturating_add(1);
            if let json::Piece::Object(text) = piece {
                let value: Result<serde_json::Value, _> = serde_json::from_slice(&text);
                if let Ok(value) = value {
                    qmp::exercise(&value);
                }
            }
        }
    }
    pieces
}
