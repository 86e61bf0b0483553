//! /dev/xen/gntalloc: grants a page of this domain to another one.
use crate::{Result, XenError};
use bulkhead_xen_abi::{DomId, ioctl};
use rustix::fd::{AsRawFd, OwnedFd};

/// A granted page; it is freed when the descriptor is closed and no domain maps it any more.
#[derive(Debug)]
pub struct GrantedPage {
    /// The descriptor that maps the page, at offset 0.
    pub fd: OwnedFd,
    /// The reference with which the other domain maps the page.
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
        // The receiver of the descriptor maps the page at its start, offset 0.
        if arg.index != 0 {
            return Err(XenError {
                what: "GNTALLOC_ALLOC_GREF: index",
                source: std::io::ErrorKind::InvalidData.into(),
            });
        }
        Ok(Self { fd, gref: arg.gref })
    }
}
