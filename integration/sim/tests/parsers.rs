//! A compromised parser is in its sandbox already: bulkhead-parser in the place of the disk controller, all else real.
use bulkhead_sim::{Options, Sim};
use std::os::unix::fs::PermissionsExt as _;

/// Starts a machine whose disk says where the controller makes a forbidden call.
fn start(dir: &tempfile::TempDir, place: &str) -> Result<Sim, String> {
    // The processes have users of their own, and execute the files of this directory.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| dir.path().join(name);
    let beside = Options::new(&[]).binaries;
    for (from, to) in
        [("bulkhead-dm", "bulkhead-dm"), ("bulkhead-roles", "real-roles"), ("bulkhead-parser", "bulkhead-roles")]
    {
        // A copy is busy as long as a process that another test starts holds its descriptor.
        let (from, to) = (beside.join(from), at(to));
        let _ = std::fs::remove_file(&to);
        std::fs::hard_link(&from, &to).or_else(|_| std::fs::copy(&from, &to).map(drop)).unwrap();
    }
    std::fs::write(at("disk"), format!("{place} {}", " ".repeat(4096))).unwrap();
    let drive = format!("file={},if=ide,index=0,media=disk,format=raw", at("disk").display());
    let mut options = Options::new(&["-machine", "xenfv", "-m", "16", "-drive", &drive]);
    options.binaries = dir.path().to_owned();
    Sim::start(&options).map_err(|e| e.to_string())
}

const FILTERED: &str = "killed by its system call filter (SIGSYS)";

#[test]
fn a_compromised_image_parser_dies_of_a_forbidden_call() {
    let dir = tempfile::tempdir().unwrap();
    let why = |place| start(&dir, place).err().unwrap();
    assert!(why("build").contains(FILTERED));
    let early = why("prepare");
    assert!(early.contains("the call has worked") && !early.contains(FILTERED), "{early}");
}

#[test]
fn a_compromised_reader_of_saved_states_dies_of_a_forbidden_call() {
    for (place, dies) in [("load", true), ("nowhere", false)] {
        let dir = tempfile::tempdir().unwrap();
        let mut sim = start(&dir, place).unwrap();
        // The first process leaves a state, the second reads it.
        assert_eq!(sim.port_read(0x1f7, 1).unwrap(), 0x50);
        sim.port_write(0x1f2, 1, 1).unwrap();
        assert_eq!(sim.port_read(0x1f7, 1).unwrap(), 0x50);
        sim.replace("ide").unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let back = |sim: &mut Sim| sim.port_read(0x1f7, 1).unwrap() == 0x50;
        while !(if dies { sim.log().contains(FILTERED) } else { back(&mut sim) }) {
            assert!(std::time::Instant::now() < end, "{place}: {}", sim.log());
        }
        assert_eq!(sim.log().contains(FILTERED), dies, "{}", sim.log());
        assert!(sim.end().unwrap().success());
    }
}
