//! The process table for control, read from /proc.
use super::Launcher;
use bulkhead_plan::ProcessRow;
use bulkhead_policy::{LAUNCHER, STARTER};

impl Launcher {
    /// A row for each process, this one and the starter first.
    pub(super) fn table(&self) -> Vec<ProcessRow> {
        let starter = &self.spawner.starter;
        let own = starter.row(LAUNCHER, LAUNCHER, rustix::process::getpid().as_raw_nonzero().get(), 0);
        // A hot-pluggable device is left out until it is added.
        let slots = self.slots.iter().filter(|s| !self.awaits_hot_plug(s.slot)).map(|s| {
            let pid = s.life.as_ref().map_or(0, |l| l.spawned.pid);
            starter.row(&s.name, s.kind.role, pid, s.restarts())
        });
        let its = starter.pid().map(|pid| starter.row(STARTER, STARTER, pid, 0));
        std::iter::once(own).chain(its).chain(slots).collect()
    }
}
