//! Which CPU: what is decided from numbers alone.
use std::time::Duration;

/// How much less loaded another CPU must be, in thousandths: less is noise, and moving costs warm caches.
const MARGIN: u32 = 250;

/// Time that a CPU was busy and that has passed, in the kernel's ticks, since it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(super) busy: u64,
    pub(super) all: u64,
}

/// Thousandths.
pub(super) fn permille(ran: u64, window: Duration) -> u32 {
    let window = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(1);
    u32::try_from(ran.saturating_mul(1000).checked_div(window).unwrap_or(0)).unwrap_or(u32::MAX)
}

/// How busy each CPU was between two readings, in thousandths. One that is not in both, or of which no time has passed, is idle.
pub(super) fn since(then: &[(usize, Load)], now: &[(usize, Load)]) -> Vec<(usize, u32)> {
    let of = |(cpu, now): &(usize, Load)| {
        let then = then.iter().find(|(c, _)| c == cpu).map_or(*now, |(_, load)| *load);
        let (busy, all) = (now.busy.saturating_sub(then.busy), now.all.saturating_sub(then.all));
        let part = busy.saturating_mul(1000).checked_div(all).unwrap_or(0);
        (*cpu, u32::try_from(part).unwrap_or(1000).min(1000))
    };
    now.iter().map(of).collect()
}

/// The load of a CPU. One that is not there is gone: nobody wants it.
fn load(loads: &[(usize, u32)], cpu: usize) -> u32 {
    loads.iter().find(|(c, _)| *c == cpu).map_or(1000, |(_, load)| *load)
}

/// The CPU to begin with: of those that are about as idle as the idlest the one whose turn it is.
pub(super) fn first(candidates: &[usize], loads: &[(usize, u32)], turn: usize) -> Option<usize> {
    let least = candidates.iter().map(|c| load(loads, *c)).min()?;
    let idle: Vec<usize> =
        candidates.iter().copied().filter(|c| load(loads, *c) <= least.saturating_add(MARGIN)).collect();
    idle.get(turn.checked_rem(idle.len())?).copied()
}

/// Another CPU that is clearly less loaded than `cpu` is by others; `own` is what the guest's threads take of it.
pub(super) fn better(candidates: &[usize], loads: &[(usize, u32)], cpu: usize, own: u32) -> Option<usize> {
    let others = load(loads, cpu).saturating_sub(own);
    let best = candidates.iter().copied().filter(|c| *c != cpu).min_by_key(|c| load(loads, *c))?;
    (others >= load(loads, best).saturating_add(MARGIN)).then_some(best)
}

/// Whether another CPU has been better often enough. Guests that leave the same CPU for the same other one at the same time would meet
/// there: not all are equally patient, and who waits longer sees that the others have gone.
pub(super) fn patient(wished: usize, turn: usize) -> bool {
    wished > turn.checked_rem(3).unwrap_or(0)
}

/// Whether the guest's threads were ready and did not run for longer than they can have kept each other waiting: for each other they
/// wait while one of them runs.
pub(super) fn waits_for_others(ran: u64, waited: u64, window: Duration) -> bool {
    permille(waited.saturating_sub(ran), window) >= 100
}

/// Whether a device works without pause. It is believed later than it is forgotten.
pub(super) fn works_alone(ran: u64, window: Duration, so_far: bool) -> bool {
    !window.is_zero() && permille(ran, window) >= if so_far { 500 } else { 750 }
}
