//! Where a guest's control groups may be made.
use bulkhead_policy::group::ROOT;
use std::path::{Path, PathBuf};

/// What the settings say of control groups in dom0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Where the host lets a device model make them; without them where it does not.
    #[default]
    Auto,
    /// None.
    Off,
    /// In this group, whose path is that of its directory. A host without it starts no guest.
    In(PathBuf),
}

impl TryFrom<&str> for Choice {
    type Error = &'static str;

    fn try_from(text: &str) -> Result<Self, &'static str> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::Off),
            path if path.starts_with('/') && !path.split('/').any(|part| part == "..") => Ok(Self::In(path.into())),
            _ => Err("auto, none, or the path of a control group's directory"),
        }
    }
}

/// Where to look on a host.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// The mount point of the control groups.
    pub root: &'a Path,
    /// It exists if the first process is systemd, which owns the root group and all below it that it has not delegated.
    pub systemd: &'a Path,
}

impl Places<'static> {
    /// This host's.
    pub fn here() -> Self {
        Self { root: Path::new(ROOT), systemd: Path::new("/run/systemd/system") }
    }
}

/// The unit of Bulkhead's package whose group systemd has delegated.
pub(super) const UNIT: &str = "bulkhead.service";

/// Why there are no control groups.
#[derive(Debug, thiserror::Error)]
pub enum NoGroups {
    /// `-cgroup none`.
    #[error("-cgroup none")]
    Off,
    /// There is no hierarchy of version 2.
    #[error("{} is no cgroup2 mount", .0.display())]
    NotThere(PathBuf),
    /// systemd owns the hierarchy and has delegated no part of it.
    #[error("bulkhead.service is not active (systemctl enable --now bulkhead.service)")]
    NotDelegated,
    /// The group has no controller that limits anything.
    #[error("{} has none of memory, pids, cpu", .0.display())]
    NoController(PathBuf),
    /// The kernel refuses a step.
    #[error("{}: {source}", .path.display())]
    Refused {
        /// The group's directory, or a file in it.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
}

/// The group in which guests' groups may be made.
///
/// # Errors
/// There is none.
pub fn base(choice: &Choice, places: Places<'_>) -> Result<PathBuf, NoGroups> {
    let is_group = |path: &Path| path.join("cgroup.controllers").exists();
    let path = match choice {
        Choice::Off => return Err(NoGroups::Off),
        Choice::In(path) => path.clone(),
        Choice::Auto if !is_group(places.root) => return Err(NoGroups::NotThere(places.root.to_owned())),
        Choice::Auto if !places.systemd.exists() => places.root.to_owned(),
        Choice::Auto => {
            let unit = places.root.join(UNIT);
            return if is_group(&unit) { Ok(unit) } else { Err(NoGroups::NotDelegated) };
        }
    };
    if is_group(&path) { Ok(path) } else { Err(NoGroups::NotThere(path)) }
}
