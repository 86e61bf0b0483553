use super::exercised::{config, file, kernel};
use super::spec::key;
use super::*;
use bulkhead_bus::fake;

struct Bench {
    device: FwCfg,
    cx: Context,
}

impl Bench {
    fn new(kernel: &[u8], initrd: Option<&[u8]>) -> Self {
        Self::with(&config(), kernel, initrd).unwrap()
    }

    fn with(config: &Config, kernel: &[u8], initrd: Option<&[u8]>) -> Result<Self, KernelError> {
        let boot = Boot { kernel: file(kernel), initrd: initrd.and_then(file) };
        Ok(Self { device: FwCfg::new(config, boot)?, cx: fake::context(8 << 20) })
    }

    fn select(&mut self, key: u16) {
        self.device.write(Access::new(region::PORTS, 0, 2), u64::from(key), &mut self.cx).unwrap();
    }

    fn bytes(&mut self, key: u16, len: usize) -> Vec<u8> {
        self.select(key);
        (0..len).map(|_| self.device.read(Access::new(region::PORTS, 1, 1), &mut self.cx).unwrap() as u8).collect()
    }

    /// Starts a transfer; the descriptor is at 0x100.
    fn start(&mut self, control: Control, len: u32, address: u64) {
        let mut descriptor = control.into_bits().to_be_bytes().to_vec();
        descriptor.extend(len.to_be_bytes());
        descriptor.extend(address.to_be_bytes());
        self.cx.memory.write(0x100, &descriptor).unwrap();
        self.device.write(Access::new(region::DMA, 0, 4), 0, &mut self.cx).unwrap();
        self.device.write(Access::new(region::DMA, 4, 4), u64::from(0x100u32.swap_bytes()), &mut self.cx).unwrap();
    }

    fn control(&self) -> u32 {
        let mut bytes = [0; 4];
        self.cx.memory.read(0x100, &mut bytes).unwrap();
        u32::from_be_bytes(bytes)
    }

    fn memory(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.cx.memory.read(address, &mut bytes).unwrap();
        bytes
    }
}

fn read(key: u16) -> Control {
    Control::new().with_select(true).with_read(true).with_key(key)
}

#[test]
fn firmware_finds_the_device_and_its_files() {
    let mut b = Bench::new(&kernel(), None);
    assert_eq!(b.bytes(key::SIGNATURE, 5), *b"QEMU\0", "zero after the end");
    assert_eq!(b.bytes(key::ID, 4), [3, 0, 0, 0]);
    let signature = b.device.read(Access::new(region::DMA, 0, 4), &mut b.cx).unwrap() as u32;
    assert_eq!(signature.to_le_bytes(), *b"QEMU");
    let directory = b.bytes(key::FILES, 4 + 4 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 4]);
    let files: Vec<_> = directory[4..]
        .chunks(64)
        .map(|f| {
            (String::from_utf8_lossy(&f[8..]).trim_end_matches('\0').to_owned(), u16::from_be_bytes([f[4], f[5]]), f[3])
        })
        .collect();
    let names: Vec<_> = files.iter().map(|f| f.0.as_str()).collect();
    assert_eq!(names, ["bootorder", "etc/boot-fail-wait", "etc/boot-menu-wait", "genroms/linuxboot.bin"]);
    let order = b.bytes(files[0].1, usize::from(files[0].2));
    assert_eq!(order, b"/rom@genroms/linuxboot.bin\n\0");
    let rom = b.bytes(files[3].1, 512);
    assert_eq!(rom[..3], [0x55, 0xaa, 1]);
    assert_eq!(rom.iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0, "the ROM's checksum");
    assert_eq!(rom[0x20..0x40].iter().fold(0u8, |s, b| s.wrapping_add(*b)), 0, "its PnP header's");
    assert_eq!(b.bytes(0x7777, 2), [0, 0], "nothing is there");
}

#[test]
fn the_boot_rom_is_what_its_source_says() {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/fw_cfg/linuxboot.asm");
    let out = std::env::temp_dir().join(format!("linuxboot-{}", std::process::id()));
    let status = std::process::Command::new("nasm").args(["-f", "bin", source, "-o"]).arg(&out).status().unwrap();
    let assembled = std::fs::read(&out).unwrap();
    std::fs::remove_file(out).unwrap();
    assert!(status.success() && assembled == include_bytes!("linuxboot.bin"));
}

#[test]
fn a_kernel_its_command_line_and_its_ramdisk_by_dma() {
    let mut b = Bench::new(&kernel(), Some(&[0xa5; 5000]));
    assert_eq!(b.bytes(key::SETUP_SIZE, 4), 1024u32.to_le_bytes());
    assert_eq!(b.bytes(key::KERNEL_SIZE, 4), 5120u32.to_le_bytes());
    assert_eq!(b.bytes(key::INITRD_SIZE, 4), 5000u32.to_le_bytes());
    b.start(read(key::KERNEL_DATA), 5120, 0x10_0000);
    assert_eq!((b.control(), b.memory(0x10_0000, 5120)), (0, vec![0x5a; 5120]));
    b.start(read(key::INITRD_DATA), 5000, 0x20_0000);
    assert_eq!((b.control(), b.memory(0x20_0000, 5001)), (0, [vec![0xa5; 5000], vec![0]].concat()));
    b.start(read(key::CMDLINE_DATA), 14, 0x2_0000);
    assert_eq!(b.memory(0x2_0000, 14), b"console=ttyS0\0");
    b.start(read(key::SETUP_DATA), 1024, 0x1_0000);
    let setup = b.memory(0x1_0000, 1024);
    assert_eq!((setup[0x210], setup[0x211]), (0xff, 0x81), "a loader without number, its heap may be used");
    assert_eq!(setup[0x228..0x22c], 0x2_0000u32.to_le_bytes(), "where the command line is");
    // A part of an entry; the same by the data port; and zeroes after the end.
    b.start(Control::new().with_select(true).with_skip(true).with_key(key::KERNEL_DATA), 5000, 0);
    b.start(Control::new().with_read(true), 200, 0x30_0000);
    assert_eq!(b.memory(0x30_0000, 200), [vec![0x5a; 120], vec![0; 80]].concat());
    assert_eq!(b.bytes(key::INITRD_DATA, 5001), [vec![0xa5; 5000], vec![0]].concat());
}

#[test]
fn a_long_transfer_is_made_in_pieces_and_survives_the_process() {
    let mut image = kernel();
    image.resize(5 << 20, 0x33);
    let len = image.len() as u32 - 1024;
    let mut b = Bench::new(&image, None);
    b.start(read(key::KERNEL_DATA), len, 0x10_0000);
    assert!(b.cx.take_again() && b.control() != 0, "it is not over");
    // A second transfer fails without an effect on the first.
    b.cx.memory.write(0x200, &read(key::ID).into_bits().to_be_bytes()).unwrap();
    b.device.write(Access::new(region::DMA, 4, 4), u64::from(0x200u32.swap_bytes()), &mut b.cx).unwrap();
    assert_eq!(b.memory(0x200, 4), [0, 0, 0, 1]);
    // A repeated request for the transfer in progress is ignored.
    b.device.write(Access::new(region::DMA, 4, 4), u64::from(0x100u32.swap_bytes()), &mut b.cx).unwrap();
    assert_eq!(b.control(), read(key::KERNEL_DATA).into_bits());
    // A stopped device writes nothing.
    b.device.running(false, &mut b.cx);
    b.device.poll(Ready::Again, &mut b.cx);
    b.cx.take_again();
    assert_eq!(b.memory(0x10_0000 + u64::from(PIECE), 1), [0]);
    let state = b.device.save();
    let mut next = Bench::new(&image, None);
    next.cx.memory = b.cx.memory.clone();
    next.device.load(&state, &mut next.cx).unwrap();
    while next.cx.take_again() {
        next.device.poll(Ready::Again, &mut next.cx);
    }
    assert_eq!((next.control(), next.memory(0x10_0000, len as usize)), (0, image[1024..].to_vec()));
}

#[test]
fn what_cannot_be_done_is_an_error_in_the_descriptor() {
    let mut b = Bench::new(&kernel(), None);
    b.start(read(key::KERNEL_DATA), 5120, 0xffff_ffff_f000);
    assert_eq!(b.control(), 1, "no RAM there");
    b.start(Control::new().with_select(true).with_write(true).with_key(key::CMDLINE_DATA), 4, 0x1000);
    assert_eq!(b.control(), 1, "nothing can be written");
    b.start(read(0x7777), 64 << 20, 0x1000);
    while b.cx.take_again() {
        b.device.poll(Ready::Again, &mut b.cx);
    }
    assert_eq!(b.control(), 1, "the zeroes do not fit");
    // A descriptor outside of RAM.
    b.device.write(Access::new(region::DMA, 0, 4), 0xffff_ffff, &mut b.cx).unwrap();
    b.device.write(Access::new(region::DMA, 4, 4), 0, &mut b.cx).unwrap();
    // A file that has shrunk.
    let (fd, size) = file(&kernel()).unwrap();
    let shorter = rustix::io::dup(&fd).unwrap();
    let device = FwCfg::new(&config(), Boot { kernel: Some((fd, size)), initrd: None }).unwrap();
    rustix::fs::ftruncate(&shorter, 2000).unwrap();
    b.device = device;
    b.start(read(key::KERNEL_DATA), 5120, 0x10_0000);
    assert_eq!(b.control(), 1);
}

#[test]
fn kernels_that_cannot_be_booted_are_refused_with_the_reason() {
    let refused = |kernel: &[u8], config: &Config| Bench::with(config, kernel, None).err().unwrap();
    let changed = |at: usize, byte: u8| {
        let mut bytes = kernel();
        bytes[at] = byte;
        bytes
    };
    assert_eq!(refused(b"\x7fELF", &config()), KernelError::NotLinux);
    assert_eq!(refused(&changed(0x206, 2), &config()), KernelError::OldProtocol(0x0202));
    assert_eq!(refused(&changed(0x211, 0), &config()), KernelError::OldProtocol(0x0203), "not loaded high");
    assert_eq!(refused(&changed(0x1f1, 200), &config()), KernelError::SetupSectors { sectors: 200, most: 64 });
    assert_eq!(refused(&changed(0x1f1, 60), &config()), KernelError::Truncated);
    let line = Config { command_line: "x".repeat(256), ..config() };
    assert_eq!(refused(&kernel(), &line), KernelError::CommandLine { len: 256, limit: 255 });
    let small = Config { memory_mib: 1, ..config() };
    assert_eq!(refused(&kernel(), &small), KernelError::Memory { needs_mib: 2, memory_mib: 1 });
    let bytes = kernel();
    let large = |kernel: u64, initrd: u64| {
        let kernel = file(&bytes).map(|(fd, _)| (fd, kernel));
        let initrd = file(&[]).map(|(fd, _)| (fd, initrd));
        FwCfg::new(&Config { memory_mib: 1 << 20, ..config() }, Boot { kernel, initrd }).err().unwrap()
    };
    assert_eq!(large((4 << 30) + 1024, 1), KernelError::KernelSize(4 << 30));
    assert_eq!(large(6 << 10, 4 << 30), KernelError::RamdiskSize(4 << 30));
    assert_eq!(
        KernelError::OldProtocol(0x0202).to_string(),
        "kernel: its boot protocol 2.02 is too old (2.03, loaded high)"
    );
}
