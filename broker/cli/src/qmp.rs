//! One QMP command on a connection of its own.
use base64::Engine as _;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Sends `text` to the guest `guest` (a domid or a socket) and prints what comes back.
pub(crate) fn ask(guest: &str, text: &str) -> Result<(), String> {
    let answer = exchange(guest, text)?;
    println!("{answer}");
    returned(&answer).map(|_| ())
}

/// The lines of the guest's log that its control remembers.
pub(crate) fn logs(guest: &str) -> Result<(), String> {
    let answer = exchange(guest, r#"{"execute":"x-bulkhead-logs","arguments":{"lines":2000}}"#)?;
    for line in returned(&answer)?.as_array().into_iter().flatten().filter_map(Value::as_str) {
        println!("{line}");
    }
    Ok(())
}

/// Writes the guest's screen into a file, wherever its device model runs.
pub(crate) fn screenshot(guest: &str, file: &str) -> Result<(), String> {
    let answer = exchange(guest, r#"{"execute":"x-bulkhead-screenshot"}"#)?;
    let text = returned(&answer)?.get("png").and_then(Value::as_str).unwrap_or_default();
    let png = base64::prelude::BASE64_STANDARD.decode(text).map_err(|e| format!("{guest}: the picture: {e}"))?;
    let new = std::fs::OpenOptions::new().write(true).create_new(true).open(file);
    new.and_then(|mut f| f.write_all(&png)).map_err(|e| format!("{file}: {e}"))
}

/// Prints what happens to the guest's devices, a line each, until its control goes. A connection for each question: in a stub domain
/// there is one at a time, and libxl wants it too.
pub(crate) fn events(guest: &str) -> Result<(), String> {
    let mut after = 0;
    let mut known = false;
    loop {
        let answer = match exchange(guest, &format!(r#"{{"execute":"x-bulkhead-events","arguments":{{"after":{after}}}}}"#)) {
            Ok(answer) => answer,
            Err(e) if !known => return Err(e),
            Err(_) if !std::path::Path::new(&socket(guest)).exists() => return Ok(()),
            // Somebody else has the connection.
            Err(_) => continue,
        };
        let answer = returned(&answer)?;
        known = true;
        for event in answer.get("events").and_then(Value::as_array).into_iter().flatten() {
            println!("{event}");
        }
        after = answer.get("last").and_then(Value::as_u64).unwrap_or(after);
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The answer's value, or the error's text.
pub(crate) fn returned(answer: &Value) -> Result<&Value, String> {
    match answer.get("error").and_then(|e| e.get("desc")).and_then(Value::as_str) {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer.get("return").unwrap_or(&Value::Null)),
    }
}

/// One command, one answer.
pub(crate) fn exchange(guest: &str, text: &str) -> Result<Value, String> {
    Session::open(guest)?.ask(text)
}

/// Where a guest's control listens: `guest` is a domid or a socket.
fn socket(guest: &str) -> String {
    if guest.contains('/') { guest.to_owned() } else { format!("/var/run/xen/qmp-libxl-{guest}") }
}

/// A connection.
struct Session {
    path: String,
    stream: UnixStream,
    lines: std::io::Lines<BufReader<UnixStream>>,
}

impl Session {
    /// Connects to a guest's control.
    fn open(guest: &str) -> Result<Self, String> {
        let path = socket(guest);
        let fail = |e: std::io::Error| format!("{path}: {e}");
        let stream = UnixStream::connect(&path).map_err(fail)?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).map_err(fail)?;
        let lines = BufReader::new(stream.try_clone().map_err(fail)?).lines();
        let mut session = Self { path, stream, lines };
        session.next()?;
        session.ask(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(session)
    }

    fn next(&mut self) -> Result<Value, String> {
        loop {
            let line = self.lines.next().ok_or_else(|| format!("{}: closed", self.path))?.map_err(|e| format!("{}: {e}", self.path))?;
            let value: Value = serde_json::from_str(&line).map_err(|e| format!("{}: {e}", self.path))?;
            if value.get("event").is_none() {
                return Ok(value);
            }
        }
    }

    /// One more command on it.
    fn ask(&mut self, text: &str) -> Result<Value, String> {
        self.stream.write_all(format!("{text}\n").as_bytes()).map_err(|e| format!("{}: {e}", self.path))?;
        self.next()
    }
}
