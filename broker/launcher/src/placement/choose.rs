//! The choice of a CPU, from numbers alone.
use std::time::Duration;

/// By how much another CPU must be less loaded, in thousandths. Less is noise, and a move costs warm caches.
const MARGIN: u32 = 250;

/// Busy time and all time of a CPU since it came online, in the kernel's ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(super) busy: u64,
    pub(super) all: u64,
}

/// Nanoseconds of a window as thousandths of it.
pub(super) fn permille(ran: u64, window: Duration) -> u32 {
    let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(1);
    u32::try_from(ran.saturating_mul(1000).checked_div(window).unwrap_or(0)).unwrap_or(u32::MAX)
}

/// Load of each CPU between two readings, in thousandths. A CPU that is in one reading alone, or whose time has not passed, is
/// idle.
pub(super) fn since(then: &[(usize, Load)], now: &[(usize, Load)]) -> Vec<(usize, u32)> {
    let of = |(cpu, now): &(usize, Load)| {
        let then = then.iter().find(|(c, _)| c == cpu).map_or(*now, |(_, load)| *load);
        let (busy, all) = (now.busy.saturating_sub(then.busy), now.all.saturating_sub(then.all));
        let part = busy.saturating_mul(1000).checked_div(all).unwrap_or(0);
        (*cpu, u32::try_from(part).unwrap_or(1000).min(1000))
    };
    now.iter().map(of).collect()
}

/// The load of a CPU in thousandths. A missing CPU counts as full, so that nobody chooses it.
fn load(loads: &[(usize, u32)], cpu: usize) -> u32 {
    loads.iter().find(|(c, _)| *c == cpu).map_or(1000, |(_, load)| *load)
}

/// The first CPU: one of those that are about as idle as the idlest, by `turn`.
pub(super) fn first(candidates: &[usize], loads: &[(usize, u32)], turn: usize) -> Option<usize> {
    let least = candidates.iter().map(|c| load(loads, *c)).min()?;
    let idle: Vec<usize> =
        candidates.iter().copied().filter(|c| load(loads, *c) <= least.saturating_add(MARGIN)).collect();
    idle.get(turn.checked_rem(idle.len())?).copied()
}

/// Another CPU that is clearly less loaded than `cpu` is by other work; `own` is the guest's threads' part of the load of `cpu`.
pub(super) fn better(candidates: &[usize], loads: &[(usize, u32)], cpu: usize, own: u32) -> Option<usize> {
    let others = load(loads, cpu).saturating_sub(own);
    let best = candidates.iter().copied().filter(|c| *c != cpu).min_by_key(|c| load(loads, *c))?;
    (others >= load(loads, best).saturating_add(MARGIN)).then_some(best)
}

/// Whether another CPU was better in enough checks (`wished`). Guests that leave a CPU at the same time would meet on the next one,
/// so the number depends on `turn`: a guest that waits longer finds that the others have left.
pub(super) fn patient(wished: usize, turn: usize) -> bool {
    wished > turn.checked_rem(3).unwrap_or(0)
}

/// Whether the guest's threads have waited for other work: they were ready, and did not run, for longer than they can have waited
/// for each other, which is the time that they ran.
pub(super) fn waits_for_others(ran: u64, waited: u64, window: Duration) -> bool {
    permille(waited.saturating_sub(ran), window) >= 100
}

/// Whether a device works without pause: above 75% of the window, or above 50% if it did so in the last one.
pub(super) fn works_alone(ran: u64, window: Duration, so_far: bool) -> bool {
    !window.is_zero() && permille(ran, window) >= if so_far { 500 } else { 750 }
}
