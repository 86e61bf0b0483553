//! Finding a guest, and QMP to its device model.
use crate::error::{AnswerError, ConnectionError, Failure, Unreachable};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The path of a guest's QMP socket, which libxl chooses, without the domain's number.
const SOCKETS: &str = "/var/run/xen/qmp-libxl-";

/// Most bytes of an answer: a picture of 8 MiB in base64, and room. A control that was taken over cannot fill this process's memory.
const LONGEST: u64 = 16 << 20;

/// A guest, and the QMP socket of its device model.
pub(crate) struct Guest {
    /// The name, number or path that the operator gave, for messages.
    pub(crate) name: String,
    /// The path of the QMP socket.
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
        let mut xenstore = bulkhead_xen::Xenstore::connect()
            .map_err(|source| Unreachable::Xenstore { guest: name.to_owned(), source })?;
        let domains = xenstore.directory("/local/domain");
        let found: Vec<_> = domains
            .iter()
            .filter(|d| xenstore.read(&format!("/local/domain/{d}/name")).is_ok_and(|n| n == name))
            .collect();
        match found.as_slice() {
            [domid] => Ok(of(format!("{SOCKETS}{domid}"))),
            [] => Err(Unreachable::NoDomain(name.to_owned()).into()),
            _ => Err(Unreachable::SeveralDomains(name.to_owned()).into()),
        }
    }

    /// Sends one command on its own connection: a stub domain has one connection at a time, and libxl needs it too.
    pub(crate) fn ask(&self, command: &str, arguments: &Value) -> Result<Value, Failure> {
        let answer = self.raw(&json!({ "execute": command, "arguments": arguments }).to_string())?;
        returned(&answer).cloned()
    }

    /// Sends one command as text; returns the whole answer.
    pub(crate) fn raw(&self, text: &str) -> Result<Value, Failure> {
        let answer = QmpConnection::open(&self.socket).and_then(|mut connection| connection.ask(text));
        answer.map_err(|source| {
            Unreachable::Connection { guest: self.name.clone(), socket: self.socket.clone(), source }.into()
        })
    }

    /// The failure for an answer of this guest's device model whose `part` cannot be decoded.
    pub(crate) fn bad_answer(&self, part: &'static str, why: impl Into<AnswerError>) -> Failure {
        Failure::Answer { guest: self.name.clone(), part, source: why.into() }
    }

    /// Whether the QMP socket still exists; the launcher removes it when the guest ends.
    pub(crate) fn is_there(&self) -> bool {
        std::path::Path::new(&self.socket).exists()
    }
}

/// The `return` value of an answer, or [`Failure::Refused`] with the text of its `error`.
pub(crate) fn returned(answer: &Value) -> Result<&Value, Failure> {
    match answer.pointer("/error/desc").and_then(Value::as_str) {
        Some(error) => Err(Failure::Refused(error.to_owned())),
        None => Ok(answer.get("return").unwrap_or(&Value::Null)),
    }
}

/// A connection to a guest's QMP socket. Every command has an id, and answers with another id are skipped: over a vchan a session
/// may be greeted twice, if its client connected before the end of the last session was noticed.
struct QmpConnection {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    /// Number of commands sent, the source of their ids.
    asked: u64,
}

impl QmpConnection {
    fn open(path: &str) -> Result<Self, ConnectionError> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        let reader = BufReader::new(stream.try_clone()?);
        let mut connection = Self { stream, reader, asked: 0 };
        while connection.next()?.get("QMP").is_none() {}
        connection.ask(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(connection)
    }

    fn next(&mut self) -> Result<Value, ConnectionError> {
        let mut line = Vec::new();
        let n = (&mut self.reader).take(LONGEST).read_until(b'\n', &mut line)?;
        match n as u64 {
            0 => Err(ConnectionError::Closed),
            LONGEST.. => Err(ConnectionError::TooLong),
            _ => Ok(serde_json::from_slice(&line)?),
        }
    }

    /// Sends a command and returns the whole answer. A command that is not an object or has an id already is sent unchanged.
    fn ask(&mut self, text: &str) -> Result<Value, ConnectionError> {
        self.asked = self.asked.saturating_add(1);
        let mut command: Value = serde_json::from_str(text).unwrap_or_default();
        let ours = command.get("id").is_none();
        let id =
            command.as_object_mut().map(|command| command.entry("id").or_insert_with(|| self.asked.into()).clone());
        let text = id.as_ref().map_or_else(|| text.to_owned(), |_| command.to_string());
        self.stream.write_all(format!("{text}\n").as_bytes())?;
        loop {
            let mut answer = self.next()?;
            if answer.get("QMP").is_some() {
                // A second greeting: the commands sent before it reached no session or one that has ended.
                self.stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
            } else if answer.get("event").is_none() && (answer.get("id") == id.as_ref() || id.is_none()) {
                // (A command that cannot be parsed is answered without an id.)
                if ours && let Some(answer) = answer.as_object_mut() {
                    answer.remove("id");
                }
                return Ok(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::QmpConnection;
    use std::io::{BufRead, BufReader, Write};

    #[test]
    fn a_session_that_is_greeted_twice_takes_no_other_answer_for_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"{\"return\":{\"left\":1},\"id\":2}\n{\"QMP\":{}}\n{\"QMP\":{}}\n").unwrap();
            for line in lines {
                let command: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
                let answer = serde_json::json!({ "return": command["execute"], "id": command["id"] });
                stream.write_all(format!("{{\"event\":\"E\"}}\n{answer}\n").as_bytes()).unwrap();
            }
        });
        let mut connection = QmpConnection::open(path.to_str().unwrap()).unwrap();
        assert_eq!(connection.ask(r#"{"execute":"a"}"#).unwrap()["return"], "a");
        assert_eq!(
            connection.ask(r#"{"execute":"b","id":"mine"}"#).unwrap(),
            serde_json::json!({"return": "b", "id": "mine"})
        );
        drop(connection);
        server.join().unwrap();
    }
}
