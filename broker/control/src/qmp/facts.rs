//! Tests that QMP's answers come from facts and not from the labels of registers and counters: processes with other labels give the
//! same answers.
use super::fake::serve;
use super::session::answer;
use super::tests::{ask, shared};
use super::*;
use crate::json::Piece;
use bulkhead_bus::{DiskIdentity, WhenFull};
use bulkhead_control_api::MESSAGE_MAX;
use bulkhead_plan::{BROKER, DeviceConfig, DeviceSlot, DriveConfig, DriveId, ImageFormat, VncAddress};
use tonic::{Request, Response, Status};

/// One server for every process: it reports a drive, vCPUs, viewers and the bus, and names its registers and counters `label`.
struct Everything {
    label: &'static str,
}

fn known() -> v1::FactsReply {
    let drive =
        v1::Drive { index: 2, sectors: 2048, locked: true, reads: 7, bytes_written: 512, ..v1::Drive::default() };
    let function = v1::PciFunction {
        of: "nic0".into(),
        device: 4,
        function: 1,
        vendor: 0x8086,
        model: 0x100e,
        class: 0x02_0000,
        irq: 11,
        pin: 1,
    };
    v1::FactsReply {
        drives: vec![drive],
        vcpus: vec![0, 1],
        dropped: vec![v1::Counter { name: "source MAC".into(), value: 3 }],
        viewers: vec![
            v1::Viewer { family: v1::Family::Ipv4.into(), host: "192.0.2.1".into(), port: 4000 },
            v1::Viewer::default(),
        ],
        functions: vec![function],
        lights: Some(6),
        activity: Some(v1::Activity { accesses: Some(40), posted: 30, wakeups: 20, doorbells: None }),
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl v1::process_server::Process for Everything {
    async fn inspect(&self, _: Request<v1::Empty>) -> Reply<v1::Registers> {
        let register = |value: &str| v1::Register { name: self.label.into(), value: value.into() };
        Ok(Response::new(v1::Registers { registers: vec![register("true"), register("9")] }))
    }
    async fn facts(&self, _: Request<v1::Empty>) -> Reply<v1::FactsReply> {
        Ok(Response::new(known()))
    }
    async fn statistics(&self, _: Request<v1::Empty>) -> Reply<v1::Counters> {
        let counters = vec![v1::Counter { name: self.label.into(), value: 9 }];
        Ok(Response::new(v1::Counters { counters }))
    }
    async fn ping(&self, _: Request<v1::PingRequest>) -> Reply<v1::PingReply> {
        Err(Status::unimplemented(""))
    }
    async fn configure(&self, _: Request<v1::Settings>) -> Reply<v1::Settings> {
        Err(Status::unimplemented(""))
    }
    async fn start(&self, _: Request<v1::Empty>) -> Reply<v1::Empty> {
        Err(Status::unimplemented(""))
    }
    async fn stop(&self, _: Request<v1::Empty>) -> Reply<v1::Empty> {
        Err(Status::unimplemented(""))
    }
    async fn reset(&self, _: Request<v1::Empty>) -> Reply<v1::Empty> {
        Err(Status::unimplemented(""))
    }
    async fn save(&self, _: Request<v1::Empty>) -> Reply<v1::State> {
        Err(Status::unimplemented(""))
    }
    async fn load(&self, _: Request<v1::State>) -> Reply<v1::Empty> {
        Err(Status::unimplemented(""))
    }
    async fn set_log_level(&self, _: Request<v1::LogLevel>) -> Reply<v1::LogLevel> {
        Err(Status::unimplemented(""))
    }
    async fn call(&self, _: Request<v1::Call>) -> Reply<v1::CallReply> {
        Err(Status::unimplemented(""))
    }
}

fn machine() -> Shared {
    let mut s = shared(false);
    let drive = DriveConfig {
        at: DriveId::ide(2),
        cdrom: true,
        read_only: true,
        size: None,
        id: "ide-5632".into(),
        file: Some("/cd".into()),
        formats: vec![ImageFormat::Raw],
        grows_to: 0,
        full: WhenFull::Report,
        identity: DiskIdentity::default(),
        geometry: None,
    };
    let vnc = DeviceConfig::Vnc {
        name: "t".into(),
        at: VncAddress::Tcp { host: "0.0.0.0".into(), port: 5900, ipv6: false },
        password: false,
        layout: "en-us".into(),
    };
    let board = DeviceConfig::Platform {
        vcpus: 2,
        online: 2,
        xen_platform: true,
        boot: String::new(),
        unsigned_floppy: false,
        disks: Vec::new(),
        serial: false,
        unplug: true,
    };
    let ide = DeviceConfig::Ide { drives: vec![drive] };
    s.plan.devices = [("platform", board), ("ide", ide), ("vnc", vnc), ("ps2", DeviceConfig::Ps2)]
        .into_iter()
        .zip(2..)
        .map(|((name, config), slot)| DeviceSlot { slot, name: name.into(), config })
        .collect();
    s
}

#[test]
fn a_renamed_register_or_counter_changes_no_answer_that_programs_read() {
    let answers = |label: &'static str| {
        super::tests::block(async {
            let s = machine();
            for slot in [BROKER, 2, 3, 4, 5] {
                serve(&s, slot, Everything { label });
            }
            let mut all = Vec::new();
            for command in [
                "query-block",
                "query-blockstats",
                "query-pci",
                "query-vnc",
                "query-cpus-fast",
                "query-hotpluggable-cpus",
                "x-bulkhead-lights",
                "x-bulkhead-activity",
            ] {
                let text = format!(r#"{{"execute":"{command}"}}"#);
                let piece = Piece::Object(text.into_bytes());
                all.push(answer(&s, &mut true, piece, None).await.value()["return"].clone());
            }
            all
        })
    };
    let [block, stats, pci, vnc, cpus, places, lights, activity] = answers("sectors").try_into().unwrap();
    assert_eq!(block[0]["inserted"]["image"]["virtual-size"], 1 << 20);
    assert_eq!((&block[0]["locked"], &block[0]["tray_open"]), (&json!(true), &json!(false)));
    assert_eq!((&stats[0]["stats"]["rd_operations"], &stats[0]["stats"]["wr_bytes"]), (&json!(7), &json!(512)));
    let function = &pci[0]["devices"][0];
    assert_eq!(
        (&function["slot"], &function["function"], &function["qdev_id"]),
        (&json!(4), &json!(1), &json!("nic0"))
    );
    assert_eq!((&function["id"]["device"], &function["class_info"]["class"]), (&json!(0x100e), &json!(0x200)));
    assert_eq!((&function["irq"], &function["irq_pin"]), (&json!(11), &json!(1)));
    assert_eq!((&vnc["clients"][0]["host"], &vnc["clients"][0]["service"]), (&json!("192.0.2.1"), &json!("4000")));
    assert_eq!(vnc["clients"][0]["family"], "ipv4");
    let unix = json!({ "family": "unix", "host": "", "service": "", "websocket": false });
    assert_eq!(vnc["clients"][1], unix);
    for process in ["broker", "platform", "ide", "vnc", "ps2"] {
        let counted = json!({ "accesses": 40, "posted": 30, "wakeups": 20, "doorbells": null });
        assert_eq!(activity[process], counted, "{process}");
    }
    assert_eq!((cpus.as_array().unwrap().len(), places.as_array().unwrap().len()), (2, 2));
    assert_eq!(cpus[1]["cpu-index"], 1);
    assert_eq!(lights, json!({ "scroll-lock": false, "num-lock": true, "caps-lock": true }));
    let before = [block, stats, pci, vnc, cpus, places, lights, activity];
    for label in ["primary.drive2.present", "something new", "PM.vCPUs", "accesses", "posted writes"] {
        assert_eq!(answers(label), before, "{label}");
    }
}

#[test]
fn a_device_that_does_not_answer_has_its_drives_all_the_same() {
    // The slots have no server, as after a process that is not restarted.
    let s = machine();
    let block = ask(&s, r#"{"execute":"query-block"}"#);
    assert_eq!(block["return"][0]["device"], "ide-5632");
    assert!(block["return"][0].get("inserted").is_none());
}

/// A process that lies gets an error for its answer, in bounded time, and the others are answered as before.
#[test]
fn a_process_that_says_too_much_nothing_or_nonsense_costs_an_error() {
    let clock = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    clock.block_on(async {
        let s = machine();
        let too_long: &'static str = "x".repeat(MESSAGE_MAX).leak();
        serve(&s, 2, Everything { label: too_long });
        serve(&s, 3, Everything { label: "sectors" });
        let (ours, silent) = std::os::unix::net::UnixStream::pair().unwrap();
        let (theirs, mut talks) = std::os::unix::net::UnixStream::pair().unwrap();
        for (slot, socket) in [(4, ours), (5, theirs)] {
            socket.set_nonblocking(true).unwrap();
            s.clients.add(slot, socket.into());
        }
        std::io::Write::write_all(&mut talks, &[0xa5; 4096]).unwrap();
        let begun = tokio::time::Instant::now();
        for device in ["platform", "vnc", "ps2"] {
            let text = format!(r#"{{"execute":"x-bulkhead-inspect","arguments":{{"device":"{device}"}}}}"#);
            let reply = answer(&s, &mut true, Piece::Object(text.into_bytes()), None).await.value();
            assert!(reply.get("error").is_some() && reply.to_string().len() < 1000, "{device}: {reply}");
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
        let text = br#"{"execute":"x-bulkhead-inspect","arguments":{"device":"ide"}}"#;
        let reply = answer(&s, &mut true, Piece::Object(text.to_vec()), None).await.value();
        assert_eq!(reply["return"]["registers"]["sectors"], "9", "{reply}");
        drop((silent, talks));
    });
}

/// A process that did not stop was a line in the log, and `stop` was answered as if all of them had.
#[test]
fn a_process_that_does_not_stop_is_an_error_that_names_it_and_cont_goes_on() {
    super::tests::block(async {
        let s = machine();
        assert!(s.set_running(false).await.is_ok(), "who has no process has nothing to stop");
        // It refuses both.
        serve(&s, 2, Everything { label: "sectors" });
        let name = s.plan.devices.iter().find(|d| d.slot == 2).unwrap().name.clone();
        let error = s.set_running(false).await.unwrap_err();
        assert_eq!(error.description, format!("{name}: what has begun there has not ended"));
        assert_eq!(s.state(), crate::session_state::RunState::Paused);
        assert!(s.set_running(true).await.is_ok());
        assert_eq!(s.state(), crate::session_state::RunState::Running);
    });
}
