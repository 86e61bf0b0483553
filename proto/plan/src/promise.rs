//! What a launcher has promised of its processes beyond their profiles: a file in its own memory, which nobody else writes, for an
//! operator's check.
use serde::{Deserialize, Serialize};

/// The name of the file (a memfd), by which it is found among the launcher's descriptors.
pub const FILE: &str = "bulkhead-promises";

/// What has been promised of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promises {
    /// The guest's control group; `None`: it has none.
    pub group: Option<PromisedGroup>,
    /// Its processes that live.
    pub processes: Vec<Promise>,
}

/// A guest's control group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromisedGroup {
    /// Its directory. That of a process is below it and has the process's name.
    pub path: String,
    /// The controllers that limit.
    pub controllers: Vec<String>,
    /// Its own limits.
    pub limits: PromisedLimits,
}

/// Limits of a control group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromisedLimits {
    /// memory.max, bytes.
    pub memory: u64,
    /// pids.max, threads.
    pub tasks: u64,
}

/// What has been promised of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Its number in the launcher's namespace.
    pub pid: i32,
    /// Its name in logs, such as `serial0`.
    pub name: String,
    /// RLIMIT_FSIZE, if it is below the profile's.
    pub file_size: Option<u64>,
    /// Bytes of guest memory that it maps as a whole, above its profile's limit of address space.
    pub guest_memory: u64,
    /// The limits of its control group; `None`: it has none of its own.
    pub group: Option<PromisedLimits>,
}
