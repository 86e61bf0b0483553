//! A serial port through all processes.
use bulkhead_sim::{Options, Sim};

#[test]
fn text_reaches_the_file_through_broker_and_device() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("com1");
    let mut sim = Sim::start(&Options::new(&["-serial", &format!("file:{}", path.display())])).unwrap();
    assert_eq!(sim.port_read(0x3fd, 1).unwrap(), 0x60);
    for byte in b"hello" {
        sim.port_write(0x3f8, 1, u32::from(*byte)).unwrap();
    }
    assert_eq!(Sim::read_to_string(&path).unwrap(), "hello");
    assert_eq!(sim.port_read(0x2f8, 1).unwrap(), 0xff, "nobody is there");
    assert!(sim.end().unwrap().success());
}

#[test]
fn a_port_that_listens_serves_one_peer_after_the_other() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("com1");
    let mut sim =
        Sim::start(&Options::new(&["-serial", &format!("unix:{},server=on,wait=off", path.display())])).unwrap();
    sim.port_write(0x3f8, 1, u32::from(b'-')).unwrap();
    let mut first = UnixStream::connect(&path).unwrap();
    first.write_all(b"a").unwrap();
    let received = |sim: &mut Sim| {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while sim.port_read(0x3fd, 1).unwrap() & 1 == 0 {
            assert!(std::time::Instant::now() < end, "{}", sim.log());
        }
        sim.port_read(0x3f8, 1).unwrap() as u8
    };
    assert_eq!(received(&mut sim), b'a');
    sim.port_write(0x3f8, 1, u32::from(b'x')).unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x", "what was sent before anybody was there is gone");
    let mut second = UnixStream::connect(&path).unwrap();
    second.write_all(b"b").unwrap();
    drop(first);
    assert_eq!(received(&mut sim), b'b');
    sim.port_write(0x3f8, 1, u32::from(b'y')).unwrap();
    second.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"y");
    assert!(sim.end().unwrap().success());
    assert!(!path.exists(), "the socket is left");
}
