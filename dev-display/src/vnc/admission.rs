//! The door: connections that arrive, the verdicts on passwords, and connections that leave. `strangers.rs` has the rules.
use super::input::Input;
use super::session::{ViewerError, ViewerSession};
use super::strangers::{self, Admission, CROWD, Failure, Origin, Stranger};
use super::viewer::Viewer;
use super::{DOOR, Vnc};
use bulkhead_bus::{Context, ViewerAddress};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

/// Most connections that are accepted, or tried, before other work.
const ACCEPTED: usize = 16;
/// Nanoseconds until connections are tried again that the kernel has not given: it is short of descriptors or memory.
const SHORTAGE: u64 = 1_000_000_000;

/// A new connection and where it is from.
type Arrival = (OwnedFd, ViewerAddress);

impl Vnc {
    /// Accepts connections.
    pub(super) fn accept(&mut self, cx: &mut Context) {
        self.accept_from(cx, |listen| {
            let (socket, address) = acceptfrom_with(listen, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
            let address = address.and_then(|a| std::net::SocketAddr::try_from(a).ok());
            Ok((socket, address.map_or(ViewerAddress::Unix, ViewerAddress::Tcp)))
        });
    }

    /// Accepts connections by `next`. An error is that of one connection, or there is a shortage: those behind it get their turn.
    fn accept_from(&mut self, cx: &mut Context, mut next: impl FnMut(&OwnedFd) -> Result<Arrival, Errno>) {
        cx.timers.set(DOOR, None);
        let (mut left, mut arrived) = (ACCEPTED, false);
        for i in 0..self.listen.len() {
            while let Some(listen) = self.listen.get(i) {
                match next(listen) {
                    Ok((socket, address)) => {
                        arrived = true;
                        self.admit(socket, address, cx.now());
                    }
                    Err(Errno::AGAIN) => break,
                    Err(_) => {}
                }
                left = left.saturating_sub(1);
                match left {
                    0 if arrived => return cx.again(),
                    0 => return cx.timers.set(DOOR, Some(cx.now().saturating_add(SHORTAGE))),
                    _ => {}
                }
            }
        }
    }

    /// Gives a new connection a place among the strangers, if there is one for it.
    pub(super) fn admit(&mut self, socket: OwnedFd, address: ViewerAddress, now: u64) {
        self.accepted = self.accepted.saturating_add(1);
        let origin = Origin::from(address);
        let strangers = self.strangers(now);
        match strangers::admit(origin, self.addresses.failures(origin, now), &strangers, now) {
            Admission::Free => {}
            Admission::Replaces(number) => {
                self.turned_away = self.turned_away.saturating_add(1);
                self.remove(number, None, now);
            }
            Admission::TurnedAway => {
                self.turned_away = self.turned_away.saturating_add(1);
                return;
            }
        }
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        if epoll::add(&self.ready, &socket, EventData::new_u64(0), flags).is_ok() {
            let session = ViewerSession::new(Input::new(self.layout), self.name.clone(), now);
            self.viewers.push(Viewer { socket, session, address, number: self.accepted, crowded: false });
        }
        let strangers = || self.viewers.iter().filter(|v| !v.session.handshake_done()).count();
        if strangers() >= CROWD {
            self.viewers.iter_mut().filter(|v| !v.session.handshake_done()).for_each(|v| v.crowded = true);
        }
    }

    fn strangers(&self, now: u64) -> Vec<Stranger> {
        self.viewers.iter().filter_map(|v| v.stranger(|origin| self.addresses.failures(origin, now))).collect()
    }

    /// The viewer whose answer is judged next, and when.
    pub(super) fn next_verdict(&self, now: u64) -> Option<(u64, u64)> {
        let (due, number) = strangers::next_verdict(&self.strangers(now), &self.addresses, now)?;
        Some((due.max(self.verdict_after), number))
    }

    /// Removes a viewer, and remembers its address if it has failed to enter.
    pub(super) fn remove(&mut self, number: u64, why: Option<ViewerError>, now: u64) {
        let Some(at) = self.viewers.iter().position(|v| v.number == number) else { return };
        let viewer = self.viewers.remove(at);
        if why == Some(ViewerError::WrongPassword) {
            self.wrong_passwords = self.wrong_passwords.saturating_add(1);
            self.addresses.failed(viewer.origin(), Failure::Wrong, now);
        } else if viewer.crowded && !viewer.session.handshake_done() {
            self.addresses.failed(viewer.origin(), Failure::Left, now);
        }
    }
}

#[cfg(test)]
mod tests;
