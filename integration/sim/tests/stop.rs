//! QMP's `stop` and `cont` with all processes: a machine that is stopped writes nothing, and goes on as if nothing had been.
use bulkhead_bus::faults::{Fault, FaultOn};
use bulkhead_sim::{Options, Sim};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

const BSY: u32 = 0x80;
const ENOSPC: u32 = 28;
/// Time in which what must not happen does not.
const WHILE: Duration = Duration::from_millis(500);
const STOP: &str = r#"{"execute":"stop"}"#;
const CONT: &str = r#"{"execute":"cont"}"#;

fn start(dir: &tempfile::TempDir, more: &[&str]) -> Sim {
    let path = dir.path().join("disk");
    std::fs::write(&path, vec![0u8; 1 << 20]).unwrap();
    let drive = format!("file={},if=ide,index=0,media=disk,format=raw,cache=writeback", path.display());
    let serial = format!("file:{}", dir.path().join("serial").display());
    let mut arguments = vec!["-machine", "xenfv", "-m", "16", "-drive", &drive, "-serial", &serial];
    arguments.extend(more);
    let mut options = Options::new(&arguments);
    options.faults = true;
    Sim::start(&options).unwrap()
}

fn qmp(sim: &Sim, command: &str) {
    let answer = sim.qmp(command).unwrap();
    assert!(answer.get("return").is_some(), "{command}: {answer}");
}

/// The guest begins to write a sector with this byte, by PIO.
fn begin_write(sim: &mut Sim, sector: u32, byte: u8) {
    for (port, value) in [(0x1f2, 1), (0x1f3, sector), (0x1f4, 0), (0x1f5, 0), (0x1f6, 0xe0), (0x1f7, 0x30)] {
        sim.port_write(port, 1, value).unwrap();
    }
    for _ in 0..256 {
        sim.port_write(0x1f0, 2, u32::from(byte) * 0x101).unwrap();
    }
}

fn on_disk(dir: &tempfile::TempDir, sector: u64) -> u8 {
    let mut byte = [0];
    std::fs::File::open(dir.path().join("disk")).unwrap().read_exact_at(&mut byte, sector * 512).unwrap();
    byte[0]
}

/// Lets writes meet this fault, or none.
fn storage(sim: &Sim, fault: Option<Fault>) {
    sim.faults().unwrap().set(0, fault).unwrap();
}

/// `stop` was answered while a write was under way, and it came to the disk afterwards: two device models would write one disk.
#[test]
fn a_stop_waits_for_what_is_under_way_and_nothing_is_written_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = start(&dir, &[]);
    let fault = Fault::always(0, FaultOn::Write, 0);
    storage(&sim, Some(Fault { held: true, ..fault }));
    begin_write(&mut sim, 3, 7);
    let socket = sim.qmp_socket().to_owned();
    let (answered, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || answered.send(Sim::qmp_at(&socket, STOP, None).unwrap()));
    assert!(answer.recv_timeout(WHILE).is_err(), "the write is under way");
    assert_eq!(on_disk(&dir, 3), 0);
    storage(&sim, Some(fault));
    assert!(answer.recv().unwrap().get("return").is_some());
    assert_eq!(on_disk(&dir, 3), 7, "it is on the disk when the stop is answered");
    qmp(&sim, CONT);
    assert_eq!(sim.port_read(0x1f7, 1).unwrap() & BSY, 0);
    assert!(sim.end().unwrap().success());
}

/// The guest's accesses are not answered while the machine is stopped, and none is lost; what was written to a serial port goes out, or waits.
#[test]
fn accesses_of_a_stopped_machine_wait_until_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = start(&dir, &[]);
    qmp(&sim, STOP);
    qmp(&sim, STOP);
    sim.put(0, Sim::simple(0, 0x1f7, 1, 0, true));
    let socket = sim.qmp_socket().to_owned();
    let (asks, asked) = std::sync::mpsc::channel::<()>();
    let goes_on = std::thread::spawn(move || {
        assert!(asked.recv_timeout(WHILE).is_err(), "it was answered while the machine was stopped");
        Sim::qmp_at(&socket, CONT, None).unwrap();
    });
    assert_eq!(sim.await_done(0).unwrap() as u32 & BSY, 0);
    let _ = asks.send(());
    goes_on.join().unwrap();
    qmp(&sim, CONT);
    assert_eq!(sim.port_read(0x64, 1).unwrap() & 0xc0, 0);
    assert!(sim.end().unwrap().success());
}

/// A process that is started while the machine is stopped stands still too, and goes on with it.
#[test]
fn a_process_that_comes_while_the_machine_is_stopped_waits_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = start(&dir, &[]);
    qmp(&sim, STOP);
    // A new control, which has heard of no stop; and devices that come after it.
    sim.replace("control").unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    let status =
        |sim: &Sim| Some(sim.qmp(r#"{"execute":"query-status"}"#).ok()?["return"]["status"].as_str()?.to_owned());
    while status(&sim).is_none() {
        assert!(Instant::now() < end, "{}", sim.log());
    }
    assert_eq!(status(&sim).as_deref(), Some("paused"));
    sim.replace("ide").unwrap();
    sim.replace("serial").unwrap();
    sim.put(0, Sim::simple(0, 0x1f7, 1, 0, true));
    qmp(&sim, CONT);
    sim.await_done(0).unwrap();
    assert_eq!(status(&sim).as_deref(), Some("running"));
    begin_write(&mut sim, 5, 9);
    while sim.port_read(0x1f7, 1).unwrap() & BSY != 0 || on_disk(&dir, 5) != 9 {
        assert!(Instant::now() < end, "{}", sim.log());
    }
    assert!(sim.end().unwrap().success());
}

/// Keys of a stopped machine are lost, as with one that is switched off; what comes on a serial line waits in its socket.
#[test]
fn a_stopped_device_takes_nothing_from_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("line");
    let socket = format!("socket,id=line,path={},server=on,wait=off", path.display());
    let mut sim = start(&dir, &["-chardev", &socket, "-serial", "chardev:line"]);
    let mut line = std::os::unix::net::UnixStream::connect(&path).unwrap();
    // COM2's FIFO is on, and its lines are up.
    sim.port_write(0x2fa, 1, 1).unwrap();
    sim.port_write(0x2fc, 1, 0x0b).unwrap();
    qmp(&sim, STOP);
    std::io::Write::write_all(&mut line, b"x").unwrap();
    qmp(&sim, r#"{"execute":"send-key","arguments":{"keys":[{"type":"qcode","data":"a"}]}}"#);
    let before = sim.qmp(r#"{"execute":"query-status"}"#).unwrap();
    assert_eq!(before["return"]["status"], "paused");
    qmp(&sim, CONT);
    let end = Instant::now() + Duration::from_secs(20);
    while sim.port_read(0x2fd, 1).unwrap() & 1 == 0 {
        assert!(Instant::now() < end, "the character is lost");
    }
    assert_eq!(sim.port_read(0x2f8, 1).unwrap(), u32::from(b'x'));
    assert_eq!(sim.port_read(0x64, 1).unwrap() & 1, 0, "no key");
    assert!(sim.end().unwrap().success());
}

/// With `-image-full stop` a write waits for space. It was tried again after the machine had stopped.
#[test]
fn a_write_that_waits_for_space_waits_for_the_machine_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = start(&dir, &["-image-full", "stop"]);
    storage(&sim, Some(Fault::always(0, FaultOn::Write, ENOSPC)));
    begin_write(&mut sim, 6, 4);
    let end = Instant::now() + Duration::from_secs(20);
    while sim.faults().unwrap().get(0).unwrap().unwrap().met == 0 {
        assert!(Instant::now() < end);
    }
    qmp(&sim, STOP);
    storage(&sim, None);
    // Longer than the pause between two tries.
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    let _ = nothing.recv_timeout(3 * WHILE);
    assert_eq!(on_disk(&dir, 6), 0);
    qmp(&sim, CONT);
    while on_disk(&dir, 6) != 4 {
        assert!(Instant::now() < end);
    }
    assert!(sim.end().unwrap().success());
}
