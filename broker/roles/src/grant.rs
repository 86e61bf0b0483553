//! The only process that may call gntdev, which maps and copies granted pages. The device works for all domains, so this process
//! fixes the guest; a back end selects pages of that guest, and has one buffer for copies.
use crate::error::BuildError;
use crate::role::{Prepared, Role, Seen, wrong};
use bulkhead_bus::{Auxiliary, Context, Inspect, Ready, Unseen, pv};
use bulkhead_plan::pv_calls::{GrantCall, GrantReply};
use bulkhead_plan::{DeviceConfig, FdUse, kind};
use bulkhead_runtime::Resources;
use bulkhead_xen::{Gntdev, GrantPiece, Mapping, XenError};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::net::{RecvFlags, SendFlags};
use std::collections::HashMap;

pub(crate) static GRANT: Role = Role { kind: &kind::GRANT, seen: Seen::No, prepare };

fn prepare(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Grant = config else { return Err(wrong(config)) };
    let (mut polled, mut callers) = (Vec::new(), Vec::new());
    for (i, socket) in resources.fds.take_all(|u| if let FdUse::Grants(i) = u { Some(*i) } else { None }) {
        let device = resources.fds.require(&FdUse::Gntdev(i))?;
        let grants = Gntdev::new(device, resources.domid);
        let buffer = resources.fds.take(&FdUse::GrantBuffer(i));
        let buffer = buffer.map(|fd| Mapping::new(fd.as_fd(), pv::BUFFER_PAGES)).transpose()?;
        polled.push((callers.len() as u32, rustix::io::dup(&socket)?));
        callers.push((socket, GrantDevice { grants, buffer }));
    }
    Ok(Prepared::device(Unseen(Grant::new(callers)), polled))
}

/// Most calls of a back end before other work.
const BUDGET: usize = 64;
/// Most pages that a back end may have in its gntdev.
const PAGES: usize = 2048;

/// The operations for back ends.
trait Grants: Send {
    fn name(&self, grefs: &[u32]) -> Result<u64, XenError>;
    fn forget(&self, index: u64, pages: u32) -> Result<(), XenError>;
    fn copy(&self, pieces: &[GrantPiece], at: usize, to_guest: bool) -> Result<(), XenError>;
}

/// The gntdev of one back end, and the shared buffer if the back end copies.
pub(crate) struct GrantDevice {
    pub(crate) grants: Gntdev,
    pub(crate) buffer: Option<Mapping>,
}

impl Grants for GrantDevice {
    fn name(&self, grefs: &[u32]) -> Result<u64, XenError> {
        self.grants.name(grefs)
    }
    fn forget(&self, index: u64, pages: u32) -> Result<(), XenError> {
        self.grants.forget(index, pages)
    }
    fn copy(&self, pieces: &[GrantPiece], at: usize, to_guest: bool) -> Result<(), XenError> {
        let nothing = || XenError { what: "a copy without a buffer", source: std::io::ErrorKind::InvalidInput.into() };
        self.grants.copy(pieces, self.buffer.as_ref().ok_or_else(nothing)?, at, to_guest)
    }
}

/// A back end and its state.
struct Caller {
    socket: OwnedFd,
    grants: Box<dyn Grants>,
    /// Offset in the gntdev → number of pages.
    names: HashMap<u64, u32>,
    calls: u64,
    copies: u64,
    refused: u64,
}

impl Caller {
    fn pages(&self) -> usize {
        self.names.values().fold(0, |n, pages| n.saturating_add(*pages as usize))
    }

    fn carry_out(&mut self, call: &GrantCall) -> Option<u64> {
        match call {
            GrantCall::Name(grefs) => {
                if self.pages().saturating_add(grefs.len()) > PAGES {
                    return None;
                }
                let index = self.grants.name(grefs).ok()?;
                self.names.insert(index, u32::try_from(grefs.len()).ok()?);
                Some(index)
            }
            GrantCall::Forget(index) => {
                let pages = self.names.remove(index)?;
                self.grants.forget(*index, pages).ok().map(|()| 0)
            }
            GrantCall::Reset => {
                for (index, pages) in self.names.drain() {
                    let _ = self.grants.forget(index, pages);
                }
                Some(0)
            }
            GrantCall::Copy { to_guest, at, pieces } => {
                self.copies = self.copies.saturating_add(1);
                let pieces: Vec<_> =
                    pieces.iter().map(|p| GrantPiece { gref: p.gref, offset: p.offset, len: p.len }).collect();
                self.grants.copy(&pieces, *at as usize, *to_guest).ok().map(|()| 0)
            }
        }
    }

    /// Answers its calls. Returns whether more may be pending.
    fn serve(&mut self) -> bool {
        for _ in 0..BUDGET {
            let mut packet = [0; 1 + GrantCall::MAX];
            let Ok((n, _)) = rustix::net::recv(&self.socket, packet.as_mut_slice(), RecvFlags::DONTWAIT) else {
                return false;
            };
            let Some((serial, call)) = packet.get(..n).and_then(<[u8]>::split_first) else { return false };
            self.calls = self.calls.saturating_add(1);
            let done = GrantCall::from_bytes(call).and_then(|call| self.carry_out(&call));
            if done.is_none() {
                self.refused = self.refused.saturating_add(1);
            }
            let mut answer = vec![*serial];
            answer.extend(GrantReply(done).to_bytes());
            let _ = rustix::net::send(&self.socket, &answer, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
        true
    }
}

/// The process `grant`: it maps granted pages for the back ends that are its callers.
pub(crate) struct Grant(Vec<Caller>);

impl Grant {
    /// Serves these back ends, by their sockets.
    pub(crate) fn new(callers: Vec<(OwnedFd, GrantDevice)>) -> Self {
        Self::with(callers.into_iter().map(|(socket, device)| (socket, Box::new(device) as Box<dyn Grants>)))
    }

    fn with(callers: impl Iterator<Item = (OwnedFd, Box<dyn Grants>)>) -> Self {
        Self(
            callers
                .map(|(socket, grants)| Caller {
                    socket,
                    grants,
                    names: HashMap::new(),
                    calls: 0,
                    copies: 0,
                    refused: 0,
                })
                .collect(),
        )
    }
}

impl Auxiliary for Grant {
    fn start(&mut self, cx: &mut Context) {
        // A previous process may have left calls.
        cx.again();
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let more = match ready {
            Ready::Fd(n) => self.0.get_mut(n as usize).is_some_and(Caller::serve),
            _ => self.0.iter_mut().fold(false, |more, caller| caller.serve() | more),
        };
        if more {
            cx.again();
        }
    }

    fn inspect(&self, out: &mut Inspect) {
        for (i, caller) in self.0.iter().enumerate() {
            out.group(&i.to_string(), |out| {
                out.value("calls", caller.calls)
                    .value("copies", caller.copies)
                    .value("refused", caller.refused)
                    .value("pages", caller.pages());
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::fake;
    use bulkhead_bus::pv::Piece;
    use std::sync::{Arc, Mutex};

    #[derive(Default)]
    struct Done {
        named: Vec<(u64, usize)>,
        forgotten: Vec<(u64, u32)>,
        copied: usize,
    }
    struct Fake(Arc<Mutex<Done>>);

    impl Grants for Fake {
        fn name(&self, grefs: &[u32]) -> Result<u64, XenError> {
            let mut done = self.0.lock().unwrap();
            let index = done.named.iter().map(|(_, n)| *n as u64 * 4096).sum();
            done.named.push((index, grefs.len()));
            Ok(index)
        }
        fn forget(&self, index: u64, pages: u32) -> Result<(), XenError> {
            self.0.lock().unwrap().forgotten.push((index, pages));
            Ok(())
        }
        fn copy(&self, pieces: &[GrantPiece], _: usize, _: bool) -> Result<(), XenError> {
            self.0.lock().unwrap().copied += pieces.len();
            Ok(())
        }
    }

    #[test]
    fn a_back_end_has_so_many_pages_and_takes_back_only_its_own_names() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let pair =
            || rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let ((near, far), (other, far_other)) = (pair(), pair());
        let (done, others): (Arc<Mutex<Done>>, Arc<Mutex<Done>>) = Default::default();
        let callers: Vec<(OwnedFd, Box<dyn Grants>)> =
            vec![(far, Box::new(Fake(done.clone()))), (far_other, Box::new(Fake(others.clone())))];
        let mut grant = Grant::with(callers.into_iter());
        let mut ask = |socket: &OwnedFd, number: u32, bytes: &[u8]| {
            rustix::net::send(socket, &[&[3], bytes].concat(), SendFlags::empty()).unwrap();
            grant.poll(Ready::Fd(number), &mut fake::context(0));
            let mut packet = [0; 100];
            let (n, _) = rustix::net::recv(socket, packet.as_mut_slice(), RecvFlags::DONTWAIT).unwrap();
            assert_eq!(packet[0], 3, "the answer's number");
            GrantReply::from_bytes(&packet[1..n]).unwrap().0
        };
        for i in 0..8 {
            assert_eq!(ask(&near, 0, &GrantCall::Name(vec![7; 256]).to_bytes()), Some(i * 256 * 4096));
        }
        assert_eq!(ask(&near, 0, &GrantCall::Name(vec![7]).to_bytes()), None, "so many and no more");
        assert_eq!(ask(&other, 1, &GrantCall::Forget(4096 * 256).to_bytes()), None, "another one's");
        assert_eq!(ask(&near, 0, &GrantCall::Forget(4096 * 256).to_bytes()), Some(0));
        assert_eq!(ask(&near, 0, &GrantCall::Forget(4096 * 256).to_bytes()), None, "twice");
        assert_eq!(done.lock().unwrap().forgotten, [(4096 * 256, 256)]);
        for bytes in [&[][..], &[9; 8], &[0; 8], &[3, 0, 0, 0, 0, 0, 0, 0, 1], &[1; 2000]] {
            assert_eq!(ask(&near, 0, bytes), None);
        }
        let copy = GrantCall::Copy { to_guest: true, at: 0, pieces: vec![Piece { gref: 1, offset: 0, len: 512 }; 3] };
        assert_eq!((ask(&near, 0, &copy.to_bytes()), done.lock().unwrap().copied), (Some(0), 3));
        assert_eq!(ask(&near, 0, &GrantCall::Reset.to_bytes()), Some(0));
        assert_eq!((done.lock().unwrap().forgotten.len(), others.lock().unwrap().forgotten.len()), (8, 0));
    }
}
