//! Linux' ioctls on /dev/xen/{privcmd,evtchn,gntdev,gntalloc} (include/uapi/xen/{privcmd,evtchn,gntdev,gntalloc}.h).
use crate::DomId;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// IOCTL_PRIVCMD_HYPERCALL.
pub const PRIVCMD_HYPERCALL: u32 = 0x0030_5000;
/// IOCTL_PRIVCMD_MMAPBATCH_V2.
pub const PRIVCMD_MMAPBATCH_V2: u32 = 0x0020_5004;
/// IOCTL_PRIVCMD_DM_OP.
pub const PRIVCMD_DM_OP: u32 = 0x0010_5005;
/// IOCTL_PRIVCMD_RESTRICT.
pub const PRIVCMD_RESTRICT: u32 = 0x0002_5006;
/// IOCTL_PRIVCMD_MMAP_RESOURCE.
pub const PRIVCMD_MMAP_RESOURCE: u32 = 0x0020_5007;
/// IOCTL_EVTCHN_BIND_INTERDOMAIN.
pub const EVTCHN_BIND_INTERDOMAIN: u32 = 0x0008_4501;
/// IOCTL_EVTCHN_BIND_UNBOUND_PORT.
pub const EVTCHN_BIND_UNBOUND_PORT: u32 = 0x0004_4502;
/// IOCTL_GNTALLOC_ALLOC_GREF.
pub const GNTALLOC_ALLOC_GREF: u32 = 0x0018_4705;
/// GNTALLOC_FLAG_WRITABLE.
pub const GNTALLOC_WRITABLE: u16 = 1;
/// IOCTL_GNTDEV_MAP_GRANT_REF.
pub const GNTDEV_MAP_GRANT_REF: u32 = 0x0018_4700;
/// IOCTL_GNTDEV_UNMAP_GRANT_REF.
pub const GNTDEV_UNMAP_GRANT_REF: u32 = 0x0010_4701;
/// IOCTL_GNTDEV_GRANT_COPY.
pub const GNTDEV_GRANT_COPY: u32 = 0x0010_4708;
/// GNTCOPY_source_gref: the source of a copy is a granted page.
pub const GNTCOPY_SOURCE_GREF: u16 = 1;
/// GNTCOPY_dest_gref: the destination of a copy is a granted page.
pub const GNTCOPY_DEST_GREF: u16 = 2;
/// IOCTL_EVTCHN_UNBIND.
pub const EVTCHN_UNBIND: u32 = 0x0004_4503;
/// IOCTL_EVTCHN_NOTIFY.
pub const EVTCHN_NOTIFY: u32 = 0x0004_4504;
/// IOCTL_EVTCHN_RESTRICT_DOMID.
pub const EVTCHN_RESTRICT_DOMID: u32 = 0x0002_4506;

/// privcmd_hypercall.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Hypercall {
    /// Number.
    pub op: u64,
    /// Arguments.
    pub arg: [u64; 5],
}

/// privcmd_mmapbatch_v2.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmapBatchV2 {
    /// Pages.
    pub num: u32,
    /// Domain.
    pub dom: u16,
    /// Zero.
    pub pad: u16,
    /// Address in a mapping of the descriptor.
    pub addr: u64,
    /// Array of guest frames.
    pub arr: u64,
    /// Array of errors (i32), one for each page.
    pub err: u64,
}

/// privcmd_dm_op.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmOpArg {
    /// Domain.
    pub dom: u16,
    /// Buffers.
    pub num: u16,
    /// Zero.
    pub pad: u32,
    /// Array of [`DmOpBuf`].
    pub ubufs: u64,
}

/// privcmd_dm_op_buf.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DmOpBuf {
    /// Address.
    pub uptr: u64,
    /// Bytes.
    pub size: u64,
}

/// privcmd_mmap_resource.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MmapResource {
    /// Domain.
    pub dom: u16,
    /// Zero.
    pub pad: u16,
    /// XENMEM_resource_*.
    pub kind: u32,
    /// The resource's number: an ioreq server.
    pub id: u32,
    /// First frame.
    pub idx: u32,
    /// Frames.
    pub num: u64,
    /// Address in a mapping of the descriptor.
    pub addr: u64,
}

/// ioctl_evtchn_bind_interdomain.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindInterdomain {
    /// Domain.
    pub remote_domain: u32,
    /// Its port.
    pub remote_port: u32,
}

/// ioctl_gntalloc_alloc_gref, for one page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GntallocAllocGref {
    /// Who may map the page.
    pub domid: u16,
    /// GNTALLOC_*.
    pub flags: u16,
    /// Pages.
    pub count: u32,
    /// Answer: where to map it in the descriptor.
    pub index: u64,
    /// Answer: its grant reference.
    pub gref: u32,
    /// Zero.
    pub pad: u32,
}

/// ioctl_gntdev_grant_ref.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GntdevRef {
    /// Who grants.
    pub domid: u32,
    /// The grant reference.
    pub gref: u32,
}

/// ioctl_gntdev_map_grant_ref without its references, which follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GntdevMap {
    /// References that follow.
    pub count: u32,
    /// Zero.
    pub pad: u32,
    /// Answer: where to map them in the descriptor.
    pub index: u64,
}

/// ioctl_gntdev_unmap_grant_ref.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GntdevUnmap {
    /// The answer of [`GNTDEV_MAP_GRANT_REF`].
    pub index: u64,
    /// Pages.
    pub count: u32,
    /// Zero.
    pub pad: u32,
}

/// ioctl_gntdev_grant_copy.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GntdevCopy {
    /// Segments.
    pub count: u32,
    /// Zero.
    pub pad: u32,
    /// Address of the array of segments.
    pub segments: u64,
}

/// One side of a gntdev_grant_copy_segment: an address in this process, or a place in a granted page.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GntdevCopySide(pub u64);

impl GntdevCopySide {
    /// A place in a page that `domid` grants.
    pub const fn foreign(gref: u32, offset: u16, domid: DomId) -> Self {
        Self(gref as u64 | (offset as u64) << 32 | (domid as u64) << 48)
    }
}

/// gntdev_grant_copy_segment.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GntdevCopySegment {
    /// The source.
    pub source: GntdevCopySide,
    /// The destination.
    pub dest: GntdevCopySide,
    /// Bytes to copy.
    pub len: u16,
    /// GNTCOPY_*.
    pub flags: u16,
    /// Answer: 0 or a GNTST_*.
    pub status: i16,
    /// Zero.
    pub pad: u16,
}

const _: () = {
    assert!(size_of::<GntdevMap>() + size_of::<GntdevRef>() == 24);
    assert!(size_of::<GntdevUnmap>() == 16);
    assert!(size_of::<GntdevCopy>() == 16);
    assert!(size_of::<GntdevCopySegment>() == 24);
    assert!(size_of::<GntallocAllocGref>() == 24);
    assert!(size_of::<Hypercall>() == 48);
    assert!(size_of::<MmapBatchV2>() == 32);
    assert!(size_of::<DmOpArg>() == 16);
    assert!(size_of::<DmOpBuf>() == 16);
    assert!(size_of::<MmapResource>() == 32);
    assert!(size_of::<BindInterdomain>() == 8);
};
