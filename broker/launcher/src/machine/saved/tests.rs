use super::*;
use bulkhead_stream::Place;
use std::io::{Seek as _, Write as _};
use std::os::fd::AsRawFd as _;

struct Said(fn() -> Answer);

impl Look for Said {
    fn look(&self, image: &OwnedFd, question: Question) -> Result<Answer, IntakeFault> {
        assert_eq!(question, Question::State);
        let writes = rustix::io::pwrite(image, b"x", 0);
        assert_eq!(writes, Err(Errno::PERM), "nobody changes what intake looks at");
        Ok((self.0)())
    }
}

fn place(name: &str, at: u32, len: u32) -> Place {
    Place { name: Name::new(name).unwrap(), at, len }
}

fn answer(places: Vec<Place>) -> Answer {
    Answer::State(Ok(StateIndex { time: 5, video_ram: 0xf_0000, places }))
}

fn file() -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"0123456789").unwrap();
    file.rewind().unwrap();
    file
}

fn contents(file: &OwnedFd) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let n = rustix::io::read(file, &mut bytes).unwrap();
    bytes.truncate(n);
    bytes
}

#[test]
fn each_process_gets_its_own_section_as_a_file_that_does_not_change() {
    let file = file();
    let said = Said(|| answer(vec![place("machine", 0, 2), place("ide", 2, 3), place("vga", 5, 0)]));
    let mut saved = Saved::open(Incoming::Fd(file.as_raw_fd()), None, &said).unwrap();
    assert_eq!(saved.video_ram(), 0xf_0000);
    assert!(saved.clock() < 0, "this host has run for longer than five nanoseconds");
    let ide = saved.take("ide").unwrap().unwrap();
    assert_eq!((rustix::io::write(&ide, b"x"), contents(&ide)), (Err(Errno::PERM), b"234".to_vec()));
    assert_eq!(contents(&saved.take("vga").unwrap().unwrap()), b"");
    assert!(saved.take("usb").unwrap().is_none());
    assert_eq!(
        saved.is_whole().unwrap_err().to_string(),
        "it has a part for machine, which this machine does not have"
    );
    saved.take("machine").unwrap().unwrap();
    assert!(saved.is_whole().is_ok());
}

#[test]
fn what_a_hostile_intake_says_stays_in_the_stream() {
    let file = file();
    for (at, len) in [(8, 3), (10, 1), (u32::MAX, 1), (0, u32::MAX)] {
        let said = move || answer(vec![place("ide", at, len)]);
        struct Says<F>(F);
        impl<F: Fn() -> Answer> Look for Says<F> {
            fn look(&self, _: &OwnedFd, _: Question) -> Result<Answer, IntakeFault> {
                Ok((self.0)())
            }
        }
        let mut saved = Saved::open(Incoming::Fd(file.as_raw_fd()), None, &Says(said)).unwrap();
        assert!(matches!(saved.take("ide"), Err(SavedFault::Refused(ReadError::Length))), "{at} {len}");
    }
}

#[test]
fn a_refusal_says_why() {
    let file = file();
    let refused = |said| Saved::open(Incoming::Fd(file.as_raw_fd()), None, &Said(said)).err().unwrap().to_string();
    assert_eq!(
        refused(|| Answer::State(Err(ReadError::Qemu))),
        "the state is QEMU's, which this device model cannot take over"
    );
    assert_eq!(refused(|| Answer::Partitions(None)), "intake has sent no answer to the question");
    let none = Saved::open(Incoming::Fd(-1), None, &Said(|| answer(Vec::new()))).err().unwrap().to_string();
    assert!(none.starts_with("fd:-1: "), "{none}");
    let none = Saved::open(Incoming::Console, None, &Said(|| answer(Vec::new()))).err().unwrap().to_string();
    assert!(none.contains("no stub domain"), "{none}");
}
