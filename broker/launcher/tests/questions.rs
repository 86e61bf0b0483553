//! What a toolstack asks the program itself before it has a guest, as libvirt does with `-help`.
use std::process::Command;

#[test]
fn a_capability_probe_has_its_answer_and_status_0() {
    for question in ["-version", "--version", "-help", "--help", "-h"] {
        let out = Command::new(env!("CARGO_BIN_EXE_bulkhead-dm")).arg(question).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{question}: {:?}", out.status);
        let first = text.lines().next().unwrap();
        assert_eq!(
            first,
            format!("QEMU emulator version 8.2.0 (Bulkhead {})", env!("CARGO_PKG_VERSION")),
            "{question}"
        );
    }
}

#[test]
fn what_is_no_question_still_ends_with_a_line() {
    let out = Command::new(env!("CARGO_BIN_EXE_bulkhead-dm")).args(["-name", "-version"]).output().unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).starts_with("bulkhead-dm: BH-"), "{out:?}");
}
