//! One QMP command on a connection of its own.
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Sends `text` to the guest `guest` (a domid or a socket) and prints what comes back.
pub(crate) fn ask(guest: &str, text: &str) -> Result<(), String> {
    let path = if guest.contains('/') { guest.to_owned() } else { format!("/var/run/xen/qmp-libxl-{guest}") };
    let fail = |e: std::io::Error| format!("{path}: {e}");
    let mut stream = UnixStream::connect(&path).map_err(fail)?;
    stream.set_read_timeout(Some(Duration::from_secs(15))).map_err(fail)?;
    let mut lines = BufReader::new(stream.try_clone().map_err(fail)?).lines();
    let mut next = || -> Result<Value, String> {
        loop {
            let line = lines.next().ok_or_else(|| format!("{path}: closed"))?.map_err(fail)?;
            let value: Value = serde_json::from_str(&line).map_err(|e| format!("{path}: {e}"))?;
            if value.get("event").is_none() {
                return Ok(value);
            }
        }
    };
    next()?;
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").map_err(fail)?;
    next()?;
    stream.write_all(format!("{text}\n").as_bytes()).map_err(fail)?;
    let answer = next()?;
    println!("{answer}");
    match answer.get("error").and_then(|e| e.get("desc")).and_then(Value::as_str) {
        Some(error) => Err(error.to_owned()),
        None => Ok(()),
    }
}
