//! Where the executable of the processes is.
use crate::failure::{Failure, system};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode as FileMode, OFlags};
use std::path::{Path, PathBuf};

/// The executable that has all roles. Held from the start, so an upgrade does not mix versions.
pub(super) fn roles() -> Result<OwnedFd, Failure> {
    let own = std::fs::read_link("/proc/self/exe").map_err(system("/proc/self/exe"))?;
    let path = roles_path(&own);
    rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, FileMode::empty())
        .map_err(|e| Failure::File { path, source: e.into() })
}

/// Where it is: beside this one, or in `bulkhead` beside `xen/bin`. There the installed launcher is: libvirt's AppArmor profile lets
/// its daemon run what is in Xen's directory, and looks at a file's own path, not at a link's.
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
