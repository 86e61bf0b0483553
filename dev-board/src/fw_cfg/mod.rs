//! fw_cfg, the firmware's configuration device: a kernel to boot, and settings of the boot menu. It is a device and a process of
//! its own, which a machine has only if it needs it: it reads files and writes guest memory, and the board does neither.
//!
//! | file | what | source |
//! |---|---|---|
//! | `spec.rs` | ports, keys, the DMA descriptor | QEMU's docs/specs/fw_cfg.rst |
//! | `error.rs` | why a kernel is refused | |
//! | `entry.rs` | the contents of one key: bytes, or a part of a file | |
//! | `entries.rs` | all keys and their contents | QEMU's docs/specs/fw_cfg.rst; SeaBIOS' docs/Runtime_config.md |
//! | `linux.rs` | a bzImage and its setup header | Linux' Documentation/arch/x86/boot.rst |
//! | `linuxboot.asm` | the option ROM that loads and enters it | the same; BIOS Boot Specification 1.01 |
mod entries;
mod entry;
mod error;
mod exercised;
mod linux;
mod spec;
#[cfg(test)]
mod tests;

pub use error::KernelError;
pub use exercised::TARGET;

use bulkhead_bus::BootMenu;
use bulkhead_bus::{
    Access, Context, Declaration, Device, Inspect, IoError, IoResult, Ready, Region, Reset, Segment, StateError,
};
use entry::Entry;
use prost::Message as _;
use rustix::fd::{AsFd, OwnedFd};
use spec::{Control, DESCRIPTOR, DMA_ADDRESS, DMA_SIGNATURE, SELECTOR};
use std::collections::BTreeMap;

/// Regions, by index.
mod region {
    pub(super) const PORTS: u16 = 0;
    pub(super) const DMA: u16 = 1;
}

/// Most bytes that a transfer copies before other work is handled.
const PIECE: u32 = 1 << 20;
/// Bytes of a file that are read at once for the data port.
const WINDOW: usize = 4096;
/// Version of the saved state.
const VERSION: u32 = 1;

/// Configuration of fw_cfg.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Most vCPUs of the guest.
    pub vcpus: u16,
    /// vCPUs that the guest starts with.
    pub online: u16,
    /// The guest's RAM in MiB, to refuse a kernel that does not fit.
    pub memory_mib: u64,
    /// Settings of the firmware's boot menu.
    pub menu: BootMenu,
    /// The kernel's command line.
    pub command_line: String,
}

/// The open files of a direct boot.
#[derive(Debug, Default)]
pub struct Boot {
    /// The kernel's file and its size in bytes; without it there is no direct boot.
    pub kernel: Option<(OwnedFd, u64)>,
    /// The ramdisk's file and its size in bytes.
    pub initrd: Option<(OwnedFd, u64)>,
}

/// fw_cfg's declaration.
pub fn declare() -> Declaration {
    Declaration {
        regions: vec![Region::ports("fw_cfg", SELECTOR, 2), Region::ports("fw_cfg DMA", DMA_ADDRESS, 8)],
        dma: true,
        ..Declaration::default()
    }
}

/// A DMA transfer in progress; each turn copies a piece of it.
#[derive(Clone, PartialEq, prost::Message)]
struct Transfer {
    /// Guest-physical address of its descriptor.
    #[prost(uint64, tag = "1")]
    descriptor: u64,
    /// Guest-physical address of the next byte.
    #[prost(uint64, tag = "2")]
    address: u64,
    /// Bytes that are not copied yet.
    #[prost(uint32, tag = "3")]
    left: u32,
}

/// The saved state.
#[derive(Clone, PartialEq, prost::Message)]
struct State {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint32, tag = "2")]
    key: u32,
    #[prost(uint32, tag = "3")]
    offset: u32,
    #[prost(uint32, tag = "4")]
    high: u32,
    #[prost(message, optional, tag = "5")]
    transfer: Option<Transfer>,
}

/// The fw_cfg device: the selected key, the offset in its entry, the DMA transfer in progress.
pub struct FwCfg {
    entries: BTreeMap<u16, Entry>,
    key: u16,
    /// Offset in the entry of the next byte.
    offset: u32,
    /// The high half of the next descriptor's address.
    high: u32,
    transfer: Option<Transfer>,
    /// A buffer for reads of a file by the data port: key, offset of the first byte, bytes.
    window: (u16, u32, Vec<u8>),
    /// Number of failed transfers, for `inspect`.
    failed: u64,
    /// The machine is stopped: guest memory must not be written.
    stopped: bool,
    dirty: bool,
}

impl FwCfg {
    /// fw_cfg with the entries of this configuration.
    ///
    /// # Errors
    /// The kernel cannot be booted in this guest.
    pub fn new(config: &Config, boot: Boot) -> Result<Self, KernelError> {
        Ok(Self::of(entries::entries(config, boot)?))
    }

    fn of(entries: BTreeMap<u16, Entry>) -> Self {
        Self {
            entries,
            key: 0,
            offset: 0,
            high: 0,
            transfer: None,
            window: (0, 0, Vec::new()),
            failed: 0,
            stopped: false,
            dirty: true,
        }
    }

    fn select(&mut self, key: u16) {
        self.key = key;
        self.offset = 0;
    }

    /// The next byte of the selected entry; zero after its end, or if the key has no entry.
    fn next(&mut self) -> u8 {
        let at = self.offset;
        let byte = match self.entries.get(&self.key) {
            Some(entry) if at >= entry.len() => return 0,
            None => return 0,
            Some(Entry::Bytes(bytes)) => bytes.get(at as usize).copied().unwrap_or(0),
            Some(Entry::File { file, offset, .. }) => {
                let (key, first, bytes) = &mut self.window;
                if *key != self.key || at < *first || at.saturating_sub(*first) as usize >= bytes.len() {
                    (*key, *first) = (self.key, at);
                    bytes.resize(WINDOW, 0);
                    let n = rustix::io::pread(file, bytes.as_mut_slice(), offset.saturating_add(u64::from(at)))
                        .unwrap_or(0);
                    bytes.truncate(n);
                }
                bytes.get(at.saturating_sub(*first) as usize).copied().unwrap_or(0)
            }
        };
        self.offset = at.saturating_add(1);
        byte
    }

    /// Begins the transfer of the descriptor at `at`.
    fn begin(&mut self, at: u64, cx: &mut Context) {
        let mut bytes = [0; DESCRIPTOR];
        if cx.memory.read(at, &mut bytes).is_err() {
            self.failed = self.failed.saturating_add(1);
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = bytes;
        let control = Control::from_bits(u32::from_be_bytes([c0, c1, c2, c3]));
        let len = u32::from_be_bytes([l0, l1, l2, l3]);
        match &self.transfer {
            // This transfer is in progress. The ROM repeats the write after a while, because a restart may have lost it.
            Some(transfer) if transfer.descriptor == at => return,
            Some(_) => return self.finish(at, true, cx),
            None => {}
        }
        if control.select() {
            self.select(control.key());
        }
        if control.read() {
            self.transfer = Some(Transfer { descriptor: at, address: u64::from_be_bytes(address), left: len });
            self.step(cx);
        } else {
            // Entries are read-only.
            if control.skip() {
                self.offset = self.offset.saturating_add(len);
            }
            self.finish(at, control.write(), cx);
        }
    }

    /// Ends a transfer by writing the descriptor's control word, for which the guest waits.
    fn finish(&mut self, descriptor: u64, error: bool, cx: &mut Context) {
        self.failed = self.failed.saturating_add(u64::from(error));
        let control = Control::new().with_error(error).into_bits();
        let _ = cx.memory.write(descriptor, &control.to_be_bytes());
    }

    /// Copies a piece of the transfer.
    fn step(&mut self, cx: &mut Context) {
        let Some(transfer) = self.transfer.as_mut().filter(|_| !self.stopped) else { return };
        let at = self.offset;
        let entry = self.entries.get(&self.key);
        let rest = entry.map_or(0, |e| e.len().saturating_sub(at));
        // After the entry's end, zeroes are copied.
        let len = transfer.left.min(PIECE).min(if rest == 0 { u32::MAX } else { rest });
        let done = match entry {
            Some(Entry::Bytes(bytes)) if rest != 0 => {
                let piece = bytes.get(at as usize..).and_then(|b| b.get(..len as usize)).unwrap_or_default();
                cx.memory.write(transfer.address, piece).is_ok()
            }
            Some(Entry::File { file, offset, .. }) if rest != 0 => {
                let to = [Segment { address: transfer.address, len }];
                cx.memory.read_file(file.as_fd(), offset.saturating_add(u64::from(at)), &to) == Ok(len as usize)
            }
            _ => cx.memory.write(transfer.address, &vec![0; len as usize]).is_ok(),
        };
        if rest != 0 {
            self.offset = at.saturating_add(len);
        }
        transfer.address = transfer.address.wrapping_add(u64::from(len));
        transfer.left = transfer.left.saturating_sub(len);
        if transfer.left != 0 && done {
            cx.again();
            return;
        }
        let descriptor = transfer.descriptor;
        self.transfer = None;
        self.finish(descriptor, !done, cx);
    }
}

impl Device for FwCfg {
    fn declaration(&self) -> Declaration {
        declare()
    }

    fn read(&mut self, at: Access, _: &mut Context) -> IoResult<u64> {
        match (at.region, at.offset, at.size) {
            (region::PORTS, 1, 1) => {
                self.dirty = true;
                Ok(u64::from(self.next()))
            }
            (region::PORTS, 0, 1 | 2) => Ok(0),
            (region::DMA, offset, size) if offset.saturating_add(u64::from(size)) <= 8 => {
                let bytes = DMA_SIGNATURE.iter().skip(offset as usize).take(usize::from(size));
                Ok(bytes.rev().fold(0, |value, b| value << 8 | u64::from(*b)))
            }
            (region::PORTS, ..) => Err(IoError::Size),
            _ => Err(IoError::NoRegister),
        }
    }

    fn write(&mut self, at: Access, value: u64, cx: &mut Context) -> IoResult<()> {
        self.dirty = true;
        match (at.region, at.offset, at.size) {
            (region::PORTS, 0, 2) => self.select(value as u16),
            // The data port is read-only.
            (region::PORTS, ..) => {}
            (region::DMA, 0, 4) => self.high = (value as u32).swap_bytes(),
            (region::DMA, 4, 4) => {
                let high = std::mem::take(&mut self.high);
                self.begin(u64::from(high) << 32 | u64::from((value as u32).swap_bytes()), cx);
            }
            (region::DMA, ..) => return Err(IoError::Size),
            _ => return Err(IoError::NoRegister),
        }
        Ok(())
    }

    fn poll(&mut self, _: Ready, cx: &mut Context) {
        self.dirty = true;
        self.step(cx);
    }

    fn reset(&mut self, _: Reset, _: &mut Context) {
        self.dirty = true;
        self.select(0);
        self.high = 0;
        self.transfer = None;
    }

    fn running(&mut self, running: bool, cx: &mut Context) {
        self.stopped = !running;
        cx.again();
    }

    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty).then(|| self.save())
    }

    fn save(&self) -> Vec<u8> {
        let (key, offset, high) = (u32::from(self.key), self.offset, self.high);
        State { version: VERSION, key, offset, high, transfer: self.transfer.clone() }.encode_to_vec()
    }

    fn load(&mut self, state: &[u8], cx: &mut Context) -> Result<(), StateError> {
        let state = State::decode(state)?;
        if state.version != VERSION {
            return Err(StateError::Version(state.version, VERSION));
        }
        self.key = u16::try_from(state.key).map_err(|_| StateError::Value("key"))?;
        (self.offset, self.high, self.transfer) = (state.offset, state.high, state.transfer);
        self.dirty = true;
        // A piece that the previous process may have copied is copied again.
        if self.transfer.is_some() {
            cx.again();
        }
        Ok(())
    }

    fn inspect(&self, out: &mut Inspect) {
        out.hex("key", self.key).hex("offset", self.offset);
        out.value(
            "transfer",
            self.transfer.as_ref().map_or("none".to_owned(), |t| format!("{:#x} bytes to {:#x}", t.left, t.address)),
        );
        out.value("transfers that failed", self.failed);
        out.group("entry", |out| {
            for (key, entry) in &self.entries {
                out.value(&format!("{key:#06x}"), format_args!("{} bytes", entry.len()));
            }
        });
    }
}
