//! The operator's command against a whole machine.
use bulkhead_sim::{Options, Sim};
use serde_json::Value;
use std::process::{Command, Output, Stdio};

struct Bed {
    sim: Sim,
    program: std::path::PathBuf,
    dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let options = Options::new(&[
            "-name",
            "a \"b\"",
            "-machine",
            "xenfv",
            "-m",
            "16",
            "-device",
            "VGA,vgamem_mb=16",
            "-serial",
            "null",
        ]);
        let program = options.binaries.join("bulkhead");
        Self { sim: Sim::start(&options).unwrap(), program, dir: tempfile::tempdir().unwrap() }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let socket = self.sim.qmp_socket().display().to_string();
        let arguments = arguments.iter().map(|a| if *a == "GUEST" { socket.as_str() } else { a });
        Command::new(&self.program).args(arguments).output().unwrap()
    }

    /// One table of `top`. The guest reads the keyboard's data port, whose reads no shadow answers, and writes to the picture,
    /// which are posted, until the command ends.
    fn top_while_the_guest_works(&mut self) -> Value {
        let socket = self.sim.qmp_socket().display().to_string();
        let mut command = Command::new(&self.program);
        command.args(["--json", "top", &socket, "--count", "1"]).stdout(Stdio::piped());
        let mut top = command.spawn().unwrap();
        while top.try_wait().unwrap().is_none() {
            self.sim.port_read(0x60, 1).unwrap();
            self.sim.memory_write(0xb8000, &[b'A', 7]).unwrap();
        }
        let out = top.wait_with_output().unwrap();
        assert!(out.status.success());
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn text(&self, arguments: &[&str]) -> String {
        let out = self.run(arguments);
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[&["--json"], arguments].concat())).unwrap()
    }
}

#[test]
fn audit_finds_what_has_become_weaker_than_its_profile() {
    let bed = Bed::new();
    let audit = || {
        let out = bed.run(&["--json", "audit"]);
        let guests: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
        // Other tests' machines run too.
        let pid = u64::from(bed.sim.pid());
        let ours = |g: &&Value| g["processes"].as_array().unwrap().iter().any(|p| p["pid"] == pid);
        let processes = guests.iter().find(ours).unwrap()["processes"].as_array().unwrap().clone();
        let weaker = processes.iter().filter(|p| p["weaker"] != serde_json::json!([])).cloned().collect::<Vec<_>>();
        (processes.len(), weaker)
    };
    let (all, weaker) = audit();
    assert_eq!((all, weaker), (9, Vec::new()));
    // A launcher that has never entered its cage.
    let weak = bed.dir.path().join("bulkhead-dm");
    std::os::unix::fs::symlink("/bin/sh", &weak).unwrap();
    let mut weak = Command::new(weak)
        .args(["-c", "read line", "-name", "weak", "-xen-domid", "77"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let out = loop {
        let out = bed.run(&["--json", "audit", "weak"]);
        // It has not become the shell yet.
        if out.status.code() != Some(1) {
            break out;
        }
    };
    weak.kill().unwrap();
    weak.wait().unwrap();
    assert_eq!(out.status.code(), Some(4));
    let guests: Value = serde_json::from_slice(&out.stdout).unwrap();
    let launcher = &guests[0]["processes"][0];
    assert_eq!(launcher["process"], "launcher", "{guests}");
    assert!(launcher["weaker"][0].as_str().unwrap().starts_with("Seccomp is"), "{guests}");
    let none = bed.run(&["audit", "nobody"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("no device model of nobody"));
}

#[test]
fn what_an_operator_looks_at() {
    let mut bed = Bed::new();
    let table = bed.text(&["ps", "GUEST"]);
    assert!(table.contains("vga") && table.contains("all 7"), "{table}");
    let names: Vec<_> = bed.json(&["ps", "GUEST"])["processes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| p["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        ["launcher", "starter", "control", "broker", "platform", "ide", "ps2", "vga", "serial0"]
            .iter()
            .all(|n| names.contains(&(*n).to_owned())),
        "{names:?}"
    );
    assert!(bed.text(&["inspect", "GUEST", "platform"]).contains("CMOS"));
    assert!(bed.json(&["inspect", "GUEST", "broker"])["statistics"]["full hops"].is_u64());
    assert!(bed.text(&["logs", "GUEST"]).contains("in the sandbox"));
    let top = bed.top_while_the_guest_works();
    let rows = top.as_array().unwrap();
    let row = |name: &str| rows.iter().find(|p| p["process"] == name).unwrap_or_else(|| panic!("{name}: {top}"));
    assert!(row("ide")["pss_kb"].as_u64().unwrap() > 0, "{top}");
    for (process, column) in [
        ("ps2", "accesses/s"),
        ("ps2", "wake-ups/s"),
        ("ps2", "doorbells/s"),
        ("vga", "posted/s"),
        ("broker", "posted/s"),
        ("broker", "wake-ups/s"),
    ] {
        assert!(row(process)[column].as_f64().unwrap() > 0.0, "{column} of {process}: {top}");
    }
    let metrics = bed.text(&["metrics", "GUEST"]);
    assert!(metrics.contains("# TYPE bulkhead_process_up gauge\n"));
    assert!(
        metrics.contains("bulkhead_process_up{guest=\"a \\\"b\\\"\",domid=\"1\",process=\"ide\"} 1\n"),
        "{metrics}"
    );
    assert!(metrics.lines().any(|l| l.contains("process=\"ide\",counter=\"wake-ups\"")), "{metrics}");
    let png = bed.dir.path().join("screen.png");
    bed.text(&["screenshot", "GUEST", png.to_str().unwrap()]);
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG"));
    assert_eq!(
        bed.run(&["screenshot", "GUEST", png.to_str().unwrap()]).status.code(),
        Some(1),
        "nothing is written over"
    );
    assert!(bed.sim.end().unwrap().success());
}

#[test]
fn typed_text_arrives_at_the_keyboard() {
    let mut bed = Bed::new();
    // The keyboard's interrupt and scan codes are on.
    for (port, value) in [(0x64, 0x60), (0x60, 0x41), (0x60, 0xf4)] {
        bed.sim.port_write(port, 1, value).unwrap();
    }
    // Reads all available bytes, and waits for at least `least`, which a busy host delivers late.
    let read = |bed: &mut Bed, least: usize| {
        let mut bytes = Vec::new();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            if bed.sim.port_read(0x64, 1).unwrap() & 1 != 0 {
                bytes.push(bed.sim.port_read(0x60, 1).unwrap());
            } else if bytes.len() >= least || std::time::Instant::now() > end {
                return bytes;
            }
        }
    };
    read(&mut bed, 0);
    bed.text(&["type", "GUEST", "a"]);
    assert_eq!(read(&mut bed, 2), [0x1e, 0x9e]);
    bed.text(&["type", "GUEST", "?"]);
    assert_eq!(read(&mut bed, 4), [0x2a, 0x35, 0xb5, 0xaa], "with shift");
    bed.text(&["key", "GUEST", "ctrl", "alt", "delete"]);
    assert_eq!(read(&mut bed, 8).len(), 8);
    let refused = bed.run(&["type", "GUEST", "xyä"]);
    assert_eq!((refused.status.code(), read(&mut bed, 0)), (Some(1), vec![]), "nothing was typed");
    assert!(bed.sim.end().unwrap().success());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    use std::process::Stdio;
    let mut bed = Bed::new();
    for arguments in [["inspect", "GUEST", "vga"], ["logs", "GUEST", ""]] {
        let socket = bed.sim.qmp_socket().display().to_string();
        let arguments =
            arguments.iter().filter(|a| !a.is_empty()).map(|a| if *a == "GUEST" { socket.as_str() } else { a });
        let mut child =
            Command::new(&bed.program).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        assert!(
            out.status.success() && out.stderr.is_empty(),
            "{} {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
    }
    assert!(bed.sim.end().unwrap().success());
}

#[test]
fn exit_statuses_say_what_is_wrong() {
    let mut bed = Bed::new();
    let status = |arguments: &[&str]| bed.run(arguments).status.code();
    assert_eq!(status(&["inspect", "GUEST", "toaster"]), Some(1));
    assert_eq!(status(&["frobnicate"]), Some(2));
    assert_eq!(status(&["logs", "/run/no-such-socket"]), Some(3));
    assert_eq!(status(&["compat", "--", "-xen-domid", "1", "-soundhw", "ac97"]), Some(4));
    assert_eq!(status(&["compat", "/usr/lib/bulkhead/bulkhead-dm", "-xen-domid", "1", "-vnc", "none"]), Some(0));
    let verdict = bed.run(&["--json", "compat", "--", "-xen-domid", "1", "-device", "cirrus-vga", "-frobnicate"]);
    let verdict: Value = serde_json::from_slice(&verdict.stdout).unwrap();
    let fates: Vec<_> = verdict["options"].as_array().unwrap().iter().map(|o| o["fate"].as_str().unwrap()).collect();
    assert_eq!((fates, verdict["starts"].as_bool()), (vec!["implemented", "substituted", "unknown"], Some(false)));
    bed.text(&["restart", "GUEST", "vga"]);
    bed.sim.await_log("bulkhead-dm: vga (pid").unwrap();
    assert!(bed.sim.end().unwrap().success());
}

#[test]
fn completions_and_man_pages_come_from_the_parser() {
    let program = Options::new(&[]).binaries.join("bulkhead");
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| Command::new(&program).args(arguments).output().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(String::from_utf8(run(&["completions", shell]).stdout).unwrap().contains("screenshot"), "{shell}");
    }
    assert!(run(&["man", dir.path().to_str().unwrap()]).status.success());
    assert!(std::fs::read_to_string(dir.path().join("bulkhead.1")).unwrap().contains("Exit status"));
    assert!(dir.path().join("bulkhead-trace-net.1").exists());
}

/// A recorded trace has the same effect on another machine.
#[test]
fn a_trace_of_registers_can_be_made_again() {
    let mut bed = Bed::new();
    let file = bed.dir.path().join("trace");
    let child = Command::new(&bed.program)
        .args([
            "trace",
            "registers",
            &bed.sim.qmp_socket().display().to_string(),
            "platform",
            file.to_str().unwrap(),
            "2",
        ])
        .spawn()
        .unwrap();
    let running =
        |bed: &Bed| bed.json(&["inspect", "GUEST", "platform"])["statistics"]["control calls"].as_u64().unwrap();
    let before = running(&bed);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    // The trace has started when its first line is there.
    loop {
        bed.sim.port_write(0x70, 1, 0x41).unwrap();
        if std::fs::metadata(&file).is_ok_and(|m| m.len() > 0) || running(&bed) > before + 60 {
            break;
        }
        assert!(std::time::Instant::now() < end);
    }
    bed.sim.port_write(0x70, 1, 0x40).unwrap();
    bed.sim.port_write(0x71, 1, 0x77).unwrap();
    assert_eq!(bed.sim.port_read(0x71, 1).unwrap(), 0x77);
    bed.sim.config_write(1, 0, 0x60, 1, 0x0b).unwrap();
    assert!({ child }.wait().unwrap().success());
    let text = std::fs::read_to_string(&file).unwrap();
    for line in ["outb 0x70 0x40", "outb 0x71 0x77", "inb 0x71 # 0x77", "outl 0xcf8 0x80000860\noutb 0xcfc 0xb"] {
        assert!(text.contains(line), "{line}: {}", &text[text.len().saturating_sub(400)..]);
    }
    let mut other = Sim::start(&Options::new(&["-machine", "xenfv", "-m", "16"])).unwrap();
    let mut interpreter = bulkhead_sim::qtest::Interpreter::default();
    let replies: Vec<_> = text.lines().map(|l| interpreter.line(&mut other, l).unwrap()).collect();
    assert!(replies.iter().all(|r| r.starts_with("OK")), "{replies:?}");
    assert_eq!(replies[text.lines().position(|l| l == "inb 0x71 # 0x77").unwrap()], "OK 0x0077");
    assert!(other.end().unwrap().success());
    assert!(bed.sim.end().unwrap().success());
}

/// What acts on a terminal: a title, a cleared screen, a line of its own, the other direction of writing.
const EVIL: &str = "\x1b]0;owned\x07\x1b[2J\r\nbulkhead: all is well\u{9b}2J\u{202e}";

/// A control that was taken over: every text in its answers is [`EVIL`].
fn hostile_control(listener: std::os::unix::net::UnixListener) {
    use std::io::{BufRead, BufReader, Write};
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.write_all(b"{\"QMP\":{\"version\":{},\"capabilities\":[]}}\n");
        for line in BufReader::new(stream.try_clone().unwrap()).lines() {
            let Ok(command) = line.map(|l| serde_json::from_str::<Value>(&l).unwrap()) else { break };
            let all = serde_json::json!({ EVIL: EVIL });
            // Only the launcher, in the first row, may have so few namespaces of its own.
            let row = serde_json::json!({
                "name": EVIL, "pid": 1, "uid": 1, "seccomp": 2, "syscalls": 3, "no_new_privs": true, "capabilities": false,
                "namespaces": 3, "threads": 1, "pss_kb": 1, "restarts": 0,
            });
            let answer = match command["execute"].as_str().unwrap() {
                "qmp_capabilities" => Value::Null,
                "x-bulkhead-processes" => serde_json::json!({
                    "name": EVIL, "domid": EVIL, "level": EVIL, "landlock": EVIL, "processes": [row.clone(), row],
                }),
                "x-bulkhead-inspect" => serde_json::json!({ "registers": all, "statistics": all }),
                "x-bulkhead-logs" => serde_json::json!([EVIL]),
                "x-bulkhead-net-show" => serde_json::json!([{
                    "device": EVIL, "model": EVIL, "mac": EVIL, "filter": EVIL, "dropped-on-interface": all,
                }]),
                "x-bulkhead-metrics" => EVIL.into(),
                _ => {
                    let error = serde_json::json!({ "error": { "class": EVIL, "desc": EVIL }, "id": command["id"] });
                    let _ = stream.write_all(format!("{error}\n").as_bytes());
                    continue;
                }
            };
            let answer = serde_json::json!({ "return": answer, "id": command["id"] });
            let _ = stream.write_all(format!("{answer}\n").as_bytes());
        }
    }
}

/// A compromised process's text reached root's terminal as it was.
#[test]
fn nothing_that_a_hostile_control_says_acts_on_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp").display().to_string();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || hostile_control(listener));
    let program = Options::new(&[]).binaries.join("bulkhead");
    let mut said = 0;
    for words in [
        "ps GUEST",
        "inspect GUEST ps2",
        "logs GUEST",
        "net show GUEST",
        "metrics GUEST",
        "restart GUEST ide",
        "key GUEST a",
        "type GUEST a",
        "net set GUEST nic0 link=down",
    ] {
        for json in [&[][..], &["--json"]] {
            let words = words.split(' ').map(|w| if w == "GUEST" { path.as_str() } else { w });
            let out = Command::new(&program).args(json).args(words.clone()).output().unwrap();
            let shown = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
            said += usize::from(shown.contains("owned"));
            let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!shown.chars().any(acts), "{words:?}: {shown:?}");
            let lie = |line: &str| line == "bulkhead: all is well";
            assert!(!shown.lines().any(lie) || words.clone().any(|w| w == "metrics"), "{words:?}: {shown:?}");
        }
    }
    assert!(said >= 16, "{said} of 18 have shown what control says");
}

/// A guest in a stub domain has no processes here. Its launcher's table, which control passes on, is all there is.
#[test]
fn audit_of_another_domains_processes_says_what_it_does_not_see() {
    let bed = Bed::new();
    let out = bed.run(&["--json", "audit", "GUEST"]);
    let guests: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(0), "{guests}");
    assert!(guests[0]["processes"].as_array().unwrap().len() == 9, "{guests}");
    assert!(guests[0]["not-compared"][0].as_str().unwrap().contains("not visible from here"), "{guests}");
    let text = bed.run(&["audit", "GUEST"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("not compared: limits"), "{guests}");
    // A table with a process that is weaker, and much else that a hostile control says.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp").display().to_string();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || hostile_control(listener));
    let out = bed.run(&["audit", &path]);
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!shown.contains('\x1b') && shown.contains("owned"), "{shown:?}");
    assert_eq!((out.status.code(), shown.matches("3 namespaces of its own").count()), (Some(4), 1), "{shown}");
}
