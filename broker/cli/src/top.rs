//! `top`: the rates of each process of a guest.
use crate::guest::Guest;
use crate::{Done, out};
use bulkhead_plan::Activity;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// Reads one counter.
type Counter = fn(&Activity) -> u64;

/// The headings of the rates, and the counter of each.
const RATES: [(&str, Counter); 4] = [
    ("accesses/s", |a| a.accesses.unwrap_or(0)),
    ("posted/s", |a| a.posted),
    ("wake-ups/s", |a| a.wakeups),
    ("doorbells/s", |a| a.doorbells.unwrap_or(0)),
];

/// One reading: counters by process, and rows of the process table.
struct Reading {
    at: Instant,
    activity: BTreeMap<String, Activity>,
    rows: Vec<Value>,
}

fn read(guest: &Guest) -> Result<Reading, crate::Failure> {
    let table = guest.ask("x-bulkhead-processes", &json!({}))?;
    let rows = table.get("processes").and_then(Value::as_array).cloned().unwrap_or_default();
    let activity = guest.ask("x-bulkhead-activity", &json!({}))?;
    let activity = serde_json::from_value(activity).map_err(|e| guest.bad_answer("x-bulkhead-activity", e))?;
    Ok(Reading { at: Instant::now(), activity, rows })
}

fn number(value: Option<&Value>) -> u64 {
    value.and_then(Value::as_u64).unwrap_or(0)
}

/// The rates between two readings. The counters of a restarted process begin at 0.
fn rates(before: &Reading, now: &Reading) -> Vec<(String, u64, u64, [f64; RATES.len()])> {
    let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
    let row = |row: &Value| {
        let name = row.get("name").and_then(Value::as_str)?.to_owned();
        let of = |reading: &Reading| reading.activity.get(&name).copied().unwrap_or_default();
        let (old, new) = (of(before), of(now));
        let rates = RATES.map(|(_, counter)| {
            let (old, new) = (counter(&old), counter(&new));
            (if new < old { new } else { new.saturating_sub(old) }) as f64 / seconds
        });
        Some((name, number(row.get("pss_kb")), number(row.get("restarts")), rates))
    };
    now.rows.iter().filter_map(row).collect()
}

/// Prints a table every `seconds`, `count` times or until interrupted.
pub(crate) fn run(guest: &Guest, seconds: u64, count: Option<u64>, json: bool) -> Done {
    let mut before = read(guest)?;
    let mut left = count;
    while left != Some(0) {
        std::thread::sleep(Duration::from_secs(seconds));
        let now = read(guest)?;
        let table = rates(&before, &now);
        if json {
            let rows: Vec<_> = table
                .iter()
                .map(|(name, pss, restarts, rates)| {
                    let mut row = json!({ "process": name, "pss_kb": pss, "restarts": restarts });
                    if let Some(map) = row.as_object_mut() {
                        map.extend(
                            RATES.iter().zip(rates).map(|((heading, _), rate)| ((*heading).to_owned(), json!(rate))),
                        );
                    }
                    row
                })
                .collect();
            out::json(&Value::Array(rows))?;
        } else {
            if std::io::stdout().is_terminal() {
                out::clear();
            }
            let headings = RATES.map(|(heading, _)| format!("{heading:>12}"));
            out::line(format_args!("{:<10} {:>9} {:>9} {}", "process", "PSS kB", "restarts", headings.join(" ")));
            for (name, pss, restarts, rates) in &table {
                out::line(format_args!(
                    "{name:<10} {pss:>9} {restarts:>9} {}",
                    rates.map(|r| format!("{r:>12.1}")).join(" ")
                ));
            }
        }
        before = now;
        left = left.map(|n| n.saturating_sub(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_by_second_and_begin_anew_with_a_process() {
        let at = Instant::now();
        let one = |n: u64, at| Reading {
            at,
            activity: [("ide".to_owned(), Activity { accesses: Some(n), ..Activity::default() })].into(),
            rows: vec![json!({ "name": "ide", "pss_kb": 9, "restarts": 1 })],
        };
        let two = at + Duration::from_secs(2);
        let rate = |a, b| rates(&one(a, at), &one(b, two))[0].3[0];
        assert!((rate(100, 300) - 100.0).abs() < 1e-9 && (rate(300, 50) - 25.0).abs() < 1e-9);
    }

    #[test]
    fn each_column_is_the_rate_of_its_counter() {
        let at = Instant::now();
        let reading = |at, activity| Reading {
            at,
            activity: [("ide".to_owned(), activity)].into(),
            rows: vec![json!({ "name": "ide" })],
        };
        let counted = Activity { accesses: Some(40), posted: 30, wakeups: 20, doorbells: Some(10) };
        let table = rates(&reading(at, Activity::default()), &reading(at + Duration::from_secs(1), counted));
        let columns: Vec<_> = RATES.iter().map(|(heading, _)| *heading).zip(table[0].3).collect();
        assert_eq!(columns, [("accesses/s", 40.0), ("posted/s", 30.0), ("wake-ups/s", 20.0), ("doorbells/s", 10.0)]);
    }
}
