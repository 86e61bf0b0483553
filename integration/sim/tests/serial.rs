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
