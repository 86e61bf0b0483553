//! Port 0xcf8, PCI's address register.
//!
//! Xen latches what is written to it and decodes 0xcfc by itself, so the broker need not see it: a configuration access
//! then costs one trip instead of two. But an operating system that looks for configuration mechanism 1 *reads* the
//! register back once, and Xen does not answer reads. So the register is claimed as a whole (*wide*) until the guest
//! has read it and then only written it for a while; from then on only 0xcf9 (reset control) and 0xcfb are claimed
//! (*narrow*). A byte write to 0xcfb is how Linux begins its look; it makes the claim wide again.
//! docs/decisions/0007.
use crate::edge::Edge;
use bulkhead_xen::Range;
use bulkhead_xen_abi::ioreq::Ioreq;

/// Writes without a read after which nobody is looking any more.
const WRITES: u32 = 64;

/// The address register of PCI configuration mechanism 1.
#[derive(Debug)]
pub(crate) struct Cf8 {
    latched: u32,
    wide: bool,
    read: bool,
    writes: u32,
}

/// Whether a port is one of the register's.
pub(crate) fn covers(port: u64) -> bool {
    (0xcf8..=0xcfb).contains(&port)
}

impl Cf8 {
    /// The register, claimed wide.
    pub(crate) fn new(edge: &mut impl Edge) -> Self {
        edge.claim(Range::Ports(0xcf8, 0xcfb), true);
        Self { latched: 0, wide: true, read: false, writes: 0 }
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

    /// An access to 0xcf8–0xcfb. `None`: it is not the register's (0xcf9). `Some`: the answer.
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
