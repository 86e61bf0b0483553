//! query-block and query-blockstats: the drives, with the facts that their controller's process reports.
use crate::outcome::Outcome;
use crate::session_state::Shared;
use bulkhead_control_api::v1;
use bulkhead_plan::{DriveConfig, Slot};
use serde_json::{Value, json};
use std::sync::PoisonError;

/// A drive with its process's facts, which are absent if the process does not answer.
struct DriveFacts {
    config: DriveConfig,
    facts: Option<v1::Drive>,
}

impl Shared {
    /// Records the name of the new medium in drive `id`, or that the drive is empty.
    pub(crate) fn note_medium(&self, id: &str, name: Option<String>) {
        self.media.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), name);
    }

    /// All drives that have not been unplugged.
    async fn drives(&self) -> Vec<DriveFacts> {
        let mut all = Vec::new();
        let controllers = self.plan.devices.iter().map(|d| (d.slot, d.config.facets().drives));
        let controllers: Vec<(Slot, &[DriveConfig])> = controllers.filter(|(_, drives)| !drives.is_empty()).collect();
        for (slot, drives) in controllers {
            let facts = self.clients.facts(slot).await.map(|f| f.drives);
            for config in drives {
                // An answer leaves out the unplugged drives; without an answer, all configured drives are listed.
                let own = facts.as_ref().map(|all| all.iter().find(|d| d.index == u32::from(config.at.port)).cloned());
                match own {
                    Some(None) => {}
                    facts => all.push(DriveFacts { config: config.clone(), facts: facts.flatten() }),
                }
            }
        }
        all
    }

    /// query-block.
    pub(crate) async fn query_block(&self) -> Outcome {
        let drives = self.drives().await;
        let media = self.media.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let block = |drive: DriveFacts| {
            let config = &drive.config;
            let file = media.get(&config.id).cloned().unwrap_or(config.file.clone());
            let facts = drive.facts.unwrap_or_default();
            let has_medium = drive.facts.as_ref().map_or(config.size.is_some(), |f| f.sectors > 0);
            let mut out = json!({
                "device": config.id, "qdev": config.id, "type": "unknown", "io-status": "ok",
                "removable": config.cdrom, "locked": facts.locked,
            });
            let Some(map) = out.as_object_mut() else { return Value::Null };
            if config.cdrom {
                map.insert("tray_open".into(), json!(facts.tray_open));
            }
            if has_medium {
                let size = facts.sectors.saturating_mul(512);
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
        let stats = |drive: DriveFacts| {
            let n = drive.facts.unwrap_or_default();
            json!({ "device": drive.config.id, "qdev": drive.config.id, "stats": {
                "rd_operations": n.reads, "rd_bytes": n.bytes_read,
                "wr_operations": n.writes, "wr_bytes": n.bytes_written,
                "flush_operations": n.flushes, "unmap_operations": n.trims,
                // Failures are not counted by operation.
                "failed_operations": n.failed,
            } })
        };
        Ok(self.drives().await.into_iter().map(stats).collect())
    }
}
