//! A guest, and QMP with its device model.
use crate::Failure;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Where libxl has a guest's QMP socket.
const SOCKETS: &str = "/var/run/xen/qmp-libxl-";

/// A guest whose device model can be talked to.
pub(crate) struct Guest {
    /// As the operator names it.
    pub(crate) name: String,
    /// Its QMP socket.
    pub(crate) socket: String,
}

impl Guest {
    /// Finds a guest by its domain's number or name, or by the path of its socket.
    pub(crate) fn find(name: &str) -> Result<Self, Failure> {
        let of = |socket: String| Self { name: name.to_owned(), socket };
        if name.contains('/') {
            return Ok(of(name.to_owned()));
        }
        if name.parse::<u16>().is_ok() {
            return Ok(of(format!("{SOCKETS}{name}")));
        }
        let mut xenstore = bulkhead_xen::Xenstore::connect().map_err(|e| Failure::Unreachable(format!("{name}: {e}")))?;
        let domains = xenstore.directory("/local/domain");
        let found: Vec<_> = domains.iter().filter(|d| xenstore.read(&format!("/local/domain/{d}/name")).is_ok_and(|n| n == name)).collect();
        match found.as_slice() {
            [domid] => Ok(of(format!("{SOCKETS}{domid}"))),
            [] => Err(Failure::Unreachable(format!("{name}: there is no domain of this name"))),
            _ => Err(Failure::Unreachable(format!("{name}: there are several domains of this name; use the number"))),
        }
    }

    /// One command on a connection of its own: in a stub domain there is one at a time, and libxl wants it too.
    pub(crate) fn ask(&self, command: &str, arguments: &Value) -> Result<Value, Failure> {
        let answer = self.raw(&json!({ "execute": command, "arguments": arguments }).to_string())?;
        returned(&answer).cloned()
    }

    /// One command as text; the whole answer.
    pub(crate) fn raw(&self, text: &str) -> Result<Value, Failure> {
        let unreachable = |e: String| Failure::Unreachable(format!("{}: {}: {e}", self.name, self.socket));
        let mut session = Session::open(&self.socket).map_err(unreachable)?;
        session.ask(text).map_err(unreachable)
    }

    /// Whether its socket is still there.
    pub(crate) fn is_there(&self) -> bool {
        std::path::Path::new(&self.socket).exists()
    }
}

/// The answer's value, or the error's text.
pub(crate) fn returned(answer: &Value) -> Result<&Value, Failure> {
    match answer.pointer("/error/desc").and_then(Value::as_str) {
        Some(error) => Err(Failure::Failed(error.to_owned())),
        None => Ok(answer.get("return").unwrap_or(&Value::Null)),
    }
}

/// A connection.
struct Session {
    stream: UnixStream,
    lines: std::io::Lines<BufReader<UnixStream>>,
}

impl Session {
    fn open(path: &str) -> Result<Self, String> {
        let fail = |e: std::io::Error| e.to_string();
        let stream = UnixStream::connect(path).map_err(fail)?;
        stream.set_read_timeout(Some(Duration::from_secs(15))).map_err(fail)?;
        let lines = BufReader::new(stream.try_clone().map_err(fail)?).lines();
        let mut session = Self { stream, lines };
        session.next()?;
        session.ask(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(session)
    }

    fn next(&mut self) -> Result<Value, String> {
        loop {
            let line = self.lines.next().ok_or("the connection was closed")?.map_err(|e| e.to_string())?;
            let value: Value = serde_json::from_str(&line).map_err(|e| e.to_string())?;
            if value.get("event").is_none() {
                return Ok(value);
            }
        }
    }

    fn ask(&mut self, text: &str) -> Result<Value, String> {
        self.stream.write_all(format!("{text}\n").as_bytes()).map_err(|e| e.to_string())?;
        self.next()
    }
}
