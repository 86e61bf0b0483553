//! Foreign memory whose frames are pages of a sparse file.
#![allow(clippy::arithmetic_side_effects)]
use super::super::map_shared;
use super::*;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, memfd_create};
use std::sync::atomic::AtomicUsize;

/// A guest of 4 GiB in a sparse file: pages of the file are mapped as frames of a domain are. `holes` are pages without RAM.
struct Guest {
    memory: OwnedFd,
    name: String,
    holes: Range<u64>,
    /// Mappings made, and the most that were there at once.
    counts: Arc<(AtomicUsize, AtomicUsize)>,
    /// Mappings that the kernel allows.
    most: usize,
}

const RAM: u64 = 4 << 30;

fn sparse(name: &str, bytes: u64) -> OwnedFd {
    let fd = memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    fd
}

impl Guest {
    fn live(&self) -> usize {
        // The kernel gives the file in pieces, and leaves a mapping out when another thread's go meanwhile.
        let look = |_| std::fs::read_to_string("/proc/self/maps").unwrap().matches(&self.name).count();
        (0..3).map(look).max().unwrap_or(0)
    }
}

impl Frames for Guest {
    fn map(&self, frames: &[u64], errors: &mut [i32]) -> std::io::Result<SharedArea> {
        let (first, len) = (frames[0], frames.len() * PAGE);
        if self.most < usize::MAX && self.live() >= self.most {
            return Err(rustix::io::Errno::NOMEM.into());
        }
        for (frame, error) in frames.iter().zip(errors) {
            *error = if self.holes.contains(frame) || *frame * 4096 >= RAM { libc::ENOENT } else { 0 };
        }
        let area = map_shared(self.memory.as_fd(), first * 4096, len)?;
        // Reading the mappings takes long; one look in a while sees growth as well.
        if self.counts.0.fetch_add(1, Relaxed).is_multiple_of(61) {
            self.counts.1.fetch_max(self.live(), Relaxed);
        }
        Ok(area)
    }
}

struct Bed {
    memory: ForeignMemory,
    counts: Arc<(AtomicUsize, AtomicUsize)>,
    ram: OwnedFd,
    file: OwnedFd,
}

fn bed(holes: Range<u64>, most: usize) -> Bed {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("/memfd:guest-{}-", NUMBER.fetch_add(1, Relaxed));
    let ram = sparse(&name[7..], RAM);
    let counts = Arc::<(AtomicUsize, AtomicUsize)>::default();
    let guest = Guest { memory: rustix::io::dup(&ram).unwrap(), name, holes, counts: counts.clone(), most };
    let file = sparse("file", 0);
    let data: Vec<u8> = (0..1u32 << 20).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect();
    rustix::io::pwrite(&file, &data, 0).unwrap();
    Bed { memory: ForeignMemory::with(Box::new(guest)), counts, ram, file }
}

fn bytes(fd: &OwnedFd, at: u64, len: usize) -> Vec<u8> {
    let mut all = vec![0; len];
    rustix::io::pread(fd, &mut all, at).unwrap();
    all
}

/// A table of entries as small as they can be, each in a bucket of its own: 2 GiB of mappings, if they were all there at once.
#[test]
fn a_table_over_all_of_memory_maps_a_bounded_part_of_it_at_once() {
    let Bed { memory, counts, ram, file } = bed(0..0, usize::MAX);
    let table: Vec<_> = (0..8192u64).map(|i| Segment { address: i * BUCKET + 2 * i, len: 2 }).collect();
    assert_eq!(memory.read_file(file.as_fd(), 6, &table), Ok(16384));
    for (i, segment) in table.iter().enumerate() {
        assert_eq!(bytes(&ram, segment.address, 2), bytes(&file, 6 + 2 * i as u64, 2), "entry {i}");
    }
    assert_eq!(memory.write_file(file.as_fd(), 1 << 20, &table), Ok(16384));
    assert_eq!(bytes(&file, 1 << 20, 16384), bytes(&file, 6, 16384));
    // Four threads at once, as many as a disk has lanes.
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let (memory, table, file) = (&memory, &table, &file);
            threads.spawn(move || {
                assert_eq!(memory.write_file(file.as_fd(), (2 + thread) << 20, table), Ok(16384));
            });
        }
    });
    for thread in 0..4 {
        assert_eq!(bytes(&file, (2 + thread) << 20, 16384), bytes(&file, 6, 16384), "thread {thread}");
    }
    let most = counts.1.load(Relaxed);
    assert!(most > BUCKETS && most <= BUCKETS + 4 * KEPT, "{most} buckets at once");
}

/// A bucket that a step keeps is the one to use, though the cache has lost it meanwhile and has mapped it anew.
#[test]
fn a_bucket_that_returns_in_a_table_is_the_one_that_is_kept() {
    let Bed { memory, file, .. } = bed(0..0, usize::MAX);
    std::thread::scope(|threads| {
        for thread in 0..4u64 {
            let (memory, file) = (&memory, &file);
            threads.spawn(move || {
                let own = thread * 64;
                let entry = |i: u64| Segment { address: (own + i % 64) * BUCKET + i / 64 * 4096, len: 512 };
                let table: Vec<_> = (0..1024u64).map(entry).collect();
                for _ in 0..20 {
                    assert_eq!(memory.read_file(file.as_fd(), 0, &table), Ok(1 << 19));
                    assert_eq!(memory.write_file(file.as_fd(), (1 + thread) << 20, &table), Ok(1 << 19));
                    assert!(bytes(file, (1 + thread) << 20, 1 << 19) == bytes(file, 0, 1 << 19), "{thread}");
                }
            });
        }
    });
}

#[test]
fn entries_that_share_buckets_count_each_bucket_once() {
    let Bed { memory, counts, ram, file } = bed(0..0, 2);
    let table: Vec<_> = (0..8192u64).map(|i| Segment { address: (i % 2) * 7 * BUCKET + 32 * i, len: 16 }).collect();
    assert_eq!(memory.read_file(file.as_fd(), 0, &table), Ok(8192 * 16));
    assert_eq!(bytes(&ram, 7 * BUCKET + 32 * 8191, 16), bytes(&file, 8191 * 16, 16));
    assert_eq!(counts.0.load(Relaxed), 2);
}

#[test]
fn what_cannot_be_mapped_is_an_error_and_the_next_transfer_works() {
    let Bed { memory, ram, file, .. } = bed(64 * 100..64 * 100 + 3, usize::MAX);
    let table = |first: u64, count: u64| -> Vec<_> {
        (first..first + count).map(|i| Segment { address: i * BUCKET + 4096, len: 512 }).collect()
    };
    // No RAM in the hundredth bucket: the first step is made, then the error comes.
    assert_eq!(memory.read_file(file.as_fd(), 0, &table(0, 200)), Err(DmaError::NoRam(100 * BUCKET + 4096)));
    assert_eq!(bytes(&ram, 4096, 512), bytes(&file, 0, 512));
    let address = ADDRESS_LIMIT - 100;
    let beyond = [Segment { address, len: 101 }];
    assert_eq!(memory.write_file(file.as_fd(), 0, &beyond), Err(DmaError::NoRam(address)));
    // The kernel refuses more mappings (RLIMIT_AS).
    let Bed { memory, ram, file, .. } = bed(0..0, 40);
    assert_eq!(memory.read_file(file.as_fd(), 0, &table(200, 60)), Err(DmaError::NoRam(240 * BUCKET)));
    memory.invalidate();
    assert_eq!(memory.read_file(file.as_fd(), 512, &table(200, 40)), Ok(40 * 512));
    assert_eq!(bytes(&ram, 239 * BUCKET + 4096, 512), bytes(&file, 40 * 512, 512));
}

#[test]
fn a_transfer_stops_at_the_files_end() {
    let Bed { memory, file, .. } = bed(0..0, usize::MAX);
    let table: Vec<_> = (0..300u64).map(|i| Segment { address: i * BUCKET, len: 4096 }).collect();
    assert_eq!(memory.read_file(file.as_fd(), (1 << 20) - 4096 * 3 - 5, &table), Ok(4096 * 3 + 5));
    assert_eq!(memory.read_file(file.as_fd(), 4 << 20, &table), Ok(0));
    assert_eq!(memory.read_file(file.as_fd(), 0, &[]), Ok(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever the segments are, the bytes are those of one long copy, and reading them back gives the same.
    #[test]
    fn any_table_copies_what_one_long_copy_would(
        table in prop::collection::vec((0..500u64, 0..BUCKET, 0..5000u32), 1..300)
    ) {
        let Bed { memory, counts, ram, file } = bed(0..0, usize::MAX);
        // Entries that overlap would overwrite one another: each has 8 KiB of its own, some of them over a bucket's border.
        let place = |i: usize, n: u64, inside: u64| (n * 1048 + i as u64) * 8192 + 6000 + inside % 2000;
        let table: Vec<_> = table
            .iter()
            .enumerate()
            .map(|(i, (n, inside, len))| Segment { address: place(i, *n, *inside), len: *len })
            .collect();
        let whole: usize = table.iter().map(|s| s.len as usize).sum();
        let whole = whole.min(1 << 20);
        prop_assert_eq!(memory.read_file(file.as_fd(), 0, &table), Ok(whole));
        let mut at = 0;
        for segment in &table {
            let len = (segment.len as usize).min((1 << 20) - at);
            let mut copy = vec![0; len];
            memory.read(segment.address, &mut copy).unwrap();
            prop_assert_eq!(&copy, &bytes(&ram, segment.address, len));
            prop_assert_eq!(&copy, &bytes(&file, at as u64, len));
            at += len;
        }
        prop_assert!(counts.1.load(Relaxed) <= BUCKETS + KEPT);
    }
}
