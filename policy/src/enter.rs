//! Enters the sandbox from inside the process.
//!
//! 1. [`Sandbox::confine`]: empty root, limits, no capabilities, no new privileges, Landlock without any rule. The process
//!    creates its threads after it: Landlock and capabilities are properties of a thread and are inherited.
//! 2. [`Sandbox::seal`]: checks that forbidden actions fail; then installs the system call filter, for all threads.
use crate::Profile;
use crate::filter::program;
use bulkhead_plan::Level;
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetStatus,
    Scope,
};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Resource, Rlimit};

/// Why the sandbox cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A step failed.
    #[error("{0}: {1}")]
    Step(&'static str, String),
    /// A forbidden action succeeded in the self-check.
    #[error("self-check: {0} still works")]
    Leak(&'static str),
    /// The level needs a newer kernel.
    #[error("level strict needs Landlock ABI 6 (Linux 6.12), this kernel has {0}")]
    Landlock(i32),
}

pub(crate) fn step<E: std::fmt::Display>(what: &'static str) -> impl FnOnce(E) -> SandboxError {
    move |e| SandboxError::Step(what, e.to_string())
}

/// The layers of the sandbox that are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The kernel's Landlock ABI; 0 none.
    pub landlock: i32,
}

/// The sandbox of one process.
#[derive(Debug)]
pub struct Sandbox {
    profile: &'static Profile,
    level: Level,
    guest_memory: u64,
}

/// The kernel's Landlock ABI, 0 if it has none.
pub fn landlock_abi() -> i32 {
    // SAFETY: with these arguments (LANDLOCK_CREATE_RULESET_VERSION) the call only returns a number.
    let r = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0usize, 1u32) };
    i32::try_from(r).unwrap_or(0).max(0)
}

impl Sandbox {
    /// The sandbox that `profile` describes, of a process that maps `guest_memory` bytes as a whole ([`crate::guest_memory`]).
    pub fn new(profile: &'static Profile, level: Level, guest_memory: u64) -> Self {
        Self { profile, level, guest_memory }
    }

    /// Step 1. The process must have one thread and have been started by [`crate::spawn`].
    pub fn confine(&self) -> Result<Report, SandboxError> {
        self.confine_without_landlock()?;
        let landlock = self.landlock()?;
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .map_err(step("PR_SET_DUMPABLE"))?;
        Ok(Report { landlock })
    }

    /// Step 1 without Landlock, for its test.
    pub fn confine_without_landlock(&self) -> Result<(), SandboxError> {
        // Before /proc is unmounted. Some containers mount it read-only.
        let none = std::fs::write("/proc/sys/user/max_user_namespaces", "0");
        if self.level == Level::Strict {
            none.map_err(step("no user namespaces below this one"))?;
        }
        empty_root()?;
        self.limit()?;
        drop_capabilities()?;
        rustix::thread::set_no_new_privs(true).map_err(step("PR_SET_NO_NEW_PRIVS"))
    }

    /// Sets the resource limits of the profile.
    fn limit(&self) -> Result<(), SandboxError> {
        let limits = &self.profile.limits;
        let table = [
            (Resource::Nofile, limits.files),
            (Resource::Fsize, limits.file_size),
            (Resource::Data, limits.data),
            (Resource::As, limits.address_space.saturating_add(self.guest_memory)),
            (Resource::Core, 0),
            (Resource::Memlock, 0),
            (Resource::Msgqueue, 0),
        ];
        for (resource, value) in table {
            let old = rustix::process::getrlimit(resource);
            let value = old.maximum.map_or(value, |max| max.min(value));
            let new = Rlimit { current: Some(value), maximum: Some(value) };
            rustix::process::setrlimit(resource, new).map_err(step("setrlimit"))?;
        }
        Ok(())
    }

    /// Landlock without rules: the process cannot open a file, bind or connect a socket, or signal a process outside.
    fn landlock(&self) -> Result<i32, SandboxError> {
        let abi = landlock_abi();
        if self.level == Level::Strict && abi < 6 {
            return Err(SandboxError::Landlock(abi));
        }
        if abi == 0 {
            return Ok(0);
        }
        let compat = if self.level == Level::Strict { CompatLevel::HardRequirement } else { CompatLevel::BestEffort };
        let ruleset = Ruleset::default()
            .set_compatibility(compat)
            .handle_access(AccessFs::from_all(ABI::V5))
            .and_then(|r| r.handle_access(AccessNet::from_all(ABI::V4)))
            .and_then(|r| r.scope(Scope::from_all(ABI::V6)))
            .and_then(Ruleset::create)
            .map_err(step("landlock"))?;
        let status = ruleset.restrict_self().map_err(step("landlock_restrict_self"))?;
        if self.level == Level::Strict && status.ruleset != RulesetStatus::FullyEnforced {
            return Err(SandboxError::Landlock(abi));
        }
        Ok(abi)
    }

    /// Step 2, when all threads exist: self-check, then the filter. After it no thread or process can be created.
    pub fn seal(&self) -> Result<(), SandboxError> {
        self.self_check()?;
        self.filter()
    }

    /// Installs only the filter, for its test.
    pub fn filter_alone(&self) -> Result<(), SandboxError> {
        rustix::thread::set_no_new_privs(true).map_err(step("PR_SET_NO_NEW_PRIVS"))?;
        self.filter()
    }

    /// Installs only Landlock, for its test.
    pub fn landlock_alone(&self) -> Result<(), SandboxError> {
        rustix::thread::set_no_new_privs(true).map_err(step("PR_SET_NO_NEW_PRIVS"))?;
        self.landlock().map(|_| ())
    }

    /// Installs the filter for all threads.
    fn filter(&self) -> Result<(), SandboxError> {
        install(self.profile.filter)
    }

    /// Tries forbidden actions; each must fail.
    fn self_check(&self) -> Result<(), SandboxError> {
        use rustix::fs::{Mode, OFlags};
        let open = |path: &str| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        if ["/etc/passwd", "/proc/self/status", "/dev/xen/privcmd", "/dev/null", "/sys"].iter().any(|p| open(p).is_ok())
        {
            return Err(SandboxError::Leak("opening a file"));
        }
        if landlock_abi() > 0 && open("/").is_ok() {
            return Err(SandboxError::Leak("reading the root directory"));
        }
        if rustix::fs::open("/x", OFlags::CREATE | OFlags::RDWR, Mode::RUSR).is_ok() {
            return Err(SandboxError::Leak("making a file"));
        }
        // A process with several threads cannot try to create a user namespace; `confine` has set its limit to 0.
        // SAFETY: plain system calls on integers.
        let (unshared, uid) = unsafe { (libc::unshare(libc::CLONE_NEWNS), libc::setresuid(1, 1, 1)) };
        if unshared == 0 {
            return Err(SandboxError::Leak("a new mount namespace"));
        }
        if uid == 0 {
            return Err(SandboxError::Leak("another user"));
        }
        for set in [
            caps::CapSet::Effective,
            caps::CapSet::Permitted,
            caps::CapSet::Inheritable,
            caps::CapSet::Ambient,
            caps::CapSet::Bounding,
        ] {
            if !caps::read(None, set).map_err(step("capget"))?.is_empty() {
                return Err(SandboxError::Leak("a capability"));
            }
        }
        if !rustix::thread::no_new_privs().map_err(step("PR_GET_NO_NEW_PRIVS"))? {
            return Err(SandboxError::Leak("gaining privileges"));
        }
        Ok(())
    }
}

/// Installs a compiled filter for all threads.
pub(crate) fn install(filter: &[u8]) -> Result<(), SandboxError> {
    seccompiler::apply_filter_all_threads(&program(filter)).map_err(step("seccomp"))
}

/// Clears all five capability sets, so that none can be regained.
fn drop_capabilities() -> Result<(), SandboxError> {
    use caps::CapSet;
    for set in [CapSet::Ambient, CapSet::Bounding, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(step("capset"))?;
    }
    Ok(())
}

/// Replaces the root directory by an empty, read-only one.
fn empty_root() -> Result<(), SandboxError> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(step("private mounts"))?;
    // Any directory serves as the mount point; one of these exists on every host.
    let place = ["/proc", "/run", "/tmp", "/dev"].into_iter().find(|p| std::path::Path::new(p).is_dir());
    let place = place.ok_or(SandboxError::Step("empty root", "no directory to mount it on".into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("none", place, "tmpfs", flags, Some(c"size=4k,nr_inodes=1,mode=0555"))
        .map_err(step("tmpfs for the empty root"))?;
    make_root(place)?;
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, "").map_err(step("making the empty root read-only"))
}

/// Makes the file system that is mounted on `place` the root directory, and unmounts the old one.
pub(crate) fn make_root(place: &str) -> Result<(), SandboxError> {
    rustix::process::chdir(place).map_err(step("chdir"))?;
    match rustix::process::pivot_root(".", ".") {
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(step("unmounting the old root"))?,
        // The initial RAM file system cannot be pivoted away; cover it.
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_move(".", "/").map_err(step("moving the empty root"))?;
            rustix::process::chroot(".").map_err(step("chroot"))?;
        }
        Err(e) => return Err(step("pivot_root")(e)),
    }
    rustix::process::chdir("/").map_err(step("chdir"))
}
