//! The kernel's figures of CPUs and threads, and the calls that move them.
use super::choose::Load;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Nanoseconds for which a thread ran, and for which it was ready and did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(super) ran: u64,
    pub(super) waited: u64,
}

impl Spent {
    pub(super) fn since(&self, then: &Self) -> Self {
        Self { ran: self.ran.saturating_sub(then.ran), waited: self.waited.saturating_sub(then.waited) }
    }
}

/// The calls that a place makes to the host.
pub(crate) trait Host {
    /// The CPUs that this process may use now.
    fn allowed(&self) -> Vec<usize>;
    /// Load of each CPU that is online.
    fn loads(&self) -> Vec<(usize, Load)>;
    /// Times of a thread; `None` if the kernel does not count them, or the thread has exited.
    fn spent(&self, tid: i32) -> Option<Spent>;
    /// Restricts a thread to these CPUs.
    fn keep(&self, tid: i32, cpus: &[usize]) -> std::io::Result<()>;
    /// Whether a thread is restricted to this CPU alone.
    fn is_kept(&self, tid: i32, cpu: usize) -> bool;
    /// Moves the interrupts with this name to a CPU. Errors are ignored.
    fn bind_interrupts(&self, name: &str, cpu: usize);
}

/// The kernel of this host.
pub(crate) struct Kernel;

impl Host for Kernel {
    fn allowed(&self) -> Vec<usize> {
        // A host with more CPUs than a set has room for gives an error; then no thread is placed.
        let set = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
    }

    fn loads(&self) -> Vec<(usize, Load)> {
        parse_loads(&std::fs::read_to_string("/proc/stat").unwrap_or_default())
    }

    fn spent(&self, tid: i32) -> Option<Spent> {
        // This works for any thread: /proc has a directory for it, though it lists main threads alone.
        parse_spent(&std::fs::read_to_string(format!("/proc/{tid}/schedstat")).ok()?)
    }

    fn keep(&self, tid: i32, cpus: &[usize]) -> std::io::Result<()> {
        let mut set = CpuSet::new();
        for cpu in cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU) {
            set.set(*cpu);
        }
        // 0 would mean this thread.
        let tid = Pid::from_raw(tid).ok_or(rustix::io::Errno::SRCH)?;
        Ok(sched_setaffinity(Some(tid), &set)?)
    }

    fn is_kept(&self, tid: i32, cpu: usize) -> bool {
        let set = Pid::from_raw(tid).and_then(|tid| sched_getaffinity(Some(tid)).ok());
        set.is_some_and(|set| set.count() == 1 && set.is_set(cpu))
    }

    fn bind_interrupts(&self, name: &str, cpu: usize) {
        for number in parse_interrupts(&std::fs::read_to_string("/proc/interrupts").unwrap_or_default(), name) {
            let _ = std::fs::write(format!("/proc/irq/{number}/smp_affinity_list"), cpu.to_string());
        }
    }
}

/// "run wait slices" (Documentation/scheduler/sched-stats.rst).
pub(super) fn parse_spent(text: &str) -> Option<Spent> {
    let mut words = text.split_whitespace().map(|w| w.parse().ok());
    Some(Spent { ran: words.next()??, waited: words.next()?? })
}

/// "cpuN user nice system idle iowait irq softirq steal …" (proc_stat(5)). Stolen time counts as busy: nothing here could run in
/// it.
pub(super) fn parse_loads(text: &str) -> Vec<(usize, Load)> {
    let of = |line: &str| {
        let mut words = line.strip_prefix("cpu")?.split_whitespace();
        let cpu = words.next()?.parse().ok().filter(|_| line.as_bytes().get(3).is_some_and(u8::is_ascii_digit))?;
        let times: Vec<u64> = words.take(8).map_while(|w| w.parse().ok()).collect();
        let all = times.iter().fold(0u64, |sum, t| sum.saturating_add(*t));
        let idle = times.iter().skip(3).take(2).fold(0u64, |sum, t| sum.saturating_add(*t));
        Some((cpu, Load { busy: all.saturating_sub(idle), all }))
    };
    text.lines().filter_map(of).collect()
}

/// The numbers of the interrupts whose last word is `name`.
pub(super) fn parse_interrupts(text: &str, name: &str) -> Vec<u32> {
    let of = |line: &str| {
        let (number, rest) = line.split_once(':')?;
        (rest.split_whitespace().next_back() == Some(name)).then(|| number.trim().parse().ok())?
    };
    text.lines().filter_map(of).collect()
}
