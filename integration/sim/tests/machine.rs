//! A whole machine without Xen: all processes, all devices, every interface of the guest.
use bulkhead_sim::{Options, Sim};

fn image(dir: &tempfile::TempDir) -> String {
    let path = dir.path().join("disk");
    let data: Vec<u8> = (0..(1u32 << 20) / 4).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&path, data).unwrap();
    path.display().to_string()
}

fn machine(dir: &tempfile::TempDir) -> Sim {
    let drive = format!("file={},if=ide,index=0,media=disk,format=raw,cache=writeback", image(dir));
    let arguments = [
        "-machine",
        "xenfv",
        "-m",
        "16",
        "-smp",
        "2",
        "-device",
        "VGA,vgamem_mb=16",
        "-serial",
        "null",
        "-drive",
        &drive,
    ];
    Sim::start(&Options::new(&arguments)).unwrap()
}

#[test]
fn the_bus_has_what_hvmloader_expects() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    for (device, function, id) in [
        (0, 0, 0x1237_8086),
        (1, 0, 0x7000_8086),
        (1, 1, 0x7010_8086),
        (1, 3, 0x7113_8086),
        (2, 0, 0x0001_5853),
        (3, 0, 0x1111_1234),
        (4, 0, u32::MAX),
    ] {
        assert_eq!(sim.config_read(device, function, 0, 4).unwrap(), id, "{device}.{function}");
    }
    sim.port_write(0xb2, 1, 0xf1).unwrap();
    assert_eq!(sim.port_read(0xb004, 2).unwrap() & 1, 1);
    sim.port_write(0x70, 1, 0x5f).unwrap();
    assert_eq!(sim.port_read(0x71, 1).unwrap(), 1);
}

#[test]
fn bars_are_claimed_where_they_are_decoded_and_video_ram_moves() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    sim.config_write(1, 1, 0x20, 4, 0xc000).unwrap();
    assert_eq!(sim.port_read(0xc002, 1).unwrap(), 0xff, "not decoded yet");
    sim.config_write(1, 1, 4, 2, 5).unwrap();
    assert_eq!(sim.port_read(0xc002, 1).unwrap(), 0);
    sim.config_write(1, 1, 0x20, 4, 0xc100).unwrap();
    assert_eq!((sim.port_read(0xc002, 1).unwrap(), sim.port_read(0xc102, 1).unwrap()), (0xff, 0));
    sim.config_write(3, 0, 0x10, 4, 0xf000_0000).unwrap();
    sim.config_write(3, 0, 0x30, 4, 0xf200_0001).unwrap();
    sim.config_write(3, 0, 4, 2, 3).unwrap();
    assert!(
        sim.trace_lines.iter().any(|l| l.starts_with("relocate") && l.contains("0xf0000 4096")),
        "{:?}",
        sim.trace_lines
    );
    let mut rom = [0; 2];
    sim.memory_read(0xf200_0000, &mut rom).unwrap();
    assert_eq!(rom, [0x55, 0xaa], "the VGA firmware");
    sim.config_write(1, 0, 0x61, 1, 0x0a).unwrap();
    assert!(sim.trace_lines.contains(&"link 1 10".to_owned()));
}

#[test]
fn a_disk_is_read_by_pio_and_by_dma_with_interrupts() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    for (port, value) in [(0x1f6, 0xe0), (0x1f2, 1), (0x1f3, 3), (0x1f4, 0), (0x1f5, 0), (0x1f7, 0x20)] {
        sim.port_write(port, 1, value).unwrap();
    }
    while sim.port_read(0x3f6, 1).unwrap() & 0x80 != 0 {}
    sim.catch_up();
    assert!(sim.isa[14]);
    assert_eq!(sim.port_read(0x1f7, 1).unwrap(), 0x58);
    assert!(!sim.isa[14], "taken back before the status was answered");
    assert_eq!(sim.port_read(0x1f0, 4).unwrap(), 3 * 128);

    sim.config_write(1, 1, 0x20, 4, 0xc000).unwrap();
    sim.config_write(1, 1, 4, 2, 5).unwrap();
    sim.memory_write(0x1000, &[0, 0x80, 0, 0, 0, 2, 0, 0x80]).unwrap();
    sim.port_write(0xc004, 4, 0x1000).unwrap();
    sim.port_write(0x3f6, 1, 4).unwrap();
    sim.port_write(0x3f6, 1, 0).unwrap();
    for (port, value) in [(0x1f6, 0xe0), (0x1f2, 1), (0x1f3, 5), (0x1f4, 0), (0x1f5, 0), (0x1f7, 0xc8)] {
        sim.port_write(port, 1, value).unwrap();
    }
    sim.port_write(0xc000, 1, 9).unwrap();
    while sim.port_read(0x3f6, 1).unwrap() & 0x80 != 0 {}
    let mut data = [0; 4];
    assert!(sim.ram().copy_out(0x8000, &mut data));
    assert_eq!(u32::from_le_bytes(data), 5 * 128);
    assert_eq!(sim.port_read(0xc002, 1).unwrap() & 7, 4);
}

#[test]
fn killed_devices_come_back_with_their_state_and_the_others_do_not_notice() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    sim.port_write(0x3ff, 1, 0x5a).unwrap();
    for role in ["serial", "platform", "vga", "ps2", "ide"] {
        sim.port_write(0x70, 1, 0x40).unwrap();
        sim.port_write(0x71, 1, 0x77).unwrap();
        sim.replace(role).unwrap();
        // The machine keeps answering, with all ones for the dead device.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while (
            sim.port_read(0x3ff, 1).unwrap(),
            sim.port_read(0x71, 1).unwrap(),
            sim.config_read(1, 1, 0, 2).unwrap(),
            sim.port_read(0x64, 1).unwrap() & 4,
            sim.config_read(3, 0, 0, 2).unwrap(),
        ) != (0x5a, 0x77, 0x8086, 4, 0x1234)
        {
            assert!(std::time::Instant::now() < end, "{role} did not come back:\n{}", sim.log());
        }
    }
}

/// A process that dies at any point of its start loses its device, never the machine.
#[test]
fn a_device_that_is_killed_again_and_again_stays_dead_and_the_machine_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mut kills = 0u32;
    while !sim.log().contains("died too often") {
        assert!(std::time::Instant::now() < end, "after {kills} kills:\n{}", sim.log());
        if let Some(pid) = sim.process("vga").and_then(rustix::process::Pid::from_raw) {
            // Each kill is later in the start.
            for _ in 0..kills * 20_000 {
                std::hint::spin_loop();
            }
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            kills += 1;
        }
        assert_eq!(sim.port_read(0x64, 1).unwrap() & 4, 4);
    }
    assert_eq!(sim.config_read(3, 0, 0, 4).unwrap(), u32::MAX, "nobody there");
    assert_eq!(sim.port_read(0x64, 1).unwrap() & 4, 4);
    let again = sim.qmp(r#"{"execute":"x-bulkhead-restart","arguments":{"device":"vga"}}"#).unwrap();
    assert!(again["error"]["desc"].as_str().is_some_and(|d| d.contains("died too often")), "{again}");
    let status = sim.qmp(r#"{"execute":"query-status"}"#).unwrap();
    assert_eq!(status["return"]["status"], "running");
}

#[test]
fn a_broker_that_dies_crashes_the_guest_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    let all: Vec<_> = sim.processes();
    sim.kill("broker").unwrap();
    sim.await_log("the broker is dead").unwrap();
    assert!(!sim.end().unwrap().success());
    for (role, pid) in all {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{role} is left");
    }
}

/// Writes to the VGA's registers are posted; they affect the next read, the window's next write and the picture. A 16-bit access
/// covers two registers.
#[test]
fn posted_registers_are_in_order_with_reads_and_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    sim.port_write(0x3c2, 1, 0x67).unwrap();
    sim.port_write(0x3d4, 2, 0x1234 << 8 & 0xff00 | 0x0e).unwrap();
    sim.port_write(0x3d4, 1, 0x0e).unwrap();
    assert_eq!(sim.port_read(0x3d5, 1).unwrap(), 0x34, "the cursor's high byte, by one word");
    for (index, value) in [(1u32, 79u32), (7, 2), (9, 15), (0x12, 0x8f), (0x13, 40)] {
        sim.port_write(0x3d4, 2, value << 8 | index).unwrap();
    }
    for (index, value) in [(2u32, 3u32), (4, 2)] {
        sim.port_write(0x3c4, 2, value << 8 | index).unwrap();
    }
    for (index, value) in [(5u32, 0x10u32), (6, 0x0e), (8, 0xff)] {
        sim.port_write(0x3ce, 2, value << 8 | index).unwrap();
    }
    for (i, c) in b"posted".iter().enumerate() {
        sim.memory_write(0xb8000 + i as u64 * 2, &[*c, 7]).unwrap();
    }
    let inspect = sim.qmp(r#"{"execute":"x-bulkhead-inspect","arguments":{"device":"vga"}}"#).unwrap();
    assert_eq!(inspect["return"]["registers"]["text.00"], "posted", "{inspect}");
}

/// XSA-180's class: without a reader, the log loses records; it neither blocks a device nor kills it.
#[test]
fn a_flood_of_an_unread_log_does_not_stop_the_guests_devices() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    let pid = sim.process("platform").unwrap();
    let control = rustix::process::Pid::from_raw(sim.process("control").unwrap()).unwrap();
    rustix::process::kill_process(control, rustix::process::Signal::STOP).unwrap();
    let line = [b'x'; 190];
    for second in 1..=10 {
        sim.advance_to(second * 1_000_000_000).unwrap();
        for _ in 0..100 {
            for byte in line {
                sim.port_write(0x402, 1, u32::from(byte)).unwrap();
            }
            sim.port_write(0x402, 1, u32::from(b'\n')).unwrap();
        }
    }
    assert_eq!(sim.port_read(0x92, 1).unwrap(), 0);
    rustix::process::kill_process(control, rustix::process::Signal::CONT).unwrap();
    sim.await_log("xxxxxxxx").unwrap();
    let inspect = sim.qmp(r#"{"execute":"x-bulkhead-inspect","arguments":{"device":"platform"}}"#).unwrap();
    assert!(
        inspect["return"]["statistics"]["log records lost"].as_u64().unwrap() > 0,
        "the flood was too small: {inspect}"
    );
    assert_eq!(sim.process("platform"), Some(pid), "{}", sim.log());
}

#[test]
fn a_launcher_that_dies_takes_its_children_along_and_the_broker_crashes_the_guest_first() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    let all = sim.processes();
    let launcher = rustix::process::Pid::from_raw(i32::try_from(sim.pid()).unwrap()).unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let left = |(_, pid): &(String, i32)| {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    };
    while all.iter().any(left) {
        assert!(std::time::Instant::now() < end, "{:?} are left", all.iter().filter(|p| left(p)).collect::<Vec<_>>());
        std::thread::yield_now();
    }
    sim.catch_up();
    assert!(sim.trace_lines.contains(&"shutdown 3".to_owned()), "{:?}", sim.trace_lines);
}

#[test]
fn the_launcher_ends_everything_on_sighup() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    let all = sim.processes();
    assert_eq!(all.len(), 7, "{all:?}");
    assert!(sim.end().unwrap().success());
    for (role, pid) in all {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{role} is left");
    }
}

/// Processes had the supplementary groups of whoever started the launcher: a group can open files that a user cannot.
#[test]
fn supplementary_groups_are_given_up() {
    // Of this thread, whose child the launcher is.
    let groups = [6, 42].map(rustix::thread::Gid::from_raw);
    rustix::thread::set_thread_groups(&groups).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let sim = machine(&dir);
    let launcher = ("launcher".to_owned(), sim.pid() as i32);
    for (role, pid) in sim.processes().into_iter().chain([launcher]) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let groups = status.lines().find_map(|l| l.strip_prefix("Groups:")).unwrap();
        assert_eq!(groups.trim(), "", "{role}");
    }
}

/// The launcher was root with all system calls and all capabilities.
#[test]
fn the_launcher_is_in_its_cage_while_the_machine_runs() {
    let dir = tempfile::tempdir().unwrap();
    let sim = machine(&dir);
    let status = std::fs::read_to_string(format!("/proc/{}/status", sim.pid())).unwrap();
    let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim_start_matches(':').trim();
    assert_eq!((field("Seccomp"), field("NoNewPrivs")), ("2", "1"));
    // CAP_SYS_MODULE, _SYS_TIME, _MKNOD, _SETFCAP, _SYSLOG, _BPF; what the starter alone has: CAP_CHOWN, _FOWNER, _SETGID, _SETUID,
    // _SETPCAP, _SYS_CHROOT, _SYS_PTRACE, _SYS_ADMIN, _SYS_RESOURCE.
    let never = [16u32, 25, 27, 31, 34, 39, 0, 3, 6, 7, 8, 18, 19, 21, 24].iter().fold(0u64, |all, n| all | 1 << n);
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(field(set), 16).unwrap() & never, 0, "{set}: {}", field(set));
    }
}

/// The launcher has no right to start a process: the guest goes on without the starter, and a process that dies stays dead.
#[test]
fn a_guest_goes_on_without_the_starter() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    let starter = rustix::process::Pid::from_raw(sim.starter().unwrap()).unwrap();
    rustix::process::kill_process(starter, rustix::process::Signal::KILL).unwrap();
    sim.await_log("BH-0503").unwrap();
    let all = sim.processes();
    sim.kill("vga").unwrap();
    sim.await_log("vga: died too often; it stays dead").unwrap();
    assert_eq!(sim.port_read(0x64, 1).unwrap() & 4, 4);
    let status = sim.qmp(r#"{"execute":"query-status"}"#).unwrap();
    assert_eq!(status["return"]["status"], "running");
    assert_eq!(sim.processes().len() + 1, all.len());
    assert!(sim.end().unwrap().success());
}

/// A starter that is stopped holds the launcher up once, and the guest not at all: it is killed, and nothing waits for it any more.
#[test]
fn a_starter_that_is_stopped_holds_the_launcher_up_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    let starter = rustix::process::Pid::from_raw(sim.starter().unwrap()).unwrap();
    rustix::process::kill_process(starter, rustix::process::Signal::STOP).unwrap();
    sim.kill("vga").unwrap();
    // The launcher waits for it; the guest does not wait for the launcher.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !sim.log().contains("BH-0503") {
        assert!(std::time::Instant::now() < end, "{}", sim.log());
        assert_eq!(sim.port_read(0x64, 1).unwrap() & 4, 4);
    }
    assert_eq!(sim.starter(), None);
    let rows = sim.qmp(r#"{"execute":"x-bulkhead-processes"}"#).unwrap();
    assert!(rows["return"]["processes"].as_array().is_some_and(|rows| rows.len() > 5), "{rows}");
    assert!(sim.end().unwrap().success());
}

/// The launcher was killed. It may remove nothing in the directory of its sockets; the starter does it.
#[test]
fn the_sockets_of_a_killed_launcher_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    let socket = sim.qmp_socket().to_owned();
    assert!(socket.exists());
    let launcher = rustix::process::Pid::from_raw(i32::try_from(sim.pid()).unwrap()).unwrap();
    rustix::process::kill_process(launcher, rustix::process::Signal::KILL).unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while sim.ended().is_none() || socket.exists() {
        assert!(std::time::Instant::now() < end, "{}", sim.log());
        std::thread::yield_now();
    }
}

/// An image in "/" makes every file one that the launcher may write: with `any`, or as the image's own directory.
#[test]
#[ignore = "needs root"]
fn an_image_in_the_root_directory_starts() {
    let path = format!("/bulkhead-sim-{}.img", std::process::id());
    std::fs::write(&path, vec![0u8; 1 << 20]).expect("the right to write to /");
    let drive = format!("file={path},if=ide,index=0,media=disk,format=raw,cache=writeback");
    for more in [&[][..], &["-image-directories", "any"]] {
        let arguments = [&["-m", "16", "-drive", &drive], more].concat();
        let started = Sim::start(&Options::new(&arguments));
        let ended = started.and_then(|mut sim| sim.end());
        if !ended.as_ref().is_ok_and(|status| status.success()) {
            let _ = std::fs::remove_file(&path);
            panic!("{more:?}: {ended:?}");
        }
    }
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn the_guest_runs_on_without_control_and_control_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    sim.kill("control").unwrap();
    for _ in 0..100 {
        assert_eq!(sim.port_read(0x64, 1).unwrap() & 4, 4);
    }
    let status = loop {
        // The new process inherits the old sockets.
        if let Ok(status) = sim.qmp(r#"{"execute":"query-status","id":7}"#) {
            break status;
        }
    };
    assert_eq!((status["return"]["status"].as_str(), status["id"].as_i64()), (Some("running"), Some(7)));
    let inspect = sim.qmp(r#"{"execute":"x-bulkhead-inspect","arguments":{"device":"ps2"}}"#).unwrap();
    assert!(inspect["return"]["registers"]["status"].is_string(), "{inspect}");
}

#[test]
fn keys_reach_the_guest_and_its_screen_a_file() {
    let name = format!("test/{}", std::process::id());
    let pictures = format!("/var/lib/bulkhead/dump/test%2F{}", std::process::id());
    let mut sim = Sim::start(&Options::new(&["-name", &name, "-m", "16", "-device", "VGA,vgamem_mb=16"])).unwrap();
    sim.qmp(r#"{"execute":"send-key","arguments":{"keys":[{"type":"qcode","data":"a"}],"hold-time":1}}"#).unwrap();
    while !sim.isa[1] {
        sim.catch_up();
    }
    assert_eq!(sim.port_read(0x60, 1).unwrap(), 0x1e);
    let dump = |sim: &Sim, file: &str| {
        sim.qmp(&format!(r#"{{"execute":"screendump","arguments":{{"filename":"{file}"}}}}"#)).unwrap()
    };
    let reply = dump(&sim, &format!("{pictures}/a.png"));
    assert!(reply.get("return").is_some(), "{reply}");
    assert_eq!(std::fs::read(format!("{pictures}/a.png")).unwrap()[..4], *b"\x89PNG");
    let again = dump(&sim, "/etc/passwd");
    assert!(again["error"]["desc"].as_str().unwrap().contains(&pictures), "{again}");
    // Another guest's directory.
    let again = dump(&sim, "/var/lib/bulkhead/dump/other/a.png");
    assert!(again["error"]["desc"].as_str().unwrap().contains(&pictures), "{again}");
    // A client that makes pictures without end.
    for n in 1..16 {
        let reply = dump(&sim, &format!("{n}.png"));
        assert!(reply.get("return").is_some(), "{n}: {reply}");
    }
    let refused = dump(&sim, "more.png");
    assert!(refused["error"]["desc"].as_str().unwrap().contains("at most 16 files, 64 MiB"), "{refused}");
    std::fs::remove_file(format!("{pictures}/a.png")).unwrap();
    assert!(dump(&sim, "more.png").get("return").is_some());
    assert!(sim.end().unwrap().success());
    std::fs::remove_dir_all(&pictures).unwrap();
}

#[test]
fn power_off_and_reset_reach_the_hypervisor() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    sim.port_write(0xb004, 2, 0x2000).unwrap();
    assert!(sim.trace_lines.contains(&"shutdown 0".to_owned()), "{:?}", sim.trace_lines);
    sim.port_write(0x64, 1, 0xfe).unwrap();
    assert!(sim.trace_lines.contains(&"shutdown 1".to_owned()));
}

#[test]
fn pci_mechanism_1_is_found_by_reading_the_address_register_and_then_left_to_xen() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = machine(&dir);
    let request = |data, read| Sim::simple(0, 0xcf8, 4, data, read);
    assert_eq!(sim.request(0, request(0x8000_0000, false)).unwrap().map(|_| ()), Some(()));
    assert_eq!(sim.request(0, request(0, true)).unwrap(), Some(0x8000_0000));
    let mut writes = 0;
    while sim.request(0, request(0x8000_0000, false)).unwrap().is_some() {
        writes += 1;
        assert!(writes < 100, "the broker still wants to see every write");
    }
    // Linux starts another probe with a byte to 0xcfb; the reset register keeps its port.
    sim.port_write(0xcfb, 1, 1).unwrap();
    sim.request(0, request(0x8000_1234, false)).unwrap();
    assert_eq!(sim.request(0, request(0, true)).unwrap(), Some(0x8000_1234));
    sim.port_write(0xcf9, 1, 6).unwrap();
    assert!(sim.trace_lines.contains(&"shutdown 1".to_owned()));
}

/// The program that simulates the machine is killed: no process stays in a busy loop.
#[test]
fn nothing_is_left_of_a_simulated_machine_that_was_killed() {
    use std::io::{BufRead as _, BufReader, Write as _};
    let program = Options::new(&[]).binaries.join("bulkhead-qtest");
    let name = format!("killed-{}", std::process::id());
    let mut child = std::process::Command::new(program)
        .args(["-name", &name, "-machine", "xenfv", "-m", "16", "-device", "VGA,vgamem_mb=16"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    child.stdin.as_mut().unwrap().write_all(b"inb 0x64\n").unwrap();
    assert!(lines.next().unwrap().unwrap().starts_with("OK"));
    let launchers = || {
        let all = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| std::fs::read_to_string(e.ok()?.path().join("cmdline")).ok());
        all.filter(|c| c.contains(&name) && c.contains("bulkhead-dm")).count()
    };
    assert_eq!(launchers(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while launchers() > 0 {
        assert!(std::time::Instant::now() < end, "the launcher goes on");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
