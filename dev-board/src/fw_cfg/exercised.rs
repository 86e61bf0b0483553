//! The device for its fuzz target, its corpus test and its own tests: with a small kernel and a ramdisk in files.
mod recipes;

use super::linux::{LOADED_HIGH, header};
use super::spec::{REGISTERS, SHAPES};
use super::{Boot, Config, FwCfg};
use bulkhead_bus::exercise::{Host, Restart, SETTINGS, Stage, Target};
use bulkhead_bus::{BootMenu, Device};
use rustix::fd::OwnedFd;
use std::sync::OnceLock;

/// Bytes of the ramdisk.
const RAMDISK: usize = 5000;
/// Bytes of the kernel's file.
const KERNEL_SIZE: usize = 6 << 10;
/// Bytes that a file has lost since its size was read.
const LOST: u64 = 3000;

/// A memfd with these bytes, and its size.
pub(super) fn file(bytes: &[u8]) -> Option<(OwnedFd, u64)> {
    let file = rustix::fs::memfd_create("boot", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    rustix::io::pwrite(&file, bytes, 0).ok()?;
    Some((file, bytes.len() as u64))
}

/// Writes `bytes` at `at`.
fn put(kernel: &mut [u8], at: usize, bytes: &[u8]) {
    kernel.iter_mut().skip(at).zip(bytes).for_each(|(place, byte)| *place = *byte);
}

/// A bzImage of protocol 2.03: two sectors of real-mode code, then 5 KiB of 0x5a.
pub(super) fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 1024];
    kernel.resize(KERNEL_SIZE, 0x5a);
    put(&mut kernel, header::SETUP_SECTORS, &[1]);
    put(&mut kernel, header::MAGIC, b"HdrS");
    put(&mut kernel, header::VERSION, &0x0203u16.to_le_bytes());
    put(&mut kernel, header::FLAGS, &[LOADED_HIGH]);
    put(&mut kernel, header::INITRD_MAX, &0x37ff_ffffu32.to_le_bytes());
    kernel
}

/// The configuration of the exercised device.
pub(super) fn config() -> Config {
    Config {
        vcpus: 2,
        online: 1,
        memory_mib: 64,
        menu: BootMenu { shown: true, wait: Some(1), retry: Some(2) },
        command_line: "console=ttyS0".into(),
    }
}

/// Bits of the first byte of the settings.
mod flag {
    pub(super) const NO_KERNEL: u8 = 1 << 0;
    pub(super) const NO_RAMDISK: u8 = 1 << 1;
    /// The kernel's file is shorter than its size says.
    pub(super) const SHORT_KERNEL: u8 = 1 << 2;
    pub(super) const SHORT_RAMDISK: u8 = 1 << 3;
    pub(super) const EMPTY_RAMDISK: u8 = 1 << 4;
    pub(super) const NO_COMMAND_LINE: u8 = 1 << 5;
    pub(super) const LONG_COMMAND_LINE: u8 = 1 << 6;
    pub(super) const NO_MENU: u8 = 1 << 7;
}

/// A field of the kernel's header that the settings replace, and its bytes.
fn field(number: u8) -> Option<(usize, usize)> {
    Some(match number & 7 {
        1 => (header::SETUP_SECTORS, 1),
        2 => (header::MAGIC, 4),
        3 => (header::FLAGS, 1),
        4 => (header::INITRD_MAX, 4),
        5 => (header::CMDLINE_SIZE, 4),
        6 => (header::INIT_SIZE, 4),
        7 => (header::CMDLINE, 4),
        _ => return None,
    })
}

/// What the host has: the files, and what the operator has configured.
struct Machine {
    flags: u8,
    config: Config,
    /// A kernel whose header is not the usual one.
    own_kernel: Option<OwnedFd>,
}

/// Settings: [`flag`]s; MiB of memory; vCPUs; the number of a [`field`], and the minor number of the boot protocol in the high half;
/// the field's value. Zeroes are [`config`] with [`kernel`] and a ramdisk.
fn make(stage: &Stage) -> Box<dyn Host> {
    let [flags, memory, vcpus, patch, value @ ..]: [u8; SETTINGS] = stage.settings;
    let mut config = config();
    if memory != 0 {
        config.memory_mib = memory.into();
    }
    if vcpus != 0 {
        (config.vcpus, config.online) = (u16::from(vcpus).saturating_mul(3), vcpus.into());
    }
    if flags & flag::NO_COMMAND_LINE != 0 {
        config.command_line.clear();
    }
    if flags & flag::LONG_COMMAND_LINE != 0 {
        config.command_line.push_str(&" quiet".repeat(50));
    }
    if flags & flag::NO_MENU != 0 {
        config.menu = BootMenu::default();
    }
    let own_kernel = (patch != 0).then(kernel).and_then(|mut kernel| {
        if patch >> 4 != 0 {
            put(&mut kernel, header::VERSION, &[patch >> 4, 2]);
        }
        if let Some((at, len)) = field(patch) {
            put(&mut kernel, at, value.get(..len).unwrap_or_default());
        }
        file(&kernel).map(|(file, _)| file)
    });
    Box::new(Machine { flags, config, own_kernel })
}

/// The usual kernel and ramdisk, in files that all runs share, because no run writes to them.
static KERNEL: OnceLock<Option<OwnedFd>> = OnceLock::new();
static FILE: OnceLock<Option<OwnedFd>> = OnceLock::new();

impl Machine {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn boot(&self) -> Boot {
        let copy = |file: &Option<OwnedFd>| file.as_ref().and_then(|file| file.try_clone().ok());
        let kernel = match &self.own_kernel {
            Some(file) => file.try_clone().ok(),
            None => copy(KERNEL.get_or_init(|| file(&kernel()).map(|(file, _)| file))),
        };
        let ramdisk = copy(FILE.get_or_init(|| file(&[0xa5; RAMDISK]).map(|(file, _)| file)));
        let lost = |flag| if self.has(flag) { LOST } else { 0 };
        let ramdisk_size = if self.has(flag::EMPTY_RAMDISK) { 0 } else { RAMDISK as u64 };
        Boot {
            kernel: kernel
                .filter(|_| !self.has(flag::NO_KERNEL))
                .map(|file| (file, (KERNEL_SIZE as u64).saturating_add(lost(flag::SHORT_KERNEL)))),
            initrd: ramdisk
                .filter(|_| !self.has(flag::NO_RAMDISK))
                .map(|file| (file, ramdisk_size.saturating_add(lost(flag::SHORT_RAMDISK)))),
        }
    }
}

impl Host for Machine {
    fn device(&mut self) -> Box<dyn Device> {
        // A kernel that is refused leaves a machine that boots from its disks.
        let device = FwCfg::new(&self.config, self.boot()).or_else(|_| FwCfg::new(&self.config, Boot::default()));
        Box::new(device.unwrap_or_else(|_| FwCfg::of(std::collections::BTreeMap::new())))
    }
}

/// Calls to guest memory of one access: it reads a descriptor, copies what is left of the entry, then zeroes, and writes the control
/// word. Entries are smaller than a piece (1 MiB), and zeroes that do not fit in the memory of a run fail at once.
const WORK: u64 = 4;

/// fw_cfg of a machine that boots a kernel.
pub static TARGET: Target = Target {
    work: WORK,
    registers: REGISTERS,
    shapes: SHAPES,
    recipes: recipes::ALL,
    // A key, its offset and a transfer in progress are in the saved state.
    restart: Restart::Same,
    ..Target::new("fwcfg", make)
};
