//! query-block and query-blockstats: the drives as their controller's process has them.
use crate::qmp::{Outcome, Shared};
use bulkhead_plan::{DeviceConfig, DriveConfig, Slot};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// A drive, and its registers by name.
struct Seen {
    config: DriveConfig,
    registers: BTreeMap<String, String>,
}

impl Seen {
    fn number(&self, name: &str) -> u64 {
        self.registers.get(name).and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    fn is(&self, name: &str) -> bool {
        self.registers.get(name).is_some_and(|v| v == "true")
    }
}

impl Shared {
    /// From now on the drive `id` has the medium that its client calls `name`, or none.
    pub(crate) fn note_medium(&self, id: &str, name: Option<String>) {
        self.media.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), name);
    }

    /// All drives that have not been unplugged.
    async fn drives(&self) -> Vec<Seen> {
        let mut all = Vec::new();
        let controllers = self.plan.devices.iter().filter_map(|d| match &d.config {
            DeviceConfig::Ide { drives } => Some((d.slot, drives)),
            _ => None,
        });
        let controllers: Vec<(Slot, &Vec<DriveConfig>)> = controllers.collect();
        for (slot, drives) in controllers {
            let registers = self.registers(slot).await.unwrap_or_default();
            for config in drives {
                let channel = if config.index < 2 { "primary" } else { "secondary" };
                let prefix = format!("{channel}.drive{}.", config.index);
                let own = registers.iter().filter_map(|(k, v)| Some((k.strip_prefix(&prefix)?.to_owned(), v.clone())));
                let seen = Seen { config: config.clone(), registers: own.collect() };
                // A process that does not answer has its drives all the same.
                if seen.registers.is_empty() || seen.is("present") {
                    all.push(seen);
                }
            }
        }
        all
    }

    /// query-block.
    pub(crate) async fn query_block(&self) -> Outcome {
        let drives = self.drives().await;
        let media = self.media.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let block = |drive: Seen| {
            let config = &drive.config;
            let file = media.get(&config.id).cloned().unwrap_or(config.file.clone());
            let has_medium =
                if drive.registers.is_empty() { config.size.is_some() } else { drive.number("sectors") > 0 };
            let mut out = json!({
                "device": config.id, "qdev": config.id, "type": "unknown", "io-status": "ok",
                "removable": config.cdrom, "locked": drive.is("tray locked"),
            });
            let Some(map) = out.as_object_mut() else { return Value::Null };
            if config.cdrom {
                map.insert("tray_open".into(), json!(drive.is("tray open")));
            }
            if has_medium {
                let size = drive.number("sectors").saturating_mul(512);
                let name = file.unwrap_or_default();
                map.insert(
                    "inserted".into(),
                    json!({
                        "file": name, "ro": config.read_only, "drv": "raw", "encrypted": false,
                        "image": { "filename": name, "format": "raw", "virtual-size": size },
                    }),
                );
            }
            out
        };
        Ok(drives.into_iter().map(block).collect())
    }

    /// query-blockstats.
    pub(crate) async fn query_blockstats(&self) -> Outcome {
        let stats = |drive: Seen| {
            let n = |name| drive.number(name);
            json!({ "device": drive.config.id, "qdev": drive.config.id, "stats": {
                "rd_operations": n("reads"), "rd_bytes": n("bytes read"),
                "wr_operations": n("writes"), "wr_bytes": n("bytes written"),
                "flush_operations": n("flushes"), "unmap_operations": n("trims"),
                // Which of the operations failed is not counted apart.
                "failed_operations": n("failed"),
            } })
        };
        Ok(self.drives().await.into_iter().map(stats).collect())
    }
}
