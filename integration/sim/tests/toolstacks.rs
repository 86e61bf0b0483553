//! Options of toolstacks other than libxl: a second QMP server by `-qmp`, the file of `-pidfile`.
use bulkhead_sim::{Options, Sim};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

#[test]
fn without_boot_the_cmos_has_qemus_order() {
    // CMOS 3dh: the first two devices, 38h: the third (SeaBIOS, boot.c: 1 floppy, 2 disk, 3 CD, 4 network).
    for (boot, want) in [
        (&[][..], (0x12, 0x30)),
        (&["-boot", "menu=on"], (0x12, 0x30)),
        (&["-boot", "order=dn"], (0x43, 0)),
        (&["-boot", "cdn"], (0x32, 0x40)),
    ] {
        let mut sim = Sim::start(&Options::new(&[&["-machine", "xenfv", "-m", "16"], boot].concat())).unwrap();
        let mut cmos = |index| {
            sim.port_write(0x70, 1, index).unwrap();
            sim.port_read(0x71, 1).unwrap()
        };
        assert_eq!((cmos(0x3d), cmos(0x38)), want, "{boot:?}");
    }
}

#[test]
fn a_pid_file_names_the_launcher_while_it_lives_and_every_qmp_server_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (pid_file, one, two) = (path("pid"), path("qmp-one"), path("qmp-two"));
    std::fs::write(&pid_file, "a number that an earlier life has left\n").unwrap();
    let servers = [format!("unix:{one},server,nowait"), format!("unix:{two},server=on,wait=off")];
    let arguments =
        ["-machine", "pc-0.10", "-m", "16", "-pidfile", &pid_file, "-qmp", &servers[0], "-qmp", &servers[1]];
    let mut sim = Sim::start(&Options::new(&arguments)).unwrap();
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), format!("{}\n", sim.pid()));
    for server in [&one, &two] {
        let mut stream = UnixStream::connect(server).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("\"QMP\""));
        stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\r\n{\"execute\":\"query-status\",\"id\":4}\r\n").unwrap();
        assert!(
            lines.by_ref().map_while(Result::ok).any(|l| l.contains("running") && l.contains("\"id\":4")),
            "{server}"
        );
    }
    // The file is locked while its process lives.
    let second = Sim::start(&Options::new(&arguments)).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(second.contains("another process has it"), "{second}");
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), format!("{}\n", sim.pid()));
    assert!(sim.end().unwrap().success());
    assert!(!std::path::Path::new(&pid_file).exists(), "it ends with its process");
}

#[test]
fn a_pid_file_that_cannot_be_written_is_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no-such-directory/pid").display().to_string();
    let error =
        Sim::start(&Options::new(&["-machine", "pc", "-m", "16", "-pidfile", &path])).err().unwrap().to_string();
    assert!(error.contains("BH-0209") && error.contains("No such file"), "{error}");
}
