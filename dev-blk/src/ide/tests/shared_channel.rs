//! Two drives on a channel: commands for one while the other is busy.
use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// Disks as primary master and slave, the second with the inverted bytes of the first, and a CD as secondary slave beside a disk.
/// Jobs end when the flag is set.
fn bench() -> (Bench, Arc<AtomicBool>) {
    let mut b = Bench::new();
    let other = file(1 << 20);
    let turned: Vec<u8> = b.disk_bytes().iter().map(|byte| !byte).collect();
    rustix::io::pwrite(&other, &turned, 0).unwrap();
    let may_end = Arc::new(AtomicBool::new(false));
    let cd = file(64 * 2048);
    let drives = vec![
        spec(0, false, false, &b.disk, 1 << 20),
        spec(1, false, false, &other, 1 << 20),
        spec(2, false, false, &other, 1 << 20),
        spec(3, true, true, &cd, 64 * 2048),
    ];
    b.ide = Ide::new(drives, Box::new(Held(Inline::new(b.memory.clone()), may_end.clone())));
    (b, may_end)
}

fn select(b: &mut Bench, base: u16, device: u32) {
    b.out(base + 6, 0xe0 | device << 4);
}

fn read_sector(b: &mut Bench, base: u16, device: u32, lba: u32) {
    select(b, base, device);
    for (register, value) in [(2, 1), (3, lba), (4, 0), (5, 0), (7, 0x20)] {
        b.out(base + register, value);
    }
}

/// Data that one drive reads never becomes the other drive's answer.
#[test]
fn a_command_for_the_other_drive_while_one_is_at_work() {
    let (mut b, may_end) = bench();
    read_sector(&mut b, 0x1f0, 0, 3);
    assert_eq!(b.inb(0x1f7), 0xd0, "the drive at work stays ready beside that");
    read_sector(&mut b, 0x1f0, 1, 5);
    assert_eq!(b.inb(0x1f7) & 0x80, 0x80, "the channel is busy, whichever drive is asked");
    assert_eq!(b.inb(0x3f6) & 0x80, 0x80);
    may_end.store(true, Ordering::Relaxed);
    b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
    assert_eq!(b.inb(0x1f7), 0x50, "the second drive has taken no command");
    select(&mut b, 0x1f0, 0);
    assert_eq!(b.inb(0x1f7), 0x58);
    let whole = b.disk_bytes();
    assert_eq!(b.insw(0x1f0, 512), sector(&whole, 3));
    assert_eq!(b.inb(0x1f7), 0x50);
    read_sector(&mut b, 0x1f0, 1, 5);
    assert_eq!(b.inb(0x1f7), 0x58);
    let turned: Vec<u8> = sector(&whole, 5).iter().map(|byte| !byte).collect();
    assert_eq!(b.insw(0x1f0, 512), turned);
}

/// A drive whose data the host does not transfer becomes ready, and does not stay busy.
#[test]
fn a_command_for_the_other_drive_while_one_waits_for_the_host() {
    for (command, waits) in [(0x20, 0x58), (0x30, 0x58), (0xc8, 0xc0), (0xca, 0xc0)] {
        let (mut b, may_end) = bench();
        may_end.store(true, Ordering::Relaxed);
        b.ata(command, 3, 1);
        assert_eq!(b.inb(0x3f6), waits, "{command:02x}");
        read_sector(&mut b, 0x1f0, 1, 5);
        assert_eq!(b.inb(0x1f7), 0x58, "{command:02x}: the other drive has its data");
        let turned: Vec<u8> = sector(&b.disk_bytes(), 5).iter().map(|byte| !byte).collect();
        assert_eq!(b.insw(0x1f0, 512), turned, "{command:02x}");
        select(&mut b, 0x1f0, 0);
        assert_eq!(b.inb(0x1f7), 0x50, "{command:02x}: what nobody has taken is gone");
        read_sector(&mut b, 0x1f0, 0, 3);
        let whole = b.disk_bytes();
        assert_eq!(b.insw(0x1f0, 512), sector(&whole, 3), "{command:02x}");
    }
}

/// DEVICE RESET affects only the selected drive.
#[test]
fn a_reset_of_one_drive_while_the_other_is_at_work() {
    let (mut b, may_end) = bench();
    read_sector(&mut b, 0x170, 0, 7);
    select(&mut b, 0x170, 1);
    b.out(0x177, 0x08);
    may_end.store(true, Ordering::Relaxed);
    b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
    assert_eq!((b.inb(0x177), b.inb(0x174), b.inb(0x175)), (0, 0x14, 0xeb));
    select(&mut b, 0x170, 0);
    assert_eq!(b.inb(0x177), 0x58);
    let turned: Vec<u8> = sector(&b.disk_bytes(), 7).iter().map(|byte| !byte).collect();
    assert_eq!(b.insw(0x170, 512), turned);
}

/// Lost writes abort a command of the selected drive, not of the one whose command was the last.
#[test]
fn a_lost_write_for_one_drive_after_a_command_of_the_other() {
    for base in [0x1f0, 0x170] {
        let (mut b, may_end) = bench();
        may_end.store(true, Ordering::Relaxed);
        read_sector(&mut b, base, 0, 3);
        select(&mut b, base, 1);
        b.ide.lost_writes(if base == 0x1f0 { 0 } else { 2 }, 7, &mut b.cx);
        let (status, error) = if base == 0x1f0 { (0x51, 0x04) } else { (0x51, 0xb4) };
        assert_eq!((b.inb(base + 7), b.inb(base + 1)), (status, error), "{base:x}");
        select(&mut b, base, 0);
        assert_eq!(b.inb(base + 7), 0x50, "{base:x}");
    }
}
