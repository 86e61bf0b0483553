//! Device model operations (public/hvm/dm_op.h). Each is passed as 32 bytes: number, padding, 24 bytes of payload.
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// XEN_DMOP_create_ioreq_server.
pub const CREATE_IOREQ_SERVER: u32 = 1;
/// XEN_DMOP_get_ioreq_server_info.
pub const GET_IOREQ_SERVER_INFO: u32 = 2;
/// XEN_DMOP_map_io_range_to_ioreq_server.
pub const MAP_IO_RANGE: u32 = 3;
/// XEN_DMOP_unmap_io_range_from_ioreq_server.
pub const UNMAP_IO_RANGE: u32 = 4;
/// XEN_DMOP_set_ioreq_server_state.
pub const SET_IOREQ_SERVER_STATE: u32 = 5;
/// XEN_DMOP_destroy_ioreq_server.
pub const DESTROY_IOREQ_SERVER: u32 = 6;
/// XEN_DMOP_track_dirty_vram.
pub const TRACK_DIRTY_VRAM: u32 = 7;
/// XEN_DMOP_set_pci_intx_level.
pub const SET_PCI_INTX_LEVEL: u32 = 8;
/// XEN_DMOP_set_isa_irq_level.
pub const SET_ISA_IRQ_LEVEL: u32 = 9;
/// XEN_DMOP_set_pci_link_route.
pub const SET_PCI_LINK_ROUTE: u32 = 10;
/// XEN_DMOP_modified_memory.
pub const MODIFIED_MEMORY: u32 = 11;
/// XEN_DMOP_set_mem_type.
pub const SET_MEM_TYPE: u32 = 12;
/// XEN_DMOP_remote_shutdown.
pub const REMOTE_SHUTDOWN: u32 = 16;
/// XEN_DMOP_relocate_memory.
pub const RELOCATE_MEMORY: u32 = 17;
/// XEN_DMOP_pin_memory_cacheattr.
pub const PIN_MEMORY_CACHEATTR: u32 = 18;

/// HVM_IOREQSRV_BUFIOREQ_ATOMIC.
pub const BUFIOREQ_ATOMIC: u8 = 2;
/// XEN_DMOP_no_gfns.
pub const NO_GFNS: u16 = 1;
/// XEN_DMOP_IO_RANGE_PORT.
pub const IO_RANGE_PORT: u32 = 0;
/// XEN_DMOP_IO_RANGE_MEMORY.
pub const IO_RANGE_MEMORY: u32 = 1;
/// XEN_DMOP_IO_RANGE_PCI.
pub const IO_RANGE_PCI: u32 = 2;
/// HVMMEM_ram_rw.
pub const HVMMEM_RAM_RW: u16 = 0;
/// HVMMEM_ram_ro.
pub const HVMMEM_RAM_RO: u16 = 1;
/// XEN_DMOP_MEM_CACHEATTR_WB.
pub const CACHEATTR_WB: u32 = 6;

/// An operation: number and payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmOp {
    /// XEN_DMOP_*.
    pub op: u32,
    /// Zero.
    pub pad: u32,
    /// The payload, one of the structs below at offset 0.
    pub payload: [u64; 3],
}

/// Payload of [`CREATE_IOREQ_SERVER`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateIoreqServer {
    /// HVM_IOREQSRV_BUFIOREQ_*.
    pub handle_bufioreq: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// Out: the server's number.
    pub id: u16,
    /// Padding to the payload's alignment.
    pub pad2: u16,
}

/// Payload of [`GET_IOREQ_SERVER_INFO`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetIoreqServerInfo {
    /// The server.
    pub id: u16,
    /// [`NO_GFNS`].
    pub flags: u16,
    /// Out: event channel of the buffered requests.
    pub bufioreq_port: u32,
    /// Out, unused.
    pub ioreq_gfn: u64,
    /// Out, unused.
    pub bufioreq_gfn: u64,
}

/// Payload of [`MAP_IO_RANGE`] and [`UNMAP_IO_RANGE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoRange {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
    /// IO_RANGE_*.
    pub kind: u32,
    /// First port, address, or sbdf.
    pub start: u64,
    /// Last port, address or sbdf, inclusive.
    pub end: u64,
}

/// Payload of [`MODIFIED_MEMORY`]; the extents are in a second buffer.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ModifiedMemory {
    /// Number of extents.
    pub nr_extents: u32,
    /// Zero; Xen's while it goes on with an interrupted call.
    pub opaque: u32,
}

/// Pages that were written (xen_dm_op_modified_memory_extent).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Extent {
    /// Pages.
    pub count: u32,
    /// Zero.
    pub pad: u32,
    /// The first one's guest frame.
    pub first: u64,
}

/// Payload of XEN_DMOP_destroy_ioreq_server.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DestroyIoreqServer {
    /// The server.
    pub id: u16,
    /// Zero.
    pub pad: u16,
}

/// Payload of [`SET_IOREQ_SERVER_STATE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIoreqServerState {
    /// The server.
    pub id: u16,
    /// 1 = on.
    pub enabled: u8,
    /// Zero.
    pub pad: u8,
}

/// Payload of [`SET_PCI_INTX_LEVEL`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPciIntxLevel {
    /// Segment, 0.
    pub domain: u16,
    /// Bus, 0.
    pub bus: u8,
    /// Device.
    pub device: u8,
    /// 0 = INTA#.
    pub intx: u8,
    /// 1 = asserted.
    pub level: u8,
}

/// Payload of [`SET_ISA_IRQ_LEVEL`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetIsaIrqLevel {
    /// 0 to 15.
    pub isa_irq: u8,
    /// 1 = asserted.
    pub level: u8,
}

/// Payload of [`SET_PCI_LINK_ROUTE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPciLinkRoute {
    /// PIRQA to PIRQD: 0 to 3.
    pub link: u8,
    /// ISA interrupt, 0 = off.
    pub isa_irq: u8,
}

/// Payload of [`SET_MEM_TYPE`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetMemType {
    /// Pages.
    pub nr: u32,
    /// HVMMEM_*.
    pub mem_type: u16,
    /// Zero.
    pub pad: u16,
    /// First guest frame.
    pub first_pfn: u64,
}

/// Payload of [`REMOTE_SHUTDOWN`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoteShutdown {
    /// See [`crate::Shutdown`].
    pub reason: u32,
}

/// Payload of [`RELOCATE_MEMORY`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RelocateMemory {
    /// Pages.
    pub size: u32,
    /// Zero.
    pub pad: u32,
    /// First guest frame of the source.
    pub src_gfn: u64,
    /// First guest frame of the destination.
    pub dst_gfn: u64,
}

/// Payload of [`PIN_MEMORY_CACHEATTR`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PinMemoryCacheattr {
    /// First guest frame.
    pub start: u64,
    /// Last guest frame.
    pub end: u64,
    /// [`CACHEATTR_WB`].
    pub kind: u32,
    /// Zero.
    pub pad: u32,
}

/// Payload of [`TRACK_DIRTY_VRAM`]; the bitmap is the second buffer.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TrackDirtyVram {
    /// Pages; 0 stops it.
    pub nr: u32,
    /// Zero.
    pub pad: u32,
    /// First guest frame.
    pub first_pfn: u64,
}

const _: () = {
    assert!(size_of::<DmOp>() == 32);
    assert!(core::mem::offset_of!(CreateIoreqServer, id) == 4);
    assert!(size_of::<GetIoreqServerInfo>() == 24);
    assert!(size_of::<IoRange>() == 24);
    assert!(size_of::<SetPciIntxLevel>() == 6);
    assert!(size_of::<SetMemType>() == 16);
    assert!(size_of::<RelocateMemory>() == 24);
    assert!(size_of::<PinMemoryCacheattr>() == 24);
    assert!(size_of::<TrackDirtyVram>() == 16);
};
