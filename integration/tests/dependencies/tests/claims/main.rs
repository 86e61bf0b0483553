//! What the documents promise, checked against the tests and types that they name. `UPDATE=1 cargo test -p bulkhead-dependencies
//! --test claims` writes the parts of pages that are made from data.
//!
//! | file | what |
//! |---|---|
//! | `sources.rs` | names of the workspace's tests and items |
//! | `faults.rs` | `integration/breakages/faults.tsv` |
//! | `borders.rs` | `docs/security/borders.toml`, for docs/threat-model.md |
//! | `cves.rs` | `docs/security/cves.toml`, for docs/security/cves.md |
//! | `launcher.rs` | `docs/security/launcher.toml`, for docs/threat-model.md |
//! | `page.rs` | pages with a part that is made from data |
mod borders;
mod cves;
mod faults;
mod launcher;
mod page;
mod sources;
