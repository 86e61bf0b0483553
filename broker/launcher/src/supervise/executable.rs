//! Path of the processes' executable, `bulkhead-roles`.
use crate::failure::{Failure, system};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode as FileMode, OFlags};
use std::path::{Path, PathBuf};

/// Opens the executable that has all roles. It stays open from the start on, so an upgrade of the package does not mix versions.
pub(crate) fn roles() -> Result<OwnedFd, Failure> {
    let own = std::fs::read_link("/proc/self/exe").map_err(system("/proc/self/exe"))?;
    let path = roles_path(&own);
    rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, FileMode::empty())
        .map_err(|e| Failure::File { path, source: e.into() })
}

/// The path of the executable: beside the launcher's (`own`), or in `bulkhead` beside `xen/bin`. The launcher is installed in
/// `xen/bin` because libvirt's AppArmor profile lets its daemon run files of that directory, and checks a file's own path, not a
/// link's.
fn roles_path(own: &Path) -> PathBuf {
    match own.parent().filter(|p| p.ends_with("xen/bin")).and_then(|p| p.parent()?.parent()) {
        Some(lib) => lib.join("bulkhead/bulkhead-roles"),
        None => own.with_file_name("bulkhead-roles"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_are_found_from_where_each_toolstack_starts_the_launcher() {
        for (own, roles) in [
            ("/usr/lib/xen/bin/bulkhead-dm", "/usr/lib/bulkhead/bulkhead-roles"),
            ("/run/root/usr/lib/xen/bin/bulkhead-dm", "/run/root/usr/lib/bulkhead/bulkhead-roles"),
            ("/usr/lib/bulkhead/bulkhead-dm", "/usr/lib/bulkhead/bulkhead-roles"),
            ("/home/me/tree/target/debug/bulkhead-dm", "/home/me/tree/target/debug/bulkhead-roles"),
            ("/bulkhead-dm", "/bulkhead-roles"),
        ] {
            assert_eq!(roles_path(Path::new(own)), Path::new(roles));
        }
    }
}
