//! The queries of QEMU's own qtest programs before they start a machine.
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;

/// libqtest's `qtest_get_machines` and `qtest_has_device`: `-machine none`, one socket for each protocol, SIGTERM at the end.
#[test]
fn a_program_that_asks_for_machines_and_devices_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let listen = |name: &str| {
        let path = dir.path().join(name);
        (UnixListener::bind(&path).unwrap(), path.display().to_string())
    };
    let ((qtest, qtest_path), (qmp, qmp_path)) = (listen("qtest"), listen("qmp"));
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_bulkhead-qtest"))
        .args(["-qtest", &format!("unix:{qtest_path}"), "-qtest-log", "/dev/null"])
        .args(["-chardev", &format!("socket,path={qmp_path},id=char0"), "-mon", "chardev=char0,mode=control"])
        .args(["-display", "none", "-machine", "none", "-accel", "qtest"])
        .spawn()
        .unwrap();
    let (_qtest, _) = qtest.accept().unwrap();
    let (mut socket, _) = qmp.accept().unwrap();
    let mut lines = BufReader::new(socket.try_clone().unwrap());
    let mut hear = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    assert!(hear()["QMP"]["version"]["qemu"]["major"].is_u64());
    let mut ask = |command: &str| {
        writeln!(socket, "{}", json!({ "execute": command })).unwrap();
        hear()
    };
    assert_eq!(ask("qmp_capabilities"), json!({ "return": {} }));
    let machines = ask("query-machines")["return"].clone();
    assert_eq!((&machines[0]["alias"], &machines[0]["is-default"]), (&json!("pc"), &json!(true)), "{machines}");
    // libqos chooses its board by the machine's name and type.
    assert!(machines[0]["name"].as_str().unwrap().starts_with("pc-i440fx-"), "{machines}");
    let types = ask("qom-list-types")["return"].clone();
    let types: Vec<_> = types.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    for offered in ["ide-hd", "ide-cd", "e1000", "rtl8139", "VGA", "piix3-usb-uhci", "i440FX-pcihost"] {
        assert!(types.contains(&offered), "{offered}: {types:?}");
    }
    for other in ["virtio-blk-pci", "nvme", "ich9-ahci"] {
        assert!(!types.contains(&other), "{other} is not offered");
    }
    assert_eq!(ask("query-block")["error"]["class"], "CommandNotFound");
    let pid = rustix::process::Pid::from_child(&program);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(program.wait().unwrap().success());
}
