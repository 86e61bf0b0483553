//! The medium of a CD drive is changed by QMP, with the commands and the order of libxl (libxl_disk.c).
use bulkhead_sim::{Options, Sim};
use rustix::fd::AsFd as _;
use std::fs::File;

/// A disc image whose sectors repeat `word`.
fn disc(dir: &tempfile::TempDir, name: &str, word: u32, sectors: usize) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, word.to_le_bytes().repeat(sectors * 512)).unwrap();
    path.display().to_string()
}

/// Sends a packet to the secondary master; returns its data, or the drive's sense.
fn packet(sim: &mut Sim, bytes: &[u8], limit: u32) -> Result<Vec<u8>, [u8; 3]> {
    for (port, value) in [(0x176, 0xa0), (0x171, 0), (0x174, limit & 0xff), (0x175, limit >> 8), (0x177, 0xa0)] {
        sim.port_write(port, 1, value).unwrap();
    }
    let mut whole = [0; 12];
    whole[..bytes.len()].copy_from_slice(bytes);
    for pair in whole.chunks(2) {
        sim.port_write(0x170, 2, u32::from(u16::from_le_bytes([pair[0], pair[1]]))).unwrap();
    }
    let mut data = Vec::new();
    loop {
        let status = sim.port_read(0x376, 1).unwrap();
        if status & 0x80 != 0 {
            continue;
        }
        if status & 1 != 0 {
            let sense = packet(sim, &[3, 0, 0, 0, 18], 18).unwrap();
            return Err([sense[2], sense[12], sense[13]]);
        }
        if status & 8 == 0 {
            return Ok(data);
        }
        let n = sim.port_read(0x174, 1).unwrap() | sim.port_read(0x175, 1).unwrap() << 8;
        for _ in 0..n.div_ceil(2) {
            data.extend((sim.port_read(0x170, 2).unwrap() as u16).to_le_bytes());
        }
    }
}

fn ok(answer: &serde_json::Value) -> &serde_json::Value {
    answer.get("return").unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn a_cd_is_changed_as_libxl_does_it_and_a_restarted_process_has_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (disc(&dir, "first", 1, 64), disc(&dir, "second", 2, 32));
    let drive = format!("file={first},if=none,readonly=on,id=ide-5632,format=raw");
    let cd = ["-drive", &drive, "-device", "ide-cd,id=ide-5632,drive=ide-5632,bus=ide.1,unit=0"];
    let mut sim = Sim::start(&Options::new(&[&["-machine", "xenfv", "-m", "16"], &cd[..]].concat())).unwrap();
    let word = |sim: &mut Sim| packet(sim, &[0x28, 0, 0, 0, 0, 0, 0, 0, 1], 2048).map(|d| d[0]);
    assert_eq!(word(&mut sim), Ok(1));

    // A locked tray: without force the guest gets an eject request, which it ignores.
    assert_eq!(packet(&mut sim, &[0x1e, 0, 0, 0, 1], 0), Ok(vec![]));
    let refused = sim.qmp(r#"{"execute":"eject","arguments":{"id":"ide-5632"}}"#).unwrap();
    assert!(refused["error"]["desc"].as_str().unwrap().contains("locked"), "{refused}");
    assert_eq!(word(&mut sim), Ok(1));

    // libxl: query-version, eject by force, add-fd, blockdev-change-medium, remove-fd.
    ok(&sim.qmp(r#"{"execute":"query-version"}"#).unwrap());
    ok(&sim.qmp(r#"{"execute":"eject","arguments":{"id":"ide-5632","force":true}}"#).unwrap());
    assert_eq!(packet(&mut sim, &[0], 0), Err([2, 0x3a, 2]));
    let medium = File::open(&second).unwrap();
    let add = format!(r#"{{"execute":"add-fd","arguments":{{"opaque":"raw:{second}"}}}}"#);
    let set = ok(&sim.qmp_with(&add, Some(medium.as_fd())).unwrap())["fdset-id"].as_u64().unwrap();
    let change = format!(
        r#"{{"execute":"blockdev-change-medium","arguments":{{"id":"ide-5632","filename":"/dev/fdset/{set}","format":"raw"}}}}"#
    );
    ok(&sim.qmp(&change).unwrap());
    ok(&sim.qmp(&format!(r#"{{"execute":"remove-fd","arguments":{{"fdset-id":{set}}}}}"#)).unwrap());
    assert_eq!(word(&mut sim), Err([6, 0x28, 0]), "told once");
    assert_eq!(packet(&mut sim, &[0x25], 8), Ok(vec![0, 0, 0, 31, 0, 0, 8, 0]));
    assert_eq!(word(&mut sim), Ok(2));

    // After a restart the drive still has the second medium.
    let before = sim.process("ide");
    ok(&sim.qmp(r#"{"execute":"x-bulkhead-restart","arguments":{"device":"ide"}}"#).unwrap());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while sim.process("ide").is_none_or(|p| Some(p) == before) || sim.config_read(1, 1, 0, 2).unwrap() != 0x8086 {
        assert!(std::time::Instant::now() < end, "{}", sim.log());
    }
    assert_eq!(word(&mut sim), Ok(2));

    for (command, why) in [
        (r#"{"execute":"eject","arguments":{"id":"ide-768"}}"#, "not found"),
        (r#"{"execute":"blockdev-change-medium","arguments":{"id":"ide-5632","filename":"/etc/passwd"}}"#, "add-fd"),
        (
            r#"{"execute":"blockdev-change-medium","arguments":{"id":"ide-5632","filename":"/dev/fdset/9"}}"#,
            "no such fdset",
        ),
        (
            r#"{"execute":"blockdev-change-medium","arguments":{"id":"ide-5632","filename":"/dev/fdset/9","format":"qcow2"}}"#,
            "formats",
        ),
        (r#"{"execute":"eject"}"#, "'id' is missing"),
    ] {
        let answer = sim.qmp(command).unwrap();
        assert!(answer["error"]["desc"].as_str().is_some_and(|d| d.contains(why)), "{command}: {answer}");
    }
    // A pipe is refused as a medium and leaves the drive empty, also after a restart.
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let set = ok(&sim.qmp_with(r#"{"execute":"add-fd"}"#, Some(pipe.as_fd())).unwrap())["fdset-id"].as_u64().unwrap();
    let answer = sim
        .qmp(&format!(
            r#"{{"execute":"blockdev-change-medium","arguments":{{"id":"ide-5632","filename":"/dev/fdset/{set}"}}}}"#
        ))
        .unwrap();
    assert!(answer.get("error").is_some(), "{answer}");
    assert_eq!(packet(&mut sim, &[0], 0), Err([2, 0x3a, 2]));
}
