//! A serial port through all processes.
use bulkhead_sim::{Options, Sim};
use bulkhead_xen_abi::ioreq;

#[test]
fn text_reaches_the_file_through_broker_and_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("com1");
    let mut sim = Sim::start(&Options::new(&["-serial", &format!("file:{}", path.display())])).unwrap();
    assert_eq!(sim.port_read(0x3fd, 1).unwrap(), 0x60);
    for byte in b"hello" {
        sim.port_write(0x3f8, 1, u32::from(*byte)).unwrap();
    }
    assert_eq!(Sim::read_to_string(&path).unwrap(), "hello");
    assert_eq!(sim.port_read(0x2f8, 1).unwrap(), 0xff, "nobody is there");
    assert!(sim.end().unwrap().success());
}

#[test]
fn a_port_that_listens_serves_one_peer_after_the_other() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("com1");
    let mut sim =
        Sim::start(&Options::new(&["-serial", &format!("unix:{},server=on,wait=off", path.display())])).unwrap();
    sim.port_write(0x3f8, 1, u32::from(b'-')).unwrap();
    let mut first = UnixStream::connect(&path).unwrap();
    first.write_all(b"a").unwrap();
    let received = |sim: &mut Sim| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while sim.port_read(0x3fd, 1).unwrap() & 1 == 0 {
            assert!(std::time::Instant::now() < end, "{}", sim.log());
        }
        sim.port_read(0x3f8, 1).unwrap() as u8
    };
    assert_eq!(received(&mut sim), b'a');
    sim.port_write(0x3f8, 1, u32::from(b'x')).unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x", "what was sent before anybody was there is gone");
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"b").unwrap();
    drop(first);
    assert_eq!(received(&mut sim), b'b');
    sim.port_write(0x3f8, 1, u32::from(b'y')).unwrap();
    second.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"y");
    assert!(sim.end().unwrap().success());
    assert!(!path.exists(), "the socket is left");
}

/// The guest prints this: REP OUTSB, whose operand is in memory.
fn print(sim: &mut Sim, text: &[u8]) {
    for piece in text.chunks(4096) {
        assert!(sim.ram().copy_in(0x10000, piece));
        let mut outs = Sim::simple(ioreq::IOREQ_TYPE_PIO, 0x3f8, 1, 0x10000, false);
        (outs.count, outs.bits) = (piece.len() as u32, outs.bits.with_data_is_ptr(true));
        sim.request(0, outs).unwrap().unwrap();
    }
}

/// A guest that printed without end filled dom0's disk. Now two files have the last of its output, and the kernel's limit of the
/// process is that of one.
#[test]
fn output_without_end_takes_two_files_of_the_limits_size() {
    const LIMIT: u64 = 64 << 10;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("com1");
    let old = dir.path().join("com1.old");
    let limit = |sim: &Sim| {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", sim.process("serial").unwrap())).unwrap();
        let line = limits.lines().find_map(|l| l.strip_prefix("Max file size")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let mut sim = Sim::start(&Options::new(&["-serial", "null"])).unwrap();
    assert_eq!(limit(&sim), 0, "it has no file");
    assert!(sim.end().unwrap().success());
    let arguments = ["-console-limit", "64K", "-serial", &format!("file:{}", path.display())];
    let mut sim = Sim::start(&Options::new(&arguments)).unwrap();
    assert_eq!(limit(&sim), LIMIT);
    let mut all = Vec::new();
    for round in 0..10 {
        let text: Vec<u8> = (0..1024).flat_map(|n| format!("round {round:02} line {n:06}\n").into_bytes()).collect();
        print(&mut sim, &text);
        all.extend_from_slice(&text);
        let sizes = [&path, &old].map(|p| std::fs::metadata(p).unwrap().len());
        assert!(sizes.iter().all(|size| *size <= LIMIT), "{sizes:?}");
        if round == 5 {
            sim.replace("serial").unwrap();
            let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
            while sim.port_read(0x3fd, 1).unwrap() == 0xff {
                assert!(std::time::Instant::now() < end, "it does not come back");
            }
            assert_eq!(limit(&sim), LIMIT, "in its next life");
        }
    }
    let kept = [&old, &path].map(|p| std::fs::read(p).unwrap()).concat();
    assert!(all.len() as u64 > 3 * LIMIT && kept.len() as u64 >= LIMIT - LIMIT / 8, "{} of {}", kept.len(), all.len());
    assert!(all.ends_with(&kept), "nothing of the last output is lost, nothing is there twice");
    assert!(sim.end().unwrap().success());
}
