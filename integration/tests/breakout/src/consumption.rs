//! What a compromised process can take of its host, and how much of it: for every role and every resource one bound, computed from the
//! role's profile and its kind.
use bulkhead_plan::{Kind, LOG_SIZE, Memory, Starts};
use bulkhead_policy::Profile;

/// Something of the host that a process could use up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Private memory, as the allocator gets it.
    Memory,
    /// Memory in shapes that no process needs.
    OtherMemory,
    /// What the kernel keeps for a socket and a pipe.
    Buffers,
    /// Open descriptors.
    Descriptors,
    /// Processes and threads.
    Processes,
    /// Space on a file system.
    Disk,
    /// Nodes of xenstore.
    Nodes,
    /// Pages in dom0's table of mapped grants.
    Grants,
    /// The domain's event channels.
    EventChannels,
    /// The guest's log file.
    Log,
    /// Frames on the wire.
    Frames,
    /// A processor.
    Processor,
    /// The broker's loop.
    Broker,
    /// The launcher's loop.
    Launcher,
}

/// All of them, with their names in tables.
pub const RESOURCES: [(Resource, &str); 14] = [
    (Resource::Memory, "memory"),
    (Resource::OtherMemory, "other memory"),
    (Resource::Buffers, "kernel buffers"),
    (Resource::Descriptors, "descriptors"),
    (Resource::Processes, "processes"),
    (Resource::Disk, "disk"),
    (Resource::Nodes, "xenstore nodes"),
    (Resource::Grants, "grants"),
    (Resource::EventChannels, "event channels"),
    (Resource::Log, "log"),
    (Resource::Frames, "frames"),
    (Resource::Processor, "processor"),
    (Resource::Broker, "broker's loop"),
    (Resource::Launcher, "launcher's loop"),
];

/// The place where the process runs, as far as bounds depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// In a stub domain each process has a control group.
    pub stub: bool,
    /// Bytes that the kernel keeps for a socket (net.core.wmem_default).
    pub socket: u64,
    /// The launcher's limit of the size of the process's files.
    pub file_size: u64,
    /// Processes that share the log.
    pub processes: u64,
}

/// Bytes of the program itself, its stack and its page tables, beside the data that RLIMIT_DATA counts.
const PROGRAM: u64 = 4 << 20;
/// Bytes of a pipe (pipe(7)).
const PIPE: u64 = 64 << 10;
/// Event channels that libxl lets a guest have (xl.cfg, `max_event_channels`), and so the most that can be bound to it.
const GUESTS_EVENT_CHANNELS: u64 = 1023;
/// How many times slower accesses become beside a process that rings without a pause, on the same CPU. Half of it is fair; the rest is
/// for wake-ups, and for the bed's emulator.
const SLOWER: u64 = 8;
/// The same beside one that spins, against any other process of dom0 that spins: its weight is 1.6 times that of others.
const SLOWER_THAN_BESIDE_OTHERS: u64 = 3;
/// Longest line of the log, with the process's name; the last one may go beyond the share.
const LINE: u64 = 1100;

/// The most that a process can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// So many bytes.
    Bytes(u64),
    /// So many.
    Count(u64),
    /// It can take as much as it likes, but this goes on, so many times slower at most; 0: it is no rate.
    GoesOn(&'static str, u64),
    /// There is no bound. The text says why.
    Unbounded(&'static str),
}

impl Bound {
    /// Whether so much is within it.
    pub fn holds(self, amount: u64) -> bool {
        match self {
            Self::Bytes(most) | Self::Count(most) => amount <= most,
            Self::GoesOn(_, slower) => slower == 0 || amount <= slower,
            Self::Unbounded(_) => true,
        }
    }

    /// The number, 0 if there is none.
    pub fn most(self) -> u64 {
        match self {
            Self::Bytes(most) | Self::Count(most) => most,
            Self::GoesOn(..) | Self::Unbounded(_) => 0,
        }
    }
}

/// Bytes in words.
pub fn bytes(n: u64) -> String {
    match n {
        0 => "0".to_owned(),
        n if n >= 1 << 20 => format!("{}.{} MiB", n >> 20, ((n & 0xf_ffff) * 10) >> 20),
        n => format!("{} KiB", n.div_ceil(1 << 10)),
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(n) => f.write_str(&bytes(*n)),
            Self::Count(n) => write!(f, "{n}"),
            Self::GoesOn(what, 0) => f.write_str(what),
            Self::GoesOn(what, slower) => write!(f, "{what}, {slower} times slower at most"),
            Self::Unbounded(why) => write!(f, "**none**: {why}"),
        }
    }
}

/// The bound of a role.
pub fn bound(profile: &Profile, kind: &Kind, resource: Resource, place: Place) -> Bound {
    let limits = &profile.limits;
    // Of the two that serve back ends: who holds the grant devices, and who the connection to xenstored.
    let serves = kind.starts == Starts::WithBackEnds;
    match resource {
        Resource::Memory if place.stub => Bound::Bytes(limits.memory.min(limits.data + PROGRAM)),
        Resource::Memory => Bound::Bytes(limits.address_space.min(limits.data + PROGRAM)),
        Resource::OtherMemory => Bound::Bytes(0),
        Resource::Buffers => Bound::Bytes(place.socket + PIPE),
        Resource::Descriptors => Bound::Count(limits.files),
        Resource::Processes => Bound::Count(0),
        Resource::Disk => Bound::Bytes(limits.file_size.min(place.file_size)),
        Resource::Nodes if serves && kind.memory != Memory::Granted => {
            Bound::Unbounded("it has dom0's connection to xenstored")
        }
        Resource::Nodes => Bound::Count(kind.back_end.map_or(0, |means| means.nodes().count() as u64)),
        Resource::Grants if serves && kind.memory == Memory::Granted => {
            Bound::Unbounded("it has the grant devices, and the kernel counts no names")
        }
        Resource::Grants => Bound::Count(kind.back_end.map_or(0, |means| u64::from(means.life))),
        Resource::EventChannels => Bound::Count(kind.back_end.map_or(0, |_| GUESTS_EVENT_CHANNELS)),
        Resource::Log => {
            let share = LOG_SIZE.div_euclid(place.processes.max(1));
            // A stub domain's terminal adds a byte to each line.
            Bound::Bytes(share + 2 * LINE + if place.stub { share / 64 } else { 0 })
        }
        Resource::Frames if profile.descriptors.contains(&"tap") => {
            Bound::Unbounded("the rules on the interface look at frames and do not count them")
        }
        Resource::Frames => Bound::Count(0),
        Resource::Processor if place.stub => Bound::GoesOn(
            "another guest's accesses go on, against any process of this stub domain that spins",
            SLOWER_THAN_BESIDE_OTHERS,
        ),
        Resource::Processor => Bound::GoesOn(
            "another guest's accesses go on, against any process of dom0 that spins",
            SLOWER_THAN_BESIDE_OTHERS,
        ),
        Resource::Broker => Bound::GoesOn("accesses go on", SLOWER),
        Resource::Launcher => Bound::GoesOn("processes are started again", 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_plan::kind::of_role;
    use bulkhead_policy::PROFILES;

    const PLACE: Place = Place { stub: false, socket: 212_992, file_size: 1 << 20, processes: 10 };

    #[test]
    fn every_role_has_a_small_bound_of_everything_that_is_counted_or_a_reason() {
        for profile in PROFILES {
            let kind = of_role(profile.role).unwrap();
            for stub in [false, true] {
                for (resource, name) in RESOURCES {
                    let bound = bound(profile, kind, resource, Place { stub, ..PLACE });
                    let most = match bound {
                        Bound::Bytes(n) => n <= 384 << 20,
                        Bound::Count(n) => n <= 8192,
                        Bound::GoesOn(_, slower) => slower <= 8,
                        Bound::Unbounded(_) => true,
                    };
                    assert!(most, "{}, {name}: {bound}", profile.role);
                }
            }
        }
    }

    #[test]
    fn who_has_no_bound_is_known() {
        let without = |resource| {
            let of = |p: &&Profile| matches!(bound(p, of_role(p.role).unwrap(), resource, PLACE), Bound::Unbounded(_));
            PROFILES.iter().filter(of).map(|p| p.role).collect::<Vec<_>>()
        };
        assert_eq!(without(Resource::Nodes), ["xenbus"]);
        assert_eq!(without(Resource::Grants), ["grant"]);
        assert_eq!(without(Resource::Frames), ["e1000", "rtl8139"]);
        for (resource, name) in RESOURCES {
            if ![Resource::Nodes, Resource::Grants, Resource::Frames].contains(&resource) {
                assert_eq!(without(resource), [""; 0], "{name}");
            }
        }
    }

    #[test]
    fn amounts_are_said_in_words() {
        assert_eq!([0, 1, 65536, 3 << 19].map(bytes), ["0", "1 KiB", "64 KiB", "1.5 MiB"]);
        assert!(Bound::Count(3).holds(3) && !Bound::Count(3).holds(4) && Bound::GoesOn("x", 0).holds(9));
        assert!(Bound::GoesOn("x", 8).holds(8) && !Bound::GoesOn("x", 8).holds(9));
    }
}
