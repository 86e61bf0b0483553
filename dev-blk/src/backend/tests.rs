//! Images with tables, which `qemu-img` creates and checks.
use super::*;
use bulkhead_bus::fake::FakeMemory;
use std::path::Path;
use std::process::Command;

pub(super) fn qemu_img(arguments: &[&str]) -> bool {
    let out = Command::new("qemu-img").args(arguments).output().unwrap();
    if !out.status.success() {
        eprintln!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    }
    out.status.success()
}

pub(super) struct Bed {
    dir: std::path::PathBuf,
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Bed {
    /// A raw backing file of 4 MiB, whose 32-bit words are their own numbers, and a qcow2 image on it.
    pub(super) fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("bulkhead-images-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let bed = Self { dir };
        let data: Vec<u8> = (0..1u32 << 20).flat_map(u32::to_le_bytes).collect();
        std::fs::write(bed.path("base"), data).unwrap();
        assert!(qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base", &bed.path("top")]));
        bed
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    pub(super) fn open(&self, name: &str, writable: bool) -> OwnedFd {
        std::fs::OpenOptions::new().read(true).write(writable).open(self.path(name)).unwrap().into()
    }

    fn image(&self) -> Image {
        Chain::new(vec![(self.open("top", true), Format::Qcow2), (self.open("base", false), Format::Raw)], true)
            .and_then(Chain::open)
            .unwrap()
    }

    /// The disk's contents, as the guest would read them.
    fn converted(&self) -> Vec<u8> {
        assert!(qemu_img(&["check", "-q", &self.path("top")]), "the image is not whole");
        assert!(qemu_img(&["convert", "-O", "raw", &self.path("top"), &self.path("out")]));
        std::fs::read(self.path("out")).unwrap()
    }
}

#[test]
fn writes_are_in_the_overlay_even_if_the_process_dies_at_once() {
    let bed = Bed::new("overlay");
    let memory = FakeMemory::new(4 << 20);
    let image = bed.image();
    assert_eq!(image.size(), 4 << 20);
    let mut want = std::fs::read(bed.path("base")).unwrap();
    let run = |job| run(&image, &*memory, &job).unwrap();
    assert_eq!(run(Job::Read { offset: 512, len: 1024 }), want[512..1536]);
    run(Job::Write { offset: 700 * 512, data: vec![0x77; 1536] });
    want[700 * 512..703 * 512].fill(0x77);
    // Scattered, across the borders of clusters and of chunks.
    memory.write(0x1000, &[0x55; 0x1000]).unwrap();
    memory.write(0x10_0000, &vec![0x66; 2 << 20]).unwrap();
    run(Job::WriteDma {
        offset: 1 << 20,
        from: vec![Segment { address: 0x1000, len: 0x1000 }, Segment { address: 0x10_0000, len: 2 << 20 }],
    });
    want[1 << 20..(1 << 20) + 0x1000].fill(0x55);
    want[(1 << 20) + 0x1000..(3 << 20) + 0x1000].fill(0x66);
    run(Job::ReadDma {
        offset: (1 << 20) + 0xe00,
        to: vec![Segment { address: 0x100, len: 0x200 }, Segment { address: 0x2000, len: 0x200 }],
    });
    let mut got = [0; 0x200];
    memory.read(0x100, &mut got).unwrap();
    assert_eq!(got, [0x55; 0x200]);
    memory.read(0x2000, &mut got).unwrap();
    assert_eq!(got, [0x66; 0x200]);
    // Nothing more is written, as if the process were killed now.
    std::mem::forget(image);
    assert!(bed.converted() == want);
    let base: Vec<u8> = (0..1u32 << 20).flat_map(u32::to_le_bytes).collect();
    assert!(std::fs::read(bed.path("base")).unwrap() == base, "the base was written");
}

#[test]
fn a_sector_written_by_pio_is_there_when_the_process_dies_at_once() {
    let bed = Bed::new("pio");
    let image = bed.image();
    run(&image, &*FakeMemory::new(4096), &Job::Write { offset: 1024, data: vec![0x77; 512] }).unwrap();
    std::mem::forget(image);
    assert_eq!(bed.converted()[1024..1536], [0x77; 512]);
}

/// Tables are written only after writes that change them.
#[test]
fn writes_in_place_do_not_change_the_tables() {
    let bed = Bed::new("place");
    let image = bed.image();
    let Content::Formatted(access) = &image.content else { panic!() };
    let mut access = locked(access);
    access.write(&[1; 65536], 0).unwrap();
    assert!(access.is_unflushed());
    access.settle().unwrap();
    access.write(&[2; 4096], 8192).unwrap();
    assert!(!access.is_unflushed());
    access.write(&[2; 4096], 1 << 20).unwrap();
    assert!(access.is_unflushed());
}

#[test]
fn flush_and_trim_keep_the_image_whole() {
    let bed = Bed::new("trim");
    let memory = FakeMemory::new(4096);
    let image = bed.image();
    let run = |job| run(&image, &*memory, &job).unwrap();
    run(Job::Write { offset: 0, data: vec![1; 1 << 20] });
    run(Job::Flush);
    run(Job::Trim(vec![(65_536, 131_072), (300_000, 100)]));
    run(Job::Write { offset: 100_000, data: vec![2; 512] });
    assert_eq!(run(Job::Read { offset: 0, len: 65_536 }), vec![1; 65_536]);
    drop(image);
    assert_eq!(bed.converted()[100_000..100_512], [2; 512]);
}

#[test]
fn what_cannot_be_an_image_is_refused_with_the_reason() {
    let bed = Bed::new("refused");
    let error = Chain::new(vec![(bed.open("base", true), Format::Qcow2)], true).and_then(Chain::open).unwrap_err();
    assert!(error.to_string().starts_with("image 0 of the chain: "), "{error}");
    // Its backing file was not passed, and this crate opens no files.
    assert!(Chain::new(vec![(bed.open("top", true), Format::Qcow2)], true).and_then(Chain::open).is_err());
    assert!(Chain::new(Vec::new(), true).and_then(Chain::open).is_err());
}

const HOSTILE: &str = "BULKHEAD_HOSTILE_IMAGE";

/// The body of the test below, in a process of its own, because the library may panic on an image.
#[test]
fn hostile_image_alone() {
    let Some(dir) = std::env::var_os(HOSTILE) else { return };
    let open = |name: &str, writable| {
        std::fs::OpenOptions::new().read(true).write(writable).open(Path::new(&dir).join(name)).unwrap()
    };
    let opened =
        Chain::new(vec![(open("top", true).into(), Format::Qcow2), (open("base", false).into(), Format::Raw)], true)
            .and_then(Chain::open);
    let Ok(image) = opened else { std::process::exit(10) };
    let memory = FakeMemory::new(4096);
    let jobs = [
        Job::Read { offset: 0, len: 4096 },
        Job::Write { offset: 2 << 20, data: vec![3; 4096] },
        Job::Write { offset: 512, data: vec![4; 512] },
        Job::Flush,
    ];
    let failed = jobs.into_iter().map(|job| run(&image, &*memory, &job)).filter(Result::is_err).count();
    std::process::exit(if failed > 0 { 11 } else { 12 });
}

/// An image with any header and tables: it is refused, or each job ends with data or an error, or the process dies; it never hangs,
/// and never writes to its backing file.
#[test]
fn hostile_image_tables_that_say_anything_cost_that_disk_and_nothing_else() {
    use std::os::unix::process::ExitStatusExt as _;
    let bed = Bed::new("hostile");
    {
        let memory = FakeMemory::new(4096);
        let image = bed.image();
        run(&image, &*memory, &Job::Write { offset: 0, data: vec![1; 1 << 20] }).unwrap();
    }
    let (whole, base) = (std::fs::read(bed.path("top")).unwrap(), std::fs::read(bed.path("base")).unwrap());
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut next = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    // The header, and the first words of the tables after it (clusters of 64 KiB).
    let places: Vec<usize> =
        (0..112).chain((1..5).flat_map(|c| (0..64).map(move |i| (c << 16) + i))).filter(|p| *p < whole.len()).collect();
    let (mut refused, mut failed, mut served, mut died) = (0, 0, 0, 0);
    for _ in 0..150 {
        let mut bytes = whole.clone();
        for _ in 0..1 + next(3) {
            bytes[places[next(places.len() as u64) as usize]] = [0, 0xff, next(256) as u8, 0x80][next(4) as usize];
        }
        std::fs::write(bed.path("top"), &bytes).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "backend::tests::hostile_image_alone"])
            .env(HOSTILE, &bed.dir)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let begun = std::time::Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed().as_secs() < 20, "an image holds the process up for ever");
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        match (status.code(), status.signal()) {
            (Some(10), _) => refused += 1,
            (Some(11), _) => failed += 1,
            (Some(12), _) => served += 1,
            _ => died += 1,
        }
    }
    assert!(
        refused > 10 && failed > 0 && served > 10,
        "refused {refused}, failed {failed}, served {served}, died {died}"
    );
    assert!(std::fs::read(bed.path("base")).unwrap() == base, "the base was written");
    println!("refused {refused}, failed {failed}, served {served}, died {died}");
}

#[test]
fn segments_are_cut_at_chunks_and_nothing_is_lost() {
    let segments = [Segment { address: 0, len: 3 << 20 }, Segment { address: 1 << 30, len: 100 }];
    let groups = chunks(&segments);
    assert_eq!(groups.len(), 4);
    assert!(groups.iter().all(|g| whole(g) <= CHUNK));
    assert_eq!(groups.iter().map(|g| whole(g)).sum::<usize>(), (3 << 20) + 100);
    assert_eq!(groups[3], [Segment { address: 1 << 30, len: 100 }]);
}

/// A memfd with this setting. The tests call `wait_for_room` directly, because no file here is ever full.
fn waiting(when_full: bulkhead_bus::WhenFull) -> Arc<Image> {
    let file = rustix::fs::memfd_create("image", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    Arc::new(Image::raw(file, 4096).when_full(when_full))
}

#[test]
fn a_write_without_room_is_reported_or_tried_again_until_it_is_given_up() {
    use bulkhead_bus::WhenFull;
    assert!(!waiting(WhenFull::Report).wait_for_room());
    let image = waiting(WhenFull::Stop);
    assert!(image.wait_for_room(), "after a while it is tried again");
    assert!(image.waits());
    let waits = std::thread::spawn({
        let image = image.clone();
        move || while image.wait_for_room() {}
    });
    image.give_up();
    waits.join().unwrap();
    assert!(!image.wait_for_room(), "given up before it waited");
    image.room.begin();
    assert!(!image.waits() && image.wait_for_room(), "the next job may wait again");
}
