//! Saved machines with all processes: one is saved, and another one goes on with its state.
use bulkhead_sim::{Options, Sim};
use rustix::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

const STOP: &str = r#"{"execute":"stop"}"#;
const CONT: &str = r#"{"execute":"cont"}"#;
/// A machine of xl's with a display.
const MORE: [&str; 6] = ["-machine", "xenfv", "-m", "16", "-device", "VGA,vgamem_mb=16"];

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..1 << 18u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(dir.path().join("disk"), data).unwrap();
        Self { dir }
    }

    fn options(&self, more: &[&str]) -> Options {
        let drive = format!(
            "file={},if=ide,index=0,media=disk,format=raw,cache=writeback",
            self.dir.path().join("disk").display()
        );
        let serial = format!("file:{}", self.dir.path().join("serial").display());
        Options::new(&[&MORE[..], &["-drive", &drive, "-serial", &serial], more].concat())
    }

    fn start(&self, more: &[&str]) -> Sim {
        Sim::start(&self.options(more)).unwrap()
    }

    fn goes_on(&self, state: &Arc<OwnedFd>, more: &[&str]) -> Result<Sim, bulkhead_sim::SimError> {
        Sim::start(&Options { incoming: Some(state.clone()), ..self.options(more) })
    }
}

fn qmp(sim: &Sim, command: &str) -> serde_json::Value {
    let answer = sim.qmp(command).unwrap();
    assert!(answer.get("return").is_some(), "{command}: {answer}");
    answer["return"].clone()
}

fn status(sim: &Sim) -> String {
    qmp(sim, r#"{"execute":"query-status"}"#)["status"].as_str().unwrap().to_owned()
}

/// A file as libxl opens it: for writing, with what an earlier state has left.
fn file() -> Arc<OwnedFd> {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&[7; 2 << 20], 0).unwrap();
    Arc::new(file.into())
}

/// What libxl does: add-fd, then the state to that set, and no remove-fd.
fn save(sim: &Sim, live: bool) -> (Arc<OwnedFd>, serde_json::Value) {
    let file = file();
    let set = sim.qmp_with(r#"{"execute":"add-fd"}"#, Some(file.as_fd())).unwrap();
    let set = set["return"]["fdset-id"].as_u64().unwrap();
    let command = format!(
        r#"{{"execute":"xen-save-devices-state","arguments":{{"live":{live},"filename":"/dev/fdset/{set}"}}}}"#
    );
    (file, sim.qmp(&command).unwrap())
}

fn saved(sim: &Sim) -> Arc<OwnedFd> {
    let (file, answer) = save(sim, false);
    assert!(answer.get("return").is_some(), "{answer}\n{}", sim.log());
    file
}

fn read_sector_begins(sim: &mut Sim, sector: u32) {
    for (port, value) in [(0x1f2, 1), (0x1f3, sector), (0x1f4, 0), (0x1f5, 0), (0x1f6, 0xe0), (0x1f7, 0x20)] {
        sim.port_write(port, 1, value).unwrap();
    }
    while sim.port_read(0x3f6, 1).unwrap() & 0x88 != 0x08 {}
}

fn words(sim: &mut Sim, count: u32) -> Vec<u32> {
    (0..count).map(|_| sim.port_read(0x1f0, 2).unwrap()).collect()
}

#[test]
fn a_machine_goes_on_in_another_one_where_it_was_saved() {
    let place = Place::new();
    let mut sim = place.start(&[]);
    // Registers of every device, decoded BARs, a disk's command of which a part is read.
    sim.config_write(3, 0, 0x10, 4, 0xf000_0000).unwrap();
    sim.config_write(3, 0, 0x18, 4, 0xf100_0000).unwrap();
    sim.config_write(3, 0, 0x04, 2, 3).unwrap();
    sim.port_write(0x1ce, 2, 1).unwrap();
    sim.port_write(0x1cf, 2, 640).unwrap();
    sim.port_write(0x3fb, 1, 0x1b).unwrap();
    sim.port_write(0x3ff, 1, 0x5a).unwrap();
    sim.port_write(0x70, 1, 0x40).unwrap();
    sim.port_write(0x71, 1, 0x77).unwrap();
    read_sector_begins(&mut sim, 5);
    let first = words(&mut sim, 100);
    assert!(sim.isa[14], "the drive has interrupted");
    qmp(&sim, STOP);
    let state = saved(&sim);
    assert!(sim.end().unwrap().success());

    let mut sim = place.goes_on(&state, &[]).unwrap();
    assert_eq!(status(&sim), "paused");
    qmp(&sim, CONT);
    assert_eq!(status(&sim), "running");
    sim.catch_up();
    assert!(sim.trace_lines.iter().any(|l| l == "pin 0xf0000 0xf0fff"), "{:?}", sim.trace_lines);
    assert!(!sim.trace_lines.iter().any(|l| l.starts_with("relocate")), "{:?}", sim.trace_lines);
    let rest = words(&mut sim, 156);
    let want: Vec<u32> = (0..128u32)
        .flat_map(|n| {
            let [a, b, c, d] = (5 * 128 + n).to_le_bytes();
            [u32::from(u16::from_le_bytes([a, b])), u32::from(u16::from_le_bytes([c, d]))]
        })
        .collect();
    assert_eq!([first, rest].concat(), want);
    assert_eq!(sim.port_read(0x1f7, 1).unwrap() & 0x89, 0);
    assert_eq!(sim.config_read(3, 0, 0x10, 4).unwrap() & !0xf, 0xf000_0000);
    assert_eq!(sim.port_read(0x1ce, 2).unwrap(), 1);
    assert_eq!(sim.port_read(0x1cf, 2).unwrap(), 640);
    assert_eq!((sim.port_read(0x3fb, 1).unwrap(), sim.port_read(0x3ff, 1).unwrap()), (0x1b, 0x5a));
    assert_eq!(sim.port_read(0x71, 1).unwrap(), 0x77);
    // The display's registers are where its BAR is decoded: it is the broker that knows.
    let (found, mut identity) = (Sim::simple(1, 0xf100_0500, 2, 0, true), 0);
    if let Some(value) = sim.request(0, found).unwrap() {
        identity = value;
    }
    assert_eq!(identity & 0xfff0, 0xb0c0, "{}", sim.log());
    // A process that dies now goes on with the state page, as ever.
    sim.replace("serial").unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while sim.port_read(0x3ff, 1).unwrap() == 0xff {
        assert!(std::time::Instant::now() < end, "{}", sim.log());
    }
    assert_eq!(sim.port_read(0x3ff, 1).unwrap(), 0x5a);
    assert!(sim.end().unwrap().success());
}

/// A machine that the first release has saved (`golden/1.stream`) goes on in every later one. `UPDATE=1` writes it anew, which is right only
/// before a release.
#[test]
fn a_machine_of_the_first_release_goes_on() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/1.stream");
    let place = Place::new();
    if std::env::var_os("UPDATE").is_some() {
        let mut sim = place.start(&["-usb"]);
        sim.config_write(3, 0, 0x18, 4, 0xf100_0000).unwrap();
        sim.config_write(3, 0, 0x04, 2, 3).unwrap();
        sim.port_write(0x1ce, 2, 2).unwrap();
        sim.port_write(0x1cf, 2, 480).unwrap();
        sim.port_write(0x3ff, 1, 0xa5).unwrap();
        sim.port_write(0x60, 1, 0xf3).unwrap();
        read_sector_begins(&mut sim, 9);
        words(&mut sim, 128);
        qmp(&sim, STOP);
        let state = std::fs::File::from(saved(&sim).try_clone().unwrap());
        let mut bytes = vec![0; 2 << 20];
        state.read_exact_at(&mut bytes, 0).unwrap();
        let len = u64::from_le_bytes(bytes[24..32].try_into().unwrap()) as usize;
        std::fs::write(&golden, &bytes[..len]).unwrap();
        assert!(sim.end().unwrap().success());
    }
    let state = Arc::new(OwnedFd::from(std::fs::File::open(golden).unwrap()));
    let mut sim = place.goes_on(&state, &["-usb"]).unwrap();
    qmp(&sim, CONT);
    let rest: Vec<u8> = words(&mut sim, 128).iter().flat_map(|w| [*w as u8, (*w >> 8) as u8]).collect();
    let want: Vec<u8> = (9 * 128 + 64..10 * 128u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(rest, want);
    assert_eq!(sim.port_read(0x1f7, 1).unwrap() & 0x89, 0);
    assert_eq!(sim.config_read(3, 0, 0x18, 4).unwrap(), 0xf100_0000);
    assert_eq!((sim.port_read(0x1ce, 2).unwrap(), sim.port_read(0x1cf, 2).unwrap()), (2, 480));
    assert_eq!(sim.port_read(0x3ff, 1).unwrap(), 0xa5);
    assert!(sim.end().unwrap().success());
}

/// `xl save -c`: the machine is saved, and goes on here; twenty times in one life.
#[test]
fn a_machine_that_was_saved_goes_on_and_can_be_saved_again() {
    let place = Place::new();
    let mut sim = place.start(&[]);
    for round in 0..20 {
        sim.port_write(0x3ff, 1, round).unwrap();
        qmp(&sim, r#"{"execute":"xen-set-global-dirty-log","arguments":{"enable":true}}"#);
        qmp(&sim, STOP);
        saved(&sim);
        qmp(&sim, r#"{"execute":"xen-set-global-dirty-log","arguments":{"enable":false}}"#);
        qmp(&sim, CONT);
        assert_eq!(sim.port_read(0x3ff, 1).unwrap(), round);
    }
    // One that runs is stopped for it, and runs again.
    let state = saved(&sim);
    assert_eq!(status(&sim), "running");
    drop(sim);
    let mut sim = place.goes_on(&state, &[]).unwrap();
    // It can be saved before it has run, and the state is that of the first save.
    let again = saved(&sim);
    drop(sim);
    sim = place.goes_on(&again, &[]).unwrap();
    qmp(&sim, CONT);
    assert_eq!(sim.port_read(0x3ff, 1).unwrap(), 19);
    assert!(sim.end().unwrap().success());
}

/// Rules of a card that a command has made stricter are those of the machine that goes on, whatever happens before it does.
#[test]
fn cards_go_on_under_the_rules_that_they_had() {
    let place = Place::new();
    let wire = place.dir.path().join("wire");
    let _wire = std::os::unix::net::UnixListener::bind(&wire).unwrap();
    let netdev = format!("stream,id=net0,server=off,addr.type=unix,addr.path={}", wire.display());
    let card = ["-device", "e1000,id=nic0,netdev=net0,mac=02:16:3e:00:00:01", "-netdev", &netdev];
    let shown = |sim: &Sim| qmp(sim, r#"{"execute":"x-bulkhead-net-show"}"#)[0]["filter"].clone();
    let sim = place.start(&card);
    let before = shown(&sim);
    qmp(
        &sim,
        r#"{"execute":"x-bulkhead-net-set","arguments":{"device":"nic0","set":["level=addresses","ip=10.0.0.5"]}}"#,
    );
    let changed = shown(&sim);
    assert_ne!(changed, before);
    let state = saved(&sim);
    drop(sim);
    let sim = place.goes_on(&state, &card).unwrap();
    assert_eq!(shown(&sim), changed, "restored");
    drop(sim);
    // It is saved again before it has run.
    let sim = place.goes_on(&state, &card).unwrap();
    let state = saved(&sim);
    drop(sim);
    let mut sim = place.goes_on(&state, &card).unwrap();
    assert_eq!(shown(&sim), changed, "restored again");
    sim.replace("control").unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while sim.qmp(CONT).is_err() {
        assert!(std::time::Instant::now() < end, "{}", sim.log());
    }
    assert_eq!(shown(&sim), changed, "{}", sim.log());
    assert!(sim.end().unwrap().success());
}

/// Drivers of these cards do not know of a move, so a switch would look for the guest where it was.
#[test]
fn a_card_says_where_the_guest_goes_on() {
    let place = Place::new();
    let wire = place.dir.path().join("wire");
    let listener = std::os::unix::net::UnixListener::bind(&wire).unwrap();
    let netdev = format!("stream,id=net0,server=off,addr.type=unix,addr.path={}", wire.display());
    let card = ["-device", "e1000,id=nic0,netdev=net0,mac=02:16:3e:00:00:01", "-netdev", &netdev];
    let sim = place.start(&card);
    let (mut first, _) = listener.accept().unwrap();
    let state = saved(&sim);
    drop(sim);
    let mut sim = place.goes_on(&state, &card).unwrap();
    let (mut second, _) = listener.accept().unwrap();
    second.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    // The process that runs is not the one that was started with the state.
    sim.replace("e1000").unwrap();
    qmp(&sim, CONT);
    // Length and frame, as on QEMU's streams.
    let mut frame = [0; 64];
    std::io::Read::read_exact(&mut second, &mut frame).unwrap();
    assert_eq!((&frame[..4], &frame[10..18]), (&[0, 0, 0, 60][..], &[2, 0x16, 0x3e, 0, 0, 1, 0x80, 0x35][..]));
    let mut before = Vec::new();
    std::io::Read::read_to_end(&mut first, &mut before).unwrap();
    assert!(before.is_empty(), "nobody has moved there");
    assert!(sim.end().unwrap().success());
}

/// A reset in place (kexec in the guest): the toolstack does not wait until the former device model has ended.
#[test]
fn an_image_that_the_former_device_model_still_has_is_waited_for() {
    let place = Place::new();
    let former = place.start(&[]);
    let state = saved(&former);
    let (done, outcome) = std::sync::mpsc::channel();
    std::thread::scope(|s| {
        s.spawn(|| done.send(place.goes_on(&state, &[])).unwrap());
        let early = outcome.recv_timeout(std::time::Duration::from_millis(300));
        assert!(early.is_err(), "it did not wait: {:?}", early.map(|sim| sim.err().map(|e| e.to_string())));
        drop(former);
        let mut sim = outcome.recv().unwrap().unwrap();
        qmp(&sim, CONT);
        assert!(sim.end().unwrap().success());
    });
}

/// Reads eight sectors from `sector` on to guest memory at `to`, by DMA.
fn read_by_dma(sim: &mut Sim, sector: u32, to: u32) {
    sim.config_write(1, 1, 0x20, 4, 0xc000).unwrap();
    sim.config_write(1, 1, 0x04, 2, 5).unwrap();
    for (at, value) in [(0x1000, to), (0x1004, 0x8000_1000)] {
        sim.ram().store_u32(at, value);
    }
    sim.port_write(0xc000, 1, 0).unwrap();
    sim.port_write(0xc002, 1, 6).unwrap();
    sim.port_write(0xc004, 4, 0x1000).unwrap();
    for (port, value) in [(0x1f2, 8), (0x1f3, sector), (0x1f4, 0), (0x1f5, 0), (0x1f6, 0xe0), (0x1f7, 0xc8)] {
        sim.port_write(port, 1, value).unwrap();
    }
    sim.port_write(0xc000, 1, 9).unwrap();
    while sim.port_read(0xc002, 1).unwrap() & 5 != 4 {}
}

const LOG_ON: &str = r#"{"execute":"xen-set-global-dirty-log","arguments":{"enable":true}}"#;
const LOG_OFF: &str = r#"{"execute":"xen-set-global-dirty-log","arguments":{"enable":false}}"#;

/// Pages that the hypervisor was told since the last look.
fn told(sim: &mut Sim) -> std::collections::BTreeSet<u64> {
    sim.catch_up();
    let lines = std::mem::take(&mut sim.trace_lines).into_iter();
    let lines = lines.filter_map(|l| l.strip_prefix("modified 0x").map(str::to_owned));
    let pages = |l: String| {
        let (first, count) = l.split_once(' ').unwrap();
        let first = u64::from_str_radix(first, 16).unwrap();
        first..first + count.parse::<u64>().unwrap()
    };
    lines.flat_map(pages).collect()
}

fn ram(sim: &Sim) -> Vec<u8> {
    let mut bytes = vec![0; sim.ram().len()];
    assert!(sim.ram().copy_out(0, &mut bytes));
    bytes
}

/// A copy of memory that is made while the guest runs, and whose pages are copied again that the hypervisor was told, is the guest's memory when
/// the machine has stopped.
#[test]
fn a_copy_of_memory_that_is_made_meanwhile_is_the_guests_memory_at_the_end() {
    let place = Place::new();
    let mut sim = place.start(&[]);
    read_by_dma(&mut sim, 0, 0x2000);
    assert!(told(&mut sim).is_empty(), "nobody copies");
    qmp(&sim, LOG_ON);
    let mut copy = ram(&sim);
    read_by_dma(&mut sim, 8, 0x20_0ffe);
    read_by_dma(&mut sim, 16, 0xff_f000);
    // The guest's own writes are the hypervisor's to see.
    copy[0x1000..0x1008].copy_from_slice(&ram(&sim)[0x1000..0x1008]);
    // The display is a writer too: of video RAM, wherever that is.
    sim.config_write(3, 0, 0x04, 2, 3).unwrap();
    for (port, value) in [(0x3ce, 6), (0x3cf, 5), (0x3c4, 2), (0x3c5, 0xf), (0x3c4, 4), (0x3c5, 6)] {
        sim.port_write(port, 1, value).unwrap();
    }
    sim.memory_write(0xa_0000, &[0x5a; 8]).unwrap();
    // A process that dies has left its marks.
    sim.replace("ide").unwrap();
    qmp(&sim, STOP);
    let (_, answer) = save(&sim, true);
    assert!(answer.get("return").is_some(), "{answer}");
    let told = told(&mut sim);
    assert!(told.iter().any(|page| *page >= 0x10_0000), "video RAM: {told:?}");
    assert!(told.len() < 20, "{told:?}");
    let pages = copy.len() >> 12;
    for page in told.iter().map(|page| *page as usize).filter(|page| *page < pages) {
        copy[page << 12..][..4096].copy_from_slice(&ram(&sim)[page << 12..][..4096]);
    }
    assert!(copy == ram(&sim), "a page is not the guest's");
    // Who copies has failed; the guest goes on here.
    qmp(&sim, LOG_OFF);
    qmp(&sim, CONT);
    read_by_dma(&mut sim, 24, 0x3000);
    assert!(sim.end().unwrap().success());
}

/// What is saved live goes on elsewhere, on the same images: they are unlocked until it comes back.
#[test]
fn images_are_unlocked_by_a_live_save_and_locked_again_before_the_guest_goes_on() {
    let place = Place::new();
    let mut sim = place.start(&[]);
    let disk = std::fs::File::options().read(true).write(true).open(place.dir.path().join("disk")).unwrap();
    let lock = || rustix::fs::flock(&disk, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    let said = qmp(&sim, r#"{"execute":"x-bulkhead-migratable"}"#);
    assert_eq!((&said["save"], &said["migrate"], &said["not-saved-because"]), (&true.into(), &true.into(), &().into()));
    let sections = said["sections"].as_array().unwrap();
    assert!(sections.iter().any(|s| s["name"] == "ide" && s["bytes"].as_u64().unwrap() > 50), "{said}");
    assert!(said["bytes"].as_u64().unwrap() > 1000, "{said}");
    // Nobody has asked for what devices write, or somebody else has ended it.
    for log in [LOG_OFF, LOG_ON, LOG_OFF] {
        qmp(&sim, log);
    }
    qmp(&sim, STOP);
    let (_, answer) = save(&sim, true);
    assert!(answer["error"]["desc"].as_str().unwrap().contains("were not logged"), "{answer}");
    qmp(&sim, CONT);
    qmp(&sim, LOG_ON);
    // libxl forgets the set, and asks again and again.
    for _ in 0..20 {
        let (_, answer) = save(&sim, true);
        assert!(answer.get("return").is_some(), "{answer}");
        assert!(lock().is_err(), "it ran, and goes on");
    }
    qmp(&sim, STOP);
    saved(&sim);
    assert!(lock().is_err(), "a save that is not live");
    let (state, answer) = save(&sim, true);
    assert!(answer.get("return").is_some(), "{answer}");
    // Another machine has them, and takes the lock when it runs.
    let mut other = place.goes_on(&state, &[]).unwrap();
    lock().unwrap();
    let answer = other.qmp(CONT).unwrap();
    assert!(
        answer["error"]["desc"].as_str().unwrap().contains("ide: the disk image is locked by another process"),
        "{answer}"
    );
    rustix::fs::flock(&disk, rustix::fs::FlockOperation::Unlock).unwrap();
    qmp(&other, CONT);
    assert!(lock().is_err());
    let answer = sim.qmp(CONT).unwrap();
    assert!(
        answer["error"]["desc"].as_str().unwrap().contains("ide: the disk image is locked by another process"),
        "{answer}"
    );
    assert_eq!(status(&sim), "paused");
    assert!(other.end().unwrap().success());
    qmp(&sim, CONT);
    assert!(lock().is_err());
    assert_eq!(sim.port_read(0x1f7, 1).unwrap() & 0x80, 0);
    assert!(sim.end().unwrap().success());
    lock().unwrap();
}

/// The line that an operator sees.
fn refused(place: &Place, state: &Arc<OwnedFd>, more: &[&str]) -> String {
    let error = place.goes_on(state, more).err().unwrap().to_string();
    error.lines().find(|l| l.contains("BH-")).map_or(error.clone(), str::to_owned)
}

#[test]
fn what_is_no_state_of_this_machine_is_refused_in_a_line() {
    let place = Place::new();
    let sim = place.start(&[]);
    let state = saved(&sim);
    drop(sim);
    // Damaged, cut off, QEMU's, nothing.
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = vec![0; 2 << 20];
        let file = std::fs::File::from(state.try_clone().unwrap());
        file.read_at(&mut bytes, 0).unwrap();
        change(&mut bytes);
        let other = tempfile::tempfile().unwrap();
        other.write_all_at(&bytes, 0).unwrap();
        refused(&place, &Arc::new(other.into()), &[])
    };
    let line = with(&|bytes| bytes[200] ^= 1);
    assert!(line.contains("BH-0210") && line.contains("checksum"), "{line}");
    let line = with(&|bytes| bytes.truncate(400));
    assert!(line.contains("BH-0210") && line.contains("cut off"), "{line}");
    let line = with(&|bytes| bytes[..4].copy_from_slice(b"QEVM"));
    assert!(line.contains("BH-0210") && line.contains("QEMU's"), "{line}");
    let line = with(&|bytes| bytes.clear());
    assert!(line.contains("BH-0210") && line.contains("no saved state"), "{line}");
    // A part is missing, or is for a controller that may be added later.
    let parts = |keep: &dyn Fn(&str) -> bool, more: &str| {
        with(&|bytes| {
            let index = bulkhead_stream::read(bytes).unwrap();
            let section = |name, payload| bulkhead_stream::Section { name, version: 1, oldest: 1, payload };
            let kept = index.places.iter().filter(|p| keep(p.name.text()));
            let mut all: Vec<_> = kept.map(|p| section(p.name, index.payload(p.name, bytes).unwrap())).collect();
            all.extend(bulkhead_stream::Name::new(more).map(|name| section(name, b"")));
            let stream = bulkhead_stream::write(index.time, &all).unwrap();
            *bytes = stream;
        })
    };
    for name in ["platform", "ide", "machine", "broker"] {
        let line = parts(&|other| other != name, "");
        assert!(line.contains("BH-0210") && (line.contains(name) || line.contains("launcher needs")), "{line}");
    }
    let line = parts(&|_| true, "usb");
    assert!(line.contains("BH-0210") && line.contains("a part for usb"), "{line}");
    // Another machine.
    let line = refused(&place, &state, &["-usb"]);
    assert!(line.contains("this machine has usb"), "{line}");
    std::fs::OpenOptions::new().write(true).open(place.dir.path().join("disk")).unwrap().set_len(1 << 19).unwrap();
    let line = refused(&place, &state, &[]);
    assert!(line.contains("ide was a disk of 1048576 bytes"), "{line}");
}
