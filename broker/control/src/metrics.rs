//! Counters of all processes: x-bulkhead-statistics and x-bulkhead-activity as JSON, x-bulkhead-metrics in Prometheus' format.
use crate::outcome::{Outcome, QmpError};
use crate::session_state::Shared;
use bulkhead_control_api::v1;
use bulkhead_plan::{Activity, BROKER, Slot};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

impl Shared {
    /// Name and slot of every process that reports counters.
    fn named(&self) -> Vec<(String, Slot)> {
        let broker = [("broker".to_owned(), BROKER)];
        broker.into_iter().chain(self.plan.devices.iter().map(|d| (d.name.clone(), d.slot))).collect()
    }

    /// The counters of each process that answers, by labels for people.
    pub(crate) async fn statistics(&self) -> Outcome {
        let mut all = Map::new();
        for (name, slot) in self.named() {
            let Some(mut client) = self.clients.get(slot) else { continue };
            let Ok(answer) = client.statistics(v1::Empty {}).await else { continue };
            let counters: Map<_, _> =
                answer.into_inner().counters.into_iter().map(|c| (c.name, json!(c.value))).collect();
            all.insert(name, Value::Object(counters));
        }
        Ok(Value::Object(all))
    }

    /// The [`Activity`] of each process that answers.
    pub(crate) async fn activity(&self) -> Outcome {
        let mut all = Map::new();
        for (name, slot) in self.named() {
            let Some(mut client) = self.clients.get(slot) else { continue };
            let Ok(answer) = client.facts(v1::Empty {}).await else { continue };
            let v1::Activity { accesses, posted, wakeups, doorbells } =
                answer.into_inner().activity.unwrap_or_default();
            all.insert(name, json!(Activity { accesses, posted, wakeups, doorbells }));
        }
        Ok(Value::Object(all))
    }

    /// The counters and the columns of the process table, in Prometheus' text exposition format 0.0.4.
    pub(crate) async fn metrics(&self) -> Outcome {
        let statistics = self.statistics().await?;
        let rows = self.launcher.processes().await.map_err(QmpError::generic)?;
        let guest = format!("guest=\"{}\",domid=\"{}\"", escaped(&self.plan.name), self.plan.domid);
        let mut out = String::new();
        let mut group = |name: &str, kind: &str, help: &str, values: Vec<(String, u64)>| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in values {
                let _ = writeln!(out, "{name}{{{guest}{labels}}} {value}");
            }
        };
        let process = |row: &bulkhead_plan::ProcessRow| format!(",process=\"{}\"", escaped(&row.name));
        group(
            "bulkhead_process_up",
            "gauge",
            "Whether the process runs.",
            rows.iter().map(|r| (process(r), u64::from(r.pid != 0))).collect(),
        );
        group(
            "bulkhead_process_restarts_total",
            "counter",
            "How often it was started again.",
            rows.iter().map(|r| (process(r), u64::from(r.restarts))).collect(),
        );
        group(
            "bulkhead_process_pss_bytes",
            "gauge",
            "Its proportional set size.",
            rows.iter().map(|r| (process(r), r.pss_kb.saturating_mul(1024))).collect(),
        );
        let counters = statistics.as_object().into_iter().flatten().flat_map(|(name, counters)| {
            let labels =
                move |counter: &str| format!(",process=\"{}\",counter=\"{}\"", escaped(name), escaped(counter));
            counters
                .as_object()
                .into_iter()
                .flatten()
                .filter_map(move |(counter, value)| Some((labels(counter), value.as_u64()?)))
        });
        group(
            "bulkhead_process_events_total",
            "counter",
            "What it has counted since it was started.",
            counters.collect(),
        );
        Ok(Value::String(out))
    }
}

/// Escapes backslash, quote and line feed in a label's value (Prometheus' text format).
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
