//! The launcher's own cage: the capabilities and the system calls of profiles/launcher.toml. Its children inherit both; a child has
//! capabilities again inside of its user namespace, until it drops them.
use crate::LAUNCHER;
use crate::enter::{SandboxError, install, step};
use caps::{CapSet, Capability, CapsHashSet};

/// Enters the cage; `stubdom`: as the first process of a stub domain. Call it from a single-threaded process, before anything of the host is opened. A process that is not root has no
/// capabilities to give up; it gets the filter alone.
///
/// # Errors
/// The step that failed, or a capability or call that still works.
pub fn enter_cage(stubdom: bool) -> Result<(), SandboxError> {
    let more = if stubdom { LAUNCHER.in_stubdom } else { &[] };
    let kept: CapsHashSet = LAUNCHER.capabilities.iter().chain(more).filter_map(|name| name.parse().ok()).collect();
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
    rustix::thread::set_no_new_privs(true).map_err(step("PR_SET_NO_NEW_PRIVS"))?;
    install(LAUNCHER.filter)?;
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
        if !own(set)?.is_subset(&kept) {
            return Err(SandboxError::Leak("a capability that the launcher's profile does not have"));
        }
    }
    // SAFETY: bpf's command 0 with a null pointer makes nothing.
    if unsafe { libc::syscall(libc::SYS_bpf, 0, std::ptr::null::<u8>(), 0) } == 0
        || std::io::Error::last_os_error().raw_os_error() != Some(libc::EPERM)
    {
        return Err(SandboxError::Leak("a system call that the launcher's profile does not have"));
    }
    Ok(())
}
