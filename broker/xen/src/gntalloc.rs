//! /dev/xen/gntalloc: a page of this domain that another one may map.
use crate::{Result, XenError};
use bulkhead_xen_abi::{DomId, ioctl};
use rustix::fd::{AsRawFd, OwnedFd};

/// A page that is granted; it is given back when the descriptor is closed and nobody maps it any more.
#[derive(Debug)]
pub struct GrantedPage {
    /// Maps it, at offset 0.
    pub fd: OwnedFd,
    /// By which the other domain maps it.
    pub gref: u32,
}

impl GrantedPage {
    /// Grants `remote` a page of zeroes, to read and write.
    pub fn new(remote: DomId) -> Result<Self> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let fd = rustix::fs::open("/dev/xen/gntalloc", flags, rustix::fs::Mode::empty())
            .map_err(|e| XenError::new("/dev/xen/gntalloc", e))?;
        let mut arg = ioctl::GntallocAllocGref {
            domid: remote,
            flags: ioctl::GNTALLOC_WRITABLE,
            count: 1,
            index: 0,
            gref: 0,
            pad: 0,
        };
        // SAFETY: the request reads the structure and writes its index and `count` = 1 reference.
        let r = unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::GNTALLOC_ALLOC_GREF), &raw mut arg) };
        if r < 0 {
            return Err(XenError::last("GNTALLOC_ALLOC_GREF"));
        }
        // The first page of a descriptor is at its start; whoever gets the descriptor relies on it.
        if arg.index != 0 {
            return Err(XenError {
                what: "GNTALLOC_ALLOC_GREF: index",
                source: std::io::ErrorKind::InvalidData.into(),
            });
        }
        Ok(Self { fd, gref: arg.gref })
    }
}
