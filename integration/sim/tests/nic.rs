//! Network cards through all processes: frames over a stream, register sequences of others' bug reports, unplugging, settings.
use bulkhead_sim::qtest::Interpreter;
use bulkhead_sim::{Options, Sim};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

const MAC: [u8; 6] = [0x02, 0x16, 0x3e, 0, 0, 1];
/// The RTL8139's ports in these tests.
const PORTS: u16 = 0xc000;

/// A machine with one card, and a socket as the other end of its cable.
struct Bench {
    sim: Sim,
    peer: UnixStream,
    device: u8,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(model: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cable");
        let listener = UnixListener::bind(&path).unwrap();
        let device = format!("{model},id=nic0,netdev=net0,mac=02:16:3e:00:00:01");
        let netdev = format!("stream,id=net0,server=off,addr.type=unix,addr.path={}", path.display());
        let mut arguments = vec!["-device", &device, "-netdev", &netdev];
        arguments.extend(more);
        let mut sim = Sim::start(&Options::new(&arguments)).unwrap();
        let peer = listener.accept().unwrap().0;
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let id = if model == "e1000" { 0x100e_8086 } else { 0x8139_10ec };
        let device = (0..32).find(|d| sim.config_read(*d, 0, 0, 4).unwrap() == id).expect("the card");
        Self { sim, peer, device, _dir: dir }
    }

    /// Decodes the RTL8139's ports, puts it into C mode, and lets it receive everything at 64 KiB.
    fn classic(model: &str, more: &[&str]) -> Self {
        let mut b = Self::new(model, more);
        b.sim.config_write(b.device, 0, 0x10, 4, u32::from(PORTS)).unwrap();
        b.sim.config_write(b.device, 0, 4, 2, 7).unwrap();
        for (register, size, value) in [(0x37, 1, 0x0c), (0x30, 4, 0x1_0000), (0x44, 4, 0xf), (0x3c, 2, 0xffff)] {
            b.sim.port_write(PORTS + register, size, value).unwrap();
        }
        b
    }

    fn sends(&mut self, frame: &[u8]) {
        self.sim.memory_write(0x2_0000, frame).unwrap();
        self.sim.port_write(PORTS + 0x20, 4, 0x2_0000).unwrap();
        self.sim.port_write(PORTS + 0x10, 4, frame.len() as u32).unwrap();
    }

    fn arrived(&mut self) -> Vec<u8> {
        let mut len = [0; 4];
        self.peer.read_exact(&mut len).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(len) as usize];
        self.peer.read_exact(&mut frame).unwrap();
        frame
    }

    fn send_to_guest(&mut self, frame: &[u8]) {
        self.peer.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
        self.peer.write_all(frame).unwrap();
    }

    /// Waits until C mode's receive buffer is filled up to `at`.
    fn await_buffer(&mut self, at: u32) {
        let end = Instant::now() + Duration::from_secs(10);
        while self.sim.port_read(PORTS + 0x3a, 2).unwrap() != at {
            assert!(Instant::now() < end, "{}", self.sim.log());
        }
    }

    fn set(&self, words: &str) -> serde_json::Value {
        let words: Vec<&str> = words.split(' ').collect();
        let command =
            serde_json::json!({ "execute": "x-bulkhead-net-set", "arguments": { "device": "nic0", "set": words } });
        self.sim.qmp(&command.to_string()).unwrap()
    }

    /// Accesses that have reached the card's process.
    fn reached(&self) -> u64 {
        let answer = self.sim.qmp(r#"{"execute":"x-bulkhead-inspect","arguments":{"device":"nic0"}}"#).unwrap();
        answer["return"]["statistics"]["requests"].as_u64().unwrap()
    }
}

fn frame(len: usize) -> Vec<u8> {
    [&[0xff; 6][..], &MAC, &[0x88, 0xb5], &vec![0x5a; len - 14]].concat()
}

#[test]
fn frames_go_both_ways_and_go_on_after_a_kill() {
    let mut b = Bench::classic("rtl8139", &[]);
    b.sends(&frame(200));
    assert_eq!(b.arrived(), frame(200));
    b.send_to_guest(&frame(100));
    b.await_buffer(108);
    let mut head = [0; 18];
    b.sim.memory_read(0x1_0000, &mut head).unwrap();
    assert_eq!((&head[..4], &head[4..10]), (&[1, 0x20, 104, 0][..], &[0xff; 6][..]));
    b.sim.kill("rtl8139").unwrap();
    // A register write during a restart still takes effect.
    b.sim.port_write(PORTS + 0x38, 2, 108 - 16).unwrap();
    b.sim.await_log("restored the state").unwrap();
    b.send_to_guest(&frame(60));
    b.await_buffer(108 + 68);
    b.sends(&frame(300));
    assert_eq!(b.arrived(), frame(300));
    assert_eq!(b.sim.port_read(PORTS + 0x38, 2).unwrap(), 108 - 16);
    assert!(b.sim.end().unwrap().success());
}

#[test]
fn rules_and_the_cable_are_set_while_the_guest_runs() {
    let mut b = Bench::classic("rtl8139", &["-nic-rules", "id=nic0,level=guard"]);
    assert!(b.sim.log().contains("filter own hardware address, no DHCP server, no router"), "{}", b.sim.log());
    let mut foreign = frame(60);
    foreign[11] ^= 1;
    b.sends(&foreign);
    b.sends(&frame(61));
    assert_eq!(b.arrived(), frame(61));
    assert!(b.set("level=addresses ip=10.0.0.5 ip=fd00::5")["return"].is_object());
    b.sends(&frame(62));
    assert!(b.set("level=off")["return"].is_object());
    b.sends(&foreign);
    assert_eq!(b.arrived(), foreign);
    assert!(b.set("link=down")["return"].is_object());
    assert_eq!(b.sim.port_read(PORTS + 0x58, 1).unwrap() & 4, 4, "the driver sees it");
    b.sends(&frame(63));
    assert!(
        b.sim.qmp(r#"{"execute":"set_link","arguments":{"name":"net0","up":true}}"#).unwrap()["return"].is_object()
    );
    b.sends(&frame(64));
    assert_eq!(b.arrived(), frame(64));
    let shown = b.sim.qmp(r#"{"execute":"x-bulkhead-net-show"}"#).unwrap();
    let card = &shown["return"][0];
    assert_eq!(
        (
            card["device"].as_str(),
            card["dropped-in-process"]["source MAC"].as_u64(),
            card["dropped-in-process"]["EtherType"].as_u64()
        ),
        (Some("nic0"), Some(1), Some(1))
    );
    for (bad, why) in [("level=strict", "off, guard or addresses"), ("speed=1", "not known"), ("link", "KEY=VALUE")] {
        assert!(b.set(bad)["error"]["desc"].as_str().unwrap().contains(why), "{bad}");
    }
    assert!(b.sim.end().unwrap().success());
}

#[test]
fn a_capture_is_pcap() {
    let mut b = Bench::classic("rtl8139", &[]);
    let ask = |b: &Bench, end: bool| {
        let command = format!(r#"{{"execute":"x-bulkhead-capture","arguments":{{"device":"nic0","end":{end}}}}}"#);
        let answer = b.sim.qmp(&command).unwrap();
        use base64::Engine as _;
        base64::prelude::BASE64_STANDARD.decode(answer["return"]["pcap"].as_str().unwrap()).unwrap()
    };
    let mut file = ask(&b, false);
    b.sends(&frame(100));
    b.arrived();
    b.send_to_guest(&frame(80));
    b.await_buffer(88);
    file.extend(ask(&b, true));
    assert_eq!(file.len(), 24 + 16 + 100 + 16 + 80);
    assert_eq!(
        (&file[..4], &file[40..140], &file[156..]),
        (&0xa1b2_3c4du32.to_le_bytes()[..], &frame(100)[..], &frame(80)[..])
    );
    assert!(b.sim.end().unwrap().success());
}

#[test]
fn an_unplugged_card_is_gone_with_its_process() {
    // The mask at port 0x10; older words in the xen-platform device's BAR: all at 4, network cards at 8.
    for (port, size, word) in [(0x10, 2, 2), (0x10, 2, 3), (0x10, 2, 0xffff), (0xc104, 1, 1), (0xc108, 1, 2)] {
        let mut b = Bench::classic("e1000", &["-machine", "xenfv"]);
        assert_eq!(b.sim.port_read(0x10, 2).unwrap(), 0x49d2);
        let platform = (0..32).find(|d| b.sim.config_read(*d, 0, 0, 4).unwrap() == 0x0001_5853).unwrap();
        b.sim.config_write(platform, 0, 0x10, 4, 0xc100).unwrap();
        b.sim.config_write(platform, 0, 4, 2, 1).unwrap();
        b.sim.port_write(port, size, word).unwrap();
        assert_eq!(b.sim.config_read(b.device, 0, 0, 4).unwrap(), u32::MAX);
        b.sim.await_log("unplugged by the guest").unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while b.sim.process("e1000").is_some() {
            assert!(Instant::now() < end);
        }
        // The other end sees the end of the stream.
        assert_eq!(b.peer.read(&mut [0; 1]).unwrap(), 0);
        // Control hears of it after the process has gone.
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = b.set("link=up")["error"]["desc"].as_str().unwrap_or_default().to_owned();
            if answer.contains("no network card") {
                break;
            }
            assert!(Instant::now() < end, "{answer}");
        }
        b.sim.port_write(port, size, word).unwrap();
        assert!(b.sim.end().unwrap().success());
    }
}

/// Replays a register sequence from a bug report of another device model. At least `least` accesses must reach the card, or the
/// replay has tested nothing.
fn replay(model: &str, least: u64, lines: &[&str]) {
    let mut b = Bench::new(model, &[]);
    let mut interpreter = Interpreter::default();
    let before = b.reached();
    for line in lines {
        // The sequences address a card in slot 1.
        let slot = format!("0x8000{:02x}", b.device << 3);
        let line = line.replace("0x800008", &slot);
        interpreter.line(&mut b.sim, &line);
    }
    let reached = b.reached() - before;
    println!("{model}: {reached} accesses reached the card");
    assert!(reached >= least, "{reached}");
    assert!(!b.sim.log().contains("killed by") && !b.sim.log().contains("given up"), "{}", b.sim.log());
    assert!(b.sim.end().unwrap().success());
}

#[test]
fn e1000_recursion_by_loopback_into_its_own_registers() {
    replay(
        "e1000",
        5,
        &[
            "outl 0xcf8 0x80000813",
            "outl 0xcfc 0xe0",
            "outl 0xcf8 0x80000803",
            "outw 0xcfc 0x0600",
            "outl 0xcf8 0x80000810",
            "outl 0xcfc 0xe0000000",
            "outl 0xcf8 0x80000804",
            "outw 0xcfc 0x06",
            "writel 0xe0000100 0x000a0000",
            "writel 0xe0000020 0x420ff00",
            "writel 0xe0002808 0x28080000",
            "writel 0xe0002818 0x08000000",
            "write 0xf9b 0x1 0x01",
            "write 0x2170 0x1 0x14",
            "write 0x2171 0x1 0x38",
            "write 0x2173 0x1 0xe0",
            "writel 0xe0000400 0x00020000",
            "writel 0xe0003808 0x02100000",
            "writel 0xe0003818 0xfa",
            "clock_step 1000000",
        ],
    );
}

#[test]
fn rtl8139_recursion_by_loopback_into_its_own_registers() {
    replay(
        "rtl8139",
        6,
        &[
            "outl 0xcf8 0x80000814",
            "outl 0xcfc 0xe0000000",
            "outl 0xcf8 0x80000804",
            "outb 0xcfc 0x26",
            "write 0x1 0x1 0x42",
            "write 0x5 0x1 0x42",
            "write 0x9 0x1 0x42",
            "write 0xd 0x1 0x42",
            "writel 0xe0000044 0x11",
            "write 0xe0000037 0x1 0x1c",
            "writel 0xe0000030 0xe0000000",
            "writel 0xe0000040 0x60010",
            "writel 0xe0000010 0x20100",
            "writel 0xe0000040 0x60000",
            "writel 0xe0000010 0x01",
            "write 0xe0000037 0x1 0x0c",
            "writel 0xe0000030 0xe0000010",
            "writel 0xe0000044 0x01",
            "writel 0xe0000010 0x01",
        ],
    );
}

#[test]
fn rtl8139_division_by_a_segment_size_of_zero() {
    replay(
        "rtl8139",
        4,
        &[
            "outl 0xcf8 0x80000814",
            "outl 0xcfc 0xe0000000",
            "outl 0xcf8 0x80000804",
            "outw 0xcfc 0x06",
            "write 0xe0000037 0x1 0x04",
            "writew 0xe00000e0 0x01",
            // A descriptor at 0: first, last, large send with segment size 0; its packet at 0x4000.
            "write 0x0 0x4 0x400000b8",
            "writel 0x0 0xb8000040",
            "writel 0x4 0x0",
            "writel 0x8 0x4000",
            "writel 0xc 0x0",
            "write 0x400c 0x1 0x08",
            "write 0x400e 0x1 0x47",
            "write 0x4010 0x1 0x02",
            "write 0x4017 0x1 0x06",
            "write 0x4036 0x1 0x80",
            "write 0xe00000d9 0x1 0x40",
        ],
    );
}
