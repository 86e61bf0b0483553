//! The error register of each command against its table (ATA/ATAPI-5, 8; ACS-2, 7).
use super::*;

const UNC: u8 = 0x40;
const IDNF: u8 = 0x10;
const ABRT: u8 = 0x04;

/// Runs a command of the disk with its data. Returns status and error register.
fn ends(b: &mut Bench, command: u8, lba: u32, count: u8) -> (u8, u8) {
    b.bm(0, 1, 0);
    b.bm(2, 1, 6);
    b.prd(&[(0x8000, 0, true)]);
    if matches!(command, 0x24 | 0x25 | 0x29 | 0x34 | 0x35 | 0x39 | 0x42) {
        for (port, value) in [(0x1f2, 0), (0x1f3, lba >> 24), (0x1f4, 0), (0x1f5, 0)] {
            b.out(port, value);
        }
    }
    b.ata(command, lba, count);
    for _ in 0..4 {
        let status = b.inb(0x3f6);
        if status & 0x80 != 0 {
            b.bm(0, 1, if matches!(command, 0xc8 | 0xc9 | 0x25) { 9 } else { 1 });
        } else if status & 8 != 0 && matches!(command, 0x30 | 0x31 | 0x34 | 0x39 | 0xc5) {
            b.outsw(0x1f0, &vec![0; 512 * usize::from(count)]);
        } else if status & 8 != 0 {
            b.insw(0x1f0, 512 * usize::from(count));
        }
    }
    (b.inb(0x1f7), b.inb(0x1f1))
}

#[test]
fn the_error_register_of_each_command_is_that_of_its_table() {
    let reads = [0x20, 0x21, 0x24, 0x29, 0xc4, 0xc8, 0xc9, 0x25, 0x40, 0x41, 0x42];
    let writes = [0x30, 0x31, 0x34, 0x39, 0xc5, 0xca, 0xcb, 0x35];
    let mut b = Bench::new();
    b.ata(0xc6, 0, 4);
    let fails = |b: &Bench| b.failures.lock().unwrap().push_back(Some(Errno::IO));
    for command in reads.into_iter().chain(writes) {
        let host = if reads.contains(&command) { UNC } else { ABRT };
        assert_eq!(ends(&mut b, command, 0, 2), (0x50, 0), "{command:#x}");
        assert_eq!(ends(&mut b, command, 2047, 1), (0x50, 0), "{command:#x}: the last sector");
        for (lba, count) in [(2047, 2), (2048, 1), (0x0fff_ffff, 1)] {
            assert_eq!(ends(&mut b, command, lba, count), (0x51, IDNF), "{command:#x}: beyond the end");
        }
        fails(&b);
        assert_eq!(ends(&mut b, command, 0, 1), (0x51, host), "{command:#x}: an error of the host");
    }
    // SEEK fails beyond the end.
    assert_eq!((ends(&mut b, 0x70, 2047, 0), ends(&mut b, 0x70, 2048, 0)), ((0x50, 0), (0x51, IDNF)));
    for command in [0xe7, 0xea] {
        fails(&b);
        assert_eq!(ends(&mut b, command, 0, 0), (0x51, ABRT), "{command:#x}");
    }
    // Without SET MULTIPLE MODE there are no blocks.
    b.ata(0xc6, 0, 3);
    assert_eq!((b.inb(0x1f7), b.inb(0x1f1)), (0x51, ABRT));
    for command in [0xc4, 0x29, 0xc5, 0x39] {
        assert_eq!(ends(&mut b, command, 0, 1), (0x51, ABRT), "{command:#x}");
    }
}

#[test]
fn a_disk_that_is_read_only_aborts_what_would_write_and_claims_none_of_it() {
    let mut b = Bench::new();
    b.ide = Ide::new(vec![spec(0, false, true, &b.disk, 1 << 20)], Box::new(Inline::new(b.memory.clone())));
    b.ata(0xc6, 0, 4);
    for command in [0x30, 0x31, 0x34, 0x39, 0xc5, 0xca, 0xcb, 0x35, 0x06] {
        b.out(0x1f1, 1);
        assert_eq!(ends(&mut b, command, 0, 1), (0x51, ABRT), "{command:#x}");
    }
    b.ata(0xec, 0, 0);
    let id = b.insw(0x1f0, 512);
    assert_eq!((id[169 * 2], id[105 * 2]), (0, 0), "no TRIM");
}

/// ACS-2, 7.10: if one range is beyond the end, nothing is trimmed; an invalid DATA SET MANAGEMENT is aborted.
#[test]
fn trim_beyond_the_end_is_aborted() {
    let mut b = Bench::new();
    let before = b.disk_bytes();
    let mut trim = |ranges: &[(u64, u64)], feature: u32, count: u8| {
        let mut list = vec![0; 512];
        for (i, (first, n)) in ranges.iter().enumerate() {
            list[i * 8..i * 8 + 8].copy_from_slice(&(first | n << 48).to_le_bytes());
        }
        b.memory.write(0x8000, &list).unwrap();
        b.bm(0, 1, 0);
        b.bm(2, 1, 6);
        b.prd(&[(0x8000, 512, true)]);
        b.out(0x1f1, feature);
        b.ata(0x06, 0, count);
        b.bm(0, 1, 1);
        (b.inb(0x1f7), b.inb(0x1f1), b.bm_status(0), b.disk_bytes() == before)
    };
    for ranges in [
        &[(2040, 9)][..],
        &[(2048, 1)],
        &[(0, 8), (2047, 2)],
        &[(0xffff_ffff_ffff, 0xffff)],
        &[(0, 1), (0, 1), (1 << 47, 1)],
    ] {
        assert_eq!(trim(ranges, 1, 1), (0x51, ABRT, 4, true), "{ranges:?}");
    }
    // Without the TRIM bit, or with more than the one claimed sector: no data is requested, and the engine stays armed.
    assert_eq!(trim(&[(0, 1)], 0, 1), (0x51, ABRT, 5, true));
    assert_eq!(trim(&[(0, 1)], 1, 2), (0x51, ABRT, 5, true));
    assert_eq!(trim(&[(1 << 47, 0), (8, 8), (2047, 1)], 1, 1), (0x50, 0, 4, false));
}

/// Every code that is no command of the drive is aborted, with an interrupt, and leaves it ready.
#[test]
fn an_unknown_command_is_aborted() {
    let disk = |code: u8| {
        matches!(code, 0x06 | 0x10..=0x1f | 0x20 | 0x21 | 0x24 | 0x25 | 0x27 | 0x29 | 0x30 | 0x31 | 0x34 | 0x35 | 0x39)
            || matches!(code, 0x40..=0x42 | 0x70 | 0x90 | 0x91 | 0xc4..=0xc6 | 0xc8..=0xcb | 0xe0..=0xe3 | 0xe5..=0xe7)
            || matches!(code, 0xea | 0xec | 0xef | 0xf8)
    };
    let cd = |code: u8| matches!(code, 0x08 | 0x90 | 0xa0 | 0xa1 | 0xe0..=0xe3 | 0xe5 | 0xe6 | 0xef);
    let mut b = Bench::new();
    for code in 0..=255u8 {
        if !disk(code) {
            b.ata(code, 0, 1);
            assert!(b.cx.lines.level(0), "{code:#x}");
            assert_eq!((b.inb(0x1f7), b.inb(0x1f1)), (0x51, ABRT), "{code:#x}");
        }
        if !cd(code) {
            for (port, value) in [(0x176, 0xa0), (0x174, 0), (0x175, 0), (0x177, u32::from(code))] {
                b.out(port, value);
            }
            assert!(b.cx.lines.level(1), "{code:#x}");
            assert_eq!((b.inb(0x177), b.inb(0x171)), (0x51, ABRT), "{code:#x}");
            // These commands return the signature of a packet device.
            let signature = matches!(code, 0xec | 0x20 | 0x21);
            assert_eq!((b.inb(0x174), b.inb(0x175)) == (0x14, 0xeb), signature, "{code:#x}");
        }
    }
}

/// An abandoned command ends in the way of its own drive, even if the drive of the other kind is selected.
#[test]
fn a_command_that_is_given_up_ends_as_its_own_drive_ends_one() {
    for (owner, other, begins, ends) in [(0xe0, 0xb0, 0xc8, ABRT), (0xb0, 0xe0, 0xa0, 0xb4)] {
        let mut b = Bench::new();
        let drives = vec![spec(0, false, false, &b.disk, 1 << 20), spec(1, true, true, &file(64 * 2048), 64 * 2048)];
        b.ide = Ide::new(drives, Box::new(Inline::new(b.memory.clone())));
        for (port, value) in [(0x1f6, owner), (0x1f2, 1), (0x1f3, 0), (0x1f4, 0), (0x1f5, 0), (0x1f7, begins)] {
            b.out(port, value);
        }
        b.out(0x1f6, other);
        b.ide.lost_writes(1, 0, &mut b.cx);
        assert!(!b.cx.lines.level(0), "the drive that is selected has nothing to say");
        b.out(0x1f6, owner);
        assert!(b.cx.lines.level(0));
        assert_eq!((b.inb(0x1f7), b.inb(0x1f1)), (0x51, ends), "command {begins:#x}");
    }
}
