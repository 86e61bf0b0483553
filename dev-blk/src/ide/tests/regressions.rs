//! Faults of disk controllers in other device models, by class.
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// A disk whose jobs end when the flag is set.
fn held() -> (Bench, Arc<AtomicBool>) {
    let mut b = Bench::new();
    let may_end = Arc::new(AtomicBool::new(false));
    let disk = spec(0, false, false, &b.disk, 1 << 20);
    b.ide = Ide::new(vec![disk], Box::new(Held(Inline::new(b.memory.clone()), may_end.clone())));
    (b, may_end)
}

/// CVE-2023-5088: a reset in the middle of a transfer let it go on at sector 0, where the guest's boot code is.
#[test]
fn write_to_sector_zero_after_a_reset_in_the_middle_of_a_transfer() {
    const FIRST: u32 = 1000;
    let before = Bench::new().disk_bytes();
    let only_there = |b: &Bench, what: &str| {
        let (now, at) = (b.disk_bytes(), FIRST as usize * 512);
        assert!(now[..at] == before[..at] && now[at + 64 * 512..] == before[at + 64 * 512..], "{what}");
    };
    let reset = |b: &mut Bench, how: u8| match how {
        0 => {
            b.out(0x3f6, 4);
            b.out(0x3f6, 0);
        }
        1 => b.ide.reset(Reset::Machine, &mut b.cx),
        2 => b.bm(0, 1, 0),
        3 => b.out(0x1f7, 0x08),
        _ => b.ata(0x20, 5, 1),
    };
    for how in 0..5 {
        // By DMA, at rest and at work.
        for early in [true, false] {
            let (mut b, may_end) = held();
            b.memory.write(0x8000, &[0x77; 0x8000]).unwrap();
            b.prd(&[(0x8000, 0x4000, false), (0xc000, 0x4000, true)]);
            b.bm(0, 1, 0);
            b.ata(0xca, FIRST, 64);
            b.bm(0, 1, 1);
            may_end.store(early, Ordering::Relaxed);
            reset(&mut b, how);
            may_end.store(true, Ordering::Relaxed);
            b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
            b.bm(0, 1, 1);
            b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
            only_there(&b, &format!("DMA, reset {how}"));
        }
        // By the data port: the driver goes on writing as if nothing had happened.
        for (command, blocks) in [(0x30, 1), (0xc5, 16)] {
            let (mut b, may_end) = held();
            may_end.store(true, Ordering::Relaxed);
            b.out(0x1f2, blocks);
            b.out(0x1f7, 0xc6);
            b.ata(command, FIRST, 64);
            b.outsw(0x1f0, &[0x77; 1000]);
            may_end.store(false, Ordering::Relaxed);
            b.outsw(0x1f0, &[0x77; 512 * 20]);
            reset(&mut b, how);
            may_end.store(true, Ordering::Relaxed);
            b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
            let after = b.disk_bytes();
            b.outsw(0x1f0, &[0x77; 512 * 40]);
            // The others are no resets of a busy disk, and the transfer may go on, at its own sectors.
            assert!(how > 1 || b.disk_bytes() == after, "command {command:#x} goes on after reset {how}");
            only_there(&b, &format!("command {command:#x}, reset {how}"));
        }
    }
}

/// CVE-2015-5154 (XSA-138): the data port went on beyond the end of a transfer, in both directions.
#[test]
fn heap_overflow_by_the_data_port() {
    let much = [0x5a; 70_000];
    let before = Bench::new().disk_bytes();
    // At rest, in a packet, in data for the guest, in data of the guest: one byte less than there is room for, then much.
    for phase in 0..5 {
        for reads in [true, false] {
            let mut b = Bench::new();
            match phase {
                0 => {}
                1 => {
                    b.out(0x176, 0xa0);
                    b.out(0x177, 0xa0);
                }
                2 => b.packet(&[0x03, 0, 0, 0, 18], 18),
                3 => b.packet(&[0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 8], 8),
                _ => b.packet(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, 8], 8),
            }
            for size in [1, 2, 4] {
                let at = Access::new(place(0x170).0, 0, size);
                let _ = b.ide.write(at, u64::MAX, &mut b.cx);
                let _ = b.ide.read(at, &mut b.cx);
                let mut data = much;
                if reads {
                    let _ = b.ide.read_string(at, &mut data, &mut b.cx);
                } else {
                    let _ = b.ide.write_string(at, &data, &mut b.cx);
                }
                b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
            }
            // The other channel's disk, and the CD after a reset, are as ever.
            b.ata(0x20, 3, 1);
            assert_eq!(b.insw(0x1f0, 512), sector(&before, 3), "phase {phase}");
            b.out(0x376, 4);
            b.out(0x376, 0);
            assert_eq!((b.inb(0x174), b.inb(0x175)), (0x14, 0xeb), "phase {phase}");
            assert!(b.disk_bytes() == before, "phase {phase}");
        }
    }
}

/// CVE-2015-6855, CVE-2017-12809: commands of a disk, among them FLUSH CACHE, divided by zero and followed a null pointer in a CD
/// drive, the more in an empty one.
#[test]
fn any_command_of_a_disk_to_an_empty_cd_drive() {
    for command in 0..=255u8 {
        let mut b = Bench::new();
        let memory = b.memory.clone();
        let empty = DriveSpec { index: 2, cdrom: true, read_only: true, image: None, identity: Identity::default() };
        b.ide = Ide::new(vec![empty], Box::new(Inline::new(memory)));
        for (port, value) in
            [(0x176, 0xa0), (0x172, 0), (0x173, 0), (0x174, 0), (0x175, 0), (0x177, u32::from(command))]
        {
            b.out(port, value);
        }
        assert_eq!(b.inb(0x376) & 0x80, 0, "{command:#x} leaves it busy");
        b.insw(0x170, 70_000);
        b.out(0x376, 4);
        b.out(0x376, 0);
        assert_eq!((b.inb(0x174), b.inb(0x175)), (0x14, 0xeb), "{command:#x}");
    }
}
