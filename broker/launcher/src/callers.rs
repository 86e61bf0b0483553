//! Back ends of PV devices and the processes that they call, `xenbus` and `grant`. Each process of a back end has sockets of its own
//! to both, which are made when it is started: a call of a dead process is never carried out for the next one. By the message with
//! the socket, and by nothing else, `xenbus` and `grant` know that the last process is dead.
use crate::failure::{Failure, system};
use crate::phase::Phase;
use crate::slots::Slots;
use bulkhead_plan::{FdUse, Slot, ToProcess};
use rustix::fd::AsFd as _;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// The processes that a back end calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    /// The slot of `xenbus`.
    pub(crate) xenbus: Slot,
    /// The slot of `grant`.
    pub(crate) grant: Slot,
    /// The back end's number in both.
    pub(crate) number: u8,
}

impl Slots {
    /// Makes the sockets of a back end's next process. The last one is dead.
    pub(crate) fn connect_back_end(&mut self, slot: Slot) -> Result<(), Failure> {
        let Some(state) = self.get_mut(slot) else { return Ok(()) };
        let Some(Served { xenbus, grant, number }) = state.served else { return Ok(()) };
        let granted = state.kind.back_end.is_some_and(|means| means.life > 0);
        for (server, near, far) in [
            (Some(xenbus), FdUse::Nodes(0), FdUse::Nodes(number)),
            (granted.then_some(grant), FdUse::Grants(0), FdUse::Grants(number)),
        ] {
            let Some(server) = server else { continue };
            let flags = SocketFlags::CLOEXEC;
            let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(system("socketpair"))?;
            if let Some(state) = self.get_mut(slot) {
                state.kept.retain(|(what, _)| *what != near);
                state.kept.push((near, ours));
            }
            if let Some(server) = self.get_mut(server) {
                server.kept.retain(|(what, _)| *what != far);
                server.new_callers.retain(|(what, _)| *what != far);
                server.new_callers.push((far, theirs));
            }
            self.announce(server);
        }
        Ok(())
    }

    /// Tells `xenbus` or `grant` of back ends' new processes, if it runs; if it is just starting, this is done again after `Go`, which
    /// is the first message that it awaits then. From then on its next processes get the sockets with their first message: they did
    /// not see those lives begin.
    pub(crate) fn announce(&mut self, server: Slot) {
        let Some(server) = self.get_mut(server).filter(|s| s.phase() == Phase::Running) else { return };
        for (what, socket) in std::mem::take(&mut server.new_callers) {
            if let FdUse::Nodes(caller) | FdUse::Grants(caller) = what {
                server.tell(|_| ToProcess::Life { caller }, &[(what.clone(), socket.as_fd())]);
                server.kept.push((what, socket));
            }
        }
    }

    /// The slot of the back end with this number in `server`.
    pub(crate) fn caller(&self, server: Slot, number: u8) -> Option<Slot> {
        let is = |served: Served| served.number == number && (served.xenbus == server || served.grant == server);
        self.iter().find(|s| s.served.is_some_and(is)).map(|s| s.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Resource;
    use crate::slot::{Life, SlotState};
    use bulkhead_plan::{FIRST_DEVICE, Kind, kind};
    use bulkhead_policy::Spawned;
    use rustix::fd::OwnedFd;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    const XENBUS: Slot = FIRST_DEVICE;
    const GRANT: Slot = FIRST_DEVICE + 1;
    const DISK: Slot = FIRST_DEVICE + 2;
    const SCREEN: Slot = FIRST_DEVICE + 3;

    fn slots() -> Slots {
        let mut slots = Slots::default();
        let mut add = |slot, kind: &'static Kind, served| {
            let mut state = SlotState::new(slot, kind.role.into(), kind, None, Vec::new()).unwrap();
            state.served = served;
            slots.push(state);
        };
        add(XENBUS, &kind::XENBUS, None);
        add(GRANT, &kind::GRANT, None);
        add(DISK, &kind::QDISK, Some(Served { xenbus: XENBUS, grant: GRANT, number: 4 }));
        add(SCREEN, &kind::VFB, Some(Served { xenbus: XENBUS, grant: GRANT, number: 5 }));
        slots
    }

    /// The process of a slot listens. Returns the other end of its socket.
    fn listen(slots: &mut Slots, slot: Slot) -> OwnedFd {
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let state = slots.get_mut(slot).unwrap();
        let own = rustix::process::getpid();
        let pidfd = rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap();
        let spawned = Spawned { pid: own.as_raw_nonzero().get(), pidfd };
        state.life = Some(Life { spawned, resource: Resource::new(near), file_size: None });
        assert!(state.enter(Phase::Entering) && state.enter(Phase::Running));
        far
    }

    /// The messages that a process has not read, each of which is about a life.
    fn told(link: &OwnedFd) -> Vec<(u8, OwnedFd)> {
        let mut all = Vec::new();
        loop {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0; 200];
            let piece = std::io::IoSliceMut::new(&mut bytes);
            let Ok(got) = recvmsg(link, &mut [piece], &mut ancillary, RecvFlags::DONTWAIT) else { return all };
            let socket = ancillary.drain().find_map(|m| match m {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            match serde_json::from_slice(&bytes[..got.bytes]).unwrap() {
                ToProcess::Life { caller } => all.push((caller, socket.unwrap())),
                other => panic!("{other:?}"),
            }
        }
    }

    fn kept(slots: &Slots, slot: Slot) -> Vec<FdUse> {
        slots.get(slot).unwrap().kept.iter().map(|(what, _)| what.clone()).collect()
    }

    /// Whether what the back end's process sends arrives at `far`.
    fn connected(slots: &Slots, what: &FdUse, far: &OwnedFd) -> bool {
        let (_, near) = slots.get(DISK).unwrap().kept.iter().find(|(w, _)| w == what).unwrap();
        rustix::net::send(near, b"x", rustix::net::SendFlags::empty()).unwrap();
        rustix::net::recv(far, &mut [0u8; 8][..], RecvFlags::DONTWAIT).is_ok_and(|(n, _)| n > 0)
    }

    #[test]
    fn each_process_of_a_back_end_has_sockets_of_its_own_and_is_announced_once() {
        let mut slots = slots();
        // The others are not ready yet.
        slots.connect_back_end(DISK).unwrap();
        assert_eq!((kept(&slots, DISK), kept(&slots, GRANT)), (vec![FdUse::Nodes(0), FdUse::Grants(0)], vec![]));
        let grant = listen(&mut slots, GRANT);
        slots.announce(GRANT);
        let first = told(&grant);
        assert!(matches!(first.as_slice(), [(4, socket)] if connected(&slots, &FdUse::Grants(0), socket)));
        slots.announce(GRANT);
        assert!(told(&grant).is_empty(), "once");
        // Another process of the back end.
        slots.connect_back_end(DISK).unwrap();
        let second = told(&grant);
        assert!(matches!(second.as_slice(), [(4, socket)] if connected(&slots, &FdUse::Grants(0), socket)));
        assert!(!connected(&slots, &FdUse::Grants(0), &first[0].1), "the last process's socket");
        assert_eq!(kept(&slots, DISK).len(), 2);
        // A later process of grant gets the socket at its start, and hears of no new life.
        assert_eq!(kept(&slots, GRANT), [FdUse::Grants(4)]);
        // `xenbus` has not listened yet, and hears of the last process alone.
        let xenbus = listen(&mut slots, XENBUS);
        slots.announce(XENBUS);
        assert!(matches!(told(&xenbus).as_slice(), [(4, socket)] if connected(&slots, &FdUse::Nodes(0), socket)));
    }

    #[test]
    fn a_frame_buffer_calls_xenbus_alone_and_others_call_nobody() {
        let mut slots = slots();
        slots.connect_back_end(SCREEN).unwrap();
        slots.connect_back_end(GRANT).unwrap();
        assert_eq!((kept(&slots, SCREEN), kept(&slots, GRANT)), (vec![FdUse::Nodes(0)], vec![]));
        assert!(slots.get(GRANT).unwrap().new_callers.is_empty());
        let report = |slot| slots.get(slot).unwrap().has_callers();
        assert!(report(XENBUS) && report(GRANT) && !report(DISK), "who may report an overrun");
        assert_eq!((slots.caller(XENBUS, 5), slots.caller(GRANT, 4)), (Some(SCREEN), Some(DISK)));
        assert_eq!((slots.caller(XENBUS, 6), slots.caller(DISK, 4)), (None, None));
    }
}
