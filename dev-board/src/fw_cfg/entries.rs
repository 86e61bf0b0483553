//! The entries of fw_cfg, by key.
use super::entry::Entry;
use super::error::KernelError;
use super::linux::{CMDLINE_ADDRESS, KERNEL_ADDRESS, Linux, SETUP_ADDRESS};
use super::spec::{ID, key};
use super::{Boot, Config};
use std::collections::BTreeMap;

/// The boot ROM: `linuxboot.asm`.
const ROM: &[u8] = include_bytes!("linuxboot.bin");
/// The boot ROM's file name; firmware runs all files under `genroms/`.
const ROM_NAME: &str = "genroms/linuxboot.bin";
/// Bytes of a file's name in the directory, including the zero.
const NAME: usize = 56;

/// Sets the byte `at` so that all bytes of `bytes` add up to zero.
fn balance(bytes: &mut [u8], at: usize) {
    let sum = bytes.iter().fold(0u8, |sum, b| sum.wrapping_add(*b));
    if let Some(byte) = bytes.get_mut(at) {
        *byte = byte.wrapping_sub(sum);
    }
}

/// The boot ROM with its checksums.
pub(super) fn rom() -> Vec<u8> {
    let mut rom = ROM.to_vec();
    if let Some(header) = rom.get_mut(0x20..0x40) {
        balance(header, 9);
    }
    let last = rom.len().saturating_sub(1);
    balance(&mut rom, last);
    rom
}

/// All entries for this configuration, by key.
pub(super) fn entries(config: &Config, boot: Boot) -> Result<BTreeMap<u16, Entry>, KernelError> {
    let mut all = BTreeMap::new();
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut add = |key: u16, bytes: &[u8]| all.insert(key, Entry::Bytes(bytes.to_vec()));
    add(key::SIGNATURE, b"QEMU");
    add(key::ID, &ID.to_le_bytes());
    add(key::CPUS, &config.online.to_le_bytes());
    add(key::MAX_CPUS, &config.vcpus.to_le_bytes());
    add(key::BOOT_MENU, &u16::from(config.menu.shown).to_le_bytes());
    if let Some(ms) = config.menu.wait {
        files.push(("etc/boot-menu-wait", ms.to_le_bytes().to_vec()));
    }
    if let Some(ms) = config.menu.retry {
        files.push(("etc/boot-fail-wait", ms.to_le_bytes().to_vec()));
    }
    if let Some((kernel, kernel_size)) = boot.kernel {
        let linux = Linux::open(kernel, kernel_size, boot.initrd, &config.command_line, config.memory_mib)?;
        let size = |n: usize| u32::try_from(n).unwrap_or(0).to_le_bytes();
        add(key::SETUP_ADDRESS, &SETUP_ADDRESS.to_le_bytes());
        add(key::SETUP_SIZE, &size(linux.setup.len()));
        add(key::SETUP_DATA, &linux.setup);
        add(key::CMDLINE_ADDRESS, &CMDLINE_ADDRESS.to_le_bytes());
        add(key::CMDLINE_SIZE, &size(linux.command_line.len()));
        add(key::CMDLINE_DATA, &linux.command_line);
        add(key::KERNEL_ADDRESS, &KERNEL_ADDRESS.to_le_bytes());
        add(key::KERNEL_SIZE, &linux.kernel.len().to_le_bytes());
        add(key::INITRD_SIZE, &linux.initrd.as_ref().map_or(0, Entry::len).to_le_bytes());
        all.insert(key::KERNEL_DATA, linux.kernel);
        all.extend(linux.initrd.map(|initrd| (key::INITRD_DATA, initrd)));
        files.push((ROM_NAME, rom()));
        files.push(("bootorder", format!("/rom@{ROM_NAME}\n\0").into_bytes()));
    }
    files.sort_by_key(|(name, _)| *name);
    let mut directory = u32::try_from(files.len()).unwrap_or(0).to_be_bytes().to_vec();
    for (n, (name, bytes)) in (key::FIRST_FILE..).zip(files) {
        directory.extend(u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes());
        directory.extend(n.to_be_bytes());
        directory.extend([0; 2]);
        directory.extend(name.bytes().chain(std::iter::repeat(0)).take(NAME));
        all.insert(n, Entry::Bytes(bytes));
    }
    all.insert(key::FILES, Entry::Bytes(directory));
    Ok(all)
}
