//! Tests of the controller; the submodules test one subject each.
mod bus_master;
mod drivers;
mod errors;
mod packets;
mod regressions;
mod restart;
mod settings;
mod shared_channel;

use super::*;
use crate::backend::{Inline, Job, Outcome};
use bulkhead_bus::{GuestMemory as _, fake::FakeMemory};
use proptest::prelude::*;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;

type Failures = Arc<Mutex<VecDeque<Option<Errno>>>>;

struct Bench {
    ide: Ide,
    cx: Context,
    memory: Arc<FakeMemory>,
    disk: rustix::fd::OwnedFd,
    failures: Failures,
}

fn file(bytes: usize) -> rustix::fd::OwnedFd {
    let fd = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let data: Vec<u8> = (0..bytes / 4).flat_map(|i| (i as u32).to_le_bytes()).collect();
    rustix::io::pwrite(&fd, &data, 0).unwrap();
    fd
}

impl Bench {
    /// A disk of 1 MiB as primary master, a CD of 64 sectors as secondary master.
    fn new() -> Self {
        let memory = FakeMemory::new(1 << 20);
        let inline = Inline::new(memory.clone());
        let failures = inline.failures.clone();
        let disk = file(1 << 20);
        let image = |fd: &rustix::fd::OwnedFd, size| Some(Image::raw(rustix::io::dup(fd).unwrap(), size));
        let drives = vec![
            DriveSpec {
                index: 0,
                cdrom: false,
                read_only: false,
                image: image(&disk, 1 << 20),
                identity: Identity::default(),
            },
            DriveSpec {
                index: 2,
                cdrom: true,
                read_only: true,
                image: image(&file(64 * 2048), 64 * 2048),
                identity: Identity::default(),
            },
        ];
        Self { ide: Ide::new(drives, Box::new(inline)), cx: Context::new(memory.clone()), memory, disk, failures }
    }

    fn disk_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; 1 << 20];
        rustix::io::pread(&self.disk, bytes.as_mut_slice(), 0).unwrap();
        bytes
    }

    fn out(&mut self, port: u16, value: u32) {
        let (region, offset) = place(port);
        let size = if offset == 0 && region % 2 == 0 && region < 4 { 2 } else { 1 };
        self.ide.write(Access::new(region, offset, size), u64::from(value), &mut self.cx).unwrap();
        self.ide.poll(Ready::Fd(JOBS), &mut self.cx);
    }

    fn inb(&mut self, port: u16) -> u8 {
        let (region, offset) = place(port);
        self.ide.read(Access::new(region, offset, 1), &mut self.cx).unwrap() as u8
    }

    fn insw(&mut self, port: u16, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        self.ide.read_string(Access::new(place(port).0, 0, 2), &mut data, &mut self.cx).unwrap();
        self.ide.poll(Ready::Fd(JOBS), &mut self.cx);
        data
    }

    fn outsw(&mut self, port: u16, data: &[u8]) {
        self.ide.write_string(Access::new(place(port).0, 0, 2), data, &mut self.cx).unwrap();
        self.ide.poll(Ready::Fd(JOBS), &mut self.cx);
    }

    /// Writes an LBA28 command to the primary master.
    fn ata(&mut self, command: u8, lba: u32, count: u8) {
        for (port, value) in [
            (0x1f6, 0xe0 | lba >> 24),
            (0x1f2, u32::from(count)),
            (0x1f3, lba & 0xff),
            (0x1f4, lba >> 8 & 0xff),
            (0x1f5, lba >> 16 & 0xff),
            (0x1f7, u32::from(command)),
        ] {
            self.out(port, value);
        }
    }

    /// The PACKET command, without its packet.
    fn packet_begins(&mut self, limit: u16) {
        for (port, value) in
            [(0x176, 0xa0), (0x171, 0), (0x174, u32::from(limit) & 0xff), (0x175, u32::from(limit) >> 8), (0x177, 0xa0)]
        {
            self.out(port, value);
        }
    }

    fn packet(&mut self, packet: &[u8], limit: u16) {
        self.packet_begins(limit);
        assert_eq!(self.inb(0x177) & 0x88, 0x08, "the drive wants the packet");
        let mut bytes = [0; 12];
        bytes[..packet.len()].copy_from_slice(packet);
        self.outsw(0x170, &bytes);
    }

    fn prd(&mut self, entries: &[(u32, u16, bool)]) {
        for (i, (address, count, last)) in entries.iter().enumerate() {
            let mut e = address.to_le_bytes().to_vec();
            e.extend_from_slice(&count.to_le_bytes());
            e.extend_from_slice(&[0, if *last { 0x80 } else { 0 }]);
            self.memory.write(0x1000 + i as u64 * 8, &e).unwrap();
        }
        self.bm(4, 4, 0x1000);
    }

    fn bm(&mut self, offset: u64, size: u8, value: u32) {
        self.ide.write(Access::new(BUS_MASTER, offset, size), u64::from(value), &mut self.cx).unwrap();
        self.ide.poll(Ready::Fd(JOBS), &mut self.cx);
    }

    fn bm_status(&mut self, channel: u64) -> u8 {
        self.ide.read(Access::new(BUS_MASTER, channel * 8 + 2, 1), &mut self.cx).unwrap() as u8
    }
}

/// A drive of the bench.
fn spec(index: u8, cdrom: bool, read_only: bool, fd: &rustix::fd::OwnedFd, size: u64) -> DriveSpec {
    let image = Some(Image::raw(rustix::io::dup(fd).unwrap(), size));
    DriveSpec { index, cdrom, read_only, image, identity: Identity::default() }
}

fn place(port: u16) -> (u16, u64) {
    match port {
        0x1f0..=0x1f7 => (0, u64::from(port - 0x1f0)),
        0x3f6 => (1, 0),
        0x170..=0x177 => (2, u64::from(port - 0x170)),
        0x376 => (3, 0),
        _ => panic!("{port:#x}"),
    }
}

fn sector(data: &[u8], n: usize) -> Vec<u8> {
    data[n * 512..(n + 1) * 512].to_vec()
}

#[test]
fn power_on_configuration_space() {
    let b = Bench::new();
    let want =
        [(0x00, 0x7010_8086u32), (0x04, 0x0280_0000), (0x08, 0x0101_8000), (0x20, 0x0000_0001), (0x2c, 0x1100_1af4)];
    for at in (0..=0xfcu8).step_by(4) {
        let value = want.iter().find(|(a, _)| *a == at).map_or(0, |(_, v)| *v);
        assert_eq!(b.ide.config.read(at, 4), value, "register {at:#x}");
    }
}

/// 82371SB, 2.3: command, base of the bus master, timing of both channels and of their slaves.
#[test]
fn configuration_space_has_the_hard_wired_bits_of_the_part() {
    let mut b = Bench::new();
    assert_eq!(
        bulkhead_bus::exercise::changeable(&mut b.ide, 0),
        [(0x04, 0x0007), (0x20, 0xffff_fff0), (0x40, 0xf3ff_f3ff), (0x44, 0xff)]
    );
}

#[test]
fn identify_reports_size_and_model_and_claims_nothing_more() {
    let mut b = Bench::new();
    b.ata(0xec, 0, 0);
    assert_eq!(b.inb(0x3f6), 0x58);
    assert!(b.cx.lines.level(0));
    assert_eq!(b.inb(0x1f7), 0x58);
    assert!(!b.cx.lines.level(0), "reading the status takes the interrupt back");
    let id = b.insw(0x1f0, 512);
    let word = |i: usize| u16::from_le_bytes([id[i * 2], id[i * 2 + 1]]);
    assert_eq!((word(60), word(61), word(100)), (2048, 0, 2048));
    assert_eq!(&id[54..62], b"UBKLEHDA");
    assert_eq!(word(83) & 0x2400, 0x2400);
    assert_eq!(b.inb(0x1f7), 0x50);
}

#[test]
fn pio_reads_one_block_at_a_time_with_an_interrupt_each() {
    let mut b = Bench::new();
    b.ata(0x20, 5, 3);
    for n in 5..8 {
        assert_eq!(b.inb(0x1f7), 0x58);
        let data = b.insw(0x1f0, 512);
        assert_eq!(u32::from_le_bytes(data[..4].try_into().unwrap()), n * 128);
        assert_eq!(b.cx.lines.level(0), n < 7);
    }
    assert_eq!(b.inb(0x1f7), 0x50);
    b.ata(0xc6, 0, 8);
    b.ata(0xc4, 0, 12);
    assert_eq!(b.insw(0x1f0, 8 * 512).len(), 4096);
    assert_eq!(b.inb(0x1f7), 0x58);
    b.insw(0x1f0, 4 * 512);
    assert_eq!(b.inb(0x1f7), 0x50);
}

#[test]
fn pio_writes_reach_the_image() {
    let mut b = Bench::new();
    b.ata(0x30, 9, 2);
    assert_eq!(b.inb(0x1f7), 0x58);
    assert!(!b.cx.lines.level(0), "no interrupt before the first block");
    for fill in [0xaa, 0xbb] {
        b.outsw(0x1f0, &[fill; 512]);
        assert!(b.cx.lines.level(0));
        b.inb(0x1f7);
    }
    assert_eq!(b.inb(0x1f7), 0x50);
    let mut back = vec![0; 1024];
    rustix::io::pread(&b.disk, back.as_mut_slice(), 9 * 512).unwrap();
    assert_eq!((sector(&back, 0), sector(&back, 1)), (vec![0xaa; 512], vec![0xbb; 512]));
}

#[test]
fn dma_goes_to_scattered_memory_and_only_there() {
    let mut b = Bench::new();
    b.prd(&[(0x8000, 512, false), (0x9000, 1024, true)]);
    b.bm(0, 1, 8);
    b.ata(0xc8, 4, 3);
    assert_eq!(b.inb(0x3f6) & 0x80, 0x80, "busy until the bus master starts");
    b.bm(0, 1, 9);
    assert_eq!((b.inb(0x3f6), b.bm_status(0)), (0x50, 0x04));
    assert!(b.cx.lines.level(0));
    let mut data = vec![0; 4];
    for (address, want) in [(0x8000, 4 * 128), (0x9000, 5 * 128), (0x9200, 6 * 128), (0x9400, 0u32), (0x7ffc, 0)] {
        b.memory.read(address, &mut data).unwrap();
        assert_eq!(u32::from_le_bytes(data[..].try_into().unwrap()), want, "{address:#x}");
    }
    b.bm(2, 1, 0x04);
    assert_eq!(b.bm_status(0), 0);
}

#[test]
fn dma_writes_and_48_bit_addresses() {
    let mut b = Bench::new();
    b.memory.write(0x8000, &[0x5a; 512]).unwrap();
    b.prd(&[(0x8000, 512, true)]);
    for (port, value) in [
        (0x1f6, 0x40),
        (0x1f2, 0),
        (0x1f3, 0),
        (0x1f4, 0),
        (0x1f5, 0),
        (0x1f2, 1),
        (0x1f3, 7),
        (0x1f4, 0),
        (0x1f5, 0),
        (0x1f7, 0x35),
    ] {
        b.out(port, value);
    }
    b.bm(0, 1, 1);
    assert_eq!(b.inb(0x1f7), 0x50);
    let mut back = vec![0; 512];
    rustix::io::pread(&b.disk, back.as_mut_slice(), 7 * 512).unwrap();
    assert_eq!(back, [0x5a; 512]);
}

#[test]
fn a_table_that_is_too_short_too_long_or_outside_ram_is_reported_as_the_specification_says() {
    let mut b = Bench::new();
    b.prd(&[(0x8000, 512, true)]);
    b.ata(0xc8, 0, 2);
    b.bm(0, 1, 9);
    assert_eq!((b.inb(0x1f7), b.bm_status(0)), (0x50, 0), "too short: nobody hears of it");
    b.bm(0, 1, 0);
    b.bm(2, 1, 6);
    b.prd(&[(0x8000, 4096, true)]);
    b.ata(0xc8, 0, 2);
    b.bm(0, 1, 9);
    assert_eq!((b.inb(0x1f7), b.bm_status(0)), (0x50, 0x05), "too long: still active");
    b.bm(0, 1, 0);
    b.bm(2, 1, 6);
    b.prd(&[(0xfff0_0000, 512, true)]);
    b.ata(0xc8, 0, 1);
    b.bm(0, 1, 9);
    assert_eq!((b.inb(0x1f7) & 0x81, b.bm_status(0) & 3), (0x01, 0x02), "no RAM there");
    b.bm(0, 1, 0);
    b.bm(4, 4, 0xffff_fff0);
    b.ata(0xc8, 0, 1);
    b.bm(0, 1, 9);
    assert_eq!(b.inb(0x1f7) & 0x81, 0x01, "the table itself is nowhere");
}

#[test]
fn addresses_beyond_the_end_are_not_found() {
    let mut b = Bench::new();
    for command in [0x20, 0x30, 0x40, 0xc8, 0xca] {
        b.ata(command, 2047, 2);
        assert_eq!((b.inb(0x1f7) & 0x01, b.inb(0x1f1)), (1, 0x10), "command {command:#x}");
    }
}

#[test]
fn an_error_of_the_host_reaches_the_guest_as_one() {
    let mut b = Bench::new();
    b.failures.lock().unwrap().push_back(Some(Errno::IO));
    b.ata(0x20, 0, 1);
    assert_eq!((b.inb(0x1f7), b.inb(0x1f1)), (0x51, 0x40));
    b.failures.lock().unwrap().push_back(Some(Errno::NOSPC));
    b.ata(0x30, 0, 1);
    b.outsw(0x1f0, &[0; 512]);
    assert_eq!((b.inb(0x1f7), b.inb(0x1f1)), (0x51, 0x04));
    b.failures.lock().unwrap().push_back(Some(Errno::IO));
    b.ata(0xe7, 0, 0);
    assert_eq!(b.inb(0x1f7) & 1, 1, "FLUSH");
    b.ata(0xe7, 0, 0);
    assert_eq!(b.inb(0x1f7), 0x50);
}

#[test]
fn nien_keeps_the_interrupt_back_and_the_bus_master_does_not_show_it() {
    let mut b = Bench::new();
    b.out(0x3f6, 2);
    b.prd(&[(0x8000, 512, true)]);
    b.ata(0xc8, 0, 1);
    b.bm(0, 1, 9);
    assert!(!b.cx.lines.level(0));
    assert_eq!((b.inb(0x3f6), b.bm_status(0)), (0x50, 0));
}

#[test]
fn software_reset_leaves_the_signatures() {
    let mut b = Bench::new();
    for (control, base, want) in [(0x3f6, 0x1f0, (1, 1, 0, 0, 0x50)), (0x376, 0x170, (1, 1, 0x14, 0xeb, 0))] {
        b.out(control, 4);
        assert_eq!(b.inb(control), 0x80);
        b.out(control, 0);
        let got = (b.inb(base + 2), b.inb(base + 3), b.inb(base + 4), b.inb(base + 5), b.inb(base + 7));
        assert_eq!(got, want);
    }
}

#[test]
fn absent_drives_and_empty_channels_read_00h() {
    let mut b = Bench::new();
    b.out(0x1f6, 0xb0);
    assert_eq!(b.inb(0x1f7), 0);
    b.out(0x1f7, 0xec);
    assert!(!b.cx.lines.level(0));
    let mut empty = Ide::new(Vec::new(), Box::new(Inline::new(b.memory.clone())));
    for (region, offset) in (1..8).map(|o| (0, o)).chain([(1, 0), (3, 0)]).chain((1..8).map(|o| (2, o))) {
        assert_eq!(empty.read(Access::new(region, offset, 1), &mut b.cx).unwrap(), 0, "region {region}, {offset}");
    }
    // The broker answers reads from these shadows.
    let mut registers = [None; 64];
    empty.shadows(&mut Shadows { registers: &mut registers });
    for (i, r) in declare().regions.iter().enumerate().filter(|(i, _)| *i < usize::from(BUS_MASTER)) {
        for (offset, _, index) in &r.shadows {
            assert_eq!(registers[usize::from(*index)], Some(0), "region {i}, {offset}");
        }
    }
    empty.write(Access::new(0, 7, 1), 0x90, &mut b.cx).unwrap();
    assert_eq!(empty.read(Access::new(0, 7, 1), &mut b.cx).unwrap(), 0);
}

#[test]
fn a_cd_is_read_in_pieces_of_the_hosts_limit() {
    let mut b = Bench::new();
    b.packet(&[0x28, 0, 0, 0, 0, 3, 0, 0, 2], 2048);
    let mut got = Vec::new();
    for _ in 0..2 {
        assert_eq!((b.inb(0x177), b.inb(0x172), b.inb(0x174), b.inb(0x175)), (0x58, 2, 0, 8));
        got.extend(b.insw(0x170, 2048));
    }
    assert_eq!((b.inb(0x177), b.inb(0x172)), (0x50, 3));
    assert_eq!(u32::from_le_bytes(got[..4].try_into().unwrap()), 3 * 512);
    assert_eq!(u32::from_le_bytes(got[2048..2052].try_into().unwrap()), 4 * 512);
}

#[test]
fn a_failed_packet_leaves_sense_for_request_sense() {
    let mut b = Bench::new();
    b.packet(&[0x28, 0, 0, 0, 1, 0, 0, 0, 1], 2048);
    assert_eq!((b.inb(0x177), b.inb(0x171)), (0x51, 0x54));
    b.packet(&[0x03, 0, 0, 0, 18], 18);
    let sense = b.insw(0x170, 18);
    assert_eq!((sense[2], sense[12]), (5, 0x21));
    b.packet(&[0xff], 2048);
    assert_eq!(b.inb(0x171), 0x54);
}

/// Sends a packet and reads its data by programmed I/O; the error register if it failed.
fn command(b: &mut Bench, packet: &[u8], limit: u16) -> Result<Vec<u8>, u8> {
    b.packet(packet, limit);
    let mut data = Vec::new();
    loop {
        let status = b.inb(0x177);
        assert_eq!(status & 0x80, 0, "busy");
        if status & 1 != 0 {
            return Err(b.inb(0x171));
        }
        if status & 8 == 0 {
            assert_eq!(b.inb(0x172) & 3, 3, "command done");
            return Ok(data);
        }
        assert_eq!(b.inb(0x172) & 3, 2, "data to the host");
        let n = usize::from(b.inb(0x174)) | usize::from(b.inb(0x175)) << 8;
        assert!(n > 0 && n <= usize::from(limit));
        data.extend(b.insw(0x170, n.next_multiple_of(2)));
    }
}

/// A shadow may answer a read at any time, so it must equal the read's value, and the read must have no side effect.
#[test]
fn shadows_are_what_reading_gives() {
    let mut b = Bench::new();
    let check = |b: &mut Bench| {
        let declaration = b.ide.declaration();
        let shadows = |b: &Bench| {
            let mut registers = [None; 64];
            b.ide.shadows(&mut Shadows { registers: &mut registers });
            registers
        };
        let before = shadows(b);
        let mut used = 0;
        for (region, r) in declaration.regions.iter().enumerate() {
            for (offset, size, index) in &r.shadows {
                let Some(value) = before[usize::from(*index)] else { continue };
                let read = b.ide.read(Access::new(region as u16, u64::from(*offset), *size), &mut b.cx).unwrap();
                assert_eq!(read & 0xff, u64::from(value), "{} {offset}", r.name);
                used += 1;
            }
        }
        assert_eq!(shadows(b), before, "reading has changed something");
        used
    };
    assert_eq!(check(&mut b), 20);
    b.prd(&[(0x8000, 512, true)]);
    b.ata(0xc8, 3, 1);
    b.bm(0, 1, 9);
    assert_eq!(check(&mut b), 19, "an interrupt is pending: the status is not shadowed");
    b.inb(0x1f7);
    b.out(0x3f6, 0x80);
    assert_eq!(check(&mut b), 20);
    b.packet(&[0x28, 0, 0, 0, 0, 3, 0, 0, 2], 2048);
    assert_eq!(check(&mut b), 19);
}

#[test]
fn a_cd_answers_identify_with_its_signature() {
    let mut b = Bench::new();
    b.out(0x176, 0xa0);
    b.out(0x177, 0xec);
    assert_eq!((b.inb(0x177) & 1, b.inb(0x174), b.inb(0x175)), (1, 0x14, 0xeb));
    b.out(0x177, 0xa1);
    assert_eq!(b.insw(0x170, 512)[0..2], [0x80, 0x85]);
}

#[test]
fn trim_punches_holes_inside_the_disk_only() {
    let mut b = Bench::new();
    let mut list = vec![0; 512];
    list[..8].copy_from_slice(&(8u64 | 8 << 48).to_le_bytes());
    b.memory.write(0x8000, &list).unwrap();
    b.prd(&[(0x8000, 512, true)]);
    b.out(0x1f1, 1);
    b.ata(0x06, 0, 1);
    b.bm(0, 1, 1);
    assert_eq!(b.inb(0x1f7), 0x50);
    let mut back = vec![0xff; 512];
    rustix::io::pread(&b.disk, back.as_mut_slice(), 8 * 512).unwrap();
    assert_eq!(back, [0; 512]);
    list[..8].copy_from_slice(&(2040u64 | 100 << 48).to_le_bytes());
    b.memory.write(0x8000, &list).unwrap();
    b.bm(0, 1, 0);
    b.ata(0x06, 0, 1);
    b.bm(0, 1, 1);
    assert_eq!(b.inb(0x1f7) & 1, 1);
}

#[test]
fn unplug_takes_the_disks_and_leaves_the_cd() {
    let mut b = Bench::new();
    assert!(b.ide.unplug(1, &mut b.cx));
    assert_eq!((b.inb(0x1f7), b.inb(0x3f6)), (0, 0));
    b.packet(&[0x00], 0);
    assert_eq!(b.inb(0x177), 0x50);
    let mut b = Bench::new();
    assert!(b.ide.unplug(4, &mut b.cx));
    assert_eq!(b.inb(0x1f7), 0x50, "the primary master stays with mask 4");
}

/// An executor whose jobs end when the flag is set.
struct Held(Inline, Arc<std::sync::atomic::AtomicBool>);

impl Executor for Held {
    fn submit(&mut self, lane: usize, image: Arc<Image>, job: Job) {
        self.0.submit(lane, image, job);
    }
    fn take(&mut self) -> Option<(usize, Outcome)> {
        self.1.load(std::sync::atomic::Ordering::Relaxed).then(|| self.0.take()).flatten()
    }
}

/// The guest's write to the unplug port completes only when `unplug` returns true; after it a PV back end may write to the disk.
#[test]
fn unplug_race_a_pending_write_ends_before_the_disk_is_released() {
    let mut b = Bench::new();
    let may_end = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let image = Some(Image::raw(rustix::io::dup(&b.disk).unwrap(), 1 << 20));
    b.ide = Ide::new(
        vec![DriveSpec { index: 0, cdrom: false, read_only: false, image, identity: Identity::default() }],
        Box::new(Held(Inline::new(b.memory.clone()), may_end.clone())),
    );
    b.prd(&[(0x8000, 512, true)]);
    b.bm(0, 1, 0);
    b.ata(0xca, 3, 1);
    b.bm(0, 1, 1);
    assert!(!b.ide.unplug(1, &mut b.cx) && !b.ide.quiescent(), "the write is under way");
    assert!(state::IdeState::decode(b.ide.save().as_slice()).unwrap().channels[0].drives[0].present);
    may_end.store(true, std::sync::atomic::Ordering::Relaxed);
    b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
    assert!(b.ide.unplug(1, &mut b.cx));
    // A restarted process does not have it, even if it gets the file again.
    let state = b.ide.save();
    let mut next = Bench::new();
    next.ide = Ide::new(
        vec![DriveSpec {
            index: 0,
            cdrom: false,
            read_only: false,
            image: Some(Image::raw(rustix::io::dup(&b.disk).unwrap(), 1 << 20)),
            identity: Identity::default(),
        }],
        Box::new(Inline::new(next.memory.clone())),
    );
    next.ide.load(&state, &mut next.cx).unwrap();
    assert_eq!(next.inb(0x1f7), 0);
    assert!(next.ide.channels[0].medium(0).unwrap().image.is_none(), "it would still have the file");
}

/// A medium is removed and another inserted: the events that the guest reads, in their order (MMC-4 6.6, SPC-3 5.13).
#[test]
fn a_changed_cd_is_reported_once() {
    let mut b = Bench::new();
    let medium = |b: &mut Bench, sectors: usize| b.ide.insert(2, file(sectors * 2048), &mut b.cx);
    let event = |b: &mut Bench| command(b, &[0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8], 8).unwrap()[4..6].to_vec();
    let sense = |b: &mut Bench| {
        let sense = command(b, &[0x03, 0, 0, 0, 18], 18).unwrap();
        (sense[2], sense[12], sense[13])
    };
    assert_eq!(event(&mut b), [0, 2]);
    // Locked: the medium stays, and the guest gets an eject request.
    assert_eq!(command(&mut b, &[0x1e, 0, 0, 0, 1], 0xfffe), Ok(vec![]));
    assert!(b.ide.eject(2, false, &mut b.cx).unwrap_err().to_string().contains("locked"));
    assert_eq!((event(&mut b), event(&mut b)), (vec![1, 2], vec![0, 2]));
    assert!(medium(&mut b, 32).is_err(), "there is one");
    // Forced.
    b.ide.eject(2, true, &mut b.cx).unwrap();
    assert_eq!((event(&mut b), event(&mut b)), (vec![3, 1], vec![0, 1]));
    assert_eq!((command(&mut b, &[0x00], 0xfffe), sense(&mut b)), (Err(0x24), (2, 0x3a, 2)));
    b.ide.eject(2, true, &mut b.cx).unwrap();
    // Saving and restoring does not change the drive.
    let saved = b.ide.save();
    b.ide.load(&saved, &mut b.cx).unwrap();
    assert_eq!(event(&mut b), [0, 1], "the tray is still open");
    medium(&mut b, 32).unwrap();
    assert_eq!((event(&mut b), event(&mut b)), (vec![2, 2], vec![0, 2]));
    assert_eq!(command(&mut b, &[0x12, 0, 0, 0, 36], 36).unwrap().len(), 36, "INQUIRY does not wait for it");
    assert_eq!((command(&mut b, &[0x25], 8), sense(&mut b)), (Err(0x64), (6, 0x28, 0)));
    assert_eq!(command(&mut b, &[0x25], 8).unwrap(), [0, 0, 0, 31, 0, 0, 8, 0], "the new one's size");
    // Disks, and invalid media.
    assert!(b.ide.eject(0, true, &mut b.cx).is_err() && b.ide.eject(3, true, &mut b.cx).is_err());
    b.ide.eject(2, true, &mut b.cx).unwrap();
    assert!(b.ide.insert(0, file(2048), &mut b.cx).is_err() && b.ide.insert(2, file(1024), &mut b.cx).is_err());
    let (pipe, _) = rustix::pipe::pipe().unwrap();
    assert!(b.ide.insert(2, pipe, &mut b.cx).unwrap_err().to_string().contains("neither"));
}

/// A medium that is removed during a read: the command ends, with an error if data is missing.
#[test]
fn a_cd_taken_out_in_the_middle_of_a_read_ends_the_read() {
    let mut b = Bench::new();
    b.packet(&[0x28, 0, 0, 0, 0, 0, 0, 0, 40], 2048);
    assert_eq!(b.inb(0x177) & 0x88, 0x08);
    b.insw(0x170, 2048);
    b.ide.eject(2, true, &mut b.cx).unwrap();
    for _ in 0..64 {
        if b.inb(0x177) & 0x08 == 0 {
            break;
        }
        b.insw(0x170, 2048);
    }
    assert_eq!(b.inb(0x177) & 0x88, 0, "neither busy nor with data");
    assert_eq!(command(&mut b, &[0x00], 0xfffe), Err(0x24));
}

/// A full storage: a write waits until it is given up.
struct Full(std::sync::mpsc::Sender<(usize, Outcome)>, std::sync::mpsc::Receiver<(usize, Outcome)>);

impl Executor for Full {
    fn submit(&mut self, lane: usize, image: Arc<Image>, _: crate::backend::Job) {
        let done = self.0.clone();
        image.begin();
        std::thread::spawn(move || {
            while image.wait_for_room() {}
            let _ = done.send((lane, Err(rustix::io::Errno::NOSPC)));
        });
    }
    fn take(&mut self) -> Option<(usize, Outcome)> {
        self.1.try_recv().ok()
    }
}

#[test]
fn a_write_that_waits_for_room_ends_when_the_guest_resets_the_drive_or_unplugs_it() {
    for unplugs in [false, true] {
        let mut b = Bench::new();
        let image = Image::raw(rustix::io::dup(&b.disk).unwrap(), 1 << 20).when_full(bulkhead_bus::WhenFull::Stop);
        let (sender, receiver) = std::sync::mpsc::channel();
        b.ide = Ide::new(
            vec![DriveSpec {
                index: 0,
                cdrom: false,
                read_only: false,
                image: Some(image),
                identity: Identity::default(),
            }],
            Box::new(Full(sender, receiver)),
        );
        b.ata(0x30, 0, 1);
        b.outsw(0x1f0, &[1; 512]);
        assert_eq!(b.inb(0x3f6) & 0x80, 0x80);
        let begun = std::time::Instant::now();
        if unplugs {
            while !b.ide.unplug(1, &mut b.cx) {
                assert!(begun.elapsed().as_secs() < 10, "the unplug waits for room");
                std::thread::yield_now();
            }
            continue;
        }
        b.out(0x3f6, 4);
        b.out(0x3f6, 0);
        while b.inb(0x3f6) != 0x50 {
            assert!(begun.elapsed().as_secs() < 10, "status {:#x}", b.inb(0x3f6));
            b.ide.poll(Ready::Fd(JOBS), &mut b.cx);
        }
        assert_eq!(b.ide.quiescent(), true);
    }
}
