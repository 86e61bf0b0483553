//! Disks in qcow2 images, in the real process with its real filter.
use bulkhead_sim::{Options, Sim};
use bulkhead_xen_abi::ioreq;
use std::process::Command;

fn qemu_img(arguments: &[&str]) {
    let out = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(
        out.status.success(),
        "qemu-img {arguments:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

/// A base image whose words are their indices, and two images over it.
fn chain(dir: &tempfile::TempDir) -> impl Fn(&str) -> String {
    let path = dir.path().to_owned();
    let path = move |name: &str| path.join(name).display().to_string();
    std::fs::write(path("base"), (0..1u32 << 18).flat_map(u32::to_le_bytes).collect::<Vec<_>>()).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base", &path("middle")]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "middle", &path("top")]);
    path
}

fn start(image: &str) -> Result<Sim, String> {
    let drive = format!("file={image},if=ide,index=0,media=disk,format=qcow2,cache=writeback");
    Sim::start(&Options::new(&["-machine", "xenfv", "-m", "16", "-drive", &drive])).map_err(|e| e.to_string())
}

fn await_status(sim: &mut Sim, mask: u32, want: u32) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let status = sim.port_read(0x1f7, 1).unwrap();
        if status & mask == want {
            return;
        }
        assert!(std::time::Instant::now() < end, "status {status:#x}");
    }
}

/// READ or WRITE SECTORS of one sector.
fn command(sim: &mut Sim, command: u32, lba: u32) {
    for (port, value) in [
        (0x1f6, 0xe0 | lba >> 24),
        (0x1f2, 1),
        (0x1f3, lba & 0xff),
        (0x1f4, lba >> 8 & 0xff),
        (0x1f5, lba >> 16 & 0xff),
        (0x1f7, command),
    ] {
        sim.port_write(port, 1, value).unwrap();
    }
    await_status(sim, 0x88, 0x08);
}

/// Reads a sector. A command whose register writes were lost (the broker may notice a death later than this test) ends with an
/// error and is repeated.
fn read_again(sim: &mut Sim, lba: u32) -> Vec<u8> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        for (port, value) in [(0x1f6, 0xe0 | lba >> 24), (0x1f2, 1), (0x1f3, lba & 0xff)] {
            sim.port_write(port, 1, value).unwrap();
        }
        for (port, value) in [(0x1f4, lba >> 8 & 0xff), (0x1f5, lba >> 16 & 0xff), (0x1f7, 0x20)] {
            sim.port_write(port, 1, value).unwrap();
        }
        await_status(sim, 0x80, 0);
        if sim.port_read(0x1f7, 1).unwrap() & 0x09 == 0x08 {
            return (0..128).flat_map(|_| sim.port_read(0x1f0, 4).unwrap().to_le_bytes()).collect();
        }
        assert!(std::time::Instant::now() < end, "the command is never carried out");
    }
}

fn read(sim: &mut Sim, lba: u32) -> Vec<u8> {
    command(sim, 0x20, lba);
    (0..128).flat_map(|_| sim.port_read(0x1f0, 4).unwrap().to_le_bytes()).collect()
}

fn write(sim: &mut Sim, lba: u32, byte: u8) {
    command(sim, 0x30, lba);
    for _ in 0..128 {
        sim.port_write(0x1f0, 4, u32::from_le_bytes([byte; 4])).unwrap();
    }
    await_status(sim, 0x88, 0);
}

#[test]
fn acknowledged_writes_survive_kills_and_the_image_is_consistent() {
    let dir = tempfile::tempdir().unwrap();
    let path = chain(&dir);
    let mut want = std::fs::read(path("base")).unwrap();
    let mut sim = start(&path("top")).unwrap();
    assert_eq!(read(&mut sim, 1000), want[1000 * 512..1001 * 512]);
    for (round, lba) in [0u32, 777, 1500, 2047].into_iter().enumerate() {
        write(&mut sim, lba, round as u8 + 1);
        want[lba as usize * 512..][..512].fill(round as u8 + 1);
        sim.replace("ide").unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while sim.port_read(0x1f7, 1).unwrap() == 0xff {
            assert!(std::time::Instant::now() < end, "it does not come back");
        }
        assert_eq!(read_again(&mut sim, lba), want[lba as usize * 512..][..512]);
    }
    // FLUSH CACHE, then the end.
    sim.port_write(0x1f7, 1, 0xe7).unwrap();
    await_status(&mut sim, 0x80, 0);
    assert!(sim.end().unwrap().success());
    qemu_img(&["check", "-q", &path("top")]);
    qemu_img(&["convert", "-O", "raw", &path("top"), &path("out")]);
    assert!(std::fs::read(path("out")).unwrap() == want, "the disk is not what was written");
}

#[test]
fn images_that_cannot_be_used_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = chain(&dir);
    let refused = |image: &str| start(image).err().unwrap();
    assert!(refused(&path("base")).contains("this is no qcow2 image"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "raw", "-b", "base", &path("orphan")]);
    std::fs::rename(path("base"), path("away")).unwrap();
    assert!(refused(&path("orphan")).contains("backing file"), "{}", refused(&path("orphan")));
    std::fs::rename(path("away"), path("base")).unwrap();
    // The host's configuration decides the permitted base of an image.
    let with = |backing: &str| {
        let drive = format!("file={},if=ide,index=0,media=disk,format=qcow2,cache=writeback", path("orphan"));
        Sim::start(&Options::new(&["-machine", "xenfv", "-m", "16", "-image-backing", backing, "-drive", &drive]))
            .map_err(|e| e.to_string())
    };
    assert!(with("none").err().unwrap().contains("-image-backing"));
    assert!(with("directory").unwrap().end().unwrap().success());
    std::fs::create_dir(path("elsewhere")).unwrap();
    std::fs::rename(path("base"), path("elsewhere/base")).unwrap();
    std::os::unix::fs::symlink("elsewhere/base", path("base")).unwrap();
    assert!(with("directory").unwrap().end().unwrap().success(), "below is allowed");
    std::fs::remove_file(path("base")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    std::fs::copy(path("elsewhere/base"), outside.path().join("base")).unwrap();
    std::os::unix::fs::symlink(outside.path().join("base"), path("base")).unwrap();
    assert!(with("directory").err().unwrap().contains("-image-backing"), "a link does not lead out");
    assert!(with("any").unwrap().end().unwrap().success());
    std::fs::remove_file(path("base")).unwrap();
    std::fs::rename(path("elsewhere/base"), path("base")).unwrap();
    // An image that two guests try to write.
    let mut sim = start(&path("top")).unwrap();
    assert!(refused(&path("top")).contains("locked by another process"));
    // An image that a guest writes is refused as a base.
    assert!(refused(&path("middle")).contains("locked by another process"));
    assert!(sim.end().unwrap().success());
    // The header names a base without its format.
    let mut bytes = std::fs::read(path("orphan")).unwrap();
    let at = bytes.windows(4).position(|w| w == 0xe279_2acau32.to_be_bytes()).unwrap();
    bytes[at] = 0;
    std::fs::write(path("orphan"), bytes).unwrap();
    assert!(refused(&path("orphan")).contains("none is guessed"), "{}", refused(&path("orphan")));
}

/// Auto-clear features stay set until the guest writes, in every process that opens the image: a machine that fails to start
/// changes nothing.
#[test]
fn a_refused_image_is_untouched_and_one_with_a_bitmap_is_until_the_guest_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = chain(&dir);
    qemu_img(&["bitmap", "--add", &path("top"), "changes"]);
    let whole = std::fs::read(path("top")).unwrap();
    for bit in [1, 2] {
        let mut bytes = whole.clone();
        bytes[79] |= bit;
        std::fs::write(path("top"), &bytes).unwrap();
        let why = start(&path("top")).err().unwrap();
        assert!(why.contains(["it was not closed", "it is marked corrupt"][bit as usize - 1]), "{why}");
        assert!(std::fs::read(path("top")).unwrap() == bytes, "the refused image was written");
    }
    std::fs::write(path("top"), &whole).unwrap();
    std::fs::copy(path("top"), path("second")).unwrap();
    let mut broken = whole.clone();
    broken[79] |= 2;
    std::fs::write(path("second"), &broken).unwrap();
    let drive = |name: &str, index: u8| format!("file={},if=ide,index={index},media=disk,format=qcow2", path(name));
    let two = ["-machine", "xenfv", "-m", "16", "-drive", &drive("top", 0), "-drive", &drive("second", 1)];
    assert!(Sim::start(&Options::new(&two)).is_err());
    assert!(std::fs::read(path("top")).unwrap() == whole, "the disk beside a refused one was written");
    let mut sim = start(&path("top")).unwrap();
    read(&mut sim, 1000);
    assert!(std::fs::read(path("top")).unwrap() == whole, "reading has changed it");
    write(&mut sim, 1000, 0x77);
    assert_eq!(read(&mut sim, 1000), vec![0x77; 512]);
    assert!(sim.end().unwrap().success());
    assert_eq!(std::fs::read(path("top")).unwrap()[95], 0);
    qemu_img(&["check", "-q", "-r", "leaks", &path("top")]);
    qemu_img(&["convert", "-O", "raw", &path("top"), &path("out")]);
    assert_eq!(std::fs::read(path("out")).unwrap()[1000 * 512..1001 * 512], [0x77; 512]);
}

/// A command sent while its process is restarted is lost. The guest receives an error once the new process runs, not by its own
/// timeout.
#[test]
fn a_command_lost_during_a_restart_ends_with_an_error_once_the_process_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = chain(&dir);
    let mut sim = start(&path("top")).unwrap();
    read(&mut sim, 5);
    let mut told = 0;
    for round in 0..4u8 {
        sim.kill("ide").unwrap();
        // WRITE SECTORS, during the restart.
        for (port, value) in [(0x1f6, 0xe0), (0x1f2, 1), (0x1f3, 9), (0x1f4, 0), (0x1f5, 0), (0x1f7, 0x30)] {
            sim.port_write(port, 1, value).unwrap();
        }
        let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let status = loop {
            let status = sim.port_read(0x1f7, 1).unwrap();
            if status != 0xff && status & 0x80 == 0 && status & 0x09 != 0 {
                break status;
            }
            assert!(std::time::Instant::now() < end, "the command is waited for in vain: {status:#x}");
        };
        told += u32::from(status & 1 == 1);
        // As a driver does after an error: a software reset and a second try.
        sim.port_write(0x3f6, 1, 4).unwrap();
        sim.port_write(0x3f6, 1, 0).unwrap();
        await_status(&mut sim, 0x80, 0);
        write(&mut sim, 9, round + 1);
        assert_eq!(read(&mut sim, 9), vec![round + 1; 512]);
    }
    assert!(told > 0, "no command fell into the moment");
    assert!(sim.end().unwrap().success());
}

/// The limit of the process's files, as the kernel has it.
fn file_size(sim: &Sim, role: &str) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", sim.process(role).unwrap())).unwrap();
    let line = limits.lines().find_map(|l| l.strip_prefix("Max file size")).unwrap();
    let both: Vec<u64> = line.split_whitespace().take(2).map(|n| n.parse().unwrap()).collect();
    assert_eq!(both[0], both[1], "soft and hard");
    both[0]
}

/// The kernel bounds what the process of a disk can write, in each of its lives: the largest of its images, not those that it only
/// reads.
#[test]
fn the_limit_of_a_disks_process_is_that_of_its_images() {
    let dir = tempfile::tempdir().unwrap();
    let drive = |name: &str, len: u64, index: u8, more: &str| {
        let path = dir.path().join(name);
        std::fs::File::create(&path).unwrap().set_len(len).unwrap();
        format!("file={},if=ide,index={index},format=raw,{more}", path.display())
    };
    let (small, large) = (drive("a", 1 << 20, 0, "media=disk"), drive("b", 3 << 20, 1, "media=disk"));
    let cd = drive("c", 64 << 20, 2, "media=cdrom,readonly=on");
    let mut sim = Sim::start(&Options::new(&["-m", "16", "-drive", &small, "-drive", &large, "-drive", &cd])).unwrap();
    assert_eq!(file_size(&sim, "ide"), 3 << 20);
    sim.replace("ide").unwrap();
    assert_eq!(file_size(&sim, "ide"), 3 << 20, "in its next life");
    assert!(sim.end().unwrap().success());
    let mut sim = Sim::start(&Options::new(&["-m", "16", "-drive", &cd])).unwrap();
    assert_eq!(file_size(&sim, "ide"), 0, "it writes nothing");
    assert!(sim.end().unwrap().success());
}

/// WRITE SECTORS EXT of 256 sectors: a guest that fills its disk.
fn fill(sim: &mut Sim, lba: u32) {
    let parts = lba.to_le_bytes().map(u32::from);
    let registers = [
        (0x1f6, 0x40),
        (0x1f2, 1),
        (0x1f3, parts[3]),
        (0x1f4, 0),
        (0x1f5, 0),
        (0x1f2, 0),
        (0x1f3, parts[0]),
        (0x1f4, parts[1]),
        (0x1f5, parts[2]),
        (0x1f7, 0x34),
    ];
    for (port, value) in registers {
        sim.port_write(port, 1, value).unwrap();
    }
    // REP OUTSD, whose operand is in memory.
    let mut outs = Sim::simple(ioreq::IOREQ_TYPE_PIO, 0x1f0, 4, 0x10000, false);
    (outs.count, outs.bits) = (128, outs.bits.with_data_is_ptr(true));
    for _ in 0..256 {
        await_status(sim, 0x89, 0x08);
        sim.request(0, outs).unwrap().unwrap();
    }
    await_status(sim, 0x89, 0);
}

/// A guest may fill its disk to its last sector, whatever the size of the clusters and their reference counts: the limit is above
/// what the library needs. Internal snapshots keep their clusters beside the new ones.
#[test]
fn a_disk_that_is_filled_twice_stays_below_the_limit() {
    for (options, snapshots) in [("cluster_size=512,refcount_bits=64", 0), ("cluster_size=64k", 1)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk").display().to_string();
        qemu_img(&["create", "-q", "-f", "qcow2", "-o", options, &path, "4M"]);
        for round in 0..=snapshots {
            let mut sim = start(&path).unwrap();
            let limit = file_size(&sim, "ide");
            assert!(sim.ram().copy_in(0x10000, &[round + 1; 512]));
            for lba in (0..8192).step_by(256) {
                fill(&mut sim, lba);
            }
            assert!(sim.end().unwrap().success());
            let len = std::fs::metadata(&path).unwrap().len();
            // The limit has 64 MiB to spare, which this guest must not need.
            assert!(len > 4 << 20 && len <= limit - (64 << 20), "{options}, round {round}: {len} of {limit}");
            qemu_img(&["check", "-q", &path]);
            qemu_img(&["convert", "-O", "raw", &path, &format!("{path}.raw")]);
            assert!(
                std::fs::read(format!("{path}.raw")).unwrap() == vec![round + 1; 4 << 20],
                "{options}, round {round}"
            );
            qemu_img(&["snapshot", "-c", "one", &path]);
        }
    }
}

/// The host's own bound for images: what needs more room is an error for the guest, and the image stays consistent.
#[test]
fn a_guest_gets_an_error_for_what_the_hosts_limit_does_not_let_its_image_have() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk").display().to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", &path, "4M"]);
    let drive = format!("file={path},if=ide,index=0,media=disk,format=qcow2");
    let arguments = ["-m", "16", "-image-limit", "512K", "-drive", &drive];
    let mut sim = Sim::start(&Options::new(&arguments)).unwrap();
    assert_eq!(file_size(&sim, "ide"), 512 << 10);
    write(&mut sim, 0, 0x5a);
    let mut refused = 0;
    // A cluster each.
    for lba in (128..4096).step_by(128) {
        command(&mut sim, 0x30, lba);
        for _ in 0..128 {
            sim.port_write(0x1f0, 4, 0).unwrap();
        }
        await_status(&mut sim, 0x80, 0);
        refused += sim.port_read(0x1f7, 1).unwrap() & 1;
    }
    assert!((20..31).contains(&refused), "{refused}");
    sim.await_log("may not become larger").unwrap();
    assert_eq!(sim.log().matches("may not become larger").count(), 1, "{}", sim.log());
    write(&mut sim, 1, 0x77);
    assert_eq!((read(&mut sim, 0), read(&mut sim, 1)), (vec![0x5a; 512], vec![0x77; 512]), "what is there is written");
    assert!(sim.end().unwrap().success());
    assert!(std::fs::metadata(&path).unwrap().len() <= 512 << 10);
    qemu_img(&["check", "-q", "-r", "leaks", &path]);
}
