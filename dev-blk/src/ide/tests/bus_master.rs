//! The bus master: Start in every phase, the status register, the interrupt bit.
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// Writes a bus master register; no job ends meanwhile.
fn bm_at_once(b: &mut Bench, offset: u64, value: u8) {
    b.ide.write(Access::new(BUS_MASTER, offset, 1), u64::from(value), &mut b.cx).unwrap();
}

fn settle(b: &mut Bench) {
    b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
}

/// All sizes of an entry, one entry and two, 1 to 256 sectors, with and without a stop at once (BM-IDE 1.0, "Interrupt/Activity
/// Status Combinations").
#[test]
fn prd_tables_of_every_size_are_shown_as_the_specification_says() {
    let mut b = Bench::new();
    for sectors in [1u32, 2, 3, 4, 5, 8, 16, 31, 32, 63, 64, 100, 127, 128, 129, 200, 255, 256] {
        for size in (0..=65534u32).step_by(256).chain([65534]) {
            for entries in [1, 2] {
                for stop in [false, true] {
                    let table: u32 = if size == 0 { 0x1_0000 } else { size & !1 };
                    let table = if entries == 2 { table + 512 } else { table };
                    let two = [(0x8000, 512, false), (0x8200, size as u16, true)];
                    b.prd(&two[2 - entries..]);
                    b.bm(0, 1, 0);
                    b.bm(2, 1, 6);
                    b.ata(0xc8, 0, sectors as u8);
                    bm_at_once(&mut b, 0, 9);
                    if stop {
                        bm_at_once(&mut b, 0, 8);
                    }
                    settle(&mut b);
                    let want = match table.cmp(&(sectors * 512)) {
                        std::cmp::Ordering::Less => 0,
                        std::cmp::Ordering::Equal => 4,
                        std::cmp::Ordering::Greater if stop => 4,
                        std::cmp::Ordering::Greater => 5,
                    };
                    let what = format!("{sectors} sectors, {entries} entries, {size:#x}, stop {stop}");
                    assert_eq!(b.bm_status(0), want, "{what}");
                    assert_eq!(b.cx.lines.level(0), want & 4 != 0, "{what}");
                    assert_eq!((b.inb(0x1f7), b.inb(0x1f1)), (0x50, 0), "{what}");
                }
            }
        }
    }
}

/// A drive whose transfer has stopped, because the table was too short, accepts the next command.
#[test]
fn a_table_that_is_too_short_transfers_nothing_and_blocks_no_request() {
    for (command, start) in [(0xc8, 9), (0xca, 1)] {
        let mut b = Bench::new();
        b.memory.write(0x8000, &[0x77; 1024]).unwrap();
        let before = b.disk_bytes();
        b.prd(&[(0x8000, 512, true)]);
        b.ata(command, 4, 2);
        b.bm(0, 1, start);
        assert_eq!((b.inb(0x1f7), b.bm_status(0), b.cx.lines.level(0)), (0x50, 0, false));
        let mut data = [0; 1024];
        b.memory.read(0x8000, &mut data).unwrap();
        assert!(data == [0x77; 1024] && b.disk_bytes() == before, "command {command:#x}");
        b.ata(0x20, 5, 1);
        assert_eq!(b.insw(0x1f0, 512)[..4], (5u32 * 128).to_le_bytes());
    }
    // The same for a packet command.
    let mut b = Bench::new();
    packet_by_dma(&mut b, &[0x12, 0, 0, 0, 36], &[(0x8000, 34, true)]);
    b.bm(8, 1, 9);
    assert_eq!((b.inb(0x177), b.bm_status(1)), (0x50, 0));
}

/// Wrong directions, and entries and tables outside of RAM: the error bit, and an aborted command.
#[test]
fn a_failed_bus_master_transfer_is_an_error_of_drive_and_bus_master() {
    for (command, start, entries, table) in [
        (0xc8, 1, [(0x8000, 512, true)], 0x1000),
        (0xca, 9, [(0x8000, 512, true)], 0x1000),
        (0x06, 9, [(0x8000, 512, true)], 0x1000),
        (0xc8, 9, [(0xfff0_0000, 512, true)], 0x1000),
        (0xca, 1, [(0xfff0_0000, 512, true)], 0x1000),
        (0x06, 1, [(0xfff0_0000, 512, true)], 0x1000),
        (0xc8, 9, [(0x8000, 512, true)], 0xfff0_0000u32),
        (0xca, 1, [(0x8000, 512, true)], 0xffff_fff8),
    ] {
        let mut b = Bench::new();
        let before = b.disk_bytes();
        b.prd(&entries);
        b.bm(4, 4, table);
        b.out(0x1f1, 1);
        b.ata(command, 0, 1);
        b.bm(0, 1, start);
        let what = format!("command {command:#x}, start {start}, table {table:#x}");
        assert_eq!((b.bm_status(0), b.inb(0x1f7), b.inb(0x1f1)), (6, 0x51, 4), "{what}");
        b.bm(0, 1, 0);
        b.bm(2, 1, 6);
        assert_eq!(b.bm_status(0), 0, "{what}");
        assert!(b.disk_bytes() == before, "{what}");
    }
}

/// A transfer that leaves entries unused: the next one continues there, because the engine has not been stopped.
#[test]
fn the_rest_of_a_table_is_for_the_next_command() {
    let mut b = Bench::new();
    b.prd(&[(0x8000, 1024, false), (0x9000, 512, true)]);
    b.bm(0, 1, 9);
    b.ata(0xc8, 4, 1);
    assert_eq!((b.inb(0x1f7), b.bm_status(0)), (0x50, 5));
    let state = b.ide.save();
    b.ide.load(&state, &mut b.cx).unwrap();
    b.ata(0xc8, 6, 2);
    assert_eq!((b.inb(0x1f7), b.bm_status(0)), (0x50, 4), "the end of the table");
    for (address, sector) in [(0x8000, 4u32), (0x8200, 6), (0x9000, 7)] {
        let mut word = [0; 4];
        b.memory.read(address, &mut word).unwrap();
        assert_eq!(u32::from_le_bytes(word), sector * 128, "{address:#x}");
    }
    // After the table's end the engine waits for a new start.
    b.ata(0xc8, 8, 1);
    assert_eq!(b.inb(0x3f6) & 0x80, 0x80);
    b.bm(0, 1, 8);
    b.bm(0, 1, 9);
    assert_eq!(b.inb(0x1f7), 0x50);
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    ReadDma,
    WriteDma,
    Trim,
    ReadPio,
    WritePio,
    PacketPio,
    PacketDma,
    PacketRaw,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Start,
    Stop,
    StartStop,
    StopStart,
}

fn packet_by_dma(b: &mut Bench, packet: &[u8], entries: &[(u32, u16, bool)]) {
    b.prd(entries);
    b.bm(12, 4, 0x1000);
    for (port, value) in [(0x176, 0xa0), (0x171, 1), (0x174, 0xfe), (0x175, 0xff), (0x177, 0xa0)] {
        b.out(port, value);
    }
    let mut bytes = [0; 12];
    bytes[..packet.len()].copy_from_slice(packet);
    b.outsw(0x170, &bytes);
}

/// Runs one command step by step, with `action` on the bus master before step `at`. Jobs end only in the last step.
fn run(kind: Kind, action: Action, at: usize) {
    let what = format!("{kind:?}, {action:?} before step {at}");
    let mut b = Bench::new();
    let may_end = Arc::new(AtomicBool::new(false));
    let cd = file(64 * 2048);
    b.ide = Ide::new(
        vec![spec(0, false, false, &b.disk, 1 << 20), spec(2, true, true, &cd, 64 * 2048)],
        Box::new(Held(Inline::new(b.memory.clone()), may_end.clone())),
    );
    let packet = matches!(kind, Kind::PacketPio | Kind::PacketDma | Kind::PacketRaw);
    let (base, bm, channel) = if packet { (0x170, 8, 1) } else { (0x1f0, 0, 0) };
    let to_memory = if matches!(kind, Kind::WriteDma | Kind::Trim) { 0 } else { 8 };
    let bytes: u16 = match kind {
        Kind::PacketPio | Kind::PacketDma => 4096,
        Kind::PacketRaw => 4704,
        Kind::Trim => 512,
        _ => 1024,
    };
    let mut list = vec![0x5a; 8192];
    if kind == Kind::Trim {
        list[..512].fill(0);
        list[..8].copy_from_slice(&(8u64 | 2 << 48).to_le_bytes());
    }
    b.memory.write(0x8000, &list).unwrap();
    b.prd(&[(0x8000, 512, false), (0x8200, bytes - 512, true)][if bytes > 512 { 0 } else { 1 }..]);
    if bytes == 512 {
        b.prd(&[(0x8000, 512, true)]);
    }
    b.bm(bm + 4, 4, 0x1000);
    let mut step = 0;
    let mut inject = |b: &mut Bench| {
        if step == at {
            let bits: &[u8] = match action {
                Action::Start => &[1],
                Action::Stop => &[0],
                Action::StartStop => &[1, 0],
                Action::StopStart => &[0, 1],
            };
            bits.iter().for_each(|bit| bm_at_once(b, bm, to_memory | bit));
        }
        step += 1;
    };
    let finish_job = |b: &mut Bench| {
        may_end.store(true, Ordering::Relaxed);
        settle(b);
        may_end.store(false, Ordering::Relaxed);
    };
    inject(&mut b);
    if packet {
        let dma = u32::from(kind != Kind::PacketPio);
        for (port, value) in [(0x176, 0xa0), (0x171, dma), (0x174, 0), (0x175, 8), (0x177, 0xa0)] {
            b.out(port, value);
        }
        let cdb: [u8; 12] = if kind == Kind::PacketRaw {
            [0xbe, 0, 0, 0, 0, 3, 0, 0, 2, 0xf8, 0, 0]
        } else {
            [0x28, 0, 0, 0, 0, 3, 0, 0, 2, 0, 0, 0]
        };
        inject(&mut b);
        assert_eq!(b.inb(0x376) & 0x88, 8, "{what}: the packet is wanted");
        b.outsw(0x170, &cdb[..6]);
        inject(&mut b);
        b.outsw(0x170, &cdb[6..]);
    } else {
        if kind == Kind::Trim {
            b.out(0x1f1, 1);
        }
        let command = match kind {
            Kind::ReadDma => 0xc8,
            Kind::WriteDma => 0xca,
            Kind::Trim => 0x06,
            Kind::ReadPio => 0x20,
            _ => 0x30,
        };
        b.ata(command, 8, if kind == Kind::Trim { 1 } else { 2 });
    }
    inject(&mut b);
    let mut data = Vec::new();
    match kind {
        Kind::ReadPio | Kind::PacketPio => {
            finish_job(&mut b);
            let block = if packet { 2048 } else { 512 };
            for _ in 0..2 {
                inject(&mut b);
                assert_eq!(b.inb(base + 7) & 0x89, 8, "{what}: data");
                data.extend(b.insw(base, 100));
                inject(&mut b);
                data.extend(b.insw(base, block - 100));
            }
        }
        Kind::WritePio => {
            for _ in 0..2 {
                assert_eq!(b.inb(base + 7) & 0x89, 8, "{what}: data");
                b.outsw(base, &[0x66; 100]);
                inject(&mut b);
                b.outsw(base, &[0x66; 412]);
                inject(&mut b);
                finish_job(&mut b);
            }
        }
        _ => {
            // The driver's own start.
            b.bm(bm, 1, u32::from(to_memory));
            b.bm(bm, 1, u32::from(to_memory | 1));
            inject(&mut b);
            finish_job(&mut b);
            inject(&mut b);
        }
    }
    b.bm(bm, 1, 0);
    assert_eq!(b.bm_status(channel), 4, "{what}: interrupt, neither active nor an error");
    assert_eq!((b.inb(base + 7), b.ide.quiescent()), (0x50, true), "{what}");
    let mut memory = vec![0; usize::from(bytes)];
    b.memory.read(0x8000, &mut memory).unwrap();
    let words = |first: u32, n: u32| (first..first + n).flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
    match kind {
        Kind::ReadDma => assert!(memory == words(8 * 128, 256), "{what}"),
        Kind::PacketDma => assert!(memory == words(3 * 512, 1024), "{what}"),
        Kind::PacketRaw => assert!(memory[2352 + 16..][..2048] == words(4 * 512, 512), "{what}"),
        Kind::WriteDma => assert!(b.disk_bytes()[8 * 512..][..1024] == [0x5a; 1024], "{what}"),
        Kind::Trim => assert!(b.disk_bytes()[8 * 512..][..1024] == [0; 1024], "{what}"),
        Kind::ReadPio => assert!(data == words(8 * 128, 256) && memory == [0x5a; 1024], "{what}"),
        Kind::PacketPio => assert!(data == words(3 * 512, 1024) && memory == [0x5a; 4096], "{what}"),
        Kind::WritePio => assert!(b.disk_bytes()[8 * 512..][..1024] == [0x66; 1024], "{what}"),
    }
}

/// Start only arms the engine, and Stop only disarms it: in no state of any command is data lost, and no command hangs.
#[test]
fn start_and_stop_in_every_phase_swallow_nothing() {
    use Kind::*;
    for kind in [ReadDma, WriteDma, Trim, ReadPio, WritePio, PacketPio, PacketDma, PacketRaw] {
        for action in [Action::Start, Action::Stop, Action::StartStop, Action::StopStart] {
            for at in 0..10 {
                run(kind, action, at);
            }
        }
    }
}

/// Active is 1 while a job may access memory, even after a stop, and 0 afterwards.
#[test]
fn active_is_0_only_when_memory_is_left_alone() {
    let mut b = Bench::new();
    b.prd(&[(0x8000, 4096, true)]);
    b.ata(0xc8, 0, 1);
    bm_at_once(&mut b, 0, 9);
    bm_at_once(&mut b, 0, 8);
    assert_eq!((b.bm_status(0), b.inb(0x3f6) & 0x80), (1, 0x80), "a job is under way");
    settle(&mut b);
    assert_eq!((b.bm_status(0), b.inb(0x3f6)), (4, 0x50));
    // A reset during the job: busy until the job has ended, without an interrupt.
    b.bm(2, 1, 4);
    b.ata(0xc8, 0, 1);
    bm_at_once(&mut b, 0, 9);
    for value in [4, 0] {
        b.ide.write(Access::new(1, 0, 1), value, &mut b.cx).unwrap();
    }
    assert_eq!((b.bm_status(0), b.inb(0x3f6) & 0x80), (1, 0x80));
    settle(&mut b);
    assert_eq!((b.bm_status(0), b.inb(0x3f6), b.cx.lines.level(0)), (0, 0x50, false));
}

/// Bit 2 of the status is a rising edge of INTRQ, wherever it comes from: the end of a command, nIEN that is cleared, a drive that
/// is selected (BM-IDE 1.0, status register; ATA/ATAPI-5, 5.2.9).
#[test]
fn the_interrupt_bit_is_a_rising_edge_of_intrq() {
    let mut b = Bench::new();
    let other = file(1 << 20);
    b.ide = Ide::new(
        vec![spec(0, false, false, &b.disk, 1 << 20), spec(1, false, false, &other, 1 << 20)],
        Box::new(Inline::new(b.memory.clone())),
    );
    let seen = |b: &mut Bench| (b.bm_status(0) & 4, b.cx.lines.level(0));
    // nIEN masks it, and unmasks it.
    b.out(0x3f6, 2);
    b.ata(0x40, 0, 1);
    assert_eq!(seen(&mut b), (0, false));
    b.out(0x3f6, 0);
    assert_eq!(seen(&mut b), (4, true));
    // No edge while it stays asserted.
    b.bm(2, 1, 4);
    b.out(0x3f6, 0);
    assert_eq!(seen(&mut b), (0, true));
    // Deasserted and asserted again.
    b.out(0x3f6, 2);
    assert_eq!(seen(&mut b), (0, false));
    b.out(0x3f6, 0);
    assert_eq!(seen(&mut b), (4, true));
    b.bm(2, 1, 4);
    // The other drive does not assert it, and a read of its status does not clear it.
    b.out(0x1f6, 0xf0);
    assert_eq!((b.inb(0x1f7), seen(&mut b)), (0x50, (0, false)));
    let state = b.ide.save();
    b.ide.load(&state, &mut b.cx).unwrap();
    assert_eq!(seen(&mut b), (0, false));
    b.out(0x1f6, 0xe0);
    assert_eq!(seen(&mut b), (4, true));
    assert_eq!((b.inb(0x1f7), seen(&mut b)), (0x50, (4, false)));
    // Cleared while nIEN masks it, it is not asserted later. (No shadow answers meanwhile.)
    b.bm(2, 1, 4);
    b.out(0x3f6, 2);
    b.ata(0x40, 0, 1);
    let mut registers = [None; 64];
    b.ide.shadows(&mut Shadows { registers: &mut registers });
    assert_eq!(registers[SHADOW_STATUS], None);
    b.inb(0x1f7);
    b.out(0x3f6, 0);
    assert_eq!(seen(&mut b), (0, false));
    // A reset clears it, and so does the unplugging of its drive.
    b.ata(0x40, 0, 1);
    b.out(0x3f6, 4);
    assert!(!b.cx.lines.level(0));
    b.out(0x3f6, 0);
    assert!(!b.cx.lines.level(0));
    b.ata(0x40, 0, 1);
    assert!(b.ide.unplug(1, &mut b.cx));
    assert!(!b.cx.lines.level(0));
}

/// If the medium was removed before Start is set, command and transfer end, and the engine serves the next one.
#[test]
fn a_transfer_that_finds_no_medium_ends_and_the_next_one_goes() {
    let mut b = Bench::new();
    b.prd(&[(0x8000, 2048, true)]);
    b.bm(12, 4, 0x1000);
    let begin = |b: &mut Bench, packet: [u8; 12]| {
        for (port, value) in [(0x176, 0xa0), (0x171, 1), (0x174, 0), (0x175, 0), (0x177, 0xa0)] {
            b.out(port, value);
        }
        b.outsw(0x170, &packet);
    };
    begin(&mut b, [0x28, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0]);
    b.ide.eject(2, true, &mut b.cx).unwrap();
    b.bm(8, 1, 9);
    assert_eq!((b.inb(0x177), b.bm_status(1) & 1), (0x51, 0));
    b.bm(8, 1, 0);
    b.bm(10, 1, 6);
    begin(&mut b, [0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0]);
    b.bm(8, 1, 9);
    assert_eq!(b.inb(0x177), 0x50);
}

/// The same after the guest has unplugged the disk: the other drive of the channel can transfer.
#[test]
fn a_transfer_that_finds_no_disk_leaves_the_engine_to_the_other_drive() {
    let mut b = Bench::new();
    let drives = vec![spec(0, false, false, &b.disk, 1 << 20), spec(1, true, true, &file(64 * 2048), 64 * 2048)];
    b.ide = Ide::new(drives, Box::new(Inline::new(b.memory.clone())));
    b.prd(&[(0x8000, 512, true)]);
    b.ata(0xc8, 0, 1);
    assert!(b.ide.unplug(1, &mut b.cx));
    // The command has gone with its drive: Start arms the engine, and nothing is under way.
    b.bm(0, 1, 9);
    b.bm(0, 1, 0);
    assert_eq!(b.bm_status(0) & 1, 0);
    b.prd(&[(0x8000, 36, true)]);
    for (port, value) in [(0x1f6, 0xb0), (0x1f1, 1), (0x1f4, 0), (0x1f5, 0), (0x1f7, 0xa0)] {
        b.out(port, value);
    }
    b.outsw(0x1f0, &[0x12, 0, 0, 0, 36, 0, 0, 0, 0, 0, 0, 0]);
    b.bm(0, 1, 9);
    assert_eq!(b.inb(0x1f7), 0x50);
}
