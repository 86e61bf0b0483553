//! The launcher's own restrictions by `-chroot` and `-runas` (Xen's docs/features/qemu-deprivilege.pandoc): a root directory that
//! contains only /proc, and an unprivileged user. It can still start processes: every user may create namespaces.
use crate::Ids;
use crate::enter::{SandboxError, make_root, step};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{Gid, Uid};

/// Removes the launcher's limit on the size of files. libxl sets it to 256 KiB, and it applies to memfds and images too. Each
/// process has a limit of its profile. (Without the right to raise the limit it stays; then libxl has not restricted the launcher.)
pub fn unlimited_file_size() {
    let _ = rustix::process::setrlimit(Resource::Fsize, Rlimit { current: None, maximum: None });
}

/// Raises this process's limit of open files as far as it may. The kernel counts descriptors that are under way in sockets for each
/// user, with all launchers of the host together, and a process without CAP_SYS_RESOURCE may send none beyond this limit (unix(7),
/// ETOOMANYREFS). Each process that it starts has the limit of its profile.
pub fn many_descriptors() {
    /// More than the processes of all guests of a host can have under way.
    const FILES: u64 = 1 << 18;
    let old = rustix::process::getrlimit(Resource::Nofile).maximum;
    let more = Some(old.unwrap_or(FILES).max(FILES));
    if rustix::process::setrlimit(Resource::Nofile, Rlimit { current: more, maximum: more }).is_err() {
        // Without the right to more: all that it may have.
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: old, maximum: old });
    }
}

/// Gives up this process's supplementary groups, which its children would inherit: a group can open files that the user cannot. A
/// process without the right to it (it is not root) keeps them; [`crate::verify::check`] compares its children with it. Call it
/// from a single-threaded process.
pub fn drop_groups() {
    let _ = rustix::thread::set_thread_groups(&[]);
}

/// Replaces the root directory by an empty one, mounted on `directory`, in which there is /proc.
///
/// # Errors
/// The step that failed.
pub fn leave_root(directory: &str) -> Result<(), SandboxError> {
    // SAFETY: this changes this process's view of the file system; no descriptor and no memory is affected.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }
        .map_err(step("a mount namespace"))?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(step("private mounts"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("none", directory, "tmpfs", flags, Some(c"size=4k,nr_inodes=2,mode=0555"))
        .map_err(step("tmpfs for the root directory"))?;
    let proc = format!("{directory}/proc");
    std::fs::create_dir(&proc).map_err(step("proc in the root directory"))?;
    rustix::mount::mount_bind_recursive("/proc", proc.as_str()).map_err(step("/proc in the root directory"))?;
    make_root(directory)?;
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, "")
        .map_err(step("making the root directory read-only"))
}

/// Changes to another user permanently, without further groups or capabilities. Call it from a single-threaded process.
///
/// # Errors
/// The step that failed.
pub fn become_user(ids: Ids) -> Result<(), SandboxError> {
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    rustix::thread::set_thread_groups(&[]).map_err(step("setgroups"))?;
    // A user cannot do it any more.
    if caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_SETPCAP).map_err(step("capget"))? {
        caps::clear(None, caps::CapSet::Bounding).map_err(step("PR_CAPBSET_DROP"))?;
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step("setresgid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(step("setresuid"))?;
    // This user may write its children's /proc/PID/uid_map only if this process is dumpable.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable).map_err(step("PR_SET_DUMPABLE"))?;
    for set in [caps::CapSet::Effective, caps::CapSet::Permitted, caps::CapSet::Inheritable, caps::CapSet::Ambient] {
        if !caps::read(None, set).map_err(step("capget"))?.is_empty() {
            return Err(SandboxError::Leak("a capability"));
        }
    }
    if rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).is_ok() {
        return Err(SandboxError::Leak("becoming root again"));
    }
    Ok(())
}
