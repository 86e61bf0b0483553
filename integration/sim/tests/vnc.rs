//! Viewers on the host and the real process with its real filter.
use bulkhead_sim::{Options, Sim};
use rustix::net::{AddressFamily, SocketType};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

fn start(vnc: &str) -> Sim {
    Sim::start(&Options::new(&[
        "-name",
        "seen",
        "-machine",
        "xenfv",
        "-m",
        "16",
        "-device",
        "VGA,vgamem_mb=16",
        "-vnc",
        vnc,
    ]))
    .unwrap()
}

fn port(sim: &Sim) -> u16 {
    let answer = sim.qmp(r#"{"execute":"query-vnc"}"#).unwrap()["return"].clone();
    assert_eq!((&answer["enabled"], &answer["host"]), (&true.into(), &"127.0.0.1".into()), "{answer}");
    answer["service"].as_str().unwrap().parse().unwrap()
}

struct Viewer(TcpStream);

impl Viewer {
    fn hear(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Connects and sends the version.
    fn connect(port: u16) -> Self {
        Self::connect_from(Ipv4Addr::LOCALHOST, port)
    }

    /// The same from another address of this host.
    fn connect_from(from: Ipv4Addr, port: u16) -> Self {
        let mut viewer = Self(tcp(from, port));
        assert_eq!(viewer.hear(12), b"RFB 003.008\n");
        viewer.0.write_all(b"RFB 003.008\n").unwrap();
        viewer
    }

    /// Connects and completes the handshake; also returns width and height.
    fn enter(port: u16) -> (Self, usize, usize) {
        let mut viewer = Self::connect(port);
        assert_eq!(viewer.hear(2), [1, 1]);
        viewer.0.write_all(&[1, 1]).unwrap();
        assert_eq!(viewer.hear(4), [0; 4]);
        let hello = viewer.hear(24 + 4);
        let (w, h) =
            (usize::from(hello[0]) << 8 | usize::from(hello[1]), usize::from(hello[2]) << 8 | usize::from(hello[3]));
        assert_eq!(&hello[24..], b"seen");
        (viewer, w, h)
    }

    /// Enables the encodings LED state and ExtendedDesktopSize.
    fn takes_lights_and_sizes(&mut self) {
        self.0.write_all(&[2, 0, 0, 3, 0, 0, 0, 0, 0xff, 0xff, 0xfe, 0xfb, 0xff, 0xff, 0xfe, 0xcc]).unwrap();
    }

    /// Requests updates until these lights are reported.
    fn await_lights(&mut self, lights: u8) {
        let mut told = None;
        await_that("the lights", || {
            self.0.write_all(&[3, 0, 0, 0, 0, 0, 0, 1, 0, 1]).unwrap();
            let head = self.hear(4);
            for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
                let r = self.hear(12);
                let n = |i: usize| usize::from(r[i]) << 8 | usize::from(r[i + 1]);
                match i32::from_be_bytes(r[8..12].try_into().unwrap()) {
                    0 => drop(self.hear(n(4) * n(6) * 4)),
                    -261 => told = Some(self.hear(1)[0]),
                    -308 => drop(self.hear(20)),
                    other => panic!("encoding {other}"),
                }
            }
            told == Some(lights)
        });
    }

    /// The whole picture, raw: red, green, blue.
    fn picture(&mut self, w: usize, h: usize) -> Vec<u8> {
        self.0.write_all(&[3, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]).unwrap();
        let mut picture = vec![0; w * h * 3];
        let head = self.hear(4);
        for _ in 0..u16::from_be_bytes([head[2], head[3]]) {
            let r = self.hear(12);
            let n = |i: usize| usize::from(r[i]) << 8 | usize::from(r[i + 1]);
            assert_eq!(&r[8..], [0; 4], "raw");
            for (i, p) in self.hear(n(4) * n(6) * 4).chunks(4).enumerate() {
                let at = (n(2) + i / n(4)) * w + n(0) + i % n(4);
                picture[at * 3..][..3].copy_from_slice(&[p[2], p[1], p[0]]);
            }
        }
        picture
    }
}

/// A connection from this address of the host.
fn tcp(from: Ipv4Addr, port: u16) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((from, 0))).unwrap();
    rustix::net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// A linear mode of 128x96 with a pattern.
fn draw(sim: &mut Sim, seed: u32) {
    for (index, value) in [(4, 0), (1, 128), (2, 96), (3, 32), (4, 0x41)] {
        sim.port_write(0x1ce, 2, index).unwrap();
        sim.port_write(0x1cf, 2, value).unwrap();
    }
    // Bit 5 of the attribute index gives the palette to the display, without which the picture is black.
    sim.port_write(0x3c2, 1, 0x67).unwrap();
    sim.port_read(0x3da, 1).unwrap();
    sim.port_write(0x3c0, 1, 0x20).unwrap();
    // Through the window, bank 0, in a mode whose bytes are linear.
    sim.port_write(0x3c4, 1, 2).unwrap();
    sim.port_write(0x3c5, 1, 0x0f).unwrap();
    sim.port_write(0x3c4, 1, 4).unwrap();
    sim.port_write(0x3c5, 1, 0x0e).unwrap();
    sim.port_write(0x3ce, 1, 6).unwrap();
    sim.port_write(0x3cf, 1, 5).unwrap();
    let bytes: Vec<u8> = (0..128 * 96u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) ^ seed).to_le_bytes()).collect();
    sim.memory_write(0xa_0000, &bytes).unwrap();
}

/// The picture of x-bulkhead-screenshot: width, height, and bytes of red, green and blue.
fn screenshot(sim: &Sim) -> (usize, usize, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("png");
    let out = std::process::Command::new(Options::new(&[]).binaries.join("bulkhead"))
        .arg("screenshot")
        .arg(sim.qmp_socket())
        .arg(&file)
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut reader =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&file).unwrap())).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut bytes).unwrap();
    assert_eq!(info.color_type, png::ColorType::Rgb);
    (info.width as usize, info.height as usize, bytes)
}

fn await_that(what: &str, mut f: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !f() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn viewers_see_what_a_screenshot_sees_also_after_the_display_and_the_server_died() {
    let mut sim = start("127.0.0.1:0,to=99");
    draw(&mut sim, 0);
    let port = port(&sim);
    let enter = |sim: &mut Sim| {
        let (mut viewer, w, h) = Viewer::enter(port);
        let shot = screenshot(sim);
        assert_eq!((w, h), (shot.0, shot.1));
        assert!(viewer.picture(w, h) == shot.2);
        viewer
    };
    let mut viewer = enter(&mut sim);
    let clients = sim.qmp(r#"{"execute":"query-vnc"}"#).unwrap()["return"]["clients"].clone();
    assert_eq!(clients.as_array().unwrap().len(), 1, "{clients}");
    // The display's process dies: the connection stays, and the picture is sent again.
    sim.replace("vga").unwrap();
    draw(&mut sim, 99);
    await_that("the new picture", || viewer.picture(128, 96) == screenshot(&sim).2);
    // The server dies: viewers can connect again at the same port.
    sim.replace("vnc").unwrap();
    enter(&mut sim);
    assert!(sim.end().unwrap().success());
}

#[test]
fn what_viewers_type_and_point_at_reaches_the_guest() {
    let mut sim = start("127.0.0.1:0,to=99");
    for (port, value) in [(0x64, 0x60), (0x60, 0x41), (0x60, 0xf4)] {
        sim.port_write(port, 1, value).unwrap();
    }
    let mut got = Vec::new();
    let mut read = |sim: &mut Sim, want: &[u32]| {
        await_that(&format!("{want:x?}"), || {
            while sim.port_read(0x64, 1).unwrap() & 1 != 0 {
                got.push(sim.port_read(0x60, 1).unwrap());
            }
            got.ends_with(want)
        });
        got.clear();
    };
    let (mut viewer, ..) = Viewer::enter(port(&sim));
    viewer.0.write_all(&[4, 1, 0, 0, 0, 0, 0, b'A', 4, 0, 0, 0, 0, 0, 0, b'A']).unwrap();
    read(&mut sim, &[0x2a, 0x1e, 0xaa, 0x9e]);
    // A key by scan code, held when the viewer disconnects.
    viewer.0.write_all(&[255, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xd3]).unwrap();
    read(&mut sim, &[0xe0, 0x53]);
    drop(viewer);
    read(&mut sim, &[0xe0, 0xd3]);
    assert!(sim.end().unwrap().success());
}

#[test]
fn who_is_no_viewer_is_sent_away_with_a_line_in_the_log() {
    let mut sim = start("127.0.0.1:0,to=99");
    let mut socket = TcpStream::connect(("127.0.0.1", port(&sim))).unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    sim.await_log("is disconnected: no RFB client").unwrap();
    assert!(sim.end().unwrap().success());
}

/// The links between the processes: keyboard → viewer, viewer → display, USB controller → viewer.
#[test]
fn lights_wishes_and_places_go_from_process_to_process() {
    let mut sim = Sim::start(&Options::new(&[
        "-name",
        "seen",
        "-machine",
        "xenfv",
        "-m",
        "16",
        "-device",
        "VGA,vgamem_mb=16",
        "-vnc",
        "127.0.0.1:0,to=99",
        "-usb",
        "-usbdevice",
        "tablet",
    ]))
    .unwrap();
    let (mut viewer, w, h) = Viewer::enter(port(&sim));
    viewer.picture(w, h);
    // The guest's driver switches Num Lock and Caps Lock on.
    viewer.takes_lights_and_sizes();
    for value in [0xed, 6] {
        sim.port_write(0x60, 1, value).unwrap();
    }
    viewer.await_lights(6);
    // 1280x800, one screen.
    viewer.0.write_all(&[251, 0, 5, 0, 3, 32, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 3, 32, 0, 0, 0, 0]).unwrap();
    let monitor = |sim: &Sim| {
        let registers = sim.qmp(r#"{"execute":"x-bulkhead-inspect","arguments":{"device":"vga"}}"#).unwrap()["return"]
            ["registers"]
            .clone();
        registers.to_string()
    };
    await_that("the wish", || monitor(&sim).contains("1280x800"));
    // The guest has not configured the tablet, so pointer input is sent to the mouse; the controller has its own process.
    assert!(sim.process("usb").is_some());
    assert!(sim.end().unwrap().success());
}

/// Lights that the guest has switched on are still reported by a restarted server and a restarted keyboard.
#[test]
fn lights_outlive_the_server_and_the_keyboard() {
    let mut sim = start("127.0.0.1:0,to=99");
    for value in [0xed, 5] {
        sim.port_write(0x60, 1, value).unwrap();
    }
    let port = port(&sim);
    for killed in ["vnc", "ps2"] {
        sim.replace(killed).unwrap();
        let (mut viewer, ..) = Viewer::enter(port);
        viewer.takes_lights_and_sizes();
        viewer.await_lights(5);
    }
    assert!(sim.end().unwrap().success());
}

#[test]
fn a_password_set_by_qmp_lets_in_and_outlives_the_server() {
    let mut sim = start("127.0.0.1:0,to=99,password=on");
    assert_eq!(sim.qmp(r#"{"execute":"query-vnc"}"#).unwrap()["return"]["auth"], "vnc");
    let port = port(&sim);
    let try_it = |password: &str| {
        let mut viewer = Viewer::connect(port);
        assert_eq!(viewer.hear(2), [1, 2]);
        viewer.0.write_all(&[2]).unwrap();
        let challenge = viewer.hear(16);
        viewer.0.write_all(&answer(password, &challenge)).unwrap();
        viewer.hear(4)[3]
    };
    assert_eq!(try_it("secret"), 1, "none is set yet");
    let set = sim.qmp(r#"{"execute":"change-vnc-password","arguments":{"password":"secret"}}"#).unwrap();
    assert!(set["return"].is_object(), "{set}");
    assert_eq!((try_it("secret"), try_it("Secret")), (0, 1));
    sim.replace("vnc").unwrap();
    await_that("the password", || try_it("secret") == 0);
    assert!(sim.end().unwrap().success());
    let mut open = start("127.0.0.1:0,to=99");
    assert!(
        open.qmp(r#"{"execute":"change-vnc-password","arguments":{"password":"secret"}}"#).unwrap()["error"]
            .is_object()
    );
    assert!(open.end().unwrap().success());
}

/// Strangers took the place of a person who was typing a password. The process knows addresses although its filter lets it ask for
/// none: accept tells them.
#[test]
fn silent_strangers_that_throw_out_who_types() {
    let mut sim = start("127.0.0.1:0,to=99,password=on");
    let port = port(&sim);
    sim.qmp(r#"{"execute":"change-vnc-password","arguments":{"password":"secret"}}"#).unwrap();
    let (person, attacker) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let mut typing = Viewer::connect_from(person, port);
    assert_eq!(typing.hear(2), [1, 2]);
    typing.0.write_all(&[2]).unwrap();
    let challenge = typing.hear(16);
    let strangers: Vec<TcpStream> = (0..40).map(|_| tcp(attacker, port)).collect();
    let registers = |sim: &Sim| {
        sim.qmp(r#"{"execute":"x-bulkhead-inspect","arguments":{"device":"vnc"}}"#).unwrap()["return"]["registers"]
            .clone()
    };
    await_that("all strangers", || registers(&sim)["connections"] == "41");
    assert_eq!(registers(&sim)["connections turned away"], "36", "four of one address have a place");
    assert!(registers(&sim)["viewer1.address"].as_str().unwrap().starts_with("127.0.0.2:"));
    typing.0.write_all(&answer("secret", &challenge)).unwrap();
    assert_eq!(typing.hear(4), [0; 4]);
    drop(strangers);
    assert!(sim.end().unwrap().success());
}

/// The answer to a challenge, by OpenSSL's DES, which is independent of this project's.
fn answer(password: &str, challenge: &[u8]) -> Vec<u8> {
    let mut key = [0u8; 8];
    key.iter_mut().zip(password.bytes()).for_each(|(k, p)| *k = p.reverse_bits());
    let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
    let mut child = std::process::Command::new("openssl")
        .args(["enc", "-des-ecb", "-nopad", "-provider", "legacy", "-provider", "default", "-K", &hex])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(challenge).unwrap();
    child.wait_with_output().unwrap().stdout
}

#[test]
fn ports_that_are_taken_are_passed_over_or_refused() {
    let taken: Vec<std::net::TcpListener> =
        (5950..5953).filter_map(|p| std::net::TcpListener::bind(("127.0.0.1", p)).ok()).collect();
    let mut sim = start("127.0.0.1:50,to=99");
    assert!(port(&sim) >= 5953);
    assert!(sim.end().unwrap().success());
    let refused = Sim::start(&Options::new(&[
        "-machine",
        "xenfv",
        "-m",
        "16",
        "-device",
        "VGA,vgamem_mb=16",
        "-vnc",
        "127.0.0.1:50",
    ]))
    .map(|_| ())
    .unwrap_err()
    .to_string();
    assert!(refused.contains("BH-0208") && refused.contains("Address already in use"), "{refused}");
    drop(taken);
    // A Unix socket, which is removed at the machine's end.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vnc");
    let mut sim = start(&format!("unix:{}", path.display()));
    let mut hello = [0; 12];
    std::os::unix::net::UnixStream::connect(&path).unwrap().read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"RFB 003.008\n");
    assert!(sim.end().unwrap().success());
    assert!(!path.exists());
}

#[test]
fn without_a_viewer_the_display_draws_nothing_and_no_process_wakes() {
    let mut sim = start("127.0.0.1:0,to=99");
    draw(&mut sim, 5);
    let count = |sim: &Sim, device: &str, counter: &str| {
        let command = format!(r#"{{"execute":"x-bulkhead-inspect","arguments":{{"device":"{device}"}}}}"#);
        sim.qmp(&command).unwrap()["return"]["statistics"][counter].as_u64().unwrap()
    };
    let (_viewer, w, h) = {
        let (mut v, w, h) = Viewer::enter(port(&sim));
        v.picture(w, h);
        (v, w, h)
    };
    assert!(w > 0 && h > 0);
    await_that("no more pictures", || {
        let before = (count(&sim, "vga", "pictures drawn for a viewer"), count(&sim, "vnc", "wake-ups"));
        std::thread::sleep(Duration::from_millis(500));
        // Reading the counters wakes the process too.
        count(&sim, "vga", "pictures drawn for a viewer") == before.0 && count(&sim, "vnc", "wake-ups") - before.1 <= 2
    });
    assert!(sim.end().unwrap().success());
}

/// A width that is no multiple of 8, from the guest's registers by the surface to a viewer and to a screenshot.
#[test]
fn an_odd_width_reaches_viewers_and_screenshots() {
    const SIZE: (usize, usize) = (1366, 768);
    let mut sim = start("127.0.0.1:0,to=99");
    draw(&mut sim, 7);
    let dispi = |sim: &mut Sim, index: u32, value: usize| {
        sim.port_write(0x1ce, 2, index).unwrap();
        sim.port_write(0x1cf, 2, value as u32).unwrap();
    };
    for (index, value) in [(4, 0), (1, SIZE.0), (2, SIZE.1), (3, 32), (4, 0x41)] {
        dispi(&mut sim, index, value);
    }
    // The first lines and the last ones; the rest is black.
    let mut want = vec![0u8; 65 * 65536];
    for bank in [0, 63, 64] {
        let bytes: Vec<u8> = (0..16384u32).flat_map(|i| (i.wrapping_mul(2_654_435_761) ^ bank).to_le_bytes()).collect();
        dispi(&mut sim, 5, bank as usize);
        sim.memory_write(0xa_0000, &bytes).unwrap();
        want[bank as usize * 65536..][..65536].copy_from_slice(&bytes);
    }
    let want: Vec<u8> = want.chunks(4).take(SIZE.0 * SIZE.1).flat_map(|p| [p[2], p[1], p[0]]).collect();
    let (width, height, shot) = screenshot(&sim);
    assert_eq!((width, height), SIZE);
    assert!(shot == want, "the screenshot is another picture");
    let (mut viewer, width, height) = Viewer::enter(port(&sim));
    assert_eq!((width, height), SIZE);
    assert!(viewer.picture(width, height) == want, "the viewer has another picture");
    assert!(sim.end().unwrap().success());
}
