//! The sockets of back ends that the device serves: `xenbus`, `grant`.
use crate::StartError;
use bulkhead_bus::{Callers, Context};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;

/// A back end has a new process, at the other end of `socket`, which is polled from now on instead of the last one's.
pub(super) fn begin_life(
    (epoll, polled): (&OwnedFd, &mut Vec<(u32, OwnedFd)>),
    callers: &mut dyn Callers,
    caller: u8,
    socket: OwnedFd,
    cx: &mut Context,
) -> Result<(), StartError> {
    let Some(ready) = callers.ready(caller) else { return Ok(()) };
    epoll::add(epoll, &socket, EventData::new_u64(u64::from(ready)), EventFlags::IN | EventFlags::ET)?;
    // Closing is not enough: the launcher may still have the last socket, which would keep its entry in epoll. A socket that came
    // with the start is polled by a copy.
    if let Some(last) = callers.begin_life(caller, socket, cx) {
        let _ = epoll::delete(epoll, &last);
    }
    for (_, copy) in polled.extract_if(.., |(number, _)| *number == ready) {
        let _ = epoll::delete(epoll, &copy);
    }
    // The new process may have called already.
    cx.again();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_bus::fake;
    use rustix::fd::AsFd as _;
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

    /// A process that serves the back end 3.
    #[derive(Default)]
    struct Server(Option<OwnedFd>);

    impl Callers for Server {
        fn ready(&self, caller: u8) -> Option<u32> {
            (caller == 3).then_some(8)
        }
        fn begin_life(&mut self, caller: u8, socket: OwnedFd, _: &mut Context) -> Option<OwnedFd> {
            assert_eq!(caller, 3);
            self.0.replace(socket)
        }
    }

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// Ready numbers after a packet in `from`.
    fn ready(epoll: &OwnedFd, from: &OwnedFd) -> Vec<u64> {
        rustix::net::send(from, b"x", SendFlags::NOSIGNAL).unwrap();
        let mut events = Vec::with_capacity(4);
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&now)).unwrap();
        events.iter().map(|e| e.data.u64()).collect()
    }

    #[test]
    fn only_the_socket_of_the_last_life_is_polled() {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        let edge = EventFlags::IN | EventFlags::ET;
        let mut cx = fake::context(0);
        // The launcher keeps copies of all sockets.
        let ((first, near_first), (second, near_second), (third, near_third)) = (pair(), pair(), pair());
        let copy = |fd: &OwnedFd| rustix::io::dup(fd.as_fd()).unwrap();
        let _launchers = [copy(&near_first), copy(&near_second), copy(&near_third)];
        let mut polled = vec![(8, copy(&near_first)), (9, copy(&third))];
        epoll::add(&epoll, &polled[0].1, EventData::new_u64(8), edge).unwrap();
        let mut server = Server(Some(near_first));
        assert_eq!(ready(&epoll, &first), [8]);
        for (near, new, old) in [(near_second, &second, &first), (near_third, &third, &second)] {
            begin_life((&epoll, &mut polled), &mut server, 3, near, &mut cx).unwrap();
            assert!(cx.take_again());
            assert_eq!((ready(&epoll, old), ready(&epoll, new)), (vec![], vec![8]));
        }
        assert_eq!(polled.len(), 1, "other descriptors stay");
        begin_life((&epoll, &mut polled), &mut server, 4, pair().0, &mut cx).unwrap();
        assert!(!cx.take_again(), "there is no such back end");
    }
}
