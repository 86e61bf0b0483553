//! Records the guest's accesses to one device as lines of the qtest protocol, which `bulkhead-qtest` can replay; a read's value
//! follows a `#`. Accesses that the broker answers itself (shadows, configuration reads) and guest memory are not recorded.
use bulkhead_bus::{Access, Area, Declaration, Device};
use rustix::fd::OwnedFd;
use std::fmt::Write as _;

/// Most bytes that a pipe accepts as a whole or not at all (PIPE_BUF).
const WHOLE: usize = 4096;

/// A trace that is being written.
pub(crate) struct Trace {
    /// The non-blocking pipe; its reader may be slow.
    to: OwnedFd,
    declaration: Declaration,
    /// Lines lost because the pipe was full.
    pub(crate) lost: u64,
}

/// The protocol's letter for an access's size.
fn letter(size: u8) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    }
}

impl Trace {
    pub(crate) fn new(to: OwnedFd, declaration: Declaration) -> Self {
        Self { to, declaration, lost: 0 }
    }

    /// Whether a region is I/O ports, and its current base in the guest.
    fn place(&self, device: &dyn Device, region: u16) -> Option<(bool, u64)> {
        let region = self.declaration.regions.get(usize::from(region))?;
        match region.area {
            Area::Ports { base, .. } => Some((true, u64::from(base))),
            Area::Memory { base, .. } => Some((false, base)),
            Area::Bar { function, bar } => {
                let register = device.config(function)?.read(bar.checked_mul(4)?.checked_add(0x10)?, 4);
                Some(if register & 1 != 0 {
                    (true, u64::from(register & 0xfffc))
                } else {
                    (false, u64::from(register & 0xffff_fff0))
                })
            }
        }
    }

    /// Records an access, or each element of a string operation.
    pub(crate) fn access(&mut self, device: &dyn Device, at: Access, data: &[u8], write: bool) {
        let Some((ports, base)) = self.place(device, at.region) else { return };
        let address = base.wrapping_add(at.offset);
        let verb = match (ports, write) {
            (true, true) => "out",
            (true, false) => "in",
            (false, true) => "write",
            (false, false) => "read",
        };
        let size = letter(at.size);
        let mut lines = String::new();
        for element in data.chunks(usize::from(at.size).max(1)) {
            let value = element.iter().rev().fold(0u64, |v, b| v << 8 | u64::from(*b));
            let _ = if write {
                writeln!(lines, "{verb}{size} {address:#x} {value:#x}")
            } else {
                writeln!(lines, "{verb}{size} {address:#x} # {value:#x}")
            };
            if lines.len() > WHOLE.saturating_sub(64) {
                self.put(&lines);
                lines.clear();
            }
        }
        self.put(&lines);
    }

    /// Records a write to configuration space as the writes to ports 0xcf8 and 0xcfc.
    pub(crate) fn config(&mut self, function: u8, offset: u8, size: u8, value: u64) {
        let Some(spec) = self.declaration.functions.get(usize::from(function)) else { return };
        let address = 0x8000_0000u32 | u32::from(spec.bdf()) << 8 | u32::from(offset & 0xfc);
        let line = format!(
            "outl 0xcf8 {address:#x}\nout{} {:#x} {value:#x}\n",
            letter(size),
            0xcfcu32.wrapping_add(u32::from(offset & 3))
        );
        self.put(&line);
    }

    fn put(&mut self, lines: &str) {
        if !lines.is_empty() && rustix::io::write(&self.to, lines.as_bytes()) != Ok(lines.len()) {
            self.lost = self.lost.saturating_add(lines.lines().count() as u64);
        }
    }
}
