//! The filters that the kernel has for the processes of a machine, in each of their lives. It shows them to root alone.
use bulkhead_policy::installed;
use bulkhead_sim::{Options, Sim};
use std::time::{Duration, Instant};

fn check(sim: &Sim) -> usize {
    let launcher = i32::try_from(sim.pid()).unwrap();
    assert_eq!(installed::check_launcher(launcher).unwrap(), Vec::<String>::new());
    assert_eq!(installed::check_starter(sim.starter().unwrap()).unwrap(), Vec::<String>::new());
    let processes = sim.processes();
    for (role, pid) in &processes {
        let profile = bulkhead_policy::profile(role).unwrap();
        assert_eq!(installed::check(*pid, profile).unwrap(), Vec::<String>::new(), "{role}");
    }
    processes.len()
}

#[test]
fn every_process_has_the_filter_of_its_profile_in_every_life() {
    let mut sim = Sim::start(&Options::new(&["-m", "16", "-device", "VGA,vgamem_mb=16", "-serial", "null"])).unwrap();
    let all = check(&sim);
    assert!(all > 5, "{:?}", sim.processes());
    for role in ["ps2", "control"] {
        let last = sim.process(role);
        sim.kill(role).unwrap();
        // The next life of control answers as soon as it runs, and so does that of a device.
        let end = Instant::now() + Duration::from_secs(20);
        while sim.process(role).is_none_or(|pid| Some(pid) == last)
            || sim.qmp(r#"{"execute":"query-status"}"#).is_err()
            || sim.port_read(0x64, 1).unwrap() == 0xff
        {
            assert!(Instant::now() < end, "{}", sim.log());
        }
    }
    assert_eq!(check(&sim), all);
    assert!(sim.end().unwrap().success());
}
