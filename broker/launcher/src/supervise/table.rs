//! The process table for control, read from /proc.
use super::Launcher;
use bulkhead_plan::ProcessRow;
use bulkhead_policy::LAUNCHER;
use bulkhead_policy::verify::row;

impl Launcher {
    /// A row for each process, this one first.
    pub(super) fn table(&self) -> Vec<ProcessRow> {
        let own =
            row("launcher", LAUNCHER.role, rustix::process::getpid().as_raw_nonzero().get(), &self.spawner.own, 0);
        // A hot-pluggable device is left out until it is added.
        let slots = self.slots.iter().filter(|s| !self.awaits_hot_plug(s.slot)).map(|s| {
            let pid = s.life.as_ref().map_or(0, |l| l.spawned.pid);
            row(&s.name, s.kind.role, pid, &self.spawner.own, s.restarts())
        });
        std::iter::once(own).chain(slots).collect()
    }
}
