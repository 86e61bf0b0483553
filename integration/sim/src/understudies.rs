//! Processes that go wrong at a step of their start, in place of the real ones.
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// The name of the real roles' executable in the directory of [`Understudies`].
pub const REAL_ROLES: &str = "real-roles";

/// How a process goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cue {
    /// It ends before it reads the launcher's first message.
    DiesAtOnce,
    /// It does nothing, from the beginning.
    StopsAtOnce,
    /// It ends when it has all its areas, where a device loads its predecessor's state.
    DiesWithState,
    /// It does nothing from there on, and does not enter its sandbox.
    StopsUnsandboxed,
    /// It enters its sandbox but for the filter, and says that it is ready.
    Unfiltered,
    /// It enters its sandbox, with an area that the broker does not take.
    StopsUnattached,
}

impl Cue {
    const ALL: [(Self, &str); 6] = [
        (Self::DiesAtOnce, "dies-at-once"),
        (Self::StopsAtOnce, "stops-at-once"),
        (Self::DiesWithState, "dies-with-state"),
        (Self::StopsUnsandboxed, "stops-unsandboxed"),
        (Self::Unfiltered, "unfiltered"),
        (Self::StopsUnattached, "stops-unattached"),
    ];

    /// Takes the first cue that waits for a role in a directory.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub fn take(dir: &Path, role: &str) -> io::Result<Option<Self>> {
        for number in 0..100 {
            for (cue, name) in Self::ALL {
                let path = dir.join(format!("{role}-{number}-{name}"));
                if path.exists() {
                    std::fs::remove_file(path)?;
                    return Ok(Some(cue));
                }
            }
        }
        Ok(None)
    }
}

/// A directory of executables for [`crate::Options::binaries`] whose processes take cues.
#[derive(Debug)]
pub struct Understudies(tempfile::TempDir);

impl Understudies {
    /// Makes the directory, with the executables of `binaries`.
    ///
    /// # Errors
    /// It cannot be made, or an executable is not built.
    pub fn new(binaries: &Path) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        // Every process has a user of its own, and takes its cues away.
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777))?;
        for (from, to) in
            [("bulkhead-dm", "bulkhead-dm"), ("bulkhead-understudy", "bulkhead-roles"), ("bulkhead-roles", REAL_ROLES)]
        {
            let (from, to) = (binaries.join(from), dir.path().join(to));
            // The launcher finds the others beside itself, by its own path.
            std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(|_| ()))?;
        }
        Ok(Self(dir))
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Lets the next processes of a role go wrong, in this order; those that follow are real.
    ///
    /// # Errors
    /// A cue cannot be written.
    pub fn cue(&self, role: &str, cues: &[Cue]) -> io::Result<()> {
        for (number, cue) in cues.iter().enumerate() {
            let name = Cue::ALL.iter().find(|(c, _)| c == cue).map_or("", |(_, name)| name);
            std::fs::write(self.path().join(format!("{role}-{number}-{name}")), "")?;
        }
        Ok(())
    }

    /// Takes all cues back.
    pub fn clear(&self) {
        for entry in std::fs::read_dir(self.path()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let cue = Cue::ALL.iter().any(|(_, cue)| name.to_string_lossy().ends_with(cue));
            if cue {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Whether all cues of a role are taken.
    pub fn is_over(&self, role: &str) -> bool {
        let prefix = format!("{role}-");
        let mut left = std::fs::read_dir(self.path()).into_iter().flatten().flatten();
        !left.any(|e| e.file_name().to_string_lossy().starts_with(&prefix) && e.file_name() != REAL_ROLES)
    }
}
