//! The hypervisor that the tests play.
use crate::edge::{Edge, Marked};
use bulkhead_xen::Range;
use bulkhead_xen_abi::Shutdown;
use bulkhead_xen_abi::dm_op::Extent;
use bulkhead_xen_abi::ioreq::{BufferedIoreq, Ioreq};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::collections::{BTreeSet, VecDeque};

/// A hypervisor that checks the states of ioreq slots, as Xen does.
pub(crate) struct FakeEdge {
    pub(super) offered: Vec<Option<Ioreq>>,
    pub(super) taken: Vec<Option<Ioreq>>,
    pub(super) answers: Vec<(usize, Option<u64>)>,
    pub(super) buffered: VecDeque<(BufferedIoreq, u64)>,
    pub(crate) calls: Vec<String>,
    /// Frames that were marked as written, and the highest one that can be.
    pub(crate) modified: BTreeSet<u64>,
    pub(crate) highest: u64,
    pub(crate) broken: bool,
    fd: OwnedFd,
    /// vCPU 0 makes this request again whenever it is answered.
    pub(super) again: Option<Ioreq>,
}

impl FakeEdge {
    pub(super) fn new(vcpus: usize) -> Self {
        let fd = rustix::fs::memfd_create("edge", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        Self {
            offered: vec![None; vcpus],
            taken: vec![None; vcpus],
            answers: vec![],
            buffered: VecDeque::new(),
            calls: vec![],
            modified: BTreeSet::new(),
            highest: u64::MAX,
            broken: false,
            fd,
            again: None,
        }
    }
}

impl Edge for FakeEdge {
    fn take(&mut self, vcpu: usize) -> Option<Ioreq> {
        assert!(self.taken[vcpu].is_none(), "taken before the last one was answered");
        let request = self.offered[vcpu].take().or(self.again.filter(|_| vcpu == 0))?;
        self.taken[vcpu] = Some(request);
        Some(request)
    }
    fn complete(&mut self, vcpu: usize, _: &Ioreq, data: Option<u64>) {
        assert!(self.taken[vcpu].take().is_some(), "answered what was not taken: Xen would crash the domain");
        self.answers.push((vcpu, data));
    }
    fn take_buffered(&mut self) -> Option<(BufferedIoreq, u64)> {
        self.buffered.pop_front()
    }
    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
    fn pending(&mut self) {}
    fn unmask(&mut self) -> bool {
        false
    }
    fn claim(&mut self, range: Range, claim: bool) {
        self.calls.push(format!("{} {range:?}", if claim { "claim" } else { "unclaim" }));
    }
    fn set_isa_irq(&mut self, irq: u8, level: bool) {
        self.calls.push(format!("isa {irq} {level}"));
    }
    fn set_pci_intx(&mut self, device: u8, intx: u8, level: bool) {
        self.calls.push(format!("intx {device} {intx} {level}"));
    }
    fn set_pci_link(&mut self, link: u8, irq: u8) {
        self.calls.push(format!("link {link} {irq}"));
    }
    fn modified(&mut self, extents: &[Extent]) -> Marked {
        if self.broken {
            return Marked::Failed;
        }
        // As Xen does it: from the last one to the first, up to one that is beyond.
        for Extent { first, count, .. } in extents.iter().rev() {
            if first + u64::from(*count) > self.highest {
                return Marked::Beyond;
            }
            self.modified.extend(*first..first + u64::from(*count));
        }
        self.calls.push(format!("modified {}", extents.len()));
        Marked::Done
    }
    fn server(&self) -> u16 {
        7
    }
    fn replace(&mut self, server: u16) {
        self.calls.push(format!("replace {server}"));
    }
    fn set_rom_writable(&mut self, writable: bool) {
        self.calls.push(format!("rom {writable}"));
    }
    fn relocate(&mut self, from: u64, to: u64, pages: u32) -> bool {
        self.calls.push(format!("relocate {from:#x} {to:#x} {pages}"));
        true
    }
    fn pin(&mut self, first: u64, last: u64) {
        self.calls.push(format!("pin {first:#x} {last:#x}"));
    }
    fn shutdown(&mut self, reason: Shutdown) {
        self.calls.push(format!("shutdown {reason:?}"));
    }
}
