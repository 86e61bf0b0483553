//! The process table, for control: what the kernel says in /proc.
use super::Launcher;
use bulkhead_plan::ProcessRow;
use bulkhead_policy::verify::row;

impl Launcher {
    /// All processes, this one first.
    pub(super) fn table(&self) -> Vec<ProcessRow> {
        let own = row("launcher", "", rustix::process::getpid().as_raw_nonzero().get(), &self.spawner.own, 0);
        // A device that nobody has added is none.
        let slots = self.slots.iter().filter(|s| !self.awaits_hot_plug(s.slot)).map(|s| {
            let pid = s.life.as_ref().map_or(0, |l| l.spawned.pid);
            row(&s.name, s.kind.role, pid, &self.spawner.own, s.restarts())
        });
        std::iter::once(own).chain(slots).collect()
    }
}
