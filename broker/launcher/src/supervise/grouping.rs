//! The processes' control groups, and what is promised of the processes.
use super::Launcher;
use crate::failure::Failure;
use crate::groups::{Choice, Groups, NoGroups, Places, base};
use crate::log::say;
use crate::machine::Machine;
use bulkhead_plan::promise::{FILE, Promise, PromisedGroup, PromisedLimits, Promises};
use bulkhead_plan::{CONTROL, FdUse, Picture, Slot, kind};
use bulkhead_policy::{GroupLimits, maps};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{FileType, MemfdFlags, OFlags};

/// Processes of `intake` that may be in its group at once: the kernel does not end one that waits for dead storage.
const LOOKS: u64 = 4;

/// Makes a guest's group and that of `intake`. A machine without groups says so in its line of the start; where the settings name a
/// group, it does not start.
pub(super) fn begin(machine: &Machine, domid: u16, stubdom: bool) -> Result<Result<Groups, NoGroups>, Failure> {
    if stubdom || machine.probe {
        return Ok(Err(NoGroups::Off));
    }
    let limits = bulkhead_policy::profile(kind::INTAKE.role).map(|p| GroupLimits::new(&p.limits, None, 0));
    let limits = limits.unwrap_or_default();
    let all = GroupLimits { memory: limits.memory.saturating_mul(LOOKS), tasks: limits.tasks.saturating_mul(LOOKS) };
    let made = base(&machine.cgroup, Places::here())
        .and_then(|base| Groups::begin(&base, domid, std::process::id()))
        .and_then(|mut groups| match groups.make(kind::INTAKE.role, all) {
            Ok(()) => Ok(groups),
            Err(source) => Err(NoGroups::Refused { path: groups.path().to_owned(), source }),
        });
    match (made, &machine.cgroup) {
        (Err(e), Choice::In(path)) => Err(Failure::Groups { path: path.clone(), source: e }),
        (made, _) => Ok(made),
    }
}

/// The memfd of the promises.
pub(super) fn promises() -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create(FILE, MemfdFlags::CLOEXEC)?)
}

/// Whether a process that gets this descriptor can make a file without storage grow, whose pages the kernel cannot take back.
fn writes_in_memory(what: &FdUse, fd: BorrowedFd<'_>) -> bool {
    // Its size is sealed ([`bulkhead_policy::maps`]).
    if matches!(what, FdUse::DirtyMap(_)) {
        return false;
    }
    /// TMPFS_MAGIC, RAMFS_MAGIC (linux/magic.h).
    const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    let is_file = rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_file());
    let writes = rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.intersects(OFlags::RDWR | OFlags::WRONLY));
    is_file && writes && rustix::fs::fstatfs(fd).is_ok_and(|fs| IN_MEMORY.contains(&fs.f_type))
}

impl Launcher {
    /// Makes the group of a slot's process, if there is none yet.
    pub(super) fn make_group(&mut self, number: Slot, file_size: Option<u64>) -> std::io::Result<()> {
        let (Ok(groups), Some(state)) = (&mut self.groups, self.slots.get(number)) else { return Ok(()) };
        let Some(profile) = bulkhead_policy::profile(state.kind.role) else { return Ok(()) };
        let kept = state.kept();
        let in_memory = kept.iter().filter(|(what, fd)| writes_in_memory(what, *fd)).count() as u64;
        let mut limits = GroupLimits::new(&profile.limits, file_size, in_memory);
        limits.memory = limits.memory.saturating_add(maps(kept.iter().map(|(what, fd)| (what, *fd))));
        groups.make(&state.name, limits)
    }

    /// Makes the groups of all processes that there can be, for a launcher that is about to give up its rights.
    pub(super) fn keep_groups(&mut self) -> Result<(), Failure> {
        let all: Vec<Slot> = self.slots.iter().map(|s| s.slot).collect();
        let made = all.into_iter().try_for_each(|slot| self.make_group(slot, self.file_size(slot)));
        let Ok(groups) = &mut self.groups else { return Ok(()) };
        if let Err(source) = made.and_then(|()| groups.keep()) {
            let (path, required) = (groups.path().to_owned(), self.manner.groups_required);
            let source = NoGroups::Refused { path: path.clone(), source };
            if required {
                return Err(Failure::Groups { path, source });
            }
            self.groups = Err(source);
        }
        Ok(())
    }

    /// Goes on without a process's group, which has failed; `Err` if the settings demand groups and the machine does not run yet.
    pub(super) fn without_group(&mut self, name: &str, source: std::io::Error) -> Result<(), Failure> {
        let Ok(groups) = &mut self.groups else { return Ok(()) };
        let path = groups.path().join(name);
        if self.manner.groups_required && !self.running {
            return Err(Failure::Groups { path: path.clone(), source: NoGroups::Refused { path, source } });
        }
        say(&format!("{name}: the control group {}: {source}; it runs without one", path.display()));
        groups.forget(name);
        Ok(())
    }

    /// The guest's control groups in the line of the start; nothing in a stub domain, whose launcher always makes them.
    pub(super) fn groups_in_words(&self) -> String {
        match &self.groups {
            _ if self.manner.stubdom || self.manner.probe => String::new(),
            Ok(groups) => {
                let missing = groups.missing();
                let lacks =
                    if missing.is_empty() { String::new() } else { format!(" (not there: {})", missing.join(", ")) };
                format!(", control groups {}{lacks}", groups.controllers().join(", "))
            }
            Err(e) => format!(", no control groups: {e}"),
        }
    }

    /// Writes down what is promised of the processes that live. Nobody but this process has the file.
    pub(super) fn promise(&self) {
        let of = |limits: GroupLimits| PromisedLimits { memory: limits.memory, tasks: limits.tasks };
        let groups = self.groups.as_ref().ok();
        let group = groups.map(|groups| PromisedGroup {
            path: groups.path().display().to_string(),
            controllers: groups.controllers().iter().map(|c| (*c).to_owned()).collect(),
            limits: of(groups.limits()),
        });
        let processes = self.slots.iter().filter_map(|state| {
            let life = state.life.as_ref()?;
            let config = self.plan.devices.iter().find(|d| d.slot == state.slot).map(|d| &d.config);
            let kept = state.kept();
            Some(Promise {
                pid: life.spawned.pid,
                name: state.name.clone(),
                file_size: life.file_size,
                guest_memory: bulkhead_policy::guest_memory(config, kept.iter().map(|(what, fd)| (what, *fd))),
                group: groups.and_then(|groups| groups.limits_of(&state.name)).map(of),
            })
        });
        let all = Promises { group, processes: processes.collect() };
        // A reader that comes between the two calls reads again. Without the file a check knows the profiles alone.
        if let (Some(file), Ok(bytes)) = (&self.promises, serde_json::to_vec(&all)) {
            let _ = rustix::fs::ftruncate(file, 0);
            let _ = rustix::io::pwrite(file, &bytes, 0);
        }
    }
}

/// The nice value of a process in dom0, and its time slice in nanoseconds (0: the kernel's), by what waits for it.
pub(super) fn schedule(slot: Slot, picture: Picture) -> (i32, u64) {
    /// Time slice of a device.
    const SLICE: u64 = 100_000;
    /// A woken device pre-empts the broker, and a device that loops gets no more than 1.6 times the weight of others.
    const DEVICE: i32 = -2;
    /// The broker's. No higher: libxl waits ten seconds for control's answer, on a busy host too.
    const PEOPLE: i32 = 0;
    // People and the toolstack wait for control and viewers, the guest waits for the rest.
    if slot == CONTROL || picture == Picture::Looks { (PEOPLE, 0) } else { (DEVICE, SLICE) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_plan::{BROKER, FIRST_DEVICE};
    use rustix::fd::AsFd as _;

    #[test]
    fn people_wait_and_the_guest_does_not() {
        let nice = |slot, picture| schedule(slot, picture).0;
        assert_eq!(nice(CONTROL, Picture::None), nice(FIRST_DEVICE, Picture::Looks));
        assert!(nice(CONTROL, Picture::None) == 0 && nice(FIRST_DEVICE, Picture::None) < 0);
        assert_eq!(schedule(FIRST_DEVICE, Picture::Draws), (-2, 100_000));
        assert_ne!(BROKER, CONTROL);
    }

    #[test]
    fn files_without_storage_that_can_be_written_count() {
        let memory = rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        let writes_in_memory = |fd| super::writes_in_memory(&FdUse::Serial, fd);
        assert!(writes_in_memory(memory.as_fd()));
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory));
        let reads = std::fs::File::open(path).unwrap();
        assert!(!writes_in_memory(reads.as_fd()), "it makes nothing grow");
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        assert!(!writes_in_memory(pipe.as_fd()));
    }

    /// A map in memory counted as a file as large as the disk's image, so the process had no bound of memory at all.
    #[test]
    fn a_map_of_written_pages_counts_with_its_own_size() {
        let map = bulkhead_ring::DirtyMap::create(1).unwrap();
        let what = FdUse::DirtyMap(FIRST_DEVICE);
        assert!(!writes_in_memory(&what, map.as_fd()));
        let size = rustix::fs::fstat(&map).unwrap().st_size.unsigned_abs();
        assert_eq!(maps([(&what, map.as_fd()), (&FdUse::Serial, map.as_fd())]), size);
        assert!(size < 64 << 10, "for a guest of a gibibyte");
    }

    #[test]
    fn a_group_that_the_settings_name_is_a_demand_and_no_other() {
        let machine = |cgroup| Machine { cgroup, ..Machine::default() };
        assert!(matches!(begin(&machine(Choice::Off), 7, false), Ok(Err(NoGroups::Off))));
        assert!(matches!(begin(&machine(Choice::In("/no/such".into())), 7, false), Err(Failure::Groups { .. })));
        let stubdom = begin(&machine(Choice::In("/no/such".into())), 7, true);
        assert!(matches!(stubdom, Ok(Err(_))), "a stub domain has groups of its own");
    }
}
