//! /dev/xen/evtchn.
use crate::{Result, XenError};
use bulkhead_xen_abi::{DomId, ioctl};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// An open event channel device.
#[derive(Debug)]
pub struct Evtchn {
    fd: OwnedFd,
}

impl Evtchn {
    /// Opens the node and restricts it to the domain.
    pub fn open_restricted(domid: DomId) -> Result<OwnedFd> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/xen/evtchn", flags, rustix::fs::Mode::empty())
            .map_err(|e| XenError::new("/dev/xen/evtchn", e))?;
        // SAFETY: the request reads one domid.
        let r = unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::EVTCHN_RESTRICT_DOMID), &raw const domid) };
        if r < 0 { Err(XenError::last("EVTCHN_RESTRICT_DOMID")) } else { Ok(fd) }
    }

    /// Opens the node and allocates a port that `remote` may bind. Afterwards the descriptor can bind only ports of `only`, which
    /// the kernel does not allow to be dom0. Returns the port.
    pub fn open_unbound(remote: DomId, only: DomId) -> Result<(OwnedFd, u32)> {
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NONBLOCK;
        let fd = rustix::fs::open("/dev/xen/evtchn", flags, rustix::fs::Mode::empty())
            .map_err(|e| XenError::new("/dev/xen/evtchn", e))?;
        let domain = u32::from(remote);
        // SAFETY: the request reads one u32.
        let port =
            unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::EVTCHN_BIND_UNBOUND_PORT), &raw const domain) };
        let port = u32::try_from(port).map_err(|_| XenError::last("EVTCHN_BIND_UNBOUND_PORT"))?;
        // SAFETY: the request reads one domid.
        let r = unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(ioctl::EVTCHN_RESTRICT_DOMID), &raw const only) };
        if r < 0 { Err(XenError::last("EVTCHN_RESTRICT_DOMID")) } else { Ok((fd, port)) }
    }

    /// Wraps an open descriptor, which must be non-blocking.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Binds a port of the domain; returns the local port.
    pub fn bind(&self, domid: DomId, remote_port: u32) -> Result<u32> {
        let arg = ioctl::BindInterdomain { remote_domain: u32::from(domid), remote_port };
        // SAFETY: the request reads one BindInterdomain.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::EVTCHN_BIND_INTERDOMAIN), &raw const arg) };
        u32::try_from(r).map_err(|_| XenError::last("EVTCHN_BIND_INTERDOMAIN"))
    }

    /// Unbinds a local port.
    pub fn unbind(&self, port: u32) -> Result<()> {
        // SAFETY: the request reads one port.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::EVTCHN_UNBIND), &raw const port) };
        if r < 0 { Err(XenError::last("EVTCHN_UNBIND")) } else { Ok(()) }
    }

    /// Signals the other side of a local port.
    pub fn notify(&self, port: u32) -> Result<()> {
        // SAFETY: the request reads one port.
        let r = unsafe { libc::ioctl(self.fd.as_raw_fd(), u64::from(ioctl::EVTCHN_NOTIFY), &raw const port) };
        if r < 0 { Err(XenError::last("EVTCHN_NOTIFY")) } else { Ok(()) }
    }

    /// Reads ports that have fired; each stays masked until [`Self::unmask`]. Returns their number.
    pub fn pending(&self, ports: &mut [u32; 16]) -> Result<usize> {
        use zerocopy::IntoBytes;
        match rustix::io::read(&self.fd, ports.as_mut_bytes()) {
            Ok(bytes) => Ok(bytes >> 2),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(e) => Err(XenError::new("read of /dev/xen/evtchn", e)),
        }
    }

    /// Unmasks ports.
    pub fn unmask(&self, ports: &[u32]) -> Result<()> {
        use zerocopy::IntoBytes;
        rustix::io::write(&self.fd, ports.as_bytes())
            .map(|_| ())
            .map_err(|e| XenError::new("write of /dev/xen/evtchn", e))
    }
}

impl AsFd for Evtchn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
