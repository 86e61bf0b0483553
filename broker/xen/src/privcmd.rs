//! /dev/xen/privcmd: device model operations, mapping of Xen's resources, and the needed hypercalls.
use crate::{Mapping, Result, XenError};
use bulkhead_xen_abi::{DomId, Shutdown, dm_op, domctl, ioctl, memory};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An open privcmd, for one domain.
#[derive(Debug)]
pub struct Privcmd {
    fd: OwnedFd,
    domid: DomId,
}

/// The number of an ioreq server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoreqServer(pub u16);

/// A range that a server claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Range {
    /// Ports, first and last.
    Ports(u16, u16),
    /// Memory, first and last byte.
    Memory(u64, u64),
    /// A PCI function: device << 3 | function on bus 0.
    Pci(u16),
}

/// The state of a domain in Xen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    /// It runs or is paused.
    Alive,
    /// It has shut down or crashed, and has not been destroyed yet.
    Shutdown,
    /// It is being destroyed, or there is no domain of this number.
    Gone,
}

impl Privcmd {
    /// The domain's state. Needs an unrestricted descriptor and the right to domctl, which dom0 has.
    pub fn domain_state(&self) -> Result<DomainState> {
        for version in domctl::VERSIONS.rev() {
            let mut arg = domctl::GetDomainInfo {
                cmd: domctl::GETDOMAININFO,
                interface_version: version,
                domain: self.domid,
                pad: [0; 3],
                answer: 0,
                pad1: 0,
                flags: 0,
                rest: [0; 30],
            };
            let call = ioctl::Hypercall { op: domctl::HYPERVISOR_DOMCTL, arg: [(&raw mut arg) as u64, 0, 0, 0, 0] };
            // SAFETY: Xen reads and writes one xen_domctl; the structure is large enough for every version.
            let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const call) };
            if r < 0 {
                match std::io::Error::last_os_error().raw_os_error() {
                    Some(libc::EACCES) => continue,
                    Some(libc::ESRCH) => return Ok(DomainState::Gone),
                    _ => return Err(XenError::last("getdomaininfo")),
                }
            }
            return Ok(match arg.flags {
                _ if arg.answer != self.domid => DomainState::Gone,
                flags if flags & domctl::DYING != 0 => DomainState::Gone,
                flags if flags & domctl::SHUTDOWN != 0 => DomainState::Shutdown,
                _ => DomainState::Alive,
            });
        }
        Err(XenError {
            what: "getdomaininfo: this Xen's interface version is not known",
            source: std::io::ErrorKind::Unsupported.into(),
        })
    }

    /// Opens the node, without a restriction.
    pub fn open(domid: DomId) -> Result<Self> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/xen/privcmd", flags, rustix::fs::Mode::empty())
            .map_err(|e| XenError::new("/dev/xen/privcmd", e))?;
        Ok(Self { fd, domid })
    }

    /// Wraps an open descriptor.
    pub fn from_fd(fd: OwnedFd, domid: DomId) -> Self {
        Self { fd, domid }
    }

    /// Restricts the open file to the domain, permanently and in every process that has it. It allows no hypercalls afterwards.
    pub fn restrict(self) -> Result<OwnedFd> {
        let domid = self.domid;
        // SAFETY: the request reads one domid.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_RESTRICT), &raw const domid) };
        if r < 0 { Err(XenError::last("PRIVCMD_RESTRICT")) } else { Ok(self.fd) }
    }

    fn dm_op<T: FromBytes + IntoBytes + Immutable>(
        &self,
        what: &'static str,
        op: u32,
        payload: &mut T,
        extra: Option<&mut [u8]>,
    ) -> Result<()> {
        let mut buffer = dm_op::DmOp { op, pad: 0, payload: [0; 3] };
        let bytes = payload.as_mut_bytes();
        let room = buffer.payload.as_mut_bytes();
        room.get_mut(..bytes.len())
            .ok_or(XenError { what, source: std::io::ErrorKind::InvalidInput.into() })?
            .copy_from_slice(bytes);
        let mut bufs = [
            ioctl::DmOpBuf { uptr: (&raw mut buffer) as u64, size: size_of::<dm_op::DmOp>() as u64 },
            ioctl::DmOpBuf { uptr: 0, size: 0 },
        ];
        let [_, second] = &mut bufs;
        let num = match extra {
            Some(bytes) => {
                *second = ioctl::DmOpBuf { uptr: bytes.as_mut_ptr() as u64, size: bytes.len() as u64 };
                2
            }
            None => 1,
        };
        let arg = ioctl::DmOpArg { dom: self.domid, num, pad: 0, ubufs: bufs.as_ptr() as u64 };
        // SAFETY: arg has `num` buffers on this stack frame or in `extra`, with their right sizes; Xen accesses only these.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_DM_OP), &raw const arg) };
        if r < 0 {
            return Err(XenError::last(what));
        }
        let room = buffer.payload.as_bytes();
        let bytes = payload.as_mut_bytes();
        if let Some(room) = room.get(..bytes.len()) {
            bytes.copy_from_slice(room);
        }
        Ok(())
    }

    /// Creates an ioreq server with a ring of buffered requests.
    pub fn create_ioreq_server(&self) -> Result<IoreqServer> {
        let mut arg = dm_op::CreateIoreqServer { handle_bufioreq: dm_op::BUFIOREQ_ATOMIC, ..Default::default() };
        self.dm_op("create_ioreq_server", dm_op::CREATE_IOREQ_SERVER, &mut arg, None)?;
        Ok(IoreqServer(arg.id))
    }

    /// Ends an ioreq server: its ranges are nobody's then, and accesses that wait for it are answered by Xen.
    pub fn destroy_ioreq_server(&self, server: IoreqServer) -> Result<()> {
        let mut arg = dm_op::DestroyIoreqServer { id: server.0, pad: 0 };
        self.dm_op("destroy_ioreq_server", dm_op::DESTROY_IOREQ_SERVER, &mut arg, None)
    }

    /// The event channel of the buffered requests.
    pub fn bufioreq_port(&self, server: IoreqServer) -> Result<u32> {
        let mut arg = dm_op::GetIoreqServerInfo { id: server.0, flags: dm_op::NO_GFNS, ..Default::default() };
        self.dm_op("get_ioreq_server_info", dm_op::GET_IOREQ_SERVER_INFO, &mut arg, None)?;
        Ok(arg.bufioreq_port)
    }

    /// Maps the server's two pages: buffered requests first, then the requests.
    pub fn map_ioreq_pages(&self, server: IoreqServer) -> Result<Mapping> {
        let mapping = Mapping::new(self.fd.as_fd(), 2)?;
        let arg = ioctl::MmapResource {
            dom: self.domid,
            pad: 0,
            kind: memory::RESOURCE_IOREQ_SERVER,
            id: u32::from(server.0),
            idx: 0,
            num: 2,
            addr: mapping.address(),
        };
        // SAFETY: addr is a fresh mapping of this descriptor, two pages long.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_MMAP_RESOURCE), &raw const arg) };
        if r < 0 { Err(XenError::last("PRIVCMD_MMAP_RESOURCE")) } else { Ok(mapping) }
    }

    /// Enables the server; afterwards the requests' event channel ports are valid.
    pub fn enable(&self, server: IoreqServer) -> Result<()> {
        let mut arg = dm_op::SetIoreqServerState { id: server.0, enabled: 1, pad: 0 };
        self.dm_op("set_ioreq_server_state", dm_op::SET_IOREQ_SERVER_STATE, &mut arg, None)
    }

    /// Claims a range for the server, or releases it.
    pub fn claim(&self, server: IoreqServer, range: Range, claim: bool) -> Result<()> {
        let (kind, start, end) = match range {
            Range::Ports(first, last) => (dm_op::IO_RANGE_PORT, u64::from(first), u64::from(last)),
            Range::Memory(first, last) => (dm_op::IO_RANGE_MEMORY, first, last),
            Range::Pci(bdf) => (dm_op::IO_RANGE_PCI, u64::from(bdf), u64::from(bdf)),
        };
        let mut arg = dm_op::IoRange { id: server.0, pad: 0, kind, start, end };
        if claim {
            self.dm_op("map_io_range_to_ioreq_server", dm_op::MAP_IO_RANGE, &mut arg, None)
        } else {
            self.dm_op("unmap_io_range_from_ioreq_server", dm_op::UNMAP_IO_RANGE, &mut arg, None)
        }
    }

    /// Sets the level of an ISA interrupt.
    pub fn set_isa_irq(&self, isa_irq: u8, level: bool) -> Result<()> {
        let mut arg = dm_op::SetIsaIrqLevel { isa_irq, level: u8::from(level) };
        self.dm_op("set_isa_irq_level", dm_op::SET_ISA_IRQ_LEVEL, &mut arg, None)
    }

    /// Sets the level of a PCI interrupt pin.
    pub fn set_pci_intx(&self, device: u8, intx: u8, level: bool) -> Result<()> {
        let mut arg = dm_op::SetPciIntxLevel { device, intx, level: u8::from(level), ..Default::default() };
        self.dm_op("set_pci_intx_level", dm_op::SET_PCI_INTX_LEVEL, &mut arg, None)
    }

    /// Routes a PCI link to an ISA interrupt; 0 = off.
    pub fn set_pci_link(&self, link: u8, isa_irq: u8) -> Result<()> {
        let mut arg = dm_op::SetPciLinkRoute { link, isa_irq };
        self.dm_op("set_pci_link_route", dm_op::SET_PCI_LINK_ROUTE, &mut arg, None)
    }

    /// Makes guest frames writable or read-only RAM.
    pub fn set_ram_writable(&self, first: u64, pages: u32, writable: bool) -> Result<()> {
        let mem_type = if writable { dm_op::HVMMEM_RAM_RW } else { dm_op::HVMMEM_RAM_RO };
        let mut arg = dm_op::SetMemType { nr: pages, mem_type, pad: 0, first_pfn: first };
        self.dm_op("set_mem_type", dm_op::SET_MEM_TYPE, &mut arg, None)
    }

    /// Moves guest frames.
    pub fn relocate(&self, from: u64, to: u64, pages: u32) -> Result<()> {
        let mut arg = dm_op::RelocateMemory { size: pages, pad: 0, src_gfn: from, dst_gfn: to };
        self.dm_op("relocate_memory", dm_op::RELOCATE_MEMORY, &mut arg, None)
    }

    /// Makes guest frames cacheable, independent of the guest's MTRRs.
    pub fn pin_write_back(&self, first: u64, last: u64) -> Result<()> {
        let mut arg = dm_op::PinMemoryCacheattr { start: first, end: last, kind: dm_op::CACHEATTR_WB, pad: 0 };
        self.dm_op("pin_memory_cacheattr", dm_op::PIN_MEMORY_CACHEATTR, &mut arg, None)
    }

    /// Fetches and clears the dirty bits of at most 32768 guest frames into `bitmap`.
    pub fn track_dirty_vram(&self, first: u64, pages: u32, bitmap: &mut [u8]) -> Result<()> {
        let mut arg = dm_op::TrackDirtyVram { nr: pages, pad: 0, first_pfn: first };
        self.dm_op("track_dirty_vram", dm_op::TRACK_DIRTY_VRAM, &mut arg, Some(bitmap))
    }

    /// Marks guest frames as written, while Xen logs that. Xen takes no mark of a frame from the highest one on that the guest has had, and
    /// may leave out other extents of that call (EINVAL).
    pub fn modified_memory(&self, extents: &[dm_op::Extent]) -> Result<()> {
        let mut bytes = extents.as_bytes().to_vec();
        let nr_extents = u32::try_from(extents.len()).unwrap_or(u32::MAX);
        let mut arg = dm_op::ModifiedMemory { nr_extents, opaque: 0 };
        self.dm_op("modified_memory", dm_op::MODIFIED_MEMORY, &mut arg, Some(&mut bytes))
    }

    /// Shuts the guest down.
    pub fn remote_shutdown(&self, reason: Shutdown) -> Result<()> {
        let mut arg = dm_op::RemoteShutdown { reason: reason as u32 };
        self.dm_op("remote_shutdown", dm_op::REMOTE_SHUTDOWN, &mut arg, None)
    }

    /// Gives the guest `pages` new pages from guest frame `first` on. Needs an unrestricted descriptor.
    pub fn populate(&self, first: u64, pages: u64) -> Result<()> {
        // Small batches: a preempted hypercall repeats little, and the array has only a few pages.
        let mut at = first;
        let end = first.saturating_add(pages);
        while at < end {
            let batch: Vec<u64> = (at..end.min(at.saturating_add(512))).collect();
            let reservation = memory::MemoryReservation {
                extent_start: batch.as_ptr() as u64,
                nr_extents: batch.len() as u64,
                extent_order: 0,
                mem_flags: 0,
                domid: self.domid,
                pad: [0; 3],
            };
            let call = ioctl::Hypercall {
                op: memory::HYPERVISOR_MEMORY_OP,
                arg: [memory::POPULATE_PHYSMAP, (&raw const reservation) as u64, 0, 0, 0],
            };
            // SAFETY: the argument is a reservation whose array holds nr_extents frames; both live through the call.
            let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::PRIVCMD_HYPERCALL), &raw const call) };
            if r < 0 {
                return Err(XenError::last("populate_physmap"));
            }
            if usize::try_from(r) != Ok(batch.len()) {
                return Err(XenError {
                    what: "populate_physmap: the guest's memory limit is reached",
                    source: std::io::ErrorKind::OutOfMemory.into(),
                });
            }
            at = at.saturating_add(batch.len() as u64);
        }
        Ok(())
    }
}

impl AsFd for Privcmd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
