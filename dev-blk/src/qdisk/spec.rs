//! The block protocol of PV disks (xen/include/public/io/blkif.h, ring.h): numbers, and the encoding of requests in a ring.

/// The ring's layout in 32-bit and 64-bit guests (blkif.h's structures with each compiler's padding).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    X86_32,
    X86_64,
}

impl Layout {
    /// The layout by the front end's `protocol` node; without the node, that of x86-64.
    pub(super) fn of(node: Option<&str>) -> Option<Self> {
        match node {
            None | Some("" | "x86_64-abi") => Some(Self::X86_64),
            Some("x86_32-abi") => Some(Self::X86_32),
            Some(_) => None,
        }
    }

    /// Bytes of an entry: the larger of request and response.
    pub(super) const fn entry(self) -> usize {
        match self {
            Self::X86_32 => 108,
            Self::X86_64 => 112,
        }
    }

    /// Offset of a request's 64-bit identity, which the sector follows.
    const fn id(self) -> usize {
        match self {
            Self::X86_32 => 4,
            Self::X86_64 => 8,
        }
    }

    /// Encodes a response: identity, operation, status.
    pub(super) fn response(self, id: u64, operation: u8, status: i16) -> Vec<u8> {
        let mut bytes = id.to_le_bytes().to_vec();
        bytes.extend([operation, 0]);
        bytes.extend(status.to_le_bytes());
        if self == Self::X86_64 {
            bytes.extend([0; 4]);
        }
        bytes
    }
}

/// Offsets in a ring's first page (ring.h, DEFINE_RING_TYPES).
pub(super) mod ring {
    pub(crate) const REQ_PROD: usize = 0;
    pub(crate) const REQ_EVENT: usize = 4;
    pub(crate) const RSP_PROD: usize = 8;
    pub(crate) const RSP_EVENT: usize = 12;
    /// Offset of the first entry.
    pub(crate) const ENTRIES: usize = 64;
}

/// BLKIF_OP_*.
pub(super) mod op {
    pub(crate) const READ: u8 = 0;
    pub(crate) const WRITE: u8 = 1;
    pub(crate) const WRITE_BARRIER: u8 = 2;
    pub(crate) const FLUSH_DISKCACHE: u8 = 3;
    pub(crate) const DISCARD: u8 = 5;
    pub(crate) const INDIRECT: u8 = 6;
}

/// BLKIF_RSP_*.
pub(super) mod rsp {
    pub(crate) const OKAY: i16 = 0;
    pub(crate) const ERROR: i16 = -1;
    pub(crate) const EOPNOTSUPP: i16 = -2;
}

/// Bits of the `info` node.
pub(super) mod vdisk {
    pub(crate) const CDROM: u32 = 1;
    pub(crate) const REMOVABLE: u32 = 2;
    pub(crate) const READONLY: u32 = 4;
}

/// Bytes of a sector in this protocol, independent of the disk's sector size.
pub(super) const SECTOR: u64 = 512;
/// BLKIF_MAX_SEGMENTS_PER_REQUEST.
const SEGMENTS: usize = 11;
/// Most segments of an indirect request, as published to the guest.
pub(super) const INDIRECT_SEGMENTS: usize = 32;
/// Segments whose descriptions fit in a page.
const IN_PAGE: usize = 4096 / SEGMENT;
/// Bytes of a segment's description.
pub(super) const SEGMENT: usize = 8;

/// A part of a granted page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) gref: u32,
    /// First and last sector in the page.
    pub(super) first: u8,
    pub(super) last: u8,
}

impl Segment {
    /// Decodes a blkif_request_segment.
    pub(super) fn parse(bytes: &[u8; SEGMENT]) -> Self {
        let [a, b, c, d, first, last, _, _] = *bytes;
        Self { gref: u32::from_le_bytes([a, b, c, d]), first, last }
    }

    /// Number of bytes; `None` if it is not within a page.
    pub(super) fn len(self) -> Option<u16> {
        (self.first <= self.last && self.last < 8)
            .then(|| u16::from(self.last.saturating_sub(self.first)).saturating_add(1).saturating_mul(512))
    }

    /// Offset of the first byte in the page.
    pub(super) fn offset(self) -> u16 {
        u16::from(self.first).saturating_mul(512)
    }
}

/// A request's segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segments {
    Here(Vec<Segment>),
    /// The number of segments, and the granted pages with their descriptions.
    Indirect(usize, Vec<u32>),
}

/// The operation of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Read(Segments),
    Write(Segments),
    Barrier(Segments),
    Flush,
    Discard {
        sectors: u64,
    },
    /// An unknown operation.
    Unknown,
    /// A known operation with impossible fields.
    Wrong,
}

/// A decoded request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) id: u64,
    /// The operation code for the answer.
    pub(super) operation: u8,
    pub(super) sector: u64,
    pub(super) what: What,
}

impl Request {
    /// Decodes an entry of `layout`'s length.
    pub(super) fn parse(bytes: &[u8], layout: Layout) -> Self {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let half = |at: usize| u16::from_le_bytes([byte(at), byte(at.saturating_add(1))]);
        let long = |at: usize| bytes.get(at..).and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_le_bytes(*b));
        let (operation, at) = (byte(0), layout.id());
        let (sector, rest) = (at.saturating_add(8), at.saturating_add(16));
        let segments = || {
            let count = usize::from(byte(1));
            let bytes = bytes.get(rest..).unwrap_or_default().as_chunks::<SEGMENT>().0;
            (1..=SEGMENTS)
                .contains(&count)
                .then(|| Segments::Here(bytes.iter().take(count).map(Segment::parse).collect()))
        };
        let what = match operation {
            op::READ => segments().map_or(What::Wrong, What::Read),
            op::WRITE => segments().map_or(What::Wrong, What::Write),
            // A barrier without segments is a flush.
            op::WRITE_BARRIER if byte(1) == 0 => What::Flush,
            op::WRITE_BARRIER => segments().map_or(What::Wrong, What::Barrier),
            op::FLUSH_DISKCACHE => What::Flush,
            op::DISCARD => What::Discard { sectors: long(rest) },
            op::INDIRECT => {
                let count = usize::from(half(2));
                // After a 16-bit handle, aligned to 32 bits.
                let grefs = bytes.get(rest.saturating_add(4)..).unwrap_or_default().as_chunks::<4>().0;
                let grefs: Vec<u32> =
                    grefs.iter().take(count.div_ceil(IN_PAGE)).map(|g| u32::from_le_bytes(*g)).collect();
                match (byte(1), (1..=INDIRECT_SEGMENTS).contains(&count)) {
                    (op::READ, true) => What::Read(Segments::Indirect(count, grefs)),
                    (op::WRITE, true) => What::Write(Segments::Indirect(count, grefs)),
                    _ => What::Wrong,
                }
            }
            _ => What::Unknown,
        };
        // The answer to an indirect request has the code of the inner operation.
        let answered = if operation == op::INDIRECT { byte(1) } else { operation };
        Self { id: long(at), operation: answered, sector: long(sector), what }
    }
}

/// Number of entries of a ring of `pages` pages: as many as fit, rounded down to a power of two.
pub(super) fn entries(pages: usize, layout: Layout) -> u32 {
    let room = pages.saturating_mul(4096).saturating_sub(ring::ENTRIES).checked_div(layout.entry()).unwrap_or(0);
    u32::try_from(room).ok().and_then(u32::checked_ilog2).map_or(0, |bits| 1u32.checked_shl(bits).unwrap_or(0))
}
