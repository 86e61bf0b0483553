//! The only process that may call gntdev, which maps and copies granted pages. The device works for all domains, so this process
//! fixes the guest; a back end selects pages of that guest, and has one buffer for copies.
//!
//! A mapped page uses an entry of a table that dom0 has once, for all guests (Xen's maptrack: 262,144 entries by default; a dom0 that
//! is a PV guest uses two for each page). A page that was removed from the gntdev stays mapped until the back end unmaps it or dies,
//! and the kernel does not tell when. So pages are counted for the whole life of a back end's process, and only the launcher, which
//! has seen the last process die, begins another count.
use crate::error::BuildError;
use crate::role::{Prepared, Role, Seen, wrong};
use crate::token_bucket::TokenBucket;
use bulkhead_bus::pv::{self, Means};
use bulkhead_bus::{Auxiliary, Callers, Clock, Context, Inspect, Ready, Unseen};
use bulkhead_plan::pv_calls::{GrantCall, GrantReply};
use bulkhead_plan::{DeviceConfig, FdUse, kind};
use bulkhead_runtime::Resources;
use bulkhead_xen::{Gntdev, GrantPiece, Mapping, XenError};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::net::{RecvFlags, SendFlags};
use std::collections::HashMap;

pub(crate) static GRANT: Role = Role { kind: &kind::GRANT, seen: Seen::No, prepare };

fn prepare(config: &DeviceConfig, mut resources: Resources) -> Result<Prepared, BuildError> {
    let DeviceConfig::Grant { callers: all } = config else { return Err(wrong(config)) };
    let (mut polled, mut callers) = (Vec::new(), Vec::new());
    for (caller, ready) in all.iter().zip(0..) {
        let means = caller.means().ok_or_else(|| BuildError::NoBackEnd(caller.role.clone()))?;
        let device = resources.fds.require(&FdUse::Gntdev(caller.number))?;
        let grants = Gntdev::new(device, resources.domid);
        let buffer = resources.fds.take(&FdUse::GrantBuffer(caller.number));
        let buffer = buffer.map(|fd| Mapping::new(fd.as_fd(), pv::BUFFER_PAGES)).transpose()?;
        let socket = resources.fds.take(&FdUse::Grants(caller.number));
        polled.extend(socket.as_ref().map(rustix::io::dup).transpose()?.map(|socket| (ready, socket)));
        let grants = Box::new(GrantDevice { grants, buffer });
        callers.push(Caller::new(caller.number, means, socket, grants, Clock::Real.now()));
    }
    Ok(Prepared::device(Unseen(Grant(callers)), polled))
}

/// Most calls, and pieces that they copy, of a back end before other work: 1 MiB.
const BUDGET: usize = 256;
/// Most calls but copies that a back end may make at once. A guest whose grants cannot be mapped causes two for each page of a life.
const CALLS: u32 = 16384;
/// Calls but copies that a back end gains in each second.
const CALLS_PER_SECOND: u32 = 256;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// The operations for back ends.
trait Grants: Send {
    fn name(&self, grefs: &[u32]) -> Result<u64, XenError>;
    /// Removes the pages that were added at this offset; 0 pages: any number.
    fn forget(&self, index: u64, pages: u32) -> Result<(), XenError>;
    fn copy(&self, pieces: &[GrantPiece], at: usize, to_guest: bool) -> Result<(), XenError>;
}

/// The gntdev of one back end, and the shared buffer if the back end copies.
struct GrantDevice {
    grants: Gntdev,
    buffer: Option<Mapping>,
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
    /// The launcher's number.
    number: u8,
    means: &'static Means,
    /// The socket to its process, if it has had one.
    socket: Option<OwnedFd>,
    grants: Box<dyn Grants>,
    /// Offset in the gntdev → number of pages.
    names: HashMap<u64, u32>,
    /// Pages that were added in this life, removed ones included.
    used: u32,
    /// Calls but copies that it may make.
    allowance: TokenBucket,
    /// It has made more calls than it may, and is not answered any more in this life.
    ended: bool,
    calls: u64,
    copies: u64,
    refused: u64,
    overruns: u64,
}

impl Caller {
    /// With a `socket`, an earlier process has served this life, and it is unknown how many pages it has used: it gets no more.
    fn new(number: u8, means: &'static Means, socket: Option<OwnedFd>, grants: Box<dyn Grants>, now: u64) -> Self {
        Self {
            number,
            means,
            used: if socket.is_some() { means.life } else { 0 },
            socket,
            grants,
            names: HashMap::new(),
            allowance: TokenBucket::new(CALLS, CALLS_PER_SECOND, now),
            ended: false,
            calls: 0,
            copies: 0,
            refused: 0,
            overruns: 0,
        }
    }

    /// The last process is dead, so none of its pages is mapped.
    fn begin_life(&mut self, socket: OwnedFd, now: u64) -> Option<OwnedFd> {
        self.names.clear();
        // Also pages that an earlier process of this role has added. All are below this offset: see `name`.
        for index in 0..u64::from(self.means.life) {
            let _ = self.grants.forget(index.saturating_mul(PAGE), 0);
        }
        self.used = 0;
        self.allowance = TokenBucket::new(CALLS, CALLS_PER_SECOND, now);
        self.ended = false;
        self.socket.replace(socket)
    }

    fn pages(&self) -> usize {
        self.names.values().fold(0, |n, pages| n.saturating_add(*pages as usize))
    }

    fn name(&mut self, grefs: &[u32]) -> GrantReply {
        let Ok(pages) = u32::try_from(grefs.len()) else { return GrantReply::Failed };
        let Some(used) = self.used.checked_add(pages).filter(|used| *used <= self.means.life) else {
            return GrantReply::Spent;
        };
        let Ok(index) = self.grants.name(grefs) else { return GrantReply::Failed };
        self.used = used;
        // The kernel takes the first free offset, so it is below the sum of all pages of the life. Another one would not be found
        // when the next life begins.
        let end = u64::from(self.means.life).saturating_sub(u64::from(pages)).saturating_mul(PAGE);
        if index > end {
            let _ = self.grants.forget(index, pages);
            return GrantReply::Failed;
        }
        self.names.insert(index, pages);
        GrantReply::Done(index)
    }

    fn carry_out(&mut self, call: &GrantCall) -> GrantReply {
        let done = |result: Result<(), XenError>| result.map_or(GrantReply::Failed, |()| GrantReply::Done(0));
        match call {
            GrantCall::Name(grefs) => self.name(grefs),
            GrantCall::Forget(index) => {
                let Some(pages) = self.names.get(index) else { return GrantReply::Failed };
                let forgotten = self.grants.forget(*index, *pages);
                if forgotten.is_ok() {
                    self.names.remove(index);
                }
                done(forgotten)
            }
            GrantCall::Reset => {
                let grants = &self.grants;
                self.names.retain(|index, pages| grants.forget(*index, *pages).is_err());
                GrantReply::Done(u64::from(self.means.life.saturating_sub(self.used)))
            }
            GrantCall::Copy { to_guest, at, pieces } => {
                self.copies = self.copies.saturating_add(1);
                let pieces: Vec<_> =
                    pieces.iter().map(|p| GrantPiece { gref: p.gref, offset: p.offset, len: p.len }).collect();
                done(self.grants.copy(&pieces, *at as usize, *to_guest))
            }
        }
    }

    /// Answers its calls. Returns whether more may be pending.
    fn serve(&mut self, cx: &mut Context) -> bool {
        if self.ended {
            return false;
        }
        let mut budget = BUDGET;
        while budget > 0 {
            let Some(socket) = &self.socket else { return false };
            let mut packet = [0; 1 + GrantCall::MAX];
            let Ok((n, _)) = rustix::net::recv(socket, packet.as_mut_slice(), RecvFlags::DONTWAIT) else {
                return false;
            };
            let parts = packet.get(..n).and_then(<[u8]>::split_first);
            let call = parts.and_then(|(_, call)| GrantCall::from_bytes(call));
            let copied = if let Some(GrantCall::Copy { pieces, .. }) = &call { pieces.len() } else { 0 };
            budget = budget.saturating_sub(copied.max(1));
            if copied == 0 && !self.allowance.take(cx.now()) {
                tracing::error!("back end {} makes more calls than it may; it is ended", self.number);
                self.ended = true;
                self.overruns = self.overruns.saturating_add(1);
                cx.overruns.push(self.number);
                return false;
            }
            // An empty packet, which has cost a wake-up as a call does, or the end of the socket.
            let Some((serial, _)) = parts else { return false };
            self.calls = self.calls.saturating_add(1);
            let reply = call.map_or(GrantReply::Failed, |call| self.carry_out(&call));
            if !matches!(reply, GrantReply::Done(_)) {
                self.refused = self.refused.saturating_add(1);
            }
            let mut answer = vec![*serial];
            answer.extend(reply.to_bytes());
            if let Some(socket) = &self.socket {
                let _ = rustix::net::send(socket, &answer, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            }
        }
        true
    }
}

/// The process `grant`: it maps granted pages for the back ends that are its callers.
struct Grant(Vec<Caller>);

impl Callers for Grant {
    fn ready(&self, caller: u8) -> Option<u32> {
        self.0.iter().position(|c| c.number == caller).and_then(|index| u32::try_from(index).ok())
    }

    fn begin_life(&mut self, caller: u8, socket: OwnedFd, cx: &mut Context) -> Option<OwnedFd> {
        self.0.iter_mut().find(|c| c.number == caller)?.begin_life(socket, cx.now())
    }
}

impl Auxiliary for Grant {
    fn start(&mut self, cx: &mut Context) {
        // A previous process may have left calls.
        cx.again();
    }

    fn poll(&mut self, ready: Ready, cx: &mut Context) {
        let more = match ready {
            Ready::Fd(n) => self.0.get_mut(n as usize).is_some_and(|caller| caller.serve(cx)),
            _ => self.0.iter_mut().fold(false, |more, caller| caller.serve(cx) | more),
        };
        if more {
            cx.again();
        }
    }

    fn callers(&mut self) -> Option<&mut dyn Callers> {
        Some(self)
    }

    fn inspect(&self, out: &mut Inspect) {
        for caller in &self.0 {
            out.group(&caller.number.to_string(), |out| {
                out.value("calls", caller.calls)
                    .value("copies", caller.copies)
                    .value("refused", caller.refused)
                    .value("overruns", caller.overruns)
                    .value("ended", caller.ended)
                    .value("pages", caller.pages())
                    .value("pages of this life", caller.used)
                    .value("pages left", caller.means.life.saturating_sub(caller.used));
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::fake;
    use bulkhead_bus::pv::{Piece, means};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    /// A gntdev as the kernel's (drivers/xen/gntdev.c): names are in the first gap, and the mapping of a forgotten one stays.
    #[derive(Default)]
    struct Device {
        /// First page → number of pages.
        names: BTreeMap<u64, u32>,
        /// Pages that the process at the other end has mapped, all that it could.
        mapped: u32,
        copied: usize,
        /// A call to forget is refused.
        keeps: bool,
    }
    struct Fake(Arc<Mutex<Device>>);

    impl Grants for Fake {
        fn name(&self, grefs: &[u32]) -> Result<u64, XenError> {
            let mut device = self.0.lock().unwrap();
            let (pages, mut index) = (grefs.len() as u32, 0);
            for (first, count) in &device.names {
                if index + u64::from(pages) < *first {
                    break;
                }
                index = first + u64::from(*count);
            }
            device.names.insert(index, pages);
            device.mapped += pages;
            Ok(index * 4096)
        }
        fn forget(&self, index: u64, pages: u32) -> Result<(), XenError> {
            let mut device = self.0.lock().unwrap();
            let found = device.names.get(&(index / 4096)).is_some_and(|count| pages == 0 || *count == pages);
            if !found || device.keeps {
                return Err(XenError { what: "GNTDEV_UNMAP_GRANT_REF", source: std::io::ErrorKind::NotFound.into() });
            }
            device.names.remove(&(index / 4096));
            Ok(())
        }
        fn copy(&self, pieces: &[GrantPiece], _: usize, _: bool) -> Result<(), XenError> {
            self.0.lock().unwrap().copied += pieces.len();
            Ok(())
        }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// `grant` with a disk, whose number is 5, and a keyboard, whose number is 6.
    struct Bed {
        grant: Grant,
        sockets: [OwnedFd; 2],
        devices: [Arc<Mutex<Device>>; 2],
        cx: Context,
    }
    const KINDS: [(u8, &Means); 2] = [(5, &means::QDISK), (6, &means::VKBD)];

    impl Bed {
        /// `served`: an earlier process has served the disk's life.
        fn new(served: bool) -> Self {
            let devices: [Arc<Mutex<Device>>; 2] = Default::default();
            let (near, far) = pair();
            let mut far = Some(far).filter(|_| served);
            let caller = |((number, means), device): ((u8, &'static Means), &Arc<Mutex<Device>>)| {
                Caller::new(number, means, far.take(), Box::new(Fake(device.clone())), 0)
            };
            let grant = Grant(KINDS.into_iter().zip(&devices).map(caller).collect());
            let mut bed = Self { grant, sockets: [near, pair().0], devices, cx: fake::context(0) };
            (usize::from(served)..2).for_each(|i| bed.begin_life(i));
            bed
        }

        /// The launcher's word: the process is dead, and another is there.
        fn begin_life(&mut self, i: usize) {
            let (near, far) = pair();
            self.devices[i].lock().unwrap().mapped = 0;
            self.grant.begin_life(KINDS[i].0, far, &mut self.cx);
            self.sockets[i] = near;
        }

        fn ask(&mut self, i: usize, bytes: &[u8]) -> Option<GrantReply> {
            let _ = rustix::net::send(&self.sockets[i], &[&[3], bytes].concat(), SendFlags::DONTWAIT);
            self.grant.poll(Ready::Fd(i as u32), &mut self.cx);
            let mut packet = [0; 100];
            let (n, _) = rustix::net::recv(&self.sockets[i], packet.as_mut_slice(), RecvFlags::DONTWAIT).ok()?;
            assert_eq!(packet[0], 3, "the answer's number");
            GrantReply::from_bytes(&packet[1..n])
        }

        fn name(&mut self, i: usize, pages: usize) -> GrantReply {
            self.ask(i, &GrantCall::Name(vec![7; pages]).to_bytes()).unwrap()
        }

        fn reset(&mut self, i: usize) -> GrantReply {
            self.ask(i, &GrantCall::Reset.to_bytes()).unwrap()
        }

        fn mapped(&self, i: usize) -> u32 {
            self.devices[i].lock().unwrap().mapped
        }
    }

    const LIFE: u32 = means::QDISK.life;

    #[test]
    fn a_back_end_takes_back_only_its_own_names_and_only_valid_calls_are_carried_out() {
        let mut bed = Bed::new(false);
        for i in 0..8 {
            assert_eq!(bed.name(0, 256), GrantReply::Done(i * 256 * 4096));
        }
        let forget = GrantCall::Forget(4096 * 256).to_bytes();
        assert_eq!(bed.ask(1, &forget), Some(GrantReply::Failed), "another one's");
        assert_eq!(bed.ask(0, &forget), Some(GrantReply::Done(0)));
        assert_eq!(bed.ask(0, &forget), Some(GrantReply::Failed), "twice");
        assert_eq!(bed.devices[0].lock().unwrap().names.len(), 7);
        for bytes in [&[][..], &[9; 8], &[0; 8], &[3, 0, 0, 0, 0, 0, 0, 0, 1], &[1; 2000]] {
            assert_eq!(bed.ask(0, bytes), Some(GrantReply::Failed));
        }
        let copy = GrantCall::Copy { to_guest: true, at: 0, pieces: vec![Piece { gref: 1, offset: 0, len: 512 }; 3] };
        assert_eq!(bed.ask(0, &copy.to_bytes()), Some(GrantReply::Done(0)));
        assert_eq!(bed.devices[0].lock().unwrap().copied, 3);
        assert_eq!(bed.reset(0), GrantReply::Done(u64::from(LIFE - 2048)));
        assert!(bed.devices[0].lock().unwrap().names.is_empty());
    }

    #[test]
    fn a_reset_begins_no_life() {
        let mut bed = Bed::new(false);
        for _ in 0..1100 {
            bed.name(0, 256);
            bed.reset(0);
        }
        assert_eq!(bed.mapped(0), LIFE / 256 * 256, "pages that a process keeps mapped");
        assert_eq!(bed.name(1, 1), GrantReply::Done(0), "the others have theirs");
        // Each life has as many, however the last one ended.
        for _ in 0..3 {
            bed.begin_life(0);
            assert_eq!(bed.reset(0), GrantReply::Done(u64::from(LIFE)));
            while bed.name(0, 1) != GrantReply::Spent {}
            assert_eq!((bed.mapped(0), bed.reset(0)), (LIFE, GrantReply::Done(0)));
            assert!(bed.cx.overruns.is_empty());
        }
    }

    #[test]
    fn a_new_life_leaves_no_name_of_the_last_one() {
        let mut bed = Bed::new(false);
        assert!((0..9).all(|i| bed.name(0, 100) == GrantReply::Done(i * 100 * 4096)));
        bed.begin_life(0);
        assert!(bed.devices[0].lock().unwrap().names.is_empty());
        // Those of an earlier process of this role, which this one does not know.
        bed.devices[0].lock().unwrap().names.extend([(0, 3), (7, 9), (4000, 256)]);
        bed.begin_life(0);
        assert!(bed.devices[0].lock().unwrap().names.is_empty());
    }

    #[test]
    fn a_restarted_grant_gives_no_pages_to_a_life_that_it_does_not_know() {
        let mut bed = Bed::new(true);
        assert_eq!((bed.name(0, 1), bed.reset(0)), (GrantReply::Spent, GrantReply::Done(0)));
        let copy = GrantCall::Copy { to_guest: false, at: 0, pieces: vec![Piece { gref: 1, offset: 0, len: 512 }] };
        assert_eq!(bed.ask(0, &copy.to_bytes()), Some(GrantReply::Done(0)), "copies need no page");
        assert_eq!((bed.mapped(0), bed.name(1, 1)), (0, GrantReply::Done(0)), "a life that begins with it");
        bed.begin_life(0);
        assert_eq!(bed.name(0, 256), GrantReply::Done(0));
    }

    #[test]
    fn a_name_that_cannot_be_forgotten_stays_counted() {
        let mut bed = Bed::new(false);
        bed.name(0, 200);
        bed.devices[0].lock().unwrap().keeps = true;
        assert_eq!(bed.ask(0, &GrantCall::Forget(0).to_bytes()), Some(GrantReply::Failed));
        bed.reset(0);
        assert_eq!(bed.grant.0[0].pages(), 200);
    }

    #[test]
    fn a_back_end_that_calls_without_end_is_ended_and_copies_are_not_counted() {
        let mut bed = Bed::new(false);
        let copy = GrantCall::Copy { to_guest: true, at: 0, pieces: vec![Piece { gref: 1, offset: 0, len: 512 }; 2] };
        assert!((0..3 * CALLS).all(|_| bed.ask(0, &copy.to_bytes()).is_some()));
        let answered = (0..2 * CALLS).filter(|_| bed.ask(0, &[9; 8]).is_some()).count();
        assert_eq!((answered, bed.cx.overruns.as_slice()), (CALLS as usize, &[5][..]));
        assert_eq!(bed.ask(0, &copy.to_bytes()), None);
        assert_eq!(bed.name(1, 1), GrantReply::Done(0));
        bed.begin_life(0);
        assert_eq!(bed.name(0, 1), GrantReply::Done(0));
    }

    /// An empty packet was no call: it was read without end and counted nowhere.
    #[test]
    fn empty_packets_are_calls_and_the_end_of_a_back_end_takes_one_turn() {
        let mut bed = Bed::new(false);
        for _ in 0..CALLS * 2 {
            let _ = rustix::net::send(&bed.sockets[0], &[], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
            bed.grant.poll(Ready::Fd(0), &mut bed.cx);
        }
        assert_eq!(bed.cx.overruns, [5]);
        let mut bed = Bed::new(false);
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let (other, _) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        drop(std::mem::replace(&mut bed.sockets[0], other));
        bed.grant.poll(Ready::Fd(0), &mut bed.cx);
        assert!(!bed.cx.take_again() && bed.cx.overruns.is_empty());
    }

    #[test]
    fn a_turn_copies_no_more_than_it_may() {
        let mut bed = Bed::new(false);
        let copy =
            GrantCall::Copy { to_guest: true, at: 0, pieces: vec![Piece { gref: 1, offset: 0, len: 4096 }; 200] };
        for _ in 0..20 {
            rustix::net::send(&bed.sockets[0], &[&[3], copy.to_bytes().as_slice()].concat(), SendFlags::empty())
                .unwrap();
        }
        bed.grant.poll(Ready::Fd(0), &mut bed.cx);
        assert_eq!((bed.devices[0].lock().unwrap().copied, bed.cx.take_again()), (400, true));
    }

    proptest! {
        #[test]
        fn whatever_a_back_end_calls_it_maps_no_more_than_a_life_may(
            calls in proptest::collection::vec((0..5u8, 1..=256usize, 0..5000u64), 1..200), lives in 1..4u8,
        ) {
            let mut bed = Bed::new(false);
            for _ in 0..lives {
                for (kind, pages, index) in &calls {
                    let call = match kind {
                        0 | 1 => GrantCall::Name(vec![7; *pages]),
                        2 => GrantCall::Forget(index * 4096),
                        3 => GrantCall::Reset,
                        _ => GrantCall::Forget(0),
                    };
                    bed.ask(0, &call.to_bytes());
                    prop_assert!(bed.mapped(0) <= LIFE);
                }
                bed.begin_life(0);
                prop_assert!(bed.devices[0].lock().unwrap().names.is_empty());
            }
        }
    }
}
