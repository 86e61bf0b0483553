//! The device for its fuzz target, its corpus test and its own tests: with a small kernel and a ramdisk in files.
use super::{Boot, Config, FwCfg};
use bulkhead_bus::{BootMenu, Device, fake::FakeMemory};
use rustix::fd::OwnedFd;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A memfd with these bytes, and its size.
pub(super) fn file(bytes: &[u8]) -> Option<(OwnedFd, u64)> {
    let file = rustix::fs::memfd_create("boot", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    rustix::io::pwrite(&file, bytes, 0).ok()?;
    Some((file, bytes.len() as u64))
}

/// A bzImage of protocol 2.03: two sectors of real-mode code, then 5 KiB of 0x5a.
pub(super) fn kernel() -> Vec<u8> {
    let mut kernel = vec![0; 1024];
    kernel.resize(6 << 10, 0x5a);
    for (at, bytes) in [(0x1f1, &b"\x01"[..]), (0x202, b"HdrS\x03\x02"), (0x211, b"\x01"), (0x22c, b"\xff\xff\xff\x37")]
    {
        for (place, byte) in kernel.iter_mut().skip(at).zip(bytes) {
            *place = *byte;
        }
    }
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

/// An fw_cfg device with that kernel and a ramdisk of 5000 bytes.
pub fn exercised(_: &Arc<FakeMemory>) -> Box<dyn Device> {
    let boot = Boot { kernel: file(&kernel()), initrd: file(&[0xa5; 5000]) };
    Box::new(FwCfg::new(&config(), boot).unwrap_or_else(|_| FwCfg::of(BTreeMap::new())))
}
