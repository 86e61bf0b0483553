//! The launcher's own cage, in two steps: the rights of profiles/launcher.toml, and what is left of them when the machine is prepared.
//! Its children inherit the first filter; a child has capabilities again inside of its user namespace, until it drops them.
use crate::enter::{SandboxError, install, landlock_abi, step};
use crate::{Cage, RUNNING, STARTING};
use caps::{CapSet, Capability, CapsHashSet};
use landlock::{ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _};
use landlock::{RulesetCreatedAttr as _, path_beneath_rules};
use std::path::PathBuf;

/// The files that a launcher reaches while its guest runs. It reads every file: a toolstack may insert a medium from anywhere.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Files and directories that it writes to, and devices that it uses.
    pub written: Vec<PathBuf>,
    /// Directories in which it makes files and directories, too.
    pub made: Vec<PathBuf>,
}

/// Enters the cage; `stubdom`: as the first process of a stub domain. Call it from a single-threaded process, before anything of
/// the host is opened. A process that is not root has no capabilities to give up; it gets the filter alone.
///
/// # Errors
/// The step that failed, or a capability or call that still works.
pub fn enter_cage(stubdom: bool) -> Result<(), SandboxError> {
    drop_but(&STARTING, stubdom)?;
    rustix::thread::set_no_new_privs(true).map_err(step("PR_SET_NO_NEW_PRIVS"))?;
    install(STARTING.filter)?;
    // SAFETY: bpf's command 0 with a null pointer makes nothing.
    if !denied(unsafe { libc::syscall(libc::SYS_bpf, 0, std::ptr::null::<u8>(), 0) }) {
        return Err(SandboxError::Leak("a system call that the launcher's profile does not have"));
    }
    Ok(())
}

/// Closes the cage of a process that is in it and has handed over the start of processes: it can neither start a process nor mount,
/// nor, with `reach` and on a kernel with Landlock, write outside of its reach. Returns the kernel's Landlock ABI, 0 for none.
///
/// # Errors
/// The step that failed, or something that still works.
pub fn close_cage(stubdom: bool, reach: Option<&Reach>) -> Result<i32, SandboxError> {
    let abi = landlock_abi();
    if let Some(reach) = reach.filter(|_| abi > 0) {
        confine_to(reach)?;
    }
    drop_but(&RUNNING, stubdom)?;
    install(RUNNING.filter)?;
    // SAFETY: clone3 with no arguments makes nothing.
    if !denied(unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0) }) {
        return Err(SandboxError::Leak("starting a process"));
    }
    // A file that no launcher needs to write. With `any`, or in a stub domain, it is in reach.
    let outside = "/proc/self/oom_score_adj";
    let in_reach = |r: &Reach| r.written.iter().chain(&r.made).any(|p| std::path::Path::new(outside).starts_with(p));
    if reach.is_some_and(|r| !in_reach(r)) && abi > 0 {
        use rustix::fs::{Mode, OFlags};
        // For reading it works; nothing is written.
        let open = |access| rustix::fs::open(outside, access | OFlags::CLOEXEC, Mode::empty());
        if open(OFlags::RDONLY).is_ok() && open(OFlags::WRONLY).is_ok() {
            return Err(SandboxError::Leak("writing to a file out of reach"));
        }
    }
    Ok(abi)
}

/// A line about what a closed cage with a reach does not keep the launcher from on a kernel with this ABI of Landlock; `None`: from
/// nothing. <https://docs.kernel.org/userspace-api/landlock.html>, "Previous limitations".
pub fn not_confined(abi: i32) -> Option<String> {
    let missing = match abi {
        ..=0 => "writing to every file",
        1..=2 => "truncating every file, and calling every device's ioctl",
        3..=4 => "calling every device's ioctl",
        _ => return None,
    };
    Some(format!("sandbox of the launcher: this kernel's Landlock (ABI {abi}) does not keep it from {missing}"))
}

/// Whether a system call was denied by a filter.
fn denied(result: libc::c_long) -> bool {
    result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
}

/// Gives up all capabilities but those of a part of the profile, in all sets.
fn drop_but(cage: &Cage, stubdom: bool) -> Result<(), SandboxError> {
    let more = if stubdom { cage.in_stubdom } else { &[] };
    let kept: CapsHashSet = cage.capabilities.iter().chain(more).filter_map(|name| name.parse().ok()).collect();
    let own = |set| caps::read(None, set).map_err(step("capget"));
    let may_drop = own(CapSet::Effective)?.contains(&Capability::CAP_SETPCAP);
    if may_drop {
        for capability in own(CapSet::Bounding)?.difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(step("PR_CAPBSET_DROP"))?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(step("ambient capabilities"))?;
    // The effective set first: it may not be larger than the permitted one.
    for set in [CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        let rest = own(set)?.intersection(&kept).copied().collect();
        caps::set(None, set, &rest).map_err(step("capset"))?;
    }
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
        if !own(set)?.is_subset(&kept) {
            return Err(SandboxError::Leak("a capability that the launcher's profile does not have"));
        }
    }
    Ok(())
}

/// Landlock: every file is read, files of the reach are written, and nothing is executed. Paths that do not exist have no rule.
fn confine_to(reach: &Reach) -> Result<(), SandboxError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
    let make = write | AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::RemoveFile | AccessFs::RemoveDir;
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(Ruleset::create)
        .and_then(|set| set.add_rules(path_beneath_rules(["/"], read)))
        .and_then(|set| set.add_rules(path_beneath_rules(&reach.written, write)))
        .and_then(|set| set.add_rules(path_beneath_rules(&reach.made, make)))
        .map_err(step("landlock"))?
        .restrict_self()
        .map_err(step("landlock_restrict_self"))?;
    Ok(())
}
