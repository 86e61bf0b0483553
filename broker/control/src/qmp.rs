//! QMP, as far as libxl and operators use it: framing and ids as QEMU has them (docs/interop/qmp-spec), one session for
//! each connection, CommandNotFound for everything else.
use crate::capture::Captures;
use crate::clients::{CallError, Clients};
use crate::json::{Piece, Splitter};
use crate::keys;
use crate::launcher::Launcher;
use crate::log::Recent;
use crate::media::FdSets;
use crate::nics::Nics;
use base64::Engine as _;
use bulkhead_control_api::v1;
use bulkhead_control_api::v1::call::Call;
use bulkhead_plan::{DeviceConfig, Ending, MachinePlan, Picture, Slot};
use rustix::fd::OwnedFd;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, Interest};
use tokio::net::UnixStream;
use tokio::sync::broadcast;

/// The version that libxl sees: it wants 8 or later for the commands that it sends to newer ones.
const VERSION: (u32, u32, u32) = (8, 2, 0);
/// Every command, and what to say of it in docs/compat.md.
pub const COMMANDS: &[(&str, &str)] = &[
    ("qmp_capabilities", ""),
    ("query-commands", ""),
    ("query-version", "8.2.0, so that libxl sends what newer versions take"),
    ("query-status", "prelaunch, running, paused"),
    ("query-command-line-options", "run-with, for libxl's probe"),
    ("cont", "all processes"),
    ("stop", "all processes: no DMA, no timer"),
    ("quit", ""),
    ("system_reset", "the guest restarts"),
    ("system_wakeup", "an error: S3 is refused, so no guest sleeps"),
    ("query-chardev", "serial ports"),
    ("query-vnc", "where the server listens, and its viewers"),
    ("change-vnc-password", "lets in who has it; an empty one lets nobody in"),
    ("set_password", "the same; protocol=vnc"),
    ("query-cpus-fast", "the vCPUs that are plugged in"),
    ("query-hotpluggable-cpus", ""),
    (
        "device_add",
        "a vCPU; usb-tablet, usb-mouse, usb-kbd; piix3-usb-uhci, if there is no USB controller (the guest hears of it by ACPI)",
    ),
    (
        "device_del",
        "what was plugged into USB by `device_add`; a USB controller that was added, when the guest has ejected it",
    ),
    ("query-pci", "bus 0"),
    ("query-block", ""),
    ("query-blockstats", "counted since the guest started, also over restarts of the process"),
    ("query-fdsets", "in a stub domain also the CDs that libxl attaches: stub-devid:N"),
    ("add-fd", "up to 16"),
    ("remove-fd", ""),
    ("eject", "a CD drive by libxl's id (ide-5632); a tray that the guest has locked only with force"),
    ("blockdev-change-medium", "a descriptor set (/dev/fdset/N), raw or host_device"),
    ("set_link", "a network card's cable"),
    ("screendump", "PNG, to /var/lib/bulkhead/dump/NAME or to a descriptor of add-fd; in a stub domain nowhere"),
    ("send-key", "up to 16 keys at once"),
    ("input-send-event", "keys, relative movement, buttons, wheel"),
    ("xen-save-devices-state", "an error; the guest runs on"),
    ("xen-load-devices-state", "an error"),
    ("xen-set-global-dirty-log", "an error; the guest runs on"),
    ("x-bulkhead-restart", "kills a device's process"),
    ("x-bulkhead-processes", "the process table"),
    ("x-bulkhead-logs", "the last lines of all processes"),
    ("x-bulkhead-events", "what has happened to devices"),
    ("x-bulkhead-statistics", "counters of all processes"),
    ("x-bulkhead-metrics", "the same, and the process table, as Prometheus reads them"),
    ("x-bulkhead-lights", "the PS/2 keyboard's lights"),
    ("x-bulkhead-inspect", "every register of a device"),
    ("x-bulkhead-screenshot", "a PNG in the answer"),
    ("x-bulkhead-net-set", "cable and rules of a card"),
    ("x-bulkhead-net-show", "cards, and what was dropped"),
    ("x-bulkhead-capture", "a card's frames as pcap"),
    ("x-bulkhead-trace", "a device's accesses as lines of the qtest protocol"),
];

/// Most bytes of a picture: what a PNG of the largest mode can have.
const PICTURE: u64 = 64 << 20;

/// Whether the guest runs, as QMP tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    Prelaunch,
    Running,
    Paused,
}

/// What all sessions share.
pub(crate) struct Shared {
    pub(crate) plan: MachinePlan,
    pub(crate) clients: Clients,
    pub(crate) launcher: Launcher,
    pub(crate) state: Mutex<RunState>,
    /// Network cards.
    pub(crate) nics: Arc<Nics>,
    /// Captures and traces.
    pub(crate) captures: Arc<Captures>,
    /// The VNC server's password, for its later lives.
    pub(crate) vnc_password: Mutex<Option<Vec<u8>>>,
    /// What a USB controller that was added is called.
    pub(crate) usb_id: Mutex<String>,
    pub(crate) fdsets: Mutex<FdSets>,
    /// Media that have come since the start, by drive: what their clients call them.
    pub(crate) media: Mutex<BTreeMap<String, Option<String>>>,
    pub(crate) events: broadcast::Sender<String>,
    /// The last of them, for who cannot hold a connection: a stub domain has one.
    pub(crate) past: Mutex<Past>,
    pub(crate) recent: Recent,
    /// The kernel's Landlock ABI.
    pub(crate) landlock: i32,
}

/// A client of a session. Descriptors come over a socket only.
pub(crate) enum Client {
    Socket(UnixStream),
    Vchan(DuplexStream),
}

impl Client {
    async fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Socket(stream) => stream.write_all(bytes).await,
            Self::Vchan(stream) => stream.write_all(bytes).await,
        }
    }

    async fn receive(&mut self, buffer: &mut [u8]) -> std::io::Result<(usize, Option<OwnedFd>)> {
        match self {
            Self::Socket(stream) => stream.async_io(Interest::READABLE, || receive(stream, buffer)).await,
            Self::Vchan(stream) => stream.read(buffer).await.map(|n| (n, None)),
        }
    }
}

/// An error for the client: class and description.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct QmpError(&'static str, String);

impl QmpError {
    pub(crate) fn generic(text: impl std::fmt::Display) -> Self {
        Self("GenericError", text.to_string())
    }

    fn display(e: CallError) -> Self {
        match e {
            CallError::NotRunning => Self::generic("the display's process does not run"),
            e => Self::generic(e.to_string()),
        }
    }

    pub(crate) fn not_found(text: String) -> Self {
        Self("DeviceNotFound", text)
    }
}

pub(crate) type Outcome = Result<Value, QmpError>;

fn version() -> Value {
    json!({ "qemu": { "micro": VERSION.2, "minor": VERSION.1, "major": VERSION.0 }, "package": format!("bulkhead {}", env!("CARGO_PKG_VERSION")) })
}

impl Shared {
    pub(crate) fn slot_of(&self, pick: impl Fn(&DeviceConfig) -> bool) -> Option<Slot> {
        self.plan.devices.iter().find(|d| pick(&d.config)).map(|d| d.slot)
    }

    fn state(&self) -> RunState {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn set_running(&self, running: bool) -> Outcome {
        let new = if running { RunState::Running } else { RunState::Paused };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = new;
        self.clients.set_running(running).await;
        Ok(json!({}))
    }

    /// Executes one command.
    pub(crate) async fn execute(&self, name: &str, arguments: &Value, fd: Option<OwnedFd>) -> Outcome {
        match name {
            "qmp_capabilities" => Ok(json!({})),
            "query-version" => Ok(version()),
            "query-status" => {
                let status = match self.state() {
                    RunState::Prelaunch => "prelaunch",
                    RunState::Running => "running",
                    RunState::Paused => "paused",
                };
                Ok(json!({ "status": status, "running": status == "running", "singlestep": false }))
            }
            "cont" => self.set_running(true).await,
            "stop" => self.set_running(false).await,
            "query-chardev" => {
                let ports = self
                    .plan
                    .chardevs
                    .iter()
                    .map(|(label, shown)| json!({ "label": label, "filename": shown, "frontend-open": true }));
                Ok(Value::Array(ports.collect()))
            }
            "query-vnc" => self.query_vnc().await,
            "change-vnc-password" | "set_password" => self.set_vnc_password(arguments).await,
            "query-command-line-options" => Ok(json!([{ "option": "run-with", "parameters": [
                { "name": "chroot", "type": "string" }, { "name": "user", "type": "string" } ] }])),
            "query-commands" => Ok(COMMANDS.iter().map(|(name, _)| json!({ "name": name })).collect()),
            "query-cpus-fast" => self.query_cpus().await,
            "query-hotpluggable-cpus" => self.query_hotpluggable_cpus().await,
            "device_add" => self.device_add(arguments).await,
            "device_del" => self.device_del(arguments).await,
            "query-pci" => self.query_pci().await,
            "query-block" => self.query_block().await,
            "query-blockstats" => self.query_blockstats().await,
            "system_wakeup" => Err(QmpError::generic("Unable to wake up: guest is not in suspended state")),
            "query-fdsets" => self.query_fdsets().await,
            "eject" => self.eject(arguments).await,
            "blockdev-change-medium" => self.change_medium(arguments).await,
            "add-fd" => self.add_fd(arguments, fd),
            "remove-fd" => {
                let id = arguments.get("fdset-id").and_then(Value::as_u64).and_then(|i| u32::try_from(i).ok());
                let id = id.ok_or_else(|| QmpError::generic("Parameter 'fdset-id' is missing"))?;
                self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).remove(id)?;
                Ok(json!({}))
            }
            "quit" => {
                // The answer goes first.
                let launcher = self.launcher.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _ = launcher.stop(Ending::Quit).await;
                });
                Ok(json!({}))
            }
            "system_reset" => self.launcher.stop(Ending::Reboot).await.map(|()| json!({})).map_err(QmpError::generic),
            "screendump" => self.screendump(arguments).await,
            "send-key" => self.send_key(arguments).await,
            "input-send-event" => self.input(arguments).await,
            "xen-save-devices-state" | "xen-set-global-dirty-log" | "xen-load-devices-state" => {
                Err(QmpError::generic("saving and migrating is not supported by this device model; the guest runs on"))
            }
            "x-bulkhead-restart" => {
                let name = arguments.get("device").and_then(Value::as_str).unwrap_or("");
                let device = self.plan.devices.iter().find(|d| d.name == name);
                let slot = device.ok_or_else(|| QmpError::not_found(format!("there is no device {name:?}")))?.slot;
                self.launcher.restart(slot).await.map(|()| json!({})).map_err(QmpError::generic)
            }
            "x-bulkhead-processes" => {
                let rows = self.launcher.processes().await.map_err(QmpError::generic)?;
                let landlock = self.landlock;
                Ok(
                    json!({ "name": self.plan.name, "domid": self.plan.domid, "level": self.plan.level, "landlock": landlock, "processes": rows }),
                )
            }
            "x-bulkhead-logs" => {
                let count = arguments.get("lines").and_then(Value::as_u64).unwrap_or(200).min(2000);
                Ok(json!(self.recent.last(count as usize)))
            }
            "x-bulkhead-events" => {
                let after = arguments.get("after").and_then(Value::as_u64).unwrap_or(0);
                Ok(self.past.lock().unwrap_or_else(PoisonError::into_inner).since(after))
            }
            "x-bulkhead-statistics" => self.statistics().await,
            "x-bulkhead-lights" => self.lights().await,
            "x-bulkhead-metrics" => self.metrics().await,
            "set_link" => self.set_link(arguments).await,
            "x-bulkhead-net-set" => self.net_set(arguments).await,
            "x-bulkhead-net-show" => self.net_show().await,
            "x-bulkhead-trace" => self.trace(arguments).await,
            "x-bulkhead-capture" => self.capture(arguments).await,
            "x-bulkhead-screenshot" => self.screenshot().await,
            "x-bulkhead-inspect" => self.inspect(arguments).await,
            _ => Err(QmpError("CommandNotFound", format!("The command {name} has not been found"))),
        }
    }

    fn add_fd(&self, arguments: &Value, fd: Option<OwnedFd>) -> Outcome {
        let fd = fd.ok_or_else(|| QmpError::generic("No file descriptor supplied via SCM_RIGHTS"))?;
        let wanted = arguments.get("fdset-id").and_then(Value::as_u64).and_then(|i| u32::try_from(i).ok());
        let opaque = arguments.get("opaque").and_then(Value::as_str).map(str::to_owned);
        let id = self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).add(wanted, opaque, fd)?;
        Ok(json!({ "fdset-id": id, "fd": id }))
    }

    async fn screendump(&self, arguments: &Value) -> Outcome {
        let filename = arguments.get("filename").and_then(Value::as_str);
        let filename = filename.ok_or_else(|| QmpError::generic("Parameter 'filename' is missing"))?;
        if !matches!(arguments.get("format").and_then(Value::as_str), None | Some("png")) {
            return Err(QmpError::generic("the only format is png"));
        }
        let slot = self.slot_of(|c| c.kind().picture == Picture::Draws);
        let slot = slot.ok_or_else(|| QmpError::generic("this machine has no display"))?;
        let fd = self.fdsets.lock().unwrap_or_else(PoisonError::into_inner).named(filename)?;
        let token = match fd {
            Some(fd) => self.launcher.give(slot, &*fd).await,
            None => {
                let Some(dir) = &self.plan.dump_dir else {
                    return Err(QmpError::generic(
                        "a stub domain has no files; x-bulkhead-screenshot answers with the picture",
                    ));
                };
                let name = filename.strip_prefix(dir.as_str()).and_then(|n| n.strip_prefix('/')).unwrap_or(filename);
                if name.contains('/') {
                    let text = format!("pictures go to {dir}/NAME, or to a descriptor passed by add-fd: /dev/fdset/N");
                    return Err(QmpError::generic(text));
                }
                self.launcher.dump(slot, name).await
            }
        };
        let token = token.map_err(QmpError::generic)?;
        self.clients.call(slot, Call::Screenshot(v1::Token { token })).await.map_err(QmpError::display)?;
        Ok(json!({}))
    }

    /// The picture in the answer, in base 64.
    async fn screenshot(&self) -> Outcome {
        let slot = self.slot_of(|c| c.kind().picture == Picture::Draws);
        let slot = slot.ok_or_else(|| QmpError::generic("this machine has no display"))?;
        let failed = |e: std::io::Error| QmpError::generic(format!("a pipe for the picture: {e}"));
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
        rustix::io::ioctl_fionbio(&read, true).map_err(|e| failed(e.into()))?;
        let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd_unchecked(read).map_err(failed)?;
        let token = self.launcher.give(slot, &write).await.map_err(QmpError::generic)?;
        // The display's end is the only one then, and its closing ends the picture.
        drop(write);
        let mut png = Vec::new();
        let mut pipe = pipe.take(PICTURE);
        let call = self.clients.call(slot, Call::Screenshot(v1::Token { token }));
        let (asked, got) = tokio::join!(call, pipe.read_to_end(&mut png));
        asked.map_err(QmpError::display)?;
        got.map_err(failed)?;
        Ok(json!({ "png": base64::prelude::BASE64_STANDARD.encode(&png) }))
    }

    async fn send_events(&self, events: Vec<v1::InputEvent>) -> Result<(), QmpError> {
        let slot = self.slot_of(|c| matches!(c, DeviceConfig::Ps2));
        let slot = slot.ok_or_else(|| QmpError::generic("the guest has no keyboard"))?;
        self.clients.call(slot, Call::Input(v1::InputEvents { events })).await.map_err(|e| match e {
            CallError::NotRunning => QmpError::generic("the keyboard's process does not run"),
            e => QmpError::generic(e.to_string()),
        })
    }

    async fn lights(&self) -> Outcome {
        let slot = self.slot_of(|c| matches!(c, DeviceConfig::Ps2));
        let slot = slot.ok_or_else(|| QmpError::generic("the guest has no keyboard"))?;
        let lights = self.clients.facts(slot).await.and_then(|facts| facts.lights);
        let lights = lights.ok_or_else(|| QmpError::generic("the keyboard's process does not run"))?;
        let shines = |bit: u32| lights >> bit & 1 != 0;
        Ok(json!({ "scroll-lock": shines(0), "num-lock": shines(1), "caps-lock": shines(2) }))
    }

    async fn send_key(&self, arguments: &Value) -> Outcome {
        let keys = arguments.get("keys").and_then(Value::as_array).filter(|k| !k.is_empty() && k.len() <= 16);
        let keys = keys.ok_or_else(|| QmpError::generic("keys must be a list of 1 to 16 keys"))?;
        let codes: Option<Vec<u16>> = keys.iter().map(keys::of_value).collect();
        let codes = codes.ok_or_else(|| QmpError::generic("an unknown key"))?;
        let hold = arguments.get("hold-time").and_then(Value::as_u64).unwrap_or(100).min(10_000);
        let events = |down: bool, codes: &[u16]| codes.iter().map(|c| key(*c, down)).collect::<Vec<_>>();
        self.send_events(events(true, &codes)).await?;
        tokio::time::sleep(Duration::from_millis(hold)).await;
        let reversed: Vec<u16> = codes.into_iter().rev().collect();
        self.send_events(events(false, &reversed)).await?;
        Ok(json!({}))
    }

    async fn input(&self, arguments: &Value) -> Outcome {
        let events = arguments.get("events").and_then(Value::as_array).filter(|e| e.len() <= 256);
        let events = events.ok_or_else(|| QmpError::generic("events must be a list of at most 256 events"))?;
        let events: Option<Vec<_>> = events.iter().map(input_event).collect();
        let events =
            events.ok_or_else(|| QmpError::generic("an event is neither key, rel nor btn, or its value is unknown"))?;
        self.send_events(events).await.map(|()| json!({}))
    }

    async fn inspect(&self, arguments: &Value) -> Outcome {
        let name = arguments.get("device").and_then(Value::as_str).unwrap_or("broker");
        let slot = match name {
            "broker" => Some(bulkhead_plan::BROKER),
            _ => self.plan.devices.iter().find(|d| d.name == name).map(|d| d.slot),
        };
        let client = match slot {
            Some(slot) => self.clients.wait(slot).await,
            None => None,
        };
        let mut client =
            client.ok_or_else(|| QmpError("DeviceNotFound", format!("there is no running device {name:?}")))?;
        let registers =
            client.inspect(v1::Empty {}).await.map_err(|e| QmpError::generic(e.message()))?.into_inner().registers;
        let counters =
            client.statistics(v1::Empty {}).await.map_err(|e| QmpError::generic(e.message()))?.into_inner().counters;
        let registers: serde_json::Map<_, _> =
            registers.into_iter().map(|r| (r.name, Value::String(r.value))).collect();
        let counters: serde_json::Map<_, _> = counters.into_iter().map(|c| (c.name, json!(c.value))).collect();
        Ok(json!({ "registers": registers, "statistics": counters }))
    }
}

/// Events that are remembered.
const REMEMBERED: usize = 64;

/// What has happened, oldest first, with numbers from 1.
#[derive(Default)]
pub(crate) struct Past {
    events: VecDeque<Value>,
    last: u64,
}

impl Past {
    /// One more.
    pub(crate) fn push(&mut self, event: Value) {
        if self.events.len() >= REMEMBERED {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.last = self.last.saturating_add(1);
    }

    /// Those after number `after`, and the number of the last.
    fn since(&self, after: u64) -> Value {
        let new = usize::try_from(self.last.saturating_sub(after)).unwrap_or(usize::MAX).min(self.events.len());
        let events: Vec<&Value> = self.events.iter().skip(self.events.len().saturating_sub(new)).collect();
        json!({ "last": self.last, "events": events })
    }
}

/// What is made of a command's arguments before anything is done with them.
pub(crate) fn exercise(request: &Value) {
    let arguments = request.get("arguments").unwrap_or(request);
    for name in ["events", "keys"] {
        for element in arguments.get(name).and_then(Value::as_array).into_iter().flatten() {
            let _ = (input_event(element), keys::of_value(element));
        }
    }
    let _ = input_event(request);
}

fn key(code: u16, down: bool) -> v1::InputEvent {
    v1::InputEvent { event: Some(v1::input_event::Event::Key(v1::Key { code: u32::from(code), down })) }
}

/// One element of input-send-event.
fn input_event(value: &Value) -> Option<v1::InputEvent> {
    use v1::input_event::Event;
    let data = value.get("data")?;
    let event = match value.get("type")?.as_str()? {
        "key" => return Some(key(keys::of_value(data.get("key")?)?, data.get("down")?.as_bool()?)),
        "rel" => {
            let by = i32::try_from(data.get("value")?.as_i64()?).ok()?;
            match data.get("axis")?.as_str()? {
                "x" => Event::Move(v1::Move { dx: by, dy: 0, dz: 0 }),
                "y" => Event::Move(v1::Move { dx: 0, dy: by, dz: 0 }),
                _ => return None,
            }
        }
        "btn" => {
            let down = data.get("down")?.as_bool()?;
            match data.get("button")?.as_str()? {
                "left" => Event::Button(v1::Button { button: 0, down }),
                "right" => Event::Button(v1::Button { button: 1, down }),
                "middle" => Event::Button(v1::Button { button: 2, down }),
                "wheel-up" => Event::Move(v1::Move { dx: 0, dy: 0, dz: if down { -1 } else { 0 } }),
                "wheel-down" => Event::Move(v1::Move { dx: 0, dy: 0, dz: if down { 1 } else { 0 } }),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(v1::InputEvent { event: Some(event) })
}

/// What a client has sent, answered; the id comes back as it was.
pub(crate) async fn answer(shared: &Shared, negotiated: &mut bool, piece: Piece, fd: Option<OwnedFd>) -> Value {
    let Piece::Object(text) = piece else {
        return json!({ "error": { "class": "GenericError", "desc": "JSON parse error" } });
    };
    let request: Value = match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Value::Object(map),
        Ok(_) => return json!({ "error": { "class": "GenericError", "desc": "QMP input must be a JSON object" } }),
        Err(e) => return json!({ "error": { "class": "GenericError", "desc": format!("JSON parse error: {e}") } }),
    };
    let id = request.get("id").cloned();
    let name = request.get("execute").and_then(Value::as_str);
    let empty = json!({});
    let arguments = request.get("arguments").unwrap_or(&empty);
    let outcome = match name {
        None => Err(QmpError::generic("QMP input lacks member 'execute'")),
        Some(_) if !arguments.is_object() => Err(QmpError::generic("QMP input member 'arguments' must be an object")),
        Some("qmp_capabilities") if *negotiated => {
            Err(QmpError("CommandNotFound", "Capabilities negotiation is already complete, command ignored".into()))
        }
        Some("qmp_capabilities") => {
            *negotiated = true;
            Ok(json!({}))
        }
        Some(_) if !*negotiated => {
            Err(QmpError("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'".into()))
        }
        Some(name) => shared.execute(name, arguments, fd).await,
    };
    let mut reply = match outcome {
        Ok(value) => json!({ "return": value }),
        Err(QmpError(class, desc)) => json!({ "error": { "class": class, "desc": desc } }),
    };
    if let (Some(id), Some(reply)) = (id, reply.as_object_mut()) {
        reply.insert("id".into(), id);
    }
    reply
}

/// Receives bytes, and a descriptor that came with them.
fn receive(stream: &UnixStream, buffer: &mut [u8]) -> std::io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(stream, &mut [IoSliceMut::new(buffer)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let fd = ancillary.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((got.bytes, fd))
}

/// Serves one connection until the client goes.
pub(crate) async fn session(shared: Arc<Shared>, mut stream: Client) {
    let greeting = json!({ "QMP": { "version": version(), "capabilities": [] } });
    if stream.write_all(format!("{greeting}\r\n").as_bytes()).await.is_err() {
        return;
    }
    let mut events = shared.events.subscribe();
    let mut splitter = Splitter::default();
    let mut negotiated = false;
    let mut fd = None;
    let mut buffer = vec![0; 4096];
    loop {
        let got = tokio::select! {
            got = stream.receive(&mut buffer) => got,
            event = events.recv() => {
                if let Ok(event) = event && negotiated && stream.write_all(event.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let n = match got {
            Ok((0, _)) | Err(_) => return,
            Ok((n, new)) => {
                fd = new.or(fd);
                n
            }
        };
        splitter.push(buffer.get(..n).unwrap_or_default());
        while let Some(piece) = splitter.next() {
            let reply = answer(&shared, &mut negotiated, piece, fd.take()).await;
            if stream.write_all(format!("{reply}\r\n").as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod facts;
#[cfg(test)]
mod tests;
