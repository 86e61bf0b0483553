//! QMP between QEMU's tests and the machine. Most messages are forwarded unchanged; queries that the machine does not have are
//! answered here: the list of machines and devices, a restart at reset, the human monitor's commands for storage with faults.
use super::Scripted;
use crate::{Faults, SimError};
use bulkhead_bus::faults::{Fault, FaultOn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

/// A machine that can be restarted.
pub trait Restart: Send {
    /// Ends the machine, starts it again, and returns the new QMP socket.
    fn restart(&mut self) -> Result<PathBuf, SimError>;
}

/// One client's session.
pub struct Monitor<M> {
    client: UnixStream,
    pending: Vec<u8>,
    server: UnixStream,
    lines: BufReader<UnixStream>,
    machine: M,
    faults: Option<Faults>,
    scripted: Vec<Scripted>,
    /// Breakpoints: their names and their entries in the table of faults.
    breaks: Vec<(String, usize)>,
    /// The machine has stopped at a fault.
    stopped: bool,
}

/// Interval between two checks of the faults' counters.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
/// First entry of breakpoints in the table, after the faults of a script.
const BREAKS: usize = 8;

fn event(name: &str) -> Value {
    json!({ "event": name, "data": {}, "timestamp": { "seconds": 0, "microseconds": 0 } })
}

fn reset() -> Value {
    json!({ "event": "RESET", "data": { "guest": false, "reason": "host-qmp-system-reset" },
            "timestamp": { "seconds": 0, "microseconds": 0 } })
}

/// Removes the complete values from `pending`, and leaves the rest.
fn take(pending: &mut Vec<u8>) -> Vec<Value> {
    let mut values = serde_json::Deserializer::from_slice(pending).into_iter::<Value>();
    let mut whole = Vec::new();
    let mut used = 0;
    while let Some(Ok(value)) = values.next() {
        whole.push(value);
        used = values.byte_offset();
    }
    pending.drain(..used);
    whole
}

/// The devices that QEMU's tests query for, with libqos's name of the board.
const DEVICES: [&str; 11] = [
    "i440FX-pcihost",
    "ide-hd",
    "ide-cd",
    "e1000",
    "e1000-82540em",
    "rtl8139",
    "VGA",
    "cirrus-vga",
    "piix3-usb-uhci",
    "usb-tablet",
    "usb-mouse",
];

/// Answers a client's queries for machines and devices until it closes the connection; no machine runs.
pub fn answer_probe(path: &str) -> std::io::Result<()> {
    let mut client = UnixStream::connect(path)?;
    let version = json!({ "qemu": { "major": 7, "minor": 2, "micro": 0 }, "package": "" });
    writeln!(client, "{}", json!({ "QMP": { "version": version, "capabilities": [] } }))?;
    let (mut pending, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        let n = client.read(&mut bytes)?;
        if n == 0 {
            return Ok(());
        }
        pending.extend_from_slice(bytes.get(..n).unwrap_or_default());
        for command in take(&mut pending) {
            let answer = match command.get("execute").and_then(Value::as_str).unwrap_or_default() {
                "qmp_capabilities" => json!({}),
                "query-machines" => json!([{
                    "name": "pc-i440fx-7.2", "alias": "pc", "is-default": true, "cpu-max": 128, "hotpluggable-cpus": true,
                    "numa-mem-supported": false, "deprecated": false,
                }]),
                "qom-list-types" => DEVICES.iter().map(|d| json!({ "name": d, "parent": "device" })).collect(),
                other => {
                    writeln!(client, "{}", json!({ "error": { "class": "CommandNotFound", "desc": other } }))?;
                    continue;
                }
            };
            writeln!(client, "{}", json!({ "return": answer }))?;
        }
    }
}

impl<M: Restart> Monitor<M> {
    /// Connects the client that listens at `path` to the machine, whose QMP socket is `at`.
    pub fn new(path: &str, at: &std::path::Path, machine: M) -> std::io::Result<Self> {
        let server = UnixStream::connect(at)?;
        Ok(Self {
            client: UnixStream::connect(path)?,
            pending: Vec::new(),
            lines: BufReader::new(server.try_clone()?),
            server,
            machine,
            faults: None,
            scripted: Vec::new(),
            breaks: Vec::new(),
            stopped: false,
        })
    }

    /// Adds storage with faults.
    pub fn with_faults(mut self, faults: Faults, scripted: &[Scripted]) -> std::io::Result<Self> {
        for (place, fault) in scripted.iter().enumerate() {
            let on = if fault.flush { FaultOn::Flush } else { FaultOn::Write };
            // A job that stops the machine is retried, so the guest sees no error.
            let errno = if fault.stops { 0 } else { 5 };
            let fault = Fault { held: fault.stops, left: 1, ..Fault::always(fault.drive, on, errno) };
            faults.set(place, Some(fault))?;
        }
        (self.faults, self.scripted) = (Some(faults), scripted.to_vec());
        Ok(self)
    }

    /// Forwards messages until either side closes its connection.
    pub fn run(mut self) {
        while self.step().unwrap_or(false) {}
        let _ = self.client.shutdown(std::net::Shutdown::Both);
    }

    fn step(&mut self) -> std::io::Result<bool> {
        let (client, server) = {
            let mut fds = [PollFd::new(&self.client, PollFlags::IN), PollFd::new(&self.server, PollFlags::IN)];
            match poll(&mut fds, Some(&LOOK)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| !fd.revents().is_empty());
            (ready(fds.first()), ready(fds.get(1)))
        };
        self.check_faults()?;
        if server || !self.lines.buffer().is_empty() {
            let mut line = String::new();
            if self.lines.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            self.client.write_all(line.as_bytes())?;
        }
        if client {
            let mut bytes = [0; 4096];
            let n = self.client.read(&mut bytes)?;
            if n == 0 {
                return Ok(false);
            }
            self.pending.extend_from_slice(bytes.get(..n).unwrap_or_default());
            for command in take(&mut self.pending) {
                self.command(&command)?;
            }
        }
        Ok(true)
    }

    /// Sends the event STOP when a job has met a fault that stops the machine.
    fn check_faults(&mut self) -> std::io::Result<()> {
        let Some(faults) = self.faults.as_ref().filter(|_| !self.stopped) else { return Ok(()) };
        for (place, _) in self.scripted.iter().enumerate().filter(|(_, s)| s.stops) {
            if faults.get(place)?.is_some_and(|f| f.held && f.met > 0) {
                self.stopped = true;
                writeln!(self.client, "{}", event("STOP"))?;
                break;
            }
        }
        Ok(())
    }

    fn command(&mut self, command: &Value) -> std::io::Result<()> {
        let name = command.get("execute").and_then(Value::as_str).unwrap_or_default();
        let answer = match name {
            "system_reset" => {
                let at = self.machine.restart().map_err(|e| std::io::Error::other(e.0))?;
                self.server = UnixStream::connect(at)?;
                self.lines = BufReader::new(self.server.try_clone()?);
                self.lines.read_line(&mut String::new())?;
                writeln!(self.server, r#"{{"execute":"qmp_capabilities"}}"#)?;
                self.lines.read_line(&mut String::new())?;
                writeln!(self.client, "{}", json!({ "return": {} }))?;
                return writeln!(self.client, "{}", reset());
            }
            "cont" if self.stopped => {
                self.stopped = false;
                for place in 0..self.scripted.len() {
                    self.resume(place)?;
                }
                json!({})
            }
            "human-monitor-command" => {
                let line = command.pointer("/arguments/command-line").and_then(Value::as_str).unwrap_or_default();
                json!(self.human(line)?)
            }
            _ => return writeln!(self.server, "{command}"),
        };
        writeln!(self.client, "{}", json!({ "return": answer }))
    }

    fn resume(&self, place: usize) -> std::io::Result<()> {
        let Some(faults) = &self.faults else { return Ok(()) };
        let fault = faults.get(place)?;
        faults.set(place, fault.map(|f| Fault { held: false, ..f }))
    }

    /// Executes `qemu-io ideB-hdU "break EVENT NAME"` and `"resume NAME"`; other commands are errors.
    fn human(&mut self, line: &str) -> std::io::Result<String> {
        let unknown = || Ok(format!("unknown command: '{line}'\r\n"));
        let Some(rest) = line.strip_prefix("qemu-io ide") else { return unknown() };
        let words: Vec<&str> = rest.split([' ', '"']).filter(|w| !w.is_empty()).collect();
        match words.as_slice() {
            [drive, "break", "flush_to_os" | "flush_to_disk", name] => {
                let place = BREAKS.saturating_add(self.breaks.len());
                let number = |at: usize| drive.as_bytes().get(at).map_or(0, |d| d.wrapping_sub(b'0') & 1);
                let drive = number(0).wrapping_mul(2).wrapping_add(number(4));
                let fault = Fault { held: true, left: 1, ..Fault::always(drive, FaultOn::Flush, 0) };
                self.faults.as_ref().map(|f| f.set(place, Some(fault))).transpose()?;
                self.breaks.push(((*name).to_owned(), place));
            }
            [_, "resume", name] => {
                for (_, place) in self.breaks.iter().filter(|(n, _)| n == name) {
                    self.resume(*place)?;
                }
            }
            _ => return unknown(),
        }
        Ok(String::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_in_pieces_and_together() {
        let mut pending = b"{\"execute\":\"a\"}{\"execute\":\"b\"}\n{\"exec".to_vec();
        let names =
            |values: Vec<Value>| values.iter().map(|v| v["execute"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(take(&mut pending)), ["a", "b"]);
        pending.extend_from_slice(b"ute\":\"c\"}");
        assert_eq!(names(take(&mut pending)), ["c"]);
    }
}
