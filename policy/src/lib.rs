//! The sandbox.
//!
//! * `profiles/*.toml`: one reviewed file per process, compiled into a BPF program at build time.
//! * [`spawn`]: starts a process: own namespaces, own user, only named descriptors.
//! * [`Sandbox`]: entered by the process itself, in two steps with the creation of its threads between them.
//! * [`interface`]: the host's network interfaces of network cards, and the rules on them.
//! * [`enter_cage`], [`close_cage`]: the launcher's own capabilities and filter, before and after the machine is prepared.
//! * [`Starter`]: the process that starts processes for it from then on.
//! * [`restrict`]: the launcher's own restrictions if libxl asks for them (`dm_restrict`).
//! * [`verify`]: the launcher's check of a process from outside, in /proc.
//! * [`group`]: the limits of a process's control group in dom0.
//! * [`installed`]: the filters that the kernel has for a process, for an operator's check.

mod cage;
mod enter;
mod filter;
pub mod group;
pub mod installed;
pub mod interface;
mod panics;
pub mod restrict;
mod spawn;
mod starter;
pub mod verify;
mod writers;

pub use cage::{Reach, close_cage, enter_cage, not_confined};
pub use enter::{Report, Sandbox, SandboxError, landlock_abi};
pub use group::GroupLimits;
pub use panics::end_on_panic;
pub use spawn::{
    Group, Ids, SpawnError, Spawned, Spec, become_role, duplicate, end_signals, set_fifo, set_schedule, spawn,
    start_attached,
};
pub use starter::{FIRST_UID, Order, STARTER, Starter, Users, serve as serve_starter};
pub use writers::is_open_for_writing;

use bulkhead_plan::{DeviceConfig, FdUse};
use rustix::fd::BorrowedFd;

/// Resource limits of a process, from its profile.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// RLIMIT_NOFILE: open descriptors.
    pub files: u64,
    /// RLIMIT_FSIZE, bytes.
    pub file_size: u64,
    /// RLIMIT_DATA, bytes: private memory that can be written.
    pub data: u64,
    /// RLIMIT_AS, bytes: all mappings, but for the memory that [`guest_memory`] counts.
    pub address_space: u64,
    /// memory.max of its control group, bytes: in a stub domain as it is, in dom0 with room for files ([`GroupLimits`]).
    pub memory: u64,
    /// Most threads of the process; pids.max of its control group.
    pub threads: u64,
}

/// A compiled profile.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// The process's role.
    pub role: &'static str,
    /// Limits of resources.
    pub limits: Limits,
    /// Kinds of descriptors that it may hold when the guest runs; see [`verify::kind`].
    pub descriptors: &'static [&'static str],
    /// Names of the system calls that it may make.
    pub syscalls: &'static [&'static str],
    filter: &'static [u8],
}

/// The role of the launcher, which is the name of its profile.
pub const LAUNCHER: &str = "launcher";

/// A compiled part of the launcher's profile.
#[derive(Clone, Copy, Debug)]
pub struct Cage {
    /// Names of the capabilities that it may have.
    pub capabilities: &'static [&'static str],
    /// Names of the capabilities that it may have besides in a stub domain, whose first process it is.
    pub in_stubdom: &'static [&'static str],
    /// Names of the system calls that it may make; others fail with EPERM.
    pub syscalls: &'static [&'static str],
    filter: &'static [u8],
}

include!(concat!(env!("OUT_DIR"), "/profiles.rs"));

/// Number of system calls that a role, or the launcher or starter of a prepared machine, may make; `None` if there is no profile.
pub fn syscalls(role: &str) -> Option<usize> {
    match role {
        LAUNCHER => Some(RUNNING.syscalls.len()),
        STARTER => Some(STARTING.syscalls.len()),
        _ => profile(role).map(|p| p.syscalls.len()),
    }
}

/// Bytes of the maps of written pages among a process's descriptors. Their pages are counted for the process that touches them.
pub fn maps<'a>(fds: impl IntoIterator<Item = (&'a FdUse, BorrowedFd<'a>)>) -> u64 {
    let maps = fds.into_iter().filter(|(what, _)| matches!(what, FdUse::DirtyMap(_)));
    let sizes = maps.filter_map(|(_, fd)| u64::try_from(rustix::fs::fstat(fd).ok()?.st_size).ok());
    sizes.fold(0, u64::saturating_add)
}

/// Bytes of mappings that a process makes when it starts and that depend on the guest, which its profile does not count: video RAM of its
/// configuration; the simulated machine's RAM, and maps of written pages, among its descriptors.
pub fn guest_memory<'a>(
    config: Option<&DeviceConfig>,
    fds: impl IntoIterator<Item = (&'a FdUse, BorrowedFd<'a>)>,
) -> u64 {
    let video = config.and_then(|c| c.facets().video_ram).map_or(0, |v| u64::from(v.bytes));
    let whole = |what: &FdUse| matches!(what, FdUse::SimMemory | FdUse::DirtyMap(_));
    let mapped = fds.into_iter().filter(|(what, _)| whole(what));
    let sizes = mapped.filter_map(|(_, fd)| u64::try_from(rustix::fs::fstat(fd).ok()?.st_size).ok());
    sizes.fold(video, u64::saturating_add)
}

/// The profile of a role; `None` if there is none.
pub fn profile(role: &str) -> Option<&'static Profile> {
    PROFILES.iter().find(|p| p.role == role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_plan::{KINDS, kind};

    #[test]
    fn no_profile_allows_what_would_undo_it() {
        let forbidden = [
            "execve",
            "execveat",
            "fork",
            "vfork",
            "clone",
            "clone3",
            "ptrace",
            "kill",
            "tkill",
            "tgkill",
            "open",
            "openat",
            "openat2",
            "socket",
            "connect",
            "bind",
            "mount",
            "unshare",
            "setns",
            "process_vm_readv",
            "process_vm_writev",
            "pidfd_getfd",
            "bpf",
            "userfaultfd",
            "prctl",
            "seccomp",
            "setrlimit",
            "prlimit64",
        ];
        for profile in PROFILES {
            for name in forbidden {
                assert!(!profile.syscalls.contains(&name), "{} allows {name}", profile.role);
            }
            assert!(profile.syscalls.len() < 40, "{} has grown", profile.role);
        }
    }

    #[test]
    fn every_kind_has_a_profile_and_every_profile_a_kind() {
        for kind in KINDS.iter().copied().chain([&kind::BROKER, &kind::CONTROL, &kind::INTAKE]) {
            assert!(profile(kind.role).is_some(), "{}", kind.role);
        }
        for profile in PROFILES {
            assert!(kind::of_role(profile.role).is_some(), "{}", profile.role);
        }
    }

    #[test]
    fn the_launcher_has_what_its_children_have_and_nothing_that_undoes_the_kernel() {
        for profile in PROFILES {
            for name in profile.syscalls {
                assert!(
                    STARTING.syscalls.contains(name),
                    "{} has {name}, and the launcher's filter denies it",
                    profile.role
                );
            }
        }
        for name in [
            "bpf",
            "init_module",
            "finit_module",
            "delete_module",
            "ptrace",
            "kexec_load",
            "kexec_file_load",
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "perf_event_open",
            "keyctl",
            "add_key",
            "request_key",
            "userfaultfd",
            "open_by_handle_at",
            "name_to_handle_at",
            "process_vm_readv",
            "process_vm_writev",
            "pidfd_getfd",
            "iopl",
            "ioperm",
            "mknod",
            "mknodat",
            "swapon",
            "swapoff",
            "setns",
            "execve",
            "quotactl",
            "acct",
            "settimeofday",
            "clock_settime",
            "sethostname",
            "syslog",
            "personality",
            "modify_ldt",
            "fsopen",
            "fsmount",
            "move_mount",
            "open_tree",
        ] {
            assert!(!STARTING.syscalls.contains(&name), "the launcher may call {name}");
        }
    }

    #[test]
    fn the_heap_reaches_its_own_limit_before_that_of_all_mappings() {
        for profile in PROFILES {
            let Limits { data, address_space, memory, .. } = profile.limits;
            // The program, stacks and areas of channels: see the profiles.
            assert!(address_space >= data + (24 << 20), "{}", profile.role);
            assert!(address_space <= data + (160 << 20), "{}: more than anything that it maps", profile.role);
            assert!(memory <= data, "{}", profile.role);
        }
    }

    #[test]
    fn video_ram_and_the_simulated_ram_are_mapped_as_a_whole() {
        use rustix::fd::AsFd as _;
        let ram = rustix::fs::memfd_create("ram", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&ram, 5 << 20).unwrap();
        let fds = [(&FdUse::SimMemory, ram.as_fd()), (&FdUse::Privcmd, ram.as_fd())];
        let vga = DeviceConfig::Vga { device: 2, vram: 8 << 20, gfn: 0x10_0000, rom: 0 };
        assert_eq!((guest_memory(Some(&vga), []), guest_memory(None, fds)), (8 << 20, 5 << 20));
        assert_eq!(guest_memory(Some(&DeviceConfig::Ps2), []), 0);
    }

    #[test]
    fn only_the_broker_may_make_device_model_operations() {
        for profile in PROFILES {
            let program = profile.filter.chunks_exact(8).map(|i| u32::from_le_bytes(i[4..8].try_into().unwrap()));
            let dm_op = program.clone().any(|k| k == 0x0010_5005);
            let map = program.clone().any(|k| k == 0x0020_5004);
            assert_eq!(dm_op, profile.role == kind::BROKER.role, "{}", profile.role);
            assert_eq!(map, kind::of_role(profile.role).is_some_and(|k| k.memory.maps()), "{}", profile.role);
        }
    }
    /// A display gets a file for each picture of screendump.
    #[test]
    fn who_has_no_file_may_write_none_and_every_display_a_picture() {
        for profile in PROFILES {
            let size = profile.limits.file_size;
            let draws = kind::of_role(profile.role).is_some_and(|k| k.picture == bulkhead_plan::Picture::Draws);
            assert_eq!(draws, size == 64 << 20 && profile.role != "control", "{}", profile.role);
            assert!(draws || size == 0 || profile.descriptors.contains(&"file"), "{}", profile.role);
        }
    }

    /// The other modes of fallocate reserve space beyond a file's end, which RLIMIT_FSIZE does not see (FALLOC_FL_KEEP_SIZE).
    #[test]
    fn the_only_mode_of_fallocate_is_to_punch_holes() {
        for entry in std::fs::read_dir("profiles").unwrap() {
            let path = entry.unwrap().path();
            for line in std::fs::read_to_string(&path).unwrap().lines().filter(|l| l.starts_with("fallocate")) {
                assert!(line.ends_with(", only = [[{ arg = 1, eq = 3 }]] }"), "{}: {line}", path.display());
            }
        }
    }
}
