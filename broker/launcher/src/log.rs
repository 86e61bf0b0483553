//! The launcher's log: standard error.

/// Writes a line to the log in one call, so that other processes' lines do not mix with it.
pub fn say(line: &str) {
    let line = format!("bulkhead-dm: {line}\n");
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}
