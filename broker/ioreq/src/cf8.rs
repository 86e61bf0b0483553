//! Port 0xcf8, PCI's address register.
//!
//! Xen latches writes to it and decodes 0xcfc by itself, so the broker does not need the register: a configuration access then
//! costs one exit to the broker instead of two. But an operating system that probes for configuration mechanism 1 *reads* the
//! register back once, and Xen does not answer reads. So the broker claims the whole register (*wide*) until the guest has read it
//! and then only written it for a while; from then on it claims only 0xcf9 (reset control) and 0xcfb (*narrow*). Linux begins its
//! probe with a byte write to 0xcfb, which makes the claim wide again.
//! docs/decisions/0007.
use crate::edge::Edge;
use bulkhead_xen::Range;
use bulkhead_xen_abi::ioreq::Ioreq;

/// Number of writes without a read after which the probe counts as finished.
const WRITES: u32 = 64;

/// The address register of PCI configuration mechanism 1.
#[derive(Debug)]
pub(crate) struct Cf8 {
    latched: u32,
    wide: bool,
    read: bool,
    writes: u32,
}

/// Whether a port belongs to the register.
pub(crate) fn covers(port: u64) -> bool {
    (0xcf8..=0xcfb).contains(&port)
}

impl Cf8 {
    /// The register, claimed wide.
    pub(crate) fn new(edge: &mut impl Edge) -> Self {
        edge.claim(Range::Ports(0xcf8, 0xcfb), true);
        Self { latched: 0, wide: true, read: false, writes: 0 }
    }

    /// The last address that the guest has written, as far as the broker has seen it.
    pub(crate) fn latched(&self) -> u32 {
        self.latched
    }

    /// Sets it: the guest's next read of the register.
    pub(crate) fn set_latched(&mut self, address: u32) {
        self.latched = address;
    }

    fn set_wide(&mut self, wide: bool, edge: &mut impl Edge) {
        if wide == self.wide {
            return;
        }
        if wide {
            edge.claim(Range::Ports(0xcf9, 0xcf9), false);
            edge.claim(Range::Ports(0xcfb, 0xcfb), false);
            edge.claim(Range::Ports(0xcf8, 0xcfb), true);
        } else {
            edge.claim(Range::Ports(0xcf8, 0xcfb), false);
            edge.claim(Range::Ports(0xcf9, 0xcf9), true);
            edge.claim(Range::Ports(0xcfb, 0xcfb), true);
        }
        (self.wide, self.read, self.writes) = (wide, false, 0);
    }

    /// Handles an access to 0xcf8–0xcfb and returns its answer. `None`: the access is not for the register (0xcf9).
    pub(crate) fn access(&mut self, request: &Ioreq, edge: &mut impl Edge) -> Option<u32> {
        match (request.addr, request.size, request.bits.read()) {
            (0xcf8, 4, true) => {
                (self.read, self.writes) = (true, 0);
                Some(self.latched)
            }
            (0xcf8, 4, false) => {
                self.latched = request.data as u32;
                self.writes = self.writes.saturating_add(1);
                if self.read && self.writes > WRITES {
                    self.set_wide(false, edge);
                }
                Some(0)
            }
            (0xcfb, 1, true) => Some(self.latched >> 24),
            (0xcfb, 1, false) => {
                self.set_wide(true, edge);
                Some(0)
            }
            _ => None,
        }
    }
}
