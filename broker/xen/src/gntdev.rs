//! /dev/xen/gntdev: pages that another domain grants to this one.
//!
//! The node cannot be restricted to a domain, so one process makes the calls for all back ends of a guest, with that guest's number
//! in each. A back end gets the same open file under a filter that allows no ioctl on it: it can map only the pages that were added
//! here.
use crate::{Mapping, Result, XenError};
use bulkhead_xen_abi::{DomId, ioctl};
use rustix::fd::{AsRawFd, OwnedFd};
use zerocopy::IntoBytes;

/// Most references of one call.
pub const MOST_REFS: usize = 256;

/// A part of a granted page, to be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantPiece {
    /// The page's grant reference.
    pub gref: u32,
    /// Offset of the first byte in the page.
    pub offset: u16,
    /// Number of bytes, not beyond the page's end.
    pub len: u16,
}

/// An open grant device, for one back end of one guest.
#[derive(Debug)]
pub struct Gntdev {
    fd: OwnedFd,
    domid: DomId,
}

impl Gntdev {
    /// Opens the node.
    pub fn open() -> Result<OwnedFd> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open("/dev/xen/gntdev", flags, rustix::fs::Mode::empty())
            .map_err(|e| XenError::new("/dev/xen/gntdev", e))
    }

    /// Wraps an open node, for pages of `domid`.
    pub fn new(fd: OwnedFd, domid: DomId) -> Self {
        Self { fd, domid }
    }

    /// Adds pages that may be mapped, 1 to [`MOST_REFS`], and returns their offset in the descriptor. The mapping fails if the
    /// guest has not granted them.
    pub fn name(&self, grefs: &[u32]) -> Result<u64> {
        if grefs.is_empty() || grefs.len() > MOST_REFS {
            return Err(XenError { what: "GNTDEV_MAP_GRANT_REF", source: std::io::ErrorKind::InvalidInput.into() });
        }
        let head = ioctl::GntdevMap { count: u32::try_from(grefs.len()).unwrap_or(0), pad: 0, index: 0 };
        let mut words: Vec<u64> = head.as_bytes().chunks_exact(8).map(word).collect();
        words.extend(
            grefs.iter().map(|gref| word(ioctl::GntdevRef { domid: u32::from(self.domid), gref: *gref }.as_bytes())),
        );
        // SAFETY: the request reads the head and `count` references after it, which are there, and writes the head's index.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::GNTDEV_MAP_GRANT_REF), words.as_mut_ptr()) };
        if r < 0 {
            return Err(XenError::last("GNTDEV_MAP_GRANT_REF"));
        }
        words
            .get(1)
            .copied()
            .ok_or(XenError { what: "GNTDEV_MAP_GRANT_REF", source: std::io::ErrorKind::InvalidData.into() })
    }

    /// Removes pages that [`Self::name`] has added at this offset. The kernel does not tell whether they are mapped; mapped pages
    /// stay mapped, and their entries in Xen's table of mapped grants in use, until the mapping goes. With `pages` 0 any number of
    /// pages is removed.
    pub fn forget(&self, index: u64, pages: u32) -> Result<()> {
        let arg = ioctl::GntdevUnmap { index, count: pages, pad: 0 };
        // SAFETY: the request reads one GntdevUnmap.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::GNTDEV_UNMAP_GRANT_REF), &raw const arg) };
        if r < 0 { Err(XenError::last("GNTDEV_UNMAP_GRANT_REF")) } else { Ok(()) }
    }

    /// Copies pieces of granted pages, one after the other, from (`to_guest`) or to `buffer` at `at`. All of them, or an error.
    pub fn copy(&self, pieces: &[GrantPiece], buffer: &Mapping, at: usize, to_guest: bool) -> Result<()> {
        let invalid = || XenError { what: "GNTDEV_GRANT_COPY", source: std::io::ErrorKind::InvalidInput.into() };
        let mut here = at;
        let mut segments = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let end =
                here.checked_add(usize::from(piece.len)).filter(|end| *end <= buffer.len()).ok_or_else(invalid)?;
            if usize::from(piece.offset).saturating_add(usize::from(piece.len)) > 4096 || piece.len == 0 {
                return Err(invalid());
            }
            let near = ioctl::GntdevCopySide(buffer.address().wrapping_add(here as u64));
            let far = ioctl::GntdevCopySide::foreign(piece.gref, piece.offset, self.domid);
            let (source, dest, flags) =
                if to_guest { (near, far, ioctl::GNTCOPY_DEST_GREF) } else { (far, near, ioctl::GNTCOPY_SOURCE_GREF) };
            segments.push(ioctl::GntdevCopySegment { source, dest, len: piece.len, flags, status: 0, pad: 0 });
            here = end;
        }
        let arg = ioctl::GntdevCopy {
            count: u32::try_from(segments.len()).map_err(|_| invalid())?,
            pad: 0,
            segments: segments.as_mut_ptr() as u64,
        };
        // SAFETY: the request reads `count` segments and writes their status; each names a piece of `buffer`, checked above, of
        // which no Rust reference exists but to atomics.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::GNTDEV_GRANT_COPY), &raw const arg) };
        if r < 0 {
            return Err(XenError::last("GNTDEV_GRANT_COPY"));
        }
        match segments.iter().all(|s| s.status == 0) {
            true => Ok(()),
            false => Err(XenError {
                what: "GNTDEV_GRANT_COPY",
                source: std::io::Error::other("a page that the guest has not granted"),
            }),
        }
    }
}

/// Eight bytes as a native word.
fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |b| u64::from_ne_bytes(*b))
}
