//! Direct kernel boot through the interfaces of firmware and boot ROM, in a simulated machine.
use bulkhead_sim::{Options, Sim};

/// A bzImage of protocol 2.03 with 3 MiB of protected-mode code.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 1024];
    kernel.extend((0..3u32 << 18).flat_map(u32::to_le_bytes));
    kernel[0x1f1] = 1;
    kernel[0x202..0x208].copy_from_slice(b"HdrS\x03\x02");
    kernel[0x211] = 1;
    kernel[0x22c..0x230].copy_from_slice(&0x37ff_ffffu32.to_le_bytes());
    kernel
}

fn machine(dir: &tempfile::TempDir, kernel: &[u8], more: &[&str]) -> bulkhead_sim::Options {
    let (k, i) = (dir.path().join("kernel"), dir.path().join("initrd"));
    std::fs::write(&k, kernel).unwrap();
    std::fs::write(&i, [0xa5; 70_000]).unwrap();
    let (k, i) = (k.display().to_string(), i.display().to_string());
    let mut arguments = vec![
        "-machine",
        "xenfv",
        "-m",
        "16",
        "-kernel",
        &k,
        "-initrd",
        &i,
        "-append",
        "console=ttyS0",
        "-boot",
        "order=c,menu=on",
    ];
    arguments.extend(more);
    Options::new(&arguments)
}

/// Reads `len` bytes of the entry `key` to `address` by DMA and waits for it.
fn transfer(sim: &mut Sim, key: u32, len: u32, address: u64) -> u32 {
    let mut descriptor = (key << 16 | 0x0a).to_be_bytes().to_vec();
    descriptor.extend(len.to_be_bytes());
    descriptor.extend(address.to_be_bytes());
    sim.memory_write(0x7c00, &descriptor).unwrap();
    sim.port_write(0x518, 4, 0x7c00u32.swap_bytes()).unwrap();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let mut control = [0; 4];
        sim.memory_read(0x7c00, &mut control).unwrap();
        let control = u32::from_be_bytes(control);
        if control <= 1 {
            return control;
        }
        assert!(std::time::Instant::now() < end, "a transfer does not end");
        std::thread::yield_now();
    }
}

fn number(sim: &mut Sim, key: u32) -> u32 {
    assert_eq!(transfer(sim, key, 4, 0x7c10), 0);
    let mut bytes = [0; 4];
    sim.memory_read(0x7c10, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

#[test]
fn a_kernel_reaches_guest_memory_also_from_a_process_that_was_killed() {
    let dir = tempfile::tempdir().unwrap();
    let image = kernel();
    let mut sim = Sim::start(&machine(&dir, &image, &[])).unwrap();
    sim.port_write(0x510, 2, 0).unwrap();
    let signature: Vec<u8> = (0..4).map(|_| sim.port_read(0x511, 1).unwrap() as u8).collect();
    assert_eq!(signature, b"QEMU");
    assert_eq!(number(&mut sim, 0x0e) & 0xffff, 1, "the menu is on");
    for _ in 0..2 {
        let size = number(&mut sim, 0x08);
        assert_eq!(size as usize, image.len() - 1024);
        assert_eq!(transfer(&mut sim, 0x11, size, 0x10_0000), 0);
        let mut got = vec![0; size as usize];
        sim.memory_read(0x10_0000, &mut got).unwrap();
        assert!(got == image[1024..], "the kernel is another");
        assert_eq!(transfer(&mut sim, 0x12, 70_000, 0x80_0000), 0);
        assert_eq!(transfer(&mut sim, 0x12, 70_000, 0xffff_0000_0000), 1, "no RAM there");
        sim.replace("fwcfg").unwrap();
        sim.await_log("bulkhead-dm: fwcfg (pid").unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while sim.port_read(0x511, 1).unwrap() == 0xff {
            assert!(std::time::Instant::now() < end, "it does not come back");
            sim.port_write(0x510, 2, 0).unwrap();
        }
    }
    assert!(sim.end().unwrap().success());
}

#[test]
fn a_kernel_that_is_none_is_refused_in_one_line_and_nothing_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let error = Sim::start(&machine(&dir, b"\x7fELF and so on", &[])).err().unwrap().to_string();
    assert!(error.contains("kernel: this is no Linux kernel that a BIOS guest can start"), "{error}");
}

#[test]
fn a_machine_without_kernel_or_menu_has_no_fw_cfg() {
    let mut sim =
        Sim::start(&Options::new(&["-machine", "xenfv", "-m", "16", "-boot", "order=c", "-append", "quiet"])).unwrap();
    sim.port_write(0x510, 2, 0).unwrap();
    assert_eq!(sim.port_read(0x511, 1).unwrap(), 0xff);
    assert!(sim.process("fwcfg").is_none());
    assert!(sim.end().unwrap().success());
}
