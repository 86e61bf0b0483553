//! The packets between the launcher and its starter.
use crate::{FIRST_UID, Ids, LAUNCHER, STARTER};
use bulkhead_plan::kind;
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use std::io::{ErrorKind, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;

/// The launcher's first packet: the descriptors of the executable and of /dev/null, the guest's users ([`Users`]), and the paths to
/// remove at the end, each ended by a zero.
pub(super) const BEGIN: u8 = 1;
/// A process to start ([`Wanted`]), with the descriptors of its socket, of its log, and of its control group if it has one.
pub(super) const START: u8 = 2;
/// The order to remove the paths.
pub(super) const REMOVE: u8 = 3;
/// A process to compare with its profile ([`Look`]).
pub(super) const CHECK: u8 = 4;
/// A process to describe ([`Look`]).
pub(super) const DESCRIBE: u8 = 5;
/// The order to connect to xenstored: the starter alone may call services of the host.
pub(super) const XENSTORED: u8 = 6;
/// The answer "done": with the pid of a new process (four bytes) its pidfd as descriptor, with 0 the connection to xenstored.
const DONE: u8 = 1;
/// The answer "failed": the pid of a process that may have been made, 0 for none (four bytes), then a line of text.
const FAILED: u8 = 2;
/// The answer to a look: text.
const SEEN: u8 = 3;

/// Most bytes of a packet of the launcher.
pub(super) const MOST: usize = 64 << 10;
/// Most bytes of an answer.
pub(super) const MOST_ANSWER: usize = 16 << 10;
/// Most descriptors of a packet.
const MOST_FDS: usize = 3;
/// Bytes of the name of a role.
const ROLE: usize = 16;

/// The name of a role, filled up with zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RoleName([u8; ROLE]);

impl RoleName {
    pub(super) fn new(role: &str) -> Option<Self> {
        let mut name = [0; ROLE];
        name.get_mut(..role.len())?.copy_from_slice(role.as_bytes());
        Some(Self(name))
    }

    /// The role of a process with a profile that has this name.
    pub(super) fn role(self) -> Option<&'static str> {
        let name = self.0.split(|b| *b == 0).next().and_then(|name| std::str::from_utf8(name).ok())?;
        let role = kind::of_role(name)?.role;
        // Nothing follows the name.
        (Self::new(role)? == self).then_some(role)
    }

    /// The same, and the launcher and the starter, which are in the process table too.
    pub(super) fn row(self) -> Option<&'static str> {
        let own = [LAUNCHER, STARTER].into_iter().find(|role| Self::new(role) == Some(self));
        own.or_else(|| self.role())
    }
}

/// The users from whom each process of the guest has its own, if the launcher is root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Users {
    /// The first one, not below [`FIRST_UID`].
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Users {
    pub(super) fn to_bytes(self) -> [u8; 8] {
        let ([a, b, c, d], [e, f, g, h]) = (self.first.to_le_bytes(), self.count.to_le_bytes());
        [a, b, c, d, e, f, g, h]
    }

    /// The users at the beginning of some bytes, and the rest.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (first, rest) = bytes.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        let users = Self { first: u32::from_le_bytes(*first), count: u32::from_le_bytes(*count) };
        (users.first >= FIRST_UID).then_some((users, rest))
    }

    /// Whether a user and a group are of these.
    fn has(self, ids: Ids) -> bool {
        [ids.uid, ids.gid].iter().all(|id| id.checked_sub(self.first).is_some_and(|n| n < self.count))
    }
}

/// The fixed form of [`START`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    role: RoleName,
    pub(super) ids: Ids,
    pub(super) outlives: bool,
    pub(super) file_size: Option<u64>,
    pub(super) group: GroupBy,
}

/// How a process comes into its control group: see [`crate::Group`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupBy {
    /// It has none.
    None,
    /// The third descriptor is the group's directory.
    Directory,
    /// The third descriptor is the group's `cgroup.procs`.
    Procs,
}

impl Wanted {
    /// Bytes of the packet.
    #[cfg(test)]
    const LEN: usize = 2 + 4 + 4 + 8 + ROLE;

    pub(super) fn new(role: &str, ids: Ids, outlives: bool, file_size: Option<u64>) -> Option<Self> {
        Some(Self { role: RoleName::new(role)?, ids, outlives, file_size, group: GroupBy::None })
    }

    pub(super) fn in_group(self, group: GroupBy) -> Self {
        Self { group, ..self }
    }

    /// Kind, flags (1: outlives the launcher, 2: has a limit, 4 and 8: how it comes into its group), user, group, limit, role.
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let group = match self.group {
            GroupBy::None => 0,
            GroupBy::Directory => 4,
            GroupBy::Procs => 8,
        };
        let flags = u8::from(self.outlives) | u8::from(self.file_size.is_some()) << 1 | group;
        let numbers = [self.ids.uid.to_le_bytes(), self.ids.gid.to_le_bytes()].concat();
        let limit = self.file_size.unwrap_or(0).to_le_bytes();
        [&[START, flags][..], &numbers, &limit, &self.role.0].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let (flags, rest) = rest.split_first()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (gid, rest) = rest.split_first_chunk()?;
        let (limit, rest) = rest.split_first_chunk()?;
        let role = RoleName(rest.try_into().ok()?);
        let limit = u64::from_le_bytes(*limit);
        let ids = Ids { uid: u32::from_le_bytes(*uid), gid: u32::from_le_bytes(*gid) };
        let file_size = (flags & 2 != 0).then_some(limit);
        let group = match flags & !3 {
            0 => GroupBy::None,
            4 => GroupBy::Directory,
            8 => GroupBy::Procs,
            _ => return None,
        };
        let good = *kind == START && (file_size.is_some() || limit == 0);
        good.then_some(Self { role, ids, outlives: flags & 1 != 0, file_size, group })
    }

    /// The role, if this starter may start such a process: the role of a process (not the starter's own), a user of this guest's, and
    /// a life beyond the launcher's for the broker alone.
    pub(super) fn allowed(&self, own: Ids, users: Users) -> Option<&'static str> {
        let role = self.role.role()?;
        let user = if own.uid == 0 { users.has(self.ids) } else { self.ids == own };
        (user && (!self.outlives || role == kind::BROKER.role)).then_some(role)
    }
}

/// The fixed form of [`CHECK`] and [`DESCRIBE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) pid: i32,
    /// Its own RLIMIT_FSIZE, bytes.
    pub(super) file_size: Option<u64>,
    /// Bytes of mappings that its profile does not count.
    pub(super) guest_memory: u64,
    pub(super) role: RoleName,
}

impl Look {
    /// The packet of this kind: kind, flag (1: has a limit), pid, limit, mappings, role.
    pub(super) fn to_bytes(self, kind: u8) -> Vec<u8> {
        let numbers = [self.file_size.unwrap_or(0).to_le_bytes(), self.guest_memory.to_le_bytes()].concat();
        let flag = u8::from(self.file_size.is_some());
        [&[kind, flag][..], &self.pid.to_le_bytes(), &numbers, &self.role.0].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (_, rest) = bytes.split_first()?;
        let (flag, rest) = rest.split_first()?;
        let (pid, rest) = rest.split_first_chunk()?;
        let (limit, rest) = rest.split_first_chunk()?;
        let (guest_memory, rest) = rest.split_first_chunk()?;
        let role = RoleName(rest.try_into().ok()?);
        let limit = u64::from_le_bytes(*limit);
        let file_size = (*flag == 1).then_some(limit);
        let good = *flag < 2 && (file_size.is_some() || limit == 0);
        let (pid, guest_memory) = (i32::from_le_bytes(*pid), u64::from_le_bytes(*guest_memory));
        (good && pid > 0).then_some(Self { pid, file_size, guest_memory, role })
    }
}

/// An answer of the starter.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Done(i32),
    Failed { pid: i32, line: String },
    Seen(String),
}

impl Answer {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Done(pid) => [&[DONE][..], &pid.to_le_bytes()].concat(),
            Self::Failed { pid, line } => cut([&[FAILED][..], &pid.to_le_bytes(), line.as_bytes()].concat()),
            Self::Seen(text) => cut([&[SEEN][..], text.as_bytes()].concat()),
        }
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        if *kind == SEEN {
            return Some(Self::Seen(String::from_utf8_lossy(rest).into_owned()));
        }
        let (pid, rest) = rest.split_first_chunk()?;
        let pid = i32::from_le_bytes(*pid);
        match *kind {
            DONE if rest.is_empty() => Some(Self::Done(pid)),
            FAILED => Some(Self::Failed { pid, line: String::from_utf8_lossy(rest).into_owned() }),
            _ => None,
        }
    }
}

/// At most the bytes of an answer. A row in JSON that is cut is none.
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(MOST_ANSWER);
    bytes
}

/// Sends a packet without waiting: each end answers one before the next, so the socket is never full.
pub(super) fn send(socket: &OwnedFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    Ok(())
}

/// Receives a packet of at most `most` bytes; an end of the socket is an error.
pub(super) fn receive(socket: &OwnedFd, most: usize) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = vec![0; most];
    let got = loop {
        match rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    if got.bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    bytes.truncate(got.bytes);
    let fds =
        control.drain().filter_map(|m| if let RecvAncillaryMessage::ScmRights(fds) = m { Some(fds) } else { None });
    Ok((bytes, fds.flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Ids = Ids { uid: 0, gid: 0 };
    const USERS: Users = Users { first: FIRST_UID + 64, count: 64 };
    const OF_A_GUEST: Ids = Ids { uid: FIRST_UID + 70, gid: FIRST_UID + 70 };

    fn wanted(role: &str, ids: Ids, outlives: bool) -> Wanted {
        Wanted::new(role, ids, outlives, None).unwrap()
    }

    #[test]
    fn orders_come_back_and_nothing_else_is_one() {
        for file_size in [None, Some(0), Some(u64::MAX)] {
            for role in ["ide", "intake", "0123456789abcdef"] {
                let group = if role == "ide" { GroupBy::Directory } else { GroupBy::Procs };
                let order = Wanted::new(role, OF_A_GUEST, true, file_size).unwrap().in_group(group);
                let bytes = order.to_bytes();
                assert_eq!((bytes.len(), Wanted::from_bytes(&bytes)), (Wanted::LEN, Some(order)));
                for n in 0..bytes.len() {
                    assert_eq!(Wanted::from_bytes(&bytes[..n]), None);
                }
                assert_eq!(Wanted::from_bytes(&[&bytes[..], &[0]].concat()), None);
            }
        }
        assert_eq!(Wanted::new("0123456789abcdefg", OF_A_GUEST, true, None), None);
        for file_size in [None, Some(7)] {
            let look = Look { pid: 9, file_size, guest_memory: 1 << 40, role: RoleName::new("vga").unwrap() };
            assert_eq!(Look::from_bytes(&look.to_bytes(CHECK)), Some(look));
            assert_eq!(Look::from_bytes(&look.to_bytes(CHECK)[1..]), None);
        }
        let mut bytes = wanted("ide", OF_A_GUEST, false).to_bytes();
        bytes[1] = 16;
        assert_eq!(Wanted::from_bytes(&bytes), None, "an unknown flag");
    }

    #[test]
    fn any_bytes_are_an_order_or_none() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        for round in 0..20_000usize {
            let bytes: Vec<u8> = (0..round % 40)
                .map(|i| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    if i == 0 { START } else { (seed >> 56) as u8 }
                })
                .collect();
            if let Some(order) = Wanted::from_bytes(&bytes) {
                assert_eq!(order.to_bytes(), bytes);
            }
            if let Some(look) = Look::from_bytes(&bytes) {
                assert_eq!(look.to_bytes(START), bytes);
            }
            Answer::from_bytes(&bytes);
        }
    }

    /// A launcher that was taken over gets no process of root's, of a user of the host, of the starter's role, or one that outlives it.
    #[test]
    fn only_roles_are_started_and_none_as_a_user_of_the_host() {
        for kind in crate::PROFILES.iter().map(|p| p.role) {
            assert_eq!(wanted(kind, OF_A_GUEST, false).allowed(ROOT, USERS), Some(kind));
            let outlives = wanted(kind, OF_A_GUEST, true).allowed(ROOT, USERS).is_some();
            assert_eq!(outlives, kind == "broker");
        }
        for role in [crate::STARTER, "launcher", "", "ide\0x", "sh"] {
            assert_eq!(wanted(role, OF_A_GUEST, false).allowed(ROOT, USERS), None, "{role:?}");
        }
        // None of the host's, and none of another guest's.
        let first = USERS.first;
        let others = [(0, 0), (0, first), (first, 0), (1000, 1000), (first - 1, first), (first + 63, first + 64)];
        for (uid, gid) in others {
            assert_eq!(wanted("ide", Ids { uid, gid }, false).allowed(ROOT, USERS), None, "{uid} {gid}");
        }
        let user = Ids { uid: 998, gid: 997 };
        assert_eq!(wanted("ide", user, false).allowed(user, USERS), Some("ide"), "dm_restrict: one user for all");
        assert_eq!(wanted("ide", OF_A_GUEST, false).allowed(user, USERS), None);
    }

    /// Every byte of an order that may be started, with each other value: what may still be started is a role with a user of the guest's.
    #[test]
    fn a_changed_order_starts_nothing_else() {
        let order = wanted("ide", OF_A_GUEST, false);
        let bytes = order.to_bytes();
        let mut started = 0;
        for at in 0..bytes.len() {
            for value in 0..=255 {
                let mut changed = bytes.clone();
                changed[at] = value;
                let Some(other) = Wanted::from_bytes(&changed) else { continue };
                let Some(role) = other.allowed(ROOT, USERS) else { continue };
                started += 1;
                assert!(role == "ide" && USERS.has(other.ids) && !other.outlives, "{other:?}");
            }
        }
        // Itself once for each byte, and the users and limits beside its own.
        assert!(started > bytes.len(), "{started}");
    }

    #[test]
    fn users_come_back_and_none_of_the_hosts_is_one() {
        let bytes = [&USERS.to_bytes()[..], b"rest"].concat();
        assert_eq!(Users::from_bytes(&bytes), Some((USERS, &b"rest"[..])));
        assert_eq!(Users::from_bytes(&bytes[..7]), None);
        assert_eq!(Users::from_bytes(&Users { first: FIRST_UID - 1, count: 64 }.to_bytes()), None);
        let to_the_end = Users { first: u32::MAX - 1, count: u32::MAX };
        assert!(to_the_end.has(Ids { uid: u32::MAX, gid: u32::MAX - 1 }) && !to_the_end.has(Ids { uid: 3, gid: 3 }));
    }

    #[test]
    fn answers_come_back() {
        let failed = Answer::Failed { pid: 7, line: "clone3: no".into() };
        for answer in [Answer::Done(0), Answer::Done(i32::MAX), failed, Answer::Seen(String::new())] {
            assert_eq!(Answer::from_bytes(&answer.to_bytes()), Some(answer));
        }
        let long = Answer::Failed { pid: 0, line: "x".repeat(40_000) };
        assert_eq!(long.to_bytes().len(), MOST_ANSWER);
        assert_eq!(Answer::from_bytes(&[DONE, 0, 0, 0]), None);
        assert_eq!(Answer::from_bytes(&[9, 0, 0, 0, 0]), None);
    }
}
