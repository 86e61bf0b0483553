//! Storage that fails, is slow or is full, seen through the guest's registers.
use bulkhead_bus::faults::{Fault, FaultOn};
use bulkhead_sim::{Options, Sim};

const EIO: u32 = 5;
const ENOSPC: u32 = 28;
const BSY: u32 = 0x80;
const DRQ: u32 = 0x08;
const ERR: u32 = 0x01;
/// The I/O port of the bus master's registers.
const BUS_MASTER: u16 = 0xc000;
const TABLE: u64 = 0x1000;
const BUFFER: u64 = 0x2000;

fn start(dir: &tempfile::TempDir, more: &[&str]) -> Sim {
    let path = dir.path().join("disk");
    std::fs::write(&path, [0x5a; 1 << 20]).unwrap();
    let drive = format!("file={},if=ide,index=0,media=disk,format=raw", path.display());
    let mut options = Options::new(&[&["-machine", "xenfv", "-m", "16", "-drive", &drive], more].concat());
    options.faults = true;
    let mut sim = Sim::start(&options).unwrap();
    sim.config_write(1, 1, 0x20, 4, u32::from(BUS_MASTER) | 1).unwrap();
    sim.config_write(1, 1, 4, 2, 5).unwrap();
    sim
}

/// Waits until the drive is not busy; returns its status.
fn settled(sim: &mut Sim) -> u32 {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let status = sim.port_read(0x1f7, 1).unwrap();
        if status & BSY == 0 {
            return status;
        }
        assert!(std::time::Instant::now() < end, "status {status:#x}");
    }
}

fn command(sim: &mut Sim, command: u32, lba: u32) {
    for (port, value) in
        [(0x1f6, 0xe0), (0x1f2, 1), (0x1f3, lba & 0xff), (0x1f4, lba >> 8), (0x1f5, 0), (0x1f7, command)]
    {
        sim.port_write(port, 1, value).unwrap();
    }
}

/// READ SECTORS of one sector: its first byte, or the error register.
fn read(sim: &mut Sim, lba: u32) -> Result<u8, u32> {
    command(sim, 0x20, lba);
    let status = settled(sim);
    if status & ERR != 0 {
        assert_eq!(status & DRQ, 0);
        return Err(sim.port_read(0x1f1, 1).unwrap());
    }
    let words: Vec<u32> = (0..128).map(|_| sim.port_read(0x1f0, 4).unwrap()).collect();
    assert_eq!(settled(sim) & (DRQ | ERR), 0);
    Ok(words[0] as u8)
}

/// WRITE SECTORS of one sector: the error register if there was an error.
fn write(sim: &mut Sim, lba: u32, byte: u8) -> Result<(), u32> {
    command(sim, 0x30, lba);
    assert_eq!(settled(sim) & (DRQ | ERR), DRQ);
    for _ in 0..128 {
        sim.port_write(0x1f0, 4, u32::from_le_bytes([byte; 4])).unwrap();
    }
    if settled(sim) & ERR != 0 { Err(sim.port_read(0x1f1, 1).unwrap()) } else { Ok(()) }
}

/// READ DMA or WRITE DMA of one sector: the bus master's status, the error register if there was an error.
fn dma(sim: &mut Sim, reads: bool, lba: u32) -> (u32, Option<u32>) {
    sim.memory_write(TABLE, &(BUFFER as u32).to_le_bytes()).unwrap();
    sim.memory_write(TABLE + 4, &0x8000_0200u32.to_le_bytes()).unwrap();
    sim.port_write(BUS_MASTER, 1, 0).unwrap();
    sim.port_write(BUS_MASTER + 2, 1, 6).unwrap();
    sim.port_write(BUS_MASTER + 4, 4, TABLE as u32).unwrap();
    command(sim, if reads { 0xc8 } else { 0xca }, lba);
    sim.port_write(BUS_MASTER, 1, 1 | u32::from(reads) << 3).unwrap();
    let status = settled(sim);
    let bus_master = sim.port_read(BUS_MASTER + 2, 1).unwrap();
    sim.port_write(BUS_MASTER, 1, 0).unwrap();
    (bus_master, (status & ERR != 0).then(|| sim.port_read(0x1f1, 1).unwrap()))
}

fn flush(sim: &mut Sim) -> Result<(), u32> {
    command(sim, 0xe7, 0);
    if settled(sim) & ERR != 0 { Err(sim.port_read(0x1f1, 1).unwrap()) } else { Ok(()) }
}

fn once(on: FaultOn, errno: u32) -> Option<Fault> {
    Some(Fault { left: 1, ..Fault::always(0, on, errno) })
}

#[test]
fn errors_of_the_storage_reach_the_guest_and_it_may_try_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = start(&dir, &[]);
    assert_eq!(read(&mut sim, 7), Ok(0x5a));
    // One sector stays unreadable; its neighbours are readable.
    let bad = Fault { first: 8 * 512, end: 9 * 512, ..Fault::always(0, FaultOn::Read, EIO) };
    sim.faults().unwrap().set(0, Some(bad)).unwrap();
    for _ in 0..2 {
        assert!(read(&mut sim, 8).is_err_and(|e| e != 0));
        assert_eq!(read(&mut sim, 7), Ok(0x5a));
        let (bus_master, error) = dma(&mut sim, true, 8);
        assert!(error.is_some_and(|e| e != 0) && bus_master & 4 != 0, "{bus_master:#x} {error:?}");
        assert_eq!(dma(&mut sim, true, 7), (4, None));
    }
    assert_eq!(sim.faults().unwrap().get(0).unwrap().unwrap().met, 4);
    sim.faults().unwrap().set(0, None).unwrap();
    assert_eq!(read(&mut sim, 8), Ok(0x5a));
    for errno in [EIO, ENOSPC] {
        sim.faults().unwrap().set(1, once(FaultOn::Write, errno)).unwrap();
        assert!(write(&mut sim, 20, 0x11).is_err_and(|e| e != 0));
        assert_eq!(read(&mut sim, 20), Ok(0x5a), "nothing was written");
        assert_eq!(write(&mut sim, 20, 0x11), Ok(()));
        assert_eq!(read(&mut sim, 20), Ok(0x11));
        sim.faults().unwrap().set(1, once(FaultOn::Write, errno)).unwrap();
        sim.memory_write(BUFFER, &[0x22; 512]).unwrap();
        assert!(dma(&mut sim, false, 20).1.is_some_and(|e| e != 0));
        assert_eq!(read(&mut sim, 20), Ok(0x11), "nothing was written");
        assert_eq!(dma(&mut sim, false, 20), (4, None));
        assert_eq!(read(&mut sim, 20), Ok(0x22));
        assert_eq!(write(&mut sim, 20, 0x5a), Ok(()));
    }
    sim.faults().unwrap().set(1, once(FaultOn::Flush, EIO)).unwrap();
    assert!(flush(&mut sim).is_err_and(|e| e != 0));
    assert_eq!(flush(&mut sim), Ok(()));
    assert!(sim.end().unwrap().success());
}

#[test]
fn a_drive_is_busy_as_long_as_its_storage_is_late_and_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = start(&dir, &[]);
    sim.faults().unwrap().set(0, Some(Fault { held: true, ..once(FaultOn::Read, 0).unwrap() })).unwrap();
    command(&mut sim, 0x20, 3);
    while sim.faults().unwrap().get(0).unwrap().unwrap().met == 0 {
        std::thread::yield_now();
    }
    for _ in 0..100 {
        assert_eq!(sim.port_read(0x1f7, 1).unwrap() & (BSY | ERR), BSY);
        assert_eq!(sim.port_read(0x64, 1).unwrap() & 0xc0, 0, "the keyboard controller answers");
    }
    let went_on = sim.faults().unwrap().get(0).unwrap().map(|f| Fault { held: false, ..f });
    sim.faults().unwrap().set(0, went_on).unwrap();
    assert_eq!(settled(&mut sim) & (DRQ | ERR), DRQ);
    assert_eq!(sim.port_read(0x1f0, 2).unwrap(), 0x5a5a);
    assert!(sim.end().unwrap().success());
}

/// `-image-full stop`: the guest's write is delayed and returns no error.
#[test]
fn a_write_that_finds_no_room_waits_until_there_is_some() {
    let dir = tempfile::tempdir().unwrap();
    let mut sim = start(&dir, &["-image-full", "stop"]);
    sim.faults().unwrap().set(0, once(FaultOn::Write, ENOSPC)).unwrap();
    assert_eq!(write(&mut sim, 9, 0x33), Ok(()));
    assert_eq!(sim.faults().unwrap().get(0).unwrap().unwrap().met, 1);
    assert_eq!(read(&mut sim, 9), Ok(0x33));
    assert!(sim.end().unwrap().success());
}

/// QEMU's name for such storage is the name of a file for a real guest.
#[test]
fn nothing_but_the_simulated_machine_can_ask_for_faults() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::write(&path, [0; 4096]).unwrap();
    let drive = format!("file=blkdebug::{},if=ide,index=0,media=disk,format=raw", path.display());
    let refused = Sim::start(&Options::new(&["-machine", "xenfv", "-m", "16", "-drive", &drive])).err().unwrap();
    assert!(refused.0.contains("No such file"), "{refused}");
}
