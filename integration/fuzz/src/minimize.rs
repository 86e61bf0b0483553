//! Makes an input small, operation by operation, while it keeps the same violation.
use crate::targets::Entry;
use crate::violation::{self, Violation};
use bulkhead_bus::exercise::Script;

/// Removes as many parts as it can while `keeps` holds: first large runs, then single ones (Zeller, Hildebrandt: ddmin, 2002).
pub fn shrink<T: Clone>(parts: &[T], keeps: &mut dyn FnMut(&[T]) -> Result<bool, String>) -> Result<Vec<T>, String> {
    let mut best = parts.to_vec();
    let mut size = best.len().div_ceil(2);
    while size > 0 {
        let mut at = 0usize;
        while at < best.len() {
            let end = at.saturating_add(size).min(best.len());
            let without: Vec<T> = best.iter().take(at).chain(best.iter().skip(end)).cloned().collect();
            if keeps(&without)? {
                best = without;
            } else {
                at = end;
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    Ok(best)
}

/// The smallest input found that violates the same as `input`.
///
/// # Errors
/// The input violates nothing.
pub fn minimize(entry: &Entry, input: &[u8]) -> Result<(Vec<u8>, Violation), String> {
    let wanted = violation::of(entry, input)?.ok_or("this input violates nothing")?;
    let mut keeps = |bytes: &[u8]| Ok(violation::of(entry, bytes)?.is_some_and(|v| v.same(&wanted)));
    if entry.device().is_none() {
        return Ok((shrink(input, &mut keeps)?, wanted));
    }
    let script = Script::of(input);
    let bytes = |settings, records: &[_]| Script { settings, records: records.to_vec() }.to_bytes();
    let mut records = shrink(&script.records, &mut |records| keeps(&bytes(script.settings, records)))?;
    let mut settings = script.settings;
    for at in 0..settings.len() {
        let mut plain = settings;
        plain.iter_mut().skip(at).take(1).for_each(|b| *b = 0);
        if keeps(&bytes(plain, &records))? {
            settings = plain;
        }
    }
    for at in 0..records.len() {
        let Some(data) = records.get(at).map(|r| r.data.clone()) else { break };
        let shorter = shrink(&data, &mut |data| {
            let mut records = records.clone();
            records.iter_mut().skip(at).take(1).for_each(|r| r.data = data.to_vec());
            keeps(&bytes(settings, &records))
        })?;
        records.iter_mut().skip(at).take(1).for_each(|r| r.data.clone_from(&shorter));
    }
    Ok((bytes(settings, &records), wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_matters_in_its_order() {
        let all: Vec<u32> = (0..97).collect();
        let mut tries = 0;
        let left = shrink(&all, &mut |parts| {
            tries += 1;
            Ok([3, 40, 96].iter().all(|n| parts.contains(n)))
        });
        assert_eq!(left, Ok(vec![3, 40, 96]));
        assert!(tries < 100, "{tries}");
        assert_eq!(shrink(&all, &mut |_| Ok(true)), Ok(Vec::new()));
        assert_eq!(shrink(&all, &mut |_| Ok(false)), Ok(all));
    }
}
