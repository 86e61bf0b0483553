//! A package that is upgraded under a running guest.
use bulkhead_sim::{Options, Sim};

#[test]
fn a_process_that_is_started_again_after_an_upgrade_is_the_old_version() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Options::new(&["-machine", "xenfv", "-m", "16", "-serial", "null"]);
    for name in ["bulkhead-dm", "bulkhead-roles"] {
        std::fs::copy(options.binaries.join(name), dir.path().join(name)).unwrap();
    }
    options.binaries = dir.path().to_owned();
    let mut sim = Sim::start(&options).unwrap();
    sim.port_write(0x70, 1, 0x40).unwrap();
    sim.port_write(0x71, 1, 0x5a).unwrap();
    // As dpkg does: a new file replaces the old one under the same name.
    for name in ["bulkhead-dm", "bulkhead-roles"] {
        std::fs::write(dir.path().join("new"), "another version").unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join(name)).unwrap();
    }
    for role in ["platform", "control"] {
        sim.replace(role).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while sim.port_read(0x71, 1).unwrap() != 0x5a {
            assert!(std::time::Instant::now() < end, "{role} does not come back:\n{}", sim.log());
        }
    }
    assert!(sim.qmp(r#"{"execute":"query-status"}"#).unwrap()["return"]["running"].as_bool().unwrap());
    assert!(sim.end().unwrap().success());
}
