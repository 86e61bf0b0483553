//! The QMP sequences of libxl 4.20 to 4.22 with the answers that it expects (libxl_qmp.c, libxl_domain.c, libxl_disk.c, libxl_dm.c,
//! and xenstat_qmp.c of 4.22), replayed without libxl. integration/tests/bed has the tests with a real libxl.
use bulkhead_sim::{Options, Sim};
use rustix::fd::AsFd as _;
use serde_json::{Value, json};

struct Bed {
    sim: Sim,
    dir: tempfile::TempDir,
}

impl Bed {
    /// Kills a process, and waits until it is restarted.
    fn dies(&mut self, role: &str) {
        self.sim.replace(role).unwrap();
        self.sim.await_log(&format!("bulkhead-dm: {role} (pid")).unwrap();
    }

    fn new(more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str, len: u64| {
            let path = dir.path().join(name);
            std::fs::File::create(&path).unwrap().set_len(len).unwrap();
            path.display().to_string()
        };
        let disk = format!("file={},if=ide,index=0,media=disk,format=raw,cache=writeback", path("disk", 1 << 20));
        let cd = format!("if=none,readonly=on,id=ide-5632,file={},format=raw", path("first.iso", 64 << 10));
        let mut arguments = vec![
            "-machine",
            "xenfv",
            "-m",
            "16",
            "-smp",
            "2,maxcpus=4",
            "-drive",
            &disk,
            "-drive",
            &cd,
            "-device",
            "ide-cd,id=ide-5632,drive=ide-5632,bus=ide.1,unit=0",
        ];
        arguments.extend(more);
        Self { sim: Sim::start(&Options::new(&arguments)).unwrap(), dir }
    }

    /// Sends a command with an integer id, as libxl does; returns its answer.
    fn ask(&self, name: &str, arguments: Value) -> Value {
        let answer = self
            .sim
            .qmp(&json!({ "execute": name, "arguments": arguments, "id": 0x786c_7100u32 }).to_string())
            .unwrap();
        assert_eq!(answer["id"], json!(0x786c_7100u32), "{answer}");
        answer
    }

    fn good(&self, name: &str, arguments: Value) -> Value {
        let answer = self.ask(name, arguments);
        assert!(answer["error"].is_null(), "{name}: {answer}");
        answer["return"].clone()
    }

    fn error(&self, name: &str, arguments: Value) -> String {
        self.ask(name, arguments)["error"]["desc"].as_str().unwrap().to_owned()
    }

    fn online(&self) -> Vec<u64> {
        self.good("query-cpus-fast", json!({}))
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["cpu-index"].as_u64().unwrap())
            .collect()
    }
}

/// libxl__set_vcpuonline: the map of vCPUs, the places, one device_add for each missing vCPU.
#[test]
fn vcpu_set() {
    let mut bed = Bed::new(&[]);
    assert_eq!(bed.online(), [0, 1]);
    let places = bed.good("query-hotpluggable-cpus", json!({}));
    let places: Vec<&Value> = places.as_array().unwrap().iter().filter(|p| p["qom-path"].is_null()).collect();
    assert_eq!(places.len(), 2);
    // The guest's operating system has enabled the event.
    bed.sim.port_write(0xafe2, 1, 4).unwrap();
    assert_eq!(bed.sim.port_read(0xaf00, 1).unwrap(), 0b0011);
    let place = places.iter().find(|p| p["props"]["socket-id"] == 2).unwrap();
    let (driver, socket) = (&place["type"], &place["props"]["socket-id"]);
    let arguments = json!({ "id": "cpu-2", "driver": driver, "socket-id": socket, "core-id": 0, "thread-id": 0 });
    bed.good("device_add", arguments.clone());
    assert_eq!(bed.sim.port_read(0xaf00, 1).unwrap(), 0b0111);
    assert_eq!(bed.sim.port_read(0xafe0, 1).unwrap(), 4, "the event of CPU hot-plug");
    bed.sim.catch_up();
    assert!(bed.sim.isa[9], "the system control interrupt");
    bed.sim.port_write(0xafe0, 1, 4).unwrap();
    assert!(!bed.sim.isa[9]);
    assert_eq!(bed.online(), [0, 1, 2]);
    assert!(bed.error("device_add", arguments).contains("there already"));
    assert!(bed.error("device_add", json!({ "id": "x", "driver": "usb-host" })).contains("cannot be added"));
    // The board and control are killed: both keep the state.
    for role in ["platform", "control"] {
        bed.dies(role);
    }
    assert_eq!(bed.online(), [0, 1, 2]);
    assert!(bed.sim.end().unwrap().success());
}

/// USB devices are plugged in and out by QMP; the controller's process and control keep the state over a restart.
#[test]
fn usb_devices_are_plugged_in_and_out() {
    let mut bed = Bed::new(&["-usb", "-usbdevice", "tablet"]);
    let plugged = |bed: &Bed| {
        let answer = bed.good("x-bulkhead-inspect", json!({ "device": "usb" }));
        let words = answer.to_string();
        ["Tablet", "Keyboard", "Mouse"].into_iter().filter(|k| words.contains(k)).collect::<Vec<_>>()
    };
    bed.good("device_add", json!({ "id": "keys", "driver": "usb-kbd" }));
    assert!(bed.error("device_add", json!({ "id": "more", "driver": "usb-mouse" })).contains("both ports"));
    assert!(bed.error("device_add", json!({ "driver": "usb-mouse" })).contains("'id' is missing"));
    for role in ["usb", "control"] {
        bed.dies(role);
    }
    assert_eq!(plugged(&bed), ["Tablet", "Keyboard"]);
    bed.good("device_del", json!({ "id": "keys" }));
    assert_eq!(plugged(&bed), ["Tablet"]);
    assert!(bed.error("device_del", json!({ "id": "keys" })).contains("no USB device 'keys'"));
    bed.good("device_add", json!({ "id": "m", "driver": "usb-mouse" }));
    assert_eq!(plugged(&bed), ["Tablet", "Mouse"]);
    assert!(bed.sim.end().unwrap().success());
}

/// libxl__device_usbctrl_add and _del of the type devicemodel: the controller is on the bus when the answer is sent, with an event;
/// both survive restarts; the guest ejects the controller, and it can be added again.
#[test]
fn usbctrl_is_added_and_ejected() {
    let mut bed = Bed::new(&[]);
    let controller = json!({ "id": "xenusb-0", "driver": "piix3-usb-uhci" });
    let at = |bed: &mut Bed| (2..8).find(|d| bed.sim.config_read(*d, 0, 0, 4).unwrap() == 0x7020_8086);
    let in_table = |bed: &Bed| {
        bed.sim.qmp("{\"execute\":\"x-bulkhead-processes\"}").unwrap().to_string().contains("\"name\":\"usb\"")
    };
    assert_eq!((at(&mut bed), in_table(&bed)), (None, false));
    let none = bed.error("device_add", json!({ "id": "t", "driver": "usb-tablet" }));
    assert!(none.contains("usbctrl"), "{none}");
    for other in ["usb-ehci", "nec-usb-xhci"] {
        assert!(bed.error("device_add", json!({ "id": "xenusb-0", "driver": other })).contains("version=1"), "{other}");
    }
    // The guest's operating system has enabled the event.
    bed.sim.port_write(0xafe2, 1, 2).unwrap();
    bed.good("device_add", controller.clone());
    let device = at(&mut bed).expect("on the bus when the answer comes");
    assert!(in_table(&bed));
    assert_eq!((bed.sim.port_read(0xafe0, 1).unwrap(), bed.sim.port_read(0xae00, 4).unwrap()), (2, 1 << device));
    bed.sim.catch_up();
    assert!(bed.sim.isa[9], "the system control interrupt");
    assert!(bed.error("device_add", controller.clone()).contains("there already"));
    // The plugged-in device works and is restored after the process has died, as is the controller's address from the guest.
    bed.good("device_add", json!({ "id": "t", "driver": "usb-tablet", "bus": "xenusb-0.0" }));
    bed.sim.config_write(device, 0, 0x20, 4, 0xc100).unwrap();
    bed.sim.config_write(device, 0, 4, 2, 1).unwrap();
    assert_eq!(bed.sim.port_read(0xc110, 2).unwrap() & 3, 3, "port 1: connected, changed");
    for role in ["usb", "platform", "control"] {
        bed.dies(role);
    }
    // Waits until the broker is connected to the restarted process.
    let back = std::time::Instant::now();
    while at(&mut bed) != Some(device) || bed.sim.port_read(0xae00, 4).unwrap() != 1 << device {
        assert!(back.elapsed().as_secs() < 10, "{:?}\n{}", at(&mut bed), bed.sim.log());
    }
    assert_eq!(bed.sim.port_read(0xc110, 2).unwrap() & 1, 1);
    assert!(
        bed.sim.qmp("{\"execute\":\"query-pci\"}").unwrap().to_string().contains("\"device\":28704"),
        "28704 is 0x7020"
    );
    // After device_del it stays until the guest ejects it.
    bed.good("device_del", json!({ "id": "xenusb-0" }));
    assert_eq!((bed.sim.port_read(0xae04, 4).unwrap(), at(&mut bed)), (1 << device, Some(device)));
    bed.sim.port_write(0xae08, 4, 1 << device).unwrap();
    assert_eq!((at(&mut bed), bed.sim.port_read(0xc110, 2).unwrap()), (None, 0xffff), "gone before the guest goes on");
    let gone = std::time::Instant::now();
    while in_table(&bed) {
        assert!(gone.elapsed().as_secs() < 10);
    }
    assert!(bed.error("device_del", json!({ "id": "xenusb-0" })).contains("no USB controller"));
    bed.good("device_add", json!({ "id": "xenusb-1", "driver": "piix3-usb-uhci" }));
    assert_eq!(at(&mut bed), Some(device));
    assert_eq!(bed.sim.config_read(device, 0, 0x20, 4).unwrap(), 1, "as after power-on");
    // It may be added five times in a minute.
    let mut more = 0;
    let refused = loop {
        bed.good("device_del", json!({ "id": format!("xenusb-{}", more + 1) }));
        bed.sim.port_write(0xae08, 4, 1 << device).unwrap();
        while in_table(&bed) {}
        more += 1;
        let answer = bed.ask("device_add", json!({ "id": format!("xenusb-{}", more + 1), "driver": "piix3-usb-uhci" }));
        if let Some(why) = answer["error"]["desc"].as_str() {
            break why.to_owned();
        }
        assert!(more < 5, "as often as one likes");
    };
    assert!(refused.contains("too often"), "{refused}");
    let events = bed.good("x-bulkhead-events", json!({})).to_string();
    assert!(
        events.contains("DEVICE_DELETED") && events.contains("xenusb-1"),
        "by the name that it was given: {events}"
    );
    assert!(bed.sim.end().unwrap().success());
    // A machine with a controller from the start cannot have a second.
    let mut bed = Bed::new(&["-usb"]);
    assert!(bed.error("device_add", controller).contains("usb=1"));
    assert!(bed.sim.end().unwrap().success());
}

/// libxl__cdrom_insert: query-version, eject, add-fd with `format:path`, blockdev-change-medium.
#[test]
fn cd_insert() {
    let mut bed = Bed::new(&[]);
    let cd = |bed: &Bed| {
        bed.good("query-block", json!({}))
            .as_array()
            .unwrap()
            .iter()
            .find(|b| b["device"] == "ide-5632")
            .unwrap()
            .clone()
    };
    assert!(cd(&bed)["inserted"]["file"].as_str().unwrap().ends_with("/first.iso"));
    assert!(bed.good("query-version", json!({}))["qemu"]["major"].as_u64().unwrap() >= 8);
    bed.good("eject", json!({ "id": "ide-5632", "force": true }));
    assert!(cd(&bed)["inserted"].is_null() && cd(&bed)["tray_open"] == true);
    let path = bed.dir.path().join("second.iso");
    std::fs::write(&path, vec![7; 32 << 10]).unwrap();
    let file = std::fs::File::open(&path).unwrap();
    let command = json!({ "execute": "add-fd", "arguments": { "opaque": format!("raw:{}", path.display()) } });
    let set =
        bed.sim.qmp_with(&command.to_string(), Some(file.as_fd())).unwrap()["return"]["fdset-id"].as_u64().unwrap();
    bed.good(
        "blockdev-change-medium",
        json!({ "id": "ide-5632", "filename": format!("/dev/fdset/{set}"), "format": "raw" }),
    );
    let now = cd(&bed);
    assert_eq!(
        (now["inserted"]["file"].as_str().unwrap(), now["inserted"]["image"]["virtual-size"].as_u64()),
        (path.to_str().unwrap(), Some(32 << 10))
    );
    assert!(bed.sim.end().unwrap().success());
}

/// xenstat_qmp.c: the name of each drive's image, then its counters.
#[test]
fn xentop() {
    let mut bed = Bed::new(&[]);
    // READ SECTORS: one sector by PIO.
    for (port, value) in [(0x1f6, 0xe0), (0x1f2, 1), (0x1f3, 0), (0x1f4, 0), (0x1f5, 0), (0x1f7, 0x20)] {
        bed.sim.port_write(port, 1, value).unwrap();
    }
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while bed.sim.port_read(0x1f7, 1).unwrap() & 8 == 0 {
        assert!(std::time::Instant::now() < end);
    }
    let block = bed.good("query-block", json!({}));
    let disk = block.as_array().unwrap().iter().find(|b| b["device"] == "ide0-hd0").unwrap();
    assert!(disk["inserted"]["file"].as_str().unwrap().ends_with("/disk"));
    let stats = |bed: &Bed| {
        let all = bed.good("query-blockstats", json!({}));
        let disk = all.as_array().unwrap().iter().find(|b| b["device"] == "ide0-hd0").unwrap().clone();
        ["rd_operations", "rd_bytes", "wr_operations", "wr_bytes"].map(|n| disk["stats"][n].as_u64().unwrap())
    };
    assert_eq!(stats(&bed), [1, 512, 0, 0]);
    bed.dies("ide");
    assert_eq!(stats(&bed), [1, 512, 0, 0], "the counts outlive the process");
    assert!(bed.sim.end().unwrap().success());
}

/// libxl__device_pci_add polls query-pci for its device's id; xl list -l reads the map of vCPUs; S3 is refused.
#[test]
fn the_bus_and_the_rest() {
    let mut bed = Bed::new(&["-device", "VGA,vgamem_mb=16"]);
    let buses = bed.good("query-pci", json!({}));
    let devices = buses[0]["devices"].as_array().unwrap();
    let at =
        |slot: u64, function: u64| devices.iter().find(|d| d["slot"] == slot && d["function"] == function).unwrap();
    assert_eq!(
        (at(1, 1)["qdev_id"].as_str(), at(1, 1)["id"]["device"].as_u64(), at(1, 1)["class_info"]["class"].as_u64()),
        (Some("ide"), Some(0x7010), Some(0x101))
    );
    assert_eq!((at(3, 0)["qdev_id"].as_str(), at(2, 0)["id"]["vendor"].as_u64()), (Some("vga"), Some(0x5853)));
    assert!(bed.error("system_wakeup", json!({})).contains("not in suspended state"));
    assert!(bed.error("device_del", json!({ "id": "cpu-2" })).contains("cannot be removed by QMP"));
    let names = bed.good("query-commands", json!({}));
    assert!(names.as_array().unwrap().iter().any(|c| c["name"] == "device_add"));
    assert!(bed.sim.end().unwrap().success());
}
