use super::*;
use bulkhead_plan::{DriveId, Level, Mode, NicEnd};

fn disk(port: u8, size: u64) -> DriveConfig {
    DriveConfig {
        at: DriveId::ide(port),
        cdrom: false,
        read_only: false,
        size: Some(size),
        id: String::new(),
        file: None,
        formats: Vec::new(),
        full: bulkhead_bus::WhenFull::Report,
        identity: bulkhead_bus::DiskIdentity::default(),
        geometry: None,
        grows_to: 0,
    }
}

fn nic(mac: [u8; 6], settings: NicSettings) -> DeviceConfig {
    DeviceConfig::Nic {
        model: NicModel::E1000,
        index: 0,
        device: 4,
        mac,
        rom: 1 << 18,
        end: NicEnd::Tap,
        lease: None,
        settings,
    }
}

fn plan(devices: Vec<DeviceConfig>) -> MachinePlan {
    let devices = (2..).zip(devices).map(|(slot, config)| DeviceSlot { slot, name: config.name(), config });
    MachinePlan {
        domid: 7,
        name: "t".into(),
        vcpus: 2,
        online: 2,
        mode: Mode::Sim,
        level: Level::Kernel,
        devices: devices.collect(),
        chardevs: Vec::new(),
        paused: true,
        stopped: false,
        dump_dir: None,
        log_begins: 0,
        clock: 0,
        boot: String::new(),
    }
}

fn saved(plan: &MachinePlan) -> Vec<u8> {
    let nics = plan.devices.iter().filter_map(|d| Some((d.name.clone(), d.config.facets().nic?.to_bytes().to_vec())));
    MachineState { version: VERSION, facts: facts(plan), nics: nics.collect() }.encode_to_vec()
}

#[test]
fn another_machine_is_named_by_its_first_difference() {
    let here = || vec![DeviceConfig::Ide { drives: vec![disk(0, 1 << 20)] }, nic([2; 6], NicSettings::default())];
    let differs = |saved_devices| compare(&saved(&plan(saved_devices)), &plan(here())).map_err(|e| e.to_string());
    assert_eq!(differs(here()), Ok(Vec::new()));
    let larger = vec![DeviceConfig::Ide { drives: vec![disk(0, 1 << 21)] }, nic([2; 6], NicSettings::default())];
    assert_eq!(
        differs(larger).unwrap_err(),
        "ide was a disk of 2097152 bytes at place 0 when the machine was saved, and is a disk of 1048576 bytes at place 0 here"
    );
    let other = vec![DeviceConfig::Ide { drives: vec![disk(0, 1 << 20)] }, nic([4; 6], NicSettings::default())];
    assert!(differs(other).unwrap_err().starts_with("nic0 was e1000 04:04:"));
    let more = [here(), vec![DeviceConfig::Ps2]].concat();
    assert_eq!(differs(more).unwrap_err(), "the saved machine has ps2 (a keyboard controller), this one has not");
    let fewer = vec![DeviceConfig::Ide { drives: vec![disk(0, 1 << 20)] }];
    assert!(differs(fewer).unwrap_err().starts_with("this machine has nic0 (e1000 02:02:"));
    assert_eq!(compare(b"\xff", &plan(here())), Err(OtherMachine::Decode));
    let newer = MachineState { version: 2, ..MachineState::default() };
    assert_eq!(compare(&newer.encode_to_vec(), &plan(here())), Err(OtherMachine::Version));
}

/// Rules that a command has set must not silently be those of the configuration again.
#[test]
fn the_settings_of_cards_go_with_the_machine() {
    let mut ruled = NicSettings { link: false, ..NicSettings::default() };
    ruled.rules.guard = true;
    let old = plan(vec![DeviceConfig::Ps2, nic([2; 6], ruled.clone())]);
    let new = plan(vec![DeviceConfig::Ps2, nic([2; 6], NicSettings::default())]);
    assert_eq!(compare(&saved(&old), &new), Ok(vec![(3, ruled)]));
    let mut cut = MachineState::decode(saved(&old).as_slice()).unwrap();
    cut.nics.insert("nic0".into(), vec![0; 3]);
    assert_eq!(compare(&cut.encode_to_vec(), &new), Err(OtherMachine::Decode));
}

#[test]
fn nobody_waits_for_who_reads_the_state_slowly() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let written = |to: &OwnedFd, patience| crate::qmp::tests::block(write_all(to.as_fd(), &vec![1; 1 << 20], patience));
    assert_eq!(written(&write, Duration::ZERO), Err(Errno::AGAIN));
    drop(read);
    let file = rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    assert_eq!(written(&file, Duration::ZERO), Ok(()));
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 1 << 20);
}

/// A stub domain's console takes two kibibytes at a time; one that takes nothing any more is no reason to wait for ever.
#[test]
fn a_console_is_waited_for_as_long_as_it_takes_something() {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = 0;
        // It begins when nothing more can be written.
        while rustix::io::ioctl_fionread(&read).unwrap() < 65_536 {
            std::thread::yield_now();
        }
        while let Ok(n @ 1..) = rustix::io::read(&read, &mut [0; 30_000]) {
            all += n;
        }
        all
    });
    let written = |to: &OwnedFd, patience| crate::qmp::tests::block(write_all(to.as_fd(), &vec![1; 1 << 20], patience));
    assert_eq!(written(&write, CONSOLE), Ok(()));
    drop(write);
    assert_eq!(reader.join().unwrap(), 1 << 20);
    let (_read, write) = rustix::pipe::pipe().unwrap();
    assert_eq!(written(&write, Duration::from_millis(20)), Err(Errno::AGAIN));
}

/// Found by a reviewer: a save looked whether the machine stood still, a `cont` that had waited came between, and the machine was saved
/// while it ran. A save that fails leaves a machine that ran running.
#[test]
fn a_save_has_its_turn_from_the_look_to_the_end() {
    crate::qmp::tests::block(async {
        let (mut shared, launcher) = crate::qmp::tests::linked(false);
        shared.plan.devices.clear();
        let shared = Arc::new(shared);
        crate::qmp::tests::locks_are_had(&shared, launcher);
        assert!(shared.stop().await.is_ok());
        let order = shared.order.lock().await;
        let fd = rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let id = shared.fdsets.lock().unwrap().add(None, None, fd).unwrap();
        let (first, second) = (shared.clone(), shared.clone());
        let go = tokio::spawn(async move { first.go_on().await });
        tokio::task::yield_now().await;
        let save = tokio::spawn(async move {
            second.save_devices(&json!({ "live": false, "filename": format!("/dev/fdset/{id}") })).await
        });
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!save.is_finished() && !go.is_finished());
        drop(order);
        assert!(go.await.unwrap().is_ok());
        assert!(format!("{:?}", save.await.unwrap()).contains("the broker"), "there is none");
        assert_eq!(shared.state(), RunState::Running);
    });
}
