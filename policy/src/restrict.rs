//! What `-chroot` and `-runas` ask of the launcher itself (Xen's docs/features/qemu-deprivilege.pandoc): a root directory that has
//! nothing but /proc, and a user without any right. It starts its processes afterwards as before: a user may make namespaces.
use crate::Ids;
use crate::enter::{SandboxError, make_root, step};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::{Gid, Uid};

/// libxl limits the size of files to 256 KiB, and the kernel counts memfds and images among them. Each process has its own limit by
/// its profile; where this one may, it takes its own away. (Without the right it stays: nothing was restricted then.)
pub fn unlimited_file_size() {
    let _ = rustix::process::setrlimit(Resource::Fsize, Rlimit { current: None, maximum: None });
}

/// Replaces the root directory by an empty one, mounted on `directory`, in which there is /proc.
///
/// # Errors
/// What could not be done.
pub fn leave_root(directory: &str) -> Result<(), SandboxError> {
    // SAFETY: this changes what this process sees as files; no descriptor and no memory is touched.
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

/// Becomes another user, for ever, with no other group and no capability. Call it from a single-threaded process.
///
/// # Errors
/// What could not be done.
pub fn become_user(ids: Ids) -> Result<(), SandboxError> {
    let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
    rustix::thread::set_thread_groups(&[]).map_err(step("setgroups"))?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(step("setresgid"))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(step("setresuid"))?;
    // Its children's /proc/PID/uid_map is this user's to write only if this process is its own.
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
