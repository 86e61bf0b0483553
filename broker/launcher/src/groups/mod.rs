//! Control groups (v2) in dom0: one for the guest, and below it one for each of its processes (docs/decisions/0033).
//!
//! The launcher itself stays where the toolstack has started it. It locks the guest's group while it lives. Whoever starts the next
//! guest removes groups that nobody has locked.
mod place;
#[cfg(test)]
mod tests;

pub use place::{Choice, NoGroups, Places, base};

use bulkhead_policy::{Group, GroupLimits};
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The beginning of the names of guests' groups: others may have groups beside them.
const PREFIX: &str = "bulkhead-";
/// The controllers that are used, as far as the host has them.
pub const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// Attempts to make and lock the guest's group: another launcher may remove it between the two.
const ATTEMPTS: usize = 10;

/// The groups of a guest. They are removed when this value is dropped, as far as no process is left in them.
#[derive(Debug)]
pub struct Groups {
    guest: PathBuf,
    /// The guest's directory, locked.
    _lock: OwnedFd,
    /// The controllers that limit, in the order of [`CONTROLLERS`].
    controllers: Vec<&'static str>,
    made: BTreeMap<String, Made>,
}

/// The group of a process, over all its lives.
#[derive(Debug)]
struct Made {
    directory: OwnedFd,
    /// `cgroup.procs`, open for a launcher that gives up its rights.
    procs: Option<OwnedFd>,
    limits: GroupLimits,
}

impl Groups {
    /// Makes the group of a guest, and removes those that dead launchers have left. `pid`: the launcher's.
    ///
    /// # Errors
    /// Why there can be no groups.
    pub fn begin(base: &Path, domid: u16, pid: u32) -> Result<Self, NoGroups> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| NoGroups::Refused { path, source }
        };
        let file = base.join("cgroup.controllers");
        let there = std::fs::read_to_string(&file).map_err(fail(&file))?;
        let mut controllers: Vec<_> =
            CONTROLLERS.into_iter().filter(|name| there.split_whitespace().any(|c| c == *name)).collect();
        // One by one: a controller that the host does not let go must not cost the others.
        let mut refused = None;
        controllers.retain(|name| enable(base, name).map_err(|e| refused = Some(e)).is_ok());
        if controllers.is_empty() {
            let file = base.join(SUBTREE);
            return Err(refused.map_or(NoGroups::NoController(base.to_owned()), fail(&file)));
        }
        remove_left(base);
        let guest = base.join(format!("{PREFIX}{domid}-{pid}"));
        let lock = make_locked(&guest).map_err(fail(&guest))?;
        let groups = Self { guest, _lock: lock, controllers, made: BTreeMap::new() };
        for name in groups.controllers.iter().filter(|name| **name != "cpu") {
            enable(&groups.guest, name).map_err(fail(&groups.guest))?;
        }
        if groups.has("cpu") {
            write(&groups.guest, "cpu.weight", bulkhead_policy::group::WEIGHT).map_err(fail(&groups.guest))?;
        }
        Ok(groups)
    }

    /// The controllers that limit the guest.
    pub fn controllers(&self) -> &[&'static str] {
        &self.controllers
    }

    /// The controllers that the host lacks.
    pub fn missing(&self) -> Vec<&'static str> {
        CONTROLLERS.into_iter().filter(|name| !self.has(name)).collect()
    }

    /// The directory of the guest's group.
    pub fn path(&self) -> &Path {
        &self.guest
    }

    /// The limits of the guest's group: those of its processes together.
    pub fn limits(&self) -> GroupLimits {
        self.made.values().fold(GroupLimits::default(), |sum, made| sum.and(made.limits))
    }

    /// The limits of a process's group; `None` if it has none.
    pub fn limits_of(&self, name: &str) -> Option<GroupLimits> {
        self.made.get(name).map(|made| made.limits)
    }

    fn has(&self, controller: &str) -> bool {
        self.controllers.contains(&controller)
    }

    /// Makes the group of a process, or gives it its limits again: it serves all lives of a process, and somebody may have changed
    /// them. A launcher that has given up its rights leaves a group as it is.
    ///
    /// # Errors
    /// The kernel refuses the group or a limit.
    pub fn make(&mut self, name: &str, limits: GroupLimits) -> io::Result<()> {
        let old = self.made.get(name);
        if old.is_some_and(|made| made.procs.is_some()) {
            return Ok(());
        }
        let is_new = old.is_none();
        let path = self.guest.join(name);
        make_directory(&path)?;
        if self.has("memory") {
            write(&path, "memory.max", &limits.memory.to_string())?;
            // A kernel without swap accounting does not have the file.
            write_if_there(&path, "memory.swap.max", "0")?;
            write(&path, "memory.oom.group", "1")?;
        }
        if self.has("pids") {
            write(&path, "pids.max", &limits.tasks.to_string())?;
        }
        let made = Made { directory: open_directory(&path)?, procs: None, limits };
        self.made.insert(name.to_owned(), made);
        if is_new { self.set_totals() } else { Ok(()) }
    }

    /// Removes the group of a process that has ended for good.
    pub fn forget(&mut self, name: &str) {
        if self.made.remove(name).is_some() {
            let _ = std::fs::remove_dir(self.guest.join(name));
            // The old totals are higher.
            let _ = self.set_totals();
        }
    }

    /// Prepares for a launcher that gives up its rights: it can still move processes into the groups that exist.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub fn keep(&mut self) -> io::Result<()> {
        for (name, made) in &mut self.made {
            let path = self.guest.join(name).join("cgroup.procs");
            made.procs = Some(rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?);
        }
        Ok(())
    }

    /// The group in which a process starts; `None` if there is none for it.
    pub fn of(&self, name: &str) -> Option<Group<'_>> {
        let made = self.made.get(name)?;
        Some(made.procs.as_ref().map_or(Group::Directory(made.directory.as_fd()), |procs| Group::Procs(procs.as_fd())))
    }

    fn set_totals(&self) -> io::Result<()> {
        let limits = self.limits();
        if self.has("memory") {
            write(&self.guest, "memory.max", &limits.memory.to_string())?;
        }
        if self.has("pids") {
            write(&self.guest, "pids.max", &limits.tasks.to_string())?;
        }
        Ok(())
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        remove(&self.guest);
    }
}

/// The file that passes controllers on to the groups below.
const SUBTREE: &str = "cgroup.subtree_control";

fn enable(group: &Path, controller: &str) -> io::Result<()> {
    write(group, SUBTREE, &format!("+{controller}"))
}

fn write(group: &Path, file: &str, value: &str) -> io::Result<()> {
    std::fs::write(group.join(file), value)
}

fn write_if_there(group: &Path, file: &str, value: &str) -> io::Result<()> {
    if group.join(file).exists() { write(group, file, value) } else { Ok(()) }
}

/// Makes a directory; one that is there is taken over.
fn make_directory(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens and locks a directory. `None`: another launcher has it, or has just removed it.
fn lock(path: &Path) -> Option<OwnedFd> {
    let directory = open_directory(path).ok()?;
    rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive).ok()?;
    let locked = rustix::fs::fstat(&directory).ok()?;
    let there = std::fs::metadata(path).ok()?;
    (there.ino() == locked.st_ino).then_some(directory)
}

fn make_locked(path: &Path) -> io::Result<OwnedFd> {
    for _ in 0..ATTEMPTS {
        make_directory(path)?;
        if let Some(directory) = lock(path) {
            return Ok(directory);
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Removes a guest's group and those in it. What has a process stays.
fn remove(guest: &Path) {
    for entry in std::fs::read_dir(guest).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = std::fs::remove_dir(entry.path());
        }
    }
    let _ = std::fs::remove_dir(guest);
}

/// Removes the groups of guests whose launchers are dead.
fn remove_left(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Some(_locked) = lock(&entry.path())
        {
            remove(&entry.path());
        }
    }
}
