//! Pictures of QMP's `screendump` in files: each guest has a directory of its own, with a bounded number of files and bytes. None is
//! ever removed here: a compromised control could otherwise destroy what the operator has collected.
use super::refusal::Refusal;
use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

/// Directory of all guests' directories.
const ALL: &str = "/var/lib/bulkhead/dump";
/// Most files in a guest's directory.
pub(super) const MOST_FILES: usize = 16;
/// Bytes in a guest's directory above which no file is made. One more picture may come to lie above.
pub(super) const MOST_BYTES: u64 = 64 << 20;

/// The directory of the guest with this name. Different names have different directories.
pub(super) fn directory(guest: &str) -> String {
    let mut path = format!("{ALL}/");
    for (n, byte) in guest.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && n > 0) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

/// Makes a guest's directory, which nobody but root enters.
pub(super) fn prepare(directory: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// The guest's pictures.
#[derive(Debug, Default)]
pub(super) struct Dumps {
    /// The last file, for reading. While a process has it open for writing, it may grow.
    last: Option<OwnedFd>,
}

impl Dumps {
    /// Makes a new file. The name must be a single path component of harmless characters. `directory`: `None` if the guest has none.
    pub(super) fn create(&mut self, directory: Option<&str>, name: &[u8; 64]) -> Result<OwnedFd, Refusal> {
        let len = name.iter().position(|b| *b == 0).unwrap_or(name.len());
        let name = std::str::from_utf8(name.get(..len).unwrap_or_default()).unwrap_or("");
        let harmless = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if name.is_empty() || name.starts_with('.') || !harmless {
            return Err(Refusal::DumpName);
        }
        let directory = directory.ok_or(Refusal::NoDumps)?;
        let fail = |path: &str, source: std::io::Error| Refusal::Dump { path: path.to_owned(), source };
        if let Some(last) = &self.last
            && bulkhead_policy::is_open_for_writing(last.as_fd()).map_err(|e| fail(directory, e))?
        {
            return Err(Refusal::DumpUnfinished);
        }
        prepare(Path::new(directory))
            .and_then(|()| room(Path::new(directory)))
            .map_err(|e| fail(directory, e))?
            .then_some(())
            .ok_or_else(|| Refusal::DumpsFull { directory: directory.to_owned() })?;
        let path = format!("{directory}/{name}");
        let always = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = rustix::fs::open(path.as_str(), new | always, Mode::from_raw_mode(0o600))
            .map_err(|e| fail(&path, e.into()))?;
        let last = rustix::fs::open(path.as_str(), OFlags::RDONLY | always, Mode::empty());
        self.last = Some(last.map_err(|e| fail(&path, e.into()))?);
        Ok(file)
    }
}

/// Whether a directory has room for one more picture.
fn room(directory: &Path) -> std::io::Result<bool> {
    let mut bytes = 0u64;
    for (n, entry) in (1..).zip(std::fs::read_dir(directory)?) {
        bytes = bytes.saturating_add(entry?.metadata()?.len());
        if n >= MOST_FILES || bytes >= MOST_BYTES {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory, removed at the end of the test.
    struct Place(String);

    impl Place {
        fn new(test: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("bulkhead-dumps-{}-{test}", std::process::id()));
            Self(dir.display().to_string())
        }
        fn create(&self, dumps: &mut Dumps, name: &str) -> Result<OwnedFd, Refusal> {
            let mut bytes = [0; 64];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            dumps.create(Some(&self.0), &bytes)
        }

        /// The same, once nobody may write the last picture any more: a child that another test starts has copies until its exec.
        fn next(&self, dumps: &mut Dumps, name: &str) -> Result<OwnedFd, Refusal> {
            let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
            loop {
                match self.create(dumps, name) {
                    Err(Refusal::DumpUnfinished) if std::time::Instant::now() < end => std::thread::yield_now(),
                    other => return other,
                }
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_guest_has_a_directory_of_its_own_below_the_one_of_all() {
        assert_eq!(directory("web-1.example"), "/var/lib/bulkhead/dump/web-1.example");
        for (name, last) in [("..", "%2E."), (".", "%2E"), ("a/b", "a%2Fb"), ("a%2Fb", "a%252Fb"), ("ü", "%C3%BC")] {
            assert_eq!(directory(name), format!("{ALL}/{last}"));
        }
    }

    /// Any number of pictures filled dom0's disk.
    #[test]
    fn a_guests_pictures_are_limited_in_number() {
        let (place, mut dumps) = (Place::new("number"), Dumps::default());
        for n in 0..MOST_FILES {
            place.next(&mut dumps, &format!("{n}.png")).unwrap();
        }
        let refused = place.next(&mut dumps, "more.png").unwrap_err();
        assert!(matches!(&refused, Refusal::DumpsFull { directory } if *directory == place.0), "{refused}");
        assert!(refused.to_string().contains("16 files") && refused.to_string().contains("64 MiB"), "{refused}");
        std::fs::remove_file(format!("{}/3.png", place.0)).unwrap();
        place.next(&mut dumps, "more.png").unwrap();
        assert!(matches!(place.next(&mut dumps, "again.png"), Err(Refusal::DumpsFull { .. })));
    }

    #[test]
    fn a_guests_pictures_are_limited_in_bytes() {
        let (place, mut dumps) = (Place::new("bytes"), Dumps::default());
        let file = place.next(&mut dumps, "1.png").unwrap();
        rustix::fs::ftruncate(&file, MOST_BYTES - 1).unwrap();
        drop(file);
        let file = place.next(&mut dumps, "2.png").unwrap();
        rustix::fs::ftruncate(&file, 1).unwrap();
        drop(file);
        assert!(matches!(place.next(&mut dumps, "3.png"), Err(Refusal::DumpsFull { .. })));
    }

    /// A compromised display could keep every picture that it was given open, and fill it later: also one that the operator has
    /// removed.
    #[test]
    fn there_is_no_next_picture_while_somebody_may_write_the_last() {
        let (place, mut dumps) = (Place::new("last"), Dumps::default());
        let file = place.create(&mut dumps, "1.png").unwrap();
        let held = rustix::io::dup(&file).unwrap();
        drop(file);
        assert!(matches!(place.create(&mut dumps, "2.png"), Err(Refusal::DumpUnfinished)));
        std::fs::remove_file(format!("{}/1.png", place.0)).unwrap();
        assert!(matches!(place.create(&mut dumps, "2.png"), Err(Refusal::DumpUnfinished)));
        drop(held);
        place.next(&mut dumps, "2.png").unwrap();
    }

    #[test]
    fn a_name_is_one_component_and_a_guest_without_files_has_none() {
        let (place, mut dumps) = (Place::new("names"), Dumps::default());
        for name in ["", ".", "..", ".x", "a/b", "a b", "ä"] {
            assert!(matches!(place.next(&mut dumps, name), Err(Refusal::DumpName)), "{name:?}");
        }
        place.next(&mut dumps, "x.png").unwrap();
        assert!(matches!(place.next(&mut dumps, "x.png"), Err(Refusal::Dump { .. })), "it is there already");
        let mut name = [0; 64];
        name[0] = b'x';
        assert!(matches!(dumps.create(None, &name), Err(Refusal::NoDumps)));
    }
}
