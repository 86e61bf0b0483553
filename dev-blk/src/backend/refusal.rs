//! Tests that refused images, and images that are only read, are unchanged.
use super::tests::{Bed, qemu_img};
use super::*;
use bulkhead_bus::fake::FakeMemory;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

/// A directory of small images of every kind that qemu-img makes, and whether `base` is their backing file.
struct Seeds {
    bed: Bed,
    images: Vec<(&'static str, Vec<u8>, bool)>,
}

/// Offsets in the header of the last bytes of the incompatible and the auto-clear features.
const INCOMPATIBLE: usize = 79;
const AUTO_CLEAR: usize = 95;

fn seeds() -> &'static Seeds {
    static SEEDS: OnceLock<Seeds> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let bed = Bed::new("refusal");
        let mut images = Vec::new();
        let luks = ["-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"];
        let outside = format!("data_file={}", bed.path("outside.raw"));
        let based = ["-F", "raw", "-b", "base"];
        let kinds: [(&str, &[&str]); 9] = [
            ("plain", &[]),
            // The features' names fit only in a larger cluster.
            ("wide", &["-o", "cluster_size=65536"]),
            ("based", &based),
            ("lazy", &["-o", "lazy_refcounts=on"]),
            ("old", &["-o", "compat=0.10"]),
            ("narrow", &["-o", "refcount_bits=1"]),
            ("encrypted", &luks),
            ("outside", &["-o", &outside]),
            ("extended", &["-o", "extended_l2=on,cluster_size=16384"]),
        ];
        for (name, options) in kinds {
            let path = bed.path(name);
            let (mut arguments, size) = (vec!["create", "-q", "-f", "qcow2"], ["4M"]);
            if name == "encrypted" {
                arguments.extend(["--object", "secret,id=s,data=word"]);
            }
            if !matches!(name, "extended" | "wide") {
                arguments.extend(["-o", "cluster_size=4096"]);
            }
            arguments.extend(options);
            arguments.push(&path);
            arguments.extend(size);
            assert!(qemu_img(&arguments), "{name}");
            images.push((name, name == "based"));
        }
        for name in ["marked", "marked-based"] {
            let path = bed.path(name);
            std::fs::copy(bed.path(if name == "marked" { "plain" } else { "based" }), &path).unwrap();
            assert!(qemu_img(&["bitmap", "--add", &path, "changes"]));
            images.push((name, name == "marked-based"));
        }
        for (name, how) in [("compressed", "zlib"), ("compressed-otherwise", "zstd")] {
            let kind = format!("compression_type={how},cluster_size=4096");
            assert!(qemu_img(&["convert", "-c", "-O", "qcow2", "-o", &kind, &bed.path("base"), &bed.path(name)]));
            images.push((name, false));
        }
        let images = images.into_iter().map(|(n, based)| (n, std::fs::read(bed.path(n)).unwrap(), based)).collect();
        Seeds { bed, images }
    })
}

impl Seeds {
    /// Opens an image with these bytes as a guest's process does, passes it to `then`, and returns its bytes afterwards.
    fn with(&self, bytes: &[u8], based: bool, writable: bool, then: impl FnOnce(Result<Image, ImageError>)) -> Vec<u8> {
        let name = format!("tried-{:?}", std::thread::current().id());
        std::fs::write(self.bed.path(&name), bytes).unwrap();
        // The descriptor is writable in all cases, so that an unchanged image is not due to the kernel.
        let mut files = vec![(self.bed.open(&name, true), Format::Qcow2)];
        if based {
            files.push((self.bed.open("base", true), Format::Raw));
        }
        // The library may panic on an image; a device's process may die of it.
        let _ = catch_unwind(AssertUnwindSafe(|| then(Chain::new(files, writable).and_then(Chain::open))));
        std::fs::read(self.bed.path(&name)).unwrap()
    }
}

fn reads() -> [Job; 3] {
    [Job::Read { offset: 0, len: 4096 }, Job::Read { offset: (4 << 20) - 512, len: 512 }, Job::Flush]
}

fn writes() -> [Job; 3] {
    [
        Job::Write { offset: 512, data: vec![7; 512] },
        Job::Trim(vec![(0, 1 << 20)]),
        Job::WriteDma { offset: 1 << 20, from: vec![Segment { address: 0, len: 4096 }] },
    ]
}

#[test]
fn a_refused_image_is_untouched_whatever_it_is_refused_for() {
    let seeds = seeds();
    let mut refused = Vec::new();
    for (name, whole, based) in &seeds.images {
        for defect in ["none", "dirty", "corrupt", "unknown", "refcounts", "first level", "names", "basis"] {
            let mut bytes = whole.clone();
            let table = |bytes: &[u8], at: usize| u64::from_be_bytes(*bytes[at..].first_chunk().unwrap()) as usize;
            let (first_level, refcounts) = (table(&bytes, 40), table(&bytes, 48));
            match defect {
                "dirty" => bytes[INCOMPATIBLE] |= 1,
                "corrupt" => bytes[INCOMPATIBLE] |= 2,
                "unknown" => bytes[INCOMPATIBLE] |= 0x80,
                "refcounts" => bytes[refcounts + 7] |= 1,
                "first level" => bytes[first_level + 7] |= 2,
                "names" => {
                    let at = bytes.windows(4).position(|w| w == 0x6803_f857u32.to_be_bytes());
                    at.into_iter().for_each(|at| bytes[at + 7] += 1);
                }
                _ => {}
            }
            let (old, spoilt) = (*name == "old", bytes != *whole || defect == "basis");
            if !old {
                bytes[AUTO_CLEAR] |= 1;
            }
            let mut is_refused = true;
            let after = seeds.with(&bytes, *based != (defect == "basis"), true, |image| is_refused = image.is_err());
            assert!(after == bytes, "{name}, {defect}: the image was written");
            if is_refused {
                refused.push((*name, defect));
            }
            // Before version 3 there are no features.
            let must = spoilt && !(old && matches!(defect, "dirty" | "corrupt" | "unknown"));
            assert!(is_refused || !must, "{name}, {defect}: it was not refused");
        }
    }
    assert!(refused.contains(&("wide", "names")) && refused.contains(&("marked", "dirty")));
    for name in ["encrypted", "outside", "extended", "compressed-otherwise"] {
        assert!(refused.contains(&(name, "none")), "{name}");
    }
    for name in ["plain", "wide", "based", "lazy", "old", "narrow", "marked", "marked-based", "compressed"] {
        assert!(!refused.contains(&(name, "none")), "{name}");
    }
}

/// A header that QEMU refuses is refused here too; one that QEMU opens is opened, except with overlapping tables.
#[test]
fn headers_that_qemu_refuses_are_refused_here() {
    let seeds = seeds();
    let whole = &seeds.images.iter().find(|(name, ..)| *name == "plain").unwrap().1;
    let first_level = u64::from_be_bytes(*whole[40..].first_chunk().unwrap());
    let words: [(usize, &[u32]); 11] = [
        (4, &[1, 2, 4]),
        (20, &[8, 22, 63, 64]),
        (36, &[0, 1, 0x4000_0000]),
        (60, &[70_000]),
        (72, &[1 << 31]),
        (76, &[1 << 5]),
        (80, &[1 << 31]),
        (84, &[1, 1 << 7]),
        (88, &[1 << 31]),
        (96, &[0, 5, 6, 7, u32::MAX]),
        (100, &[0, 72, 100, 103, 104, 112]),
    ];
    let longs: [(usize, &[u64]); 4] = [
        (24, &[0, (4 << 20) - 100, 1 << 60, u64::MAX]),
        (40, &[first_level + 512, 1 << 40]),
        (48, &[513]),
        (64, &[513]),
    ];
    let words = words.iter().flat_map(|(at, all)| all.iter().map(|v| (*at, v.to_be_bytes().to_vec())));
    let longs = longs.iter().flat_map(|(at, all)| all.iter().map(|v| (*at, v.to_be_bytes().to_vec())));
    let unknown = [0x1234_5678u32.to_be_bytes(), 5u32.to_be_bytes(), *b"what", *b"ever"].concat();
    let others = [(whole[100..104].iter().fold(0, |n, b| n << 8 | usize::from(*b)), unknown), (104, vec![9])];
    for (at, new) in words.chain(longs).chain(others) {
        let mut bytes = whole.clone();
        bytes[at..at + new.len()].copy_from_slice(&new);
        std::fs::write(seeds.bed.path("asked"), &bytes).unwrap();
        let opens = qemu_img(&["info", "-f", "qcow2", &seeds.bed.path("asked")]);
        bytes[AUTO_CLEAR] |= 1;
        let mut is_refused = true;
        let after = seeds.with(&bytes, false, true, |image| is_refused = image.is_err());
        assert!(after == bytes, "{new:02x?} at {at}: the image was written");
        assert_eq!(is_refused, !opens, "{new:02x?} at {at}");
    }
    for (at, place) in
        [(48, first_level), (48, 0), (40, 0), (40, u64::from_be_bytes(*whole[48..].first_chunk().unwrap()))]
    {
        let mut bytes = whole.clone();
        bytes[at..at + 8].copy_from_slice(&place.to_be_bytes());
        let mut is_refused = false;
        let after = seeds.with(&bytes, false, true, |image| is_refused = image.is_err());
        assert!(is_refused && after == bytes, "{place:#x} at {at}");
    }
}

/// Auto-clear features are cleared at the guest's first write, not before.
#[test]
fn auto_clear_features_are_cleared_by_the_first_write() {
    let seeds = seeds();
    for (name, bytes, based) in seeds.images.iter().filter(|(name, ..)| name.starts_with("marked")) {
        let memory = FakeMemory::new(4096);
        assert_eq!(bytes[AUTO_CLEAR], 1, "{name}: qemu-img has set it");
        let read = seeds.with(bytes, *based, true, |image| {
            let image = image.unwrap();
            reads().iter().for_each(|job| drop(run(&image, &*memory, job).unwrap()));
        });
        assert!(read == *bytes, "{name}: reading has changed it");
        for job in writes() {
            let written = seeds.with(bytes, *based, true, |image| {
                let image = image.unwrap();
                run(&image, &*memory, &job).unwrap();
                assert_eq!(run(&image, &*memory, &Job::Read { offset: 3 << 20, len: 4 }).unwrap().len(), 4);
            });
            assert_eq!(written[AUTO_CLEAR], 0, "{name}: {job:?}");
            std::fs::write(seeds.bed.path("written"), &written).unwrap();
            assert!(qemu_img(&["check", "-q", "-r", "leaks", &seeds.bed.path("written")]), "{name}: {job:?}");
            assert!(qemu_img(&["check", "-q", &seeds.bed.path("written")]), "{name}: {job:?}");
        }
    }
}

#[test]
fn an_image_for_reading_is_never_written_and_neither_is_what_it_is_based_on() {
    let seeds = seeds();
    let base = std::fs::read(seeds.bed.path("base")).unwrap();
    for (name, bytes, based) in &seeds.images {
        let memory = FakeMemory::new(4096);
        let after = seeds.with(bytes, *based, false, |image| {
            let Ok(image) = image else { return };
            for job in writes() {
                // TRIM is advice.
                assert!(run(&image, &*memory, &job).is_err() || matches!(job, Job::Trim(_)), "{name}: {job:?}");
            }
            reads().iter().for_each(|job| drop(run(&image, &*memory, job).unwrap()));
        });
        assert!(after == *bytes, "{name}: the image was written");
        seeds.with(bytes, *based, true, |image| {
            let Ok(image) = image else { return };
            writes().iter().for_each(|job| drop(run(&image, &*memory, job).unwrap()));
        });
        assert!(std::fs::read(seeds.bed.path("base")).unwrap() == base, "{name}: the base was written");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// With any bytes, an image is refused, or works, or the process dies; it is unchanged until the guest writes.
    #[test]
    fn an_image_that_says_anything_is_as_it_was_until_the_guest_writes(
        kind: prop::sample::Index,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..4),
        features in (prop::sample::select(vec![0u8, 0, 1, 2, 4, 8, 16, 0x80]), prop::sample::select(vec![0u8, 1, 2, 0xff])),
        misfit in prop::bool::weighted(0.1),
    ) {
        let seeds = seeds();
        let (name, whole, based) = &seeds.images[kind.index(seeds.images.len())];
        let mut bytes = whole.clone();
        if *name != "old" {
            bytes[INCOMPATIBLE] ^= features.0;
            bytes[AUTO_CLEAR] |= features.1;
        }
        // The header, and the first words of the tables after it.
        let places: Vec<usize> = (0..600).chain((1..8).flat_map(|c| (0..64).map(move |i| (c << 12) + i))).collect();
        for (place, byte, whole_byte) in changes {
            let at = places[place.index(places.len())];
            if let Some(to) = bytes.get_mut(at) {
                *to = if whole_byte { byte } else { *to ^ 1 << (byte & 7) };
            }
        }
        let memory = FakeMemory::new(4096);
        let after = seeds.with(&bytes, *based != misfit, true, |image| {
            let Ok(image) = image else { return };
            // A disk may be larger than memory, or empty.
            reads().iter().for_each(|job| drop(run(&image, &*memory, job)));
        });
        prop_assert!(after == bytes, "{}: the image was written", name);
    }
}
