//! Control: serves QMP to libxl and operators, calls every process by gRPC, and writes the guest's log. It has no ioreq page, no
//! guest memory and no path of the host; it requests files and changes of the host from the launcher.

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
mod saved;
mod session_state;
mod sessions;
mod vnc;

pub use qmp::COMMANDS;
pub use run::run;

/// Splits a QMP client's bytes into commands and parses them as a session does: the body of the fuzz target. Returns the number of
/// commands.
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
