use super::input::input_event;
use super::session::{Reply, answer};
use super::*;
use crate::clients::Clients;
use crate::json::{Piece, Splitter};
use crate::launcher::{Answer, LauncherClient};
use crate::log::Recent;
use bulkhead_plan::{Ask, DeviceConfig, DeviceSlot, FromProcess, Level, MachinePlan, Mode};
use bulkhead_runtime::Link;
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use tokio::sync::broadcast;

pub(crate) fn shared(stopped: bool) -> Shared {
    let (shared, other) = linked(stopped);
    std::mem::forget(other);
    shared
}

/// The same, and the launcher's end of its socket.
pub(crate) fn linked(stopped: bool) -> (Shared, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let (link, other) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let shared = Shared {
        plan: MachinePlan {
            domid: 7,
            name: "t".into(),
            vcpus: 2,
            online: 2,
            mode: Mode::Sim,
            level: Level::Kernel,
            devices: vec![DeviceSlot { slot: 2, name: "ps2".into(), config: DeviceConfig::Ps2 }],
            chardevs: vec![("serial0".into(), "pty:/dev/pts/3".into())],
            paused: false,
            stopped,
            dump_dir: Some("/var/lib/bulkhead/dump".into()),
            log_begins: 0,
            clock: 0,
            boot: String::new(),
        },
        clients: Clients::default(),
        launcher: LauncherClient::new(Arc::new(Link::new(link))),
        state: Mutex::new(if stopped { RunState::Prelaunch } else { RunState::Running }),
        turn: Arc::default(),
        order: tokio::sync::Mutex::default(),
        logs_dirty: std::sync::atomic::AtomicBool::new(false),
        has_stopped: std::sync::atomic::AtomicBool::new(false),
        nics: Arc::default(),
        saved_nics: Mutex::default(),
        captures: Arc::default(),
        past: Mutex::default(),
        vnc_password: Mutex::default(),
        usb_id: Mutex::default(),
        fdsets: Mutex::default(),
        media: Mutex::default(),
        picture: Arc::default(),
        events: broadcast::channel(4).0,
        recent: Recent::new(1),
        landlock: 6,
    };
    (shared, other)
}

/// The launcher in whose machine every image's lock is to be had.
pub(crate) fn locks_are_had(shared: &Arc<Shared>, launcher: OwnedFd) {
    let shared = shared.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; FromProcess::LEN];
        while rustix::io::read(&launcher, &mut bytes).is_ok_and(|n| n > 0) {
            if let Some(FromProcess { serial, ask: Ask::Locks { .. } }) = FromProcess::from_bytes(&bytes) {
                shared.launcher.complete(serial, Ok(Answer::Number(0)));
            }
        }
    });
}

pub(crate) fn block<T>(f: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(f)
}

impl Reply {
    pub(super) fn value(self) -> Value {
        let Self::Value(value) = self else { panic!("a picture") };
        value
    }
}

pub(super) fn ask(shared: &Shared, text: &str) -> Value {
    block(answer(shared, &mut true, Piece::Object(text.as_bytes().to_vec()), None)).value()
}

#[test]
fn libxl_conversation() {
    let s = shared(false);
    let mut negotiated = false;
    let first = block(answer(
        &s,
        &mut negotiated,
        Piece::Object(br#"{"execute":"query-status","id":2020343808}"#.to_vec()),
        None,
    ))
    .value();
    assert_eq!(first["error"]["class"], "CommandNotFound");
    let caps = block(answer(
        &s,
        &mut negotiated,
        Piece::Object(br#"{"execute":"qmp_capabilities","id":2020343809}"#.to_vec()),
        None,
    ))
    .value();
    assert_eq!(caps, json!({ "return": {}, "id": 2020343809 }), "the id comes back as an integer");
    assert!(negotiated);
    assert_eq!(
        ask(&s, r#"{"execute":"query-chardev","id":1}"#),
        json!({ "return": [
        { "label": "serial0", "filename": "pty:/dev/pts/3", "frontend-open": true }], "id": 1 })
    );
    assert_eq!(ask(&s, r#"{"execute":"query-vnc"}"#), json!({ "return": { "enabled": false } }));
    assert_eq!(ask(&s, r#"{"execute":"query-version"}"#)["return"]["qemu"]["major"], 8);
}

#[test]
fn status_follows_stop_and_cont() {
    let (s, launcher) = linked(true);
    let s = Arc::new(s);
    locks_are_had(&s, launcher);
    let status = |s: &Shared| ask(s, r#"{"execute":"query-status"}"#)["return"]["status"].clone();
    assert_eq!(status(&s), "prelaunch");
    ask(&s, r#"{"execute":"cont"}"#);
    assert_eq!(status(&s), "running");
    ask(&s, r#"{"execute":"stop"}"#);
    assert_eq!(status(&s), "paused");
}

#[test]
fn the_table_of_commands_is_what_is_executed() {
    let source = include_str!("../qmp.rs");
    let body = source.split("match name {").nth(1).unwrap().split("_ => Err(QmpError::no_command(").next().unwrap();
    let arms = body.lines().filter(|l| l.starts_with("            \"") && l.contains("=>"));
    let mut executed: Vec<&str> =
        arms.flat_map(|l| l.split("=>").next().unwrap().split('|')).map(|name| name.trim().trim_matches('"')).collect();
    let mut listed: Vec<&str> = COMMANDS.iter().map(|(name, _)| *name).collect();
    executed.sort_unstable();
    listed.sort_unstable();
    assert_eq!(executed, listed);
}

#[test]
fn errors_have_class_and_reason() {
    let s = shared(false);
    for (text, class, words) in [
        (r#"{"execute":"no-such"}"#, "CommandNotFound", "no-such"),
        (r#"{"execute":"xen-save-devices-state","arguments":{"live":false}}"#, "GenericError", "filename"),
        (
            r#"{"execute":"xen-save-devices-state","arguments":{"filename":"/x","live":false}}"#,
            "GenericError",
            "/dev/fdset/N",
        ),
        (
            r#"{"execute":"xen-save-devices-state","arguments":{"filename":"/dev/fdset/3","live":false}}"#,
            "GenericError",
            "no such fdset",
        ),
        (r#"{"execute":"xen-load-devices-state","arguments":{"filename":"/x"}}"#, "GenericError", "-incoming"),
        (r#"{"execute":"screendump"}"#, "GenericError", "filename"),
        (r#"{"execute":"screendump","arguments":{"filename":"x.png"}}"#, "GenericError", "no display"),
        (
            r#"{"execute":"send-key","arguments":{"keys":[{"type":"qcode","data":"nokey"}]}}"#,
            "GenericError",
            "unknown key",
        ),
        (r#"{"execute":"x-bulkhead-restart","arguments":{"device":"zip"}}"#, "DeviceNotFound", "zip"),
        (r#"{"execute":"add-fd"}"#, "GenericError", "SCM_RIGHTS"),
        (r#"{"execute":1}"#, "GenericError", "execute"),
        (r#"[1]"#, "GenericError", "object"),
        (r#"{"execute":"stop","arguments":3}"#, "GenericError", "arguments"),
    ] {
        let reply = ask(&s, text);
        assert_eq!(reply["error"]["class"], class, "{text}");
        assert!(reply["error"]["desc"].as_str().unwrap().contains(words), "{text}: {reply}");
    }
}

#[test]
fn events_of_input_send_event() {
    assert!(
        input_event(&json!({ "type": "key", "data": { "down": true, "key": { "type": "qcode", "data": "ret" } } }))
            .is_some()
    );
    assert!(input_event(&json!({ "type": "rel", "data": { "axis": "x", "value": -3 } })).is_some());
    assert!(input_event(&json!({ "type": "abs", "data": { "axis": "x", "value": 3 } })).is_none());
    assert!(input_event(&json!({ "type": "rel", "data": { "axis": "x", "value": 1u64 << 40 } })).is_none());
}

proptest! {
    #[test]
    fn mutated_lines_never_stop_the_session(at in 0usize..60, byte in any::<u8>()) {
        let s = shared(false);
        let mut line = br#"{"execute":"input-send-event","arguments":{"events":[]},"id":5}"#.to_vec();
        let at = at % line.len();
        line[at] = byte;
        let mut splitter = Splitter::default();
        splitter.push(&line);
        splitter.push(b"\n\"\n]}]}\n\n");
        while let Some(piece) = splitter.next() {
            let reply = block(answer(&s, &mut true, piece, None)).value();
            prop_assert!(reply.get("return").is_some() || reply.get("error").is_some());
        }
        prop_assert_eq!(ask(&s, r#"{"execute":"query-status","id":9}"#)["id"].clone(), json!(9));
    }
}
