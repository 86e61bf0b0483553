//! The broker's interface to the hypervisor.
use bulkhead_xen::{Evtchn, IoreqPages, IoreqServer, Mapping, Privcmd, Range};
use bulkhead_xen_abi::dm_op::Extent;
use bulkhead_xen_abi::ioreq::{BufferedIoreq, Ioreq};
use bulkhead_xen_abi::{DomId, Shutdown};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::HashMap;

/// The outcome of [`Edge::modified`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// All are marked.
    Done,
    /// One is beyond the guest's memory by the hypervisor's count; others may not be marked.
    Beyond,
    /// Something else was wrong.
    Failed,
}

/// The hypervisor's side of an ioreq server, and the device model operations.
pub trait Edge {
    /// Takes a vCPU's request, if there is one.
    fn take(&mut self, vcpu: usize) -> Option<Ioreq>;
    /// Answers the request and lets the vCPU continue.
    fn complete(&mut self, vcpu: usize, request: &Ioreq, data: Option<u64>);
    /// Takes the oldest buffered request and its data, if there is one.
    fn take_buffered(&mut self) -> Option<(BufferedIoreq, u64)>;
    /// A descriptor that is readable when events are pending.
    fn wait_fd(&self) -> BorrowedFd<'_>;
    /// Called when [`Self::wait_fd`] was readable.
    fn pending(&mut self);
    /// Called before sleeping: unmasks events. Returns whether any were masked.
    fn unmask(&mut self) -> bool;
    /// Claims a range, or releases it.
    fn claim(&mut self, range: Range, claim: bool);
    /// Sets the level of an ISA interrupt line.
    fn set_isa_irq(&mut self, irq: u8, level: bool);
    /// Sets the level of an interrupt pin of a PCI device.
    fn set_pci_intx(&mut self, device: u8, intx: u8, level: bool);
    /// Routes a PCI interrupt link (PIRQ) to an ISA interrupt; 0: to none.
    fn set_pci_link(&mut self, link: u8, irq: u8);
    /// Makes the firmware's memory, 0xc0000–0xfffff, writable or read-only.
    fn set_rom_writable(&mut self, writable: bool);
    /// Has the guest's accesses to these frames cached, whatever its own registers say: Xen forgets that with the domain.
    fn pin(&mut self, first: u64, last: u64);
    /// Moves video RAM. False if it could not be moved.
    fn relocate(&mut self, from: u64, to: u64, pages: u32) -> bool;
    /// Shuts the guest down.
    fn shutdown(&mut self, reason: Shutdown);
    /// Marks guest frames as written, for a copy of the guest's memory that is made meanwhile.
    fn modified(&mut self, extents: &[Extent]) -> Marked;
    /// Number of the ioreq server.
    fn server(&self) -> u16;
    /// Ends another ioreq server of the domain: that of the broker before a soft reset. Xen keeps it as long as the domain lives.
    fn replace(&mut self, server: u16);
}

/// The edge to Xen: the ioreq pages, event channels and device model operations of one domain.
pub struct XenEdge {
    privcmd: Privcmd,
    evtchn: Evtchn,
    server: IoreqServer,
    pages: IoreqPages,
    /// Local port of each vCPU.
    ports: Vec<u32>,
    masked: Vec<u32>,
    refused: HashMap<&'static str, u64>,
}

impl XenEdge {
    /// Creates the ioreq server. Both descriptors are restricted to the domain.
    pub fn new(domid: DomId, vcpus: u16, privcmd: OwnedFd, evtchn: OwnedFd) -> bulkhead_xen::Result<Self> {
        let privcmd = Privcmd::from_fd(privcmd, domid);
        let evtchn = Evtchn::from_fd(evtchn);
        let server = privcmd.create_ioreq_server()?;
        // Mapped before the server is enabled, because Xen checks the page by an assertion only.
        let pages = IoreqPages::new(privcmd.map_ioreq_pages(server)?);
        let buffered = privcmd.bufioreq_port(server)?;
        privcmd.enable(server)?;
        let mut ports = Vec::new();
        for vcpu in 0..usize::from(vcpus) {
            ports.push(evtchn.bind(domid, pages.event_port(vcpu))?);
        }
        evtchn.bind(domid, buffered)?;
        Ok(Self { privcmd, evtchn, server, pages, ports, masked: Vec::new(), refused: HashMap::new() })
    }

    /// Logs the first few operations that Xen refuses; the guest can cause some of them, so their number is limited.
    fn note(&mut self, what: &'static str, result: bulkhead_xen::Result<()>) -> bool {
        let Err(e) = result else { return true };
        let n = self.refused.entry(what).or_default();
        *n = n.saturating_add(1);
        if *n <= 5 {
            tracing::warn!("{e}");
        }
        false
    }
}

impl Edge for XenEdge {
    fn take(&mut self, vcpu: usize) -> Option<Ioreq> {
        self.pages.take(vcpu)
    }
    fn complete(&mut self, vcpu: usize, request: &Ioreq, data: Option<u64>) {
        self.pages.complete(vcpu, request, data);
        if let Some(port) = self.ports.get(vcpu).copied() {
            let done = self.evtchn.notify(port);
            self.note("notify", done);
        }
    }
    fn take_buffered(&mut self) -> Option<(BufferedIoreq, u64)> {
        self.pages.take_buffered()
    }
    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.evtchn.as_fd()
    }
    fn pending(&mut self) {
        let mut ports = [0; 16];
        match self.evtchn.pending(&mut ports) {
            Ok(n) => self.masked.extend_from_slice(ports.get(..n).unwrap_or(&ports)),
            Err(e) => {
                self.note("read", Err(e));
            }
        }
    }
    fn unmask(&mut self) -> bool {
        if self.masked.is_empty() {
            return false;
        }
        let done = self.evtchn.unmask(&self.masked);
        self.masked.clear();
        self.note("unmask", done)
    }
    fn claim(&mut self, range: Range, claim: bool) {
        let done = self.privcmd.claim(self.server, range, claim);
        if !self.note("claim", done) {
            tracing::debug!("{range:?} claim {claim}");
        }
    }
    fn set_isa_irq(&mut self, irq: u8, level: bool) {
        let done = self.privcmd.set_isa_irq(irq, level);
        self.note("isa", done);
    }
    fn set_pci_intx(&mut self, device: u8, intx: u8, level: bool) {
        let done = self.privcmd.set_pci_intx(device, intx, level);
        self.note("intx", done);
    }
    fn set_pci_link(&mut self, link: u8, irq: u8) {
        let done = self.privcmd.set_pci_link(link, irq);
        self.note("link", done);
    }
    fn set_rom_writable(&mut self, writable: bool) {
        let done = self.privcmd.set_ram_writable(0xc0, 0x40, writable);
        self.note("rom", done);
    }
    fn relocate(&mut self, from: u64, to: u64, pages: u32) -> bool {
        let done = self.privcmd.relocate(from, to, pages);
        if !self.note("relocate", done) {
            return false;
        }
        self.pin(to, to.saturating_add(u64::from(pages)).saturating_sub(1));
        true
    }
    fn pin(&mut self, first: u64, last: u64) {
        let pinned = self.privcmd.pin_write_back(first, last);
        self.note("pin", pinned);
    }
    fn shutdown(&mut self, reason: Shutdown) {
        tracing::info!("the guest shuts down: {reason:?}");
        let done = self.privcmd.remote_shutdown(reason);
        self.note("shutdown", done);
    }
    fn modified(&mut self, extents: &[Extent]) -> Marked {
        if extents.is_empty() {
            return Marked::Done;
        }
        match self.privcmd.modified_memory(extents) {
            Ok(()) => Marked::Done,
            Err(e) if e.source.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Marked::Beyond,
            Err(e) => {
                self.note("modified", Err(e));
                Marked::Failed
            }
        }
    }
    fn server(&self) -> u16 {
        self.server.0
    }
    fn replace(&mut self, server: u16) {
        let done = self.privcmd.destroy_ioreq_server(IoreqServer(server));
        self.note("replace", done);
    }
}

/// The edge to the simulated machine: the ioreq pages are a memfd, events are eventfds, and every device model operation is one
/// line of text on a SEQPACKET socket, sent before the answer to its access.
pub struct SimEdge {
    pages: IoreqPages,
    kick: OwnedFd,
    trace: OwnedFd,
}

impl SimEdge {
    /// An edge with the memfd of the two pages, the eventfd that the machine writes, and the socket.
    pub fn new(pages: OwnedFd, kick: OwnedFd, trace: OwnedFd) -> bulkhead_xen::Result<Self> {
        Ok(Self { pages: IoreqPages::new(Mapping::new(pages.as_fd(), 2)?), kick, trace })
    }

    fn say(&self, line: String) {
        let _ = rustix::io::write(&self.trace, line.as_bytes());
    }
}

impl Edge for SimEdge {
    fn take(&mut self, vcpu: usize) -> Option<Ioreq> {
        self.pages.take(vcpu)
    }
    fn complete(&mut self, vcpu: usize, request: &Ioreq, data: Option<u64>) {
        self.pages.complete(vcpu, request, data);
        self.say(format!("done {vcpu}"));
    }
    fn take_buffered(&mut self) -> Option<(BufferedIoreq, u64)> {
        self.pages.take_buffered()
    }
    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }
    fn pending(&mut self) {
        let _ = rustix::io::read(&self.kick, &mut [0u8; 8]);
    }
    fn unmask(&mut self) -> bool {
        false
    }
    fn claim(&mut self, range: Range, claim: bool) {
        let verb = if claim { "claim" } else { "unclaim" };
        self.say(match range {
            Range::Ports(first, last) => format!("{verb} port {first:#x} {last:#x}"),
            Range::Memory(first, last) => format!("{verb} memory {first:#x} {last:#x}"),
            Range::Pci(bdf) => format!("{verb} pci {bdf:#x} {bdf:#x}"),
        });
    }
    fn set_isa_irq(&mut self, irq: u8, level: bool) {
        self.say(format!("isa {irq} {}", u8::from(level)));
    }
    fn set_pci_intx(&mut self, device: u8, intx: u8, level: bool) {
        self.say(format!("intx {device} {intx} {}", u8::from(level)));
    }
    fn set_pci_link(&mut self, link: u8, irq: u8) {
        self.say(format!("link {link} {irq}"));
    }
    fn set_rom_writable(&mut self, writable: bool) {
        self.say(format!("rom {}", u8::from(writable)));
    }
    fn relocate(&mut self, from: u64, to: u64, pages: u32) -> bool {
        self.say(format!("relocate {from:#x} {to:#x} {pages}"));
        true
    }
    fn pin(&mut self, first: u64, last: u64) {
        self.say(format!("pin {first:#x} {last:#x}"));
    }
    fn shutdown(&mut self, reason: Shutdown) {
        self.say(format!("shutdown {}", reason as u32));
    }
    fn modified(&mut self, extents: &[Extent]) -> Marked {
        for Extent { first, count, .. } in extents {
            self.say(format!("modified {first:#x} {count}"));
        }
        Marked::Done
    }
    fn server(&self) -> u16 {
        0
    }
    fn replace(&mut self, server: u16) {
        self.say(format!("replace {server}"));
    }
}
