use super::exercise::{exercise, repaired};
use super::*;
use proptest::prelude::*;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn section<'a>(text: &str, payload: &'a [u8]) -> Section<'a> {
    Section { name: name(text), version: 1, oldest: 1, payload }
}

fn stream() -> Vec<u8> {
    let all =
        [section("vga", b"picture"), section("machine", b"m"), section("platform", b""), section("ide", &[7; 24])];
    write(0x1234_5678_9abc_def0, &all).unwrap()
}

#[test]
fn what_is_written_is_read_in_order() {
    let stream = stream();
    let index = read(&stream).unwrap();
    let names: Vec<_> = index.places.iter().map(|p| p.name.text()).collect();
    assert_eq!(names, ["machine", "platform", "ide", "vga"]);
    assert_eq!((index.time, index.writer), (0x1234_5678_9abc_def0, Release::THIS));
    assert_eq!(index.payload(name("vga"), &stream), Some(&b"picture"[..]));
    assert_eq!(index.payload(name("platform"), &stream), Some(&[][..]));
    assert_eq!(index.payload(name("usb"), &stream), None);
    // What an earlier, longer state has left in the file.
    assert_eq!(read(&[stream, vec![1; 4096]].concat()), Ok(index));
}

#[test]
fn streams_of_others_are_named() {
    assert_eq!(read(b"QEVM\0\0\0\x03"), Err(ReadError::Qemu));
    assert_eq!(read(b""), Err(ReadError::Magic));
    assert_eq!(read(&stream()[..11]), Err(ReadError::Magic));
    let with = |at: usize, bytes: &[u8]| {
        let mut other = stream();
        other[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = CRC.checksum(&other[..header::CRC]);
        other[header::CRC..][..4].copy_from_slice(&crc.to_le_bytes());
        read(&other)
    };
    assert_eq!(with(header::MAJOR, &[2]), Err(ReadError::Version));
    assert!(with(header::MINOR, &[200]).is_ok());
    assert_eq!(with(header::OLDEST_READER, &[0, 0, 0, 1]), Err(ReadError::Reader));
    assert_eq!(with(header::MACHINE, &[2]), Err(ReadError::Machine));
    assert_eq!(with(header::FLAGS, &[1]), Err(ReadError::Field));
    assert_eq!(with(header::SECTIONS, &[0]), Err(ReadError::Field));
    assert_eq!(with(header::SECTIONS, &[65]), Err(ReadError::Field));
    assert_eq!(with(header::LEN, &[63]), Err(ReadError::Field));
    assert!(with(header::SECTIONS, &[3]).is_err() && with(header::SECTIONS, &[5]).is_err());
}

#[test]
fn names_are_short_words_and_sections_have_one_each() {
    for bad in ["", "a b", "Ide", "nic_0", "abcdefghijklmnopqrstuvwxy", "\u{e9}"] {
        assert_eq!(Name::new(bad), None, "{bad}");
    }
    assert_eq!(name("abcdefghijklmnopqrstuvwx").text().len(), 24);
    assert_eq!(Name::from_bytes(*b"a\0b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"), None);
    assert_eq!(write(0, &[section("a", b""), section("a", b"1")]), Err(WriteError::Twice(name("a"))));
    assert_eq!(write(0, &[section("a", &vec![0; PAYLOAD + 1])]), Err(WriteError::Payload(name("a"))));
    let full = vec![0; PAYLOAD];
    let four: Vec<_> = ["a", "b", "c", "d"].map(|n| section(n, &full)).into();
    assert_eq!(write(0, &four), Err(WriteError::Length));
    let names: Vec<_> = (0..65).map(|n| format!("s{n}")).collect();
    let many: Vec<_> = names.iter().map(|n| section(n, b"")).collect();
    assert_eq!(write(0, &many), Err(WriteError::Sections));
    assert!(write(0, &many[..64]).is_ok_and(|s| read(&s).is_ok_and(|i| i.places.len() == 64)));
}

#[test]
fn releases_are_numbers_in_order() {
    assert_eq!((parse("0.1.0"), parse("1.2.30")), (0x0100, 0x0001_021e));
    assert_eq!(Release(parse("1.2.30")).to_string(), "1.2.30");
}

/// What is in the repository as `golden/1.stream` is what the first release wrote: every release reads it.
#[test]
fn the_first_releases_stream_is_read() {
    let golden = include_bytes!("../golden/1.stream");
    let index = read(golden).unwrap();
    let names: Vec<_> = index.places.iter().map(|p| p.name.text()).collect();
    assert_eq!(names, ["machine", "platform", "ide", "vga"]);
    assert_eq!((index.time, index.payload(name("vga"), golden)), (0x1234_5678_9abc_def0, Some(&b"picture"[..])));
}

proptest! {
    #[test]
    fn a_changed_byte_is_found(at in any::<prop::sample::Index>(), change in 1u8..) {
        let mut stream = stream();
        let at = at.index(stream.len());
        stream[at] ^= change;
        prop_assert!(read(&stream).is_err());
    }

    #[test]
    fn a_cut_stream_is_refused(at in any::<prop::sample::Index>()) {
        let stream = stream();
        prop_assert!(read(&stream[..at.index(stream.len())]).is_err());
    }

    /// Whatever the bytes are, with right checksums too, each payload that is named is in the stream.
    #[test]
    fn hostile_streams_name_places_in_themselves(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12), cut in any::<prop::sample::Index>()
    ) {
        let mut stream = stream();
        for (at, value) in changes {
            let at = at.index(stream.len());
            stream[at] = value;
        }
        stream.truncate(cut.index(stream.len() + 1));
        repaired(&mut stream);
        if let Ok(index) = read(&stream) {
            prop_assert!(index.places.len() <= SECTIONS);
            for place in &index.places {
                prop_assert!(index.payload(place.name, &stream).is_some_and(|p| p.len() == place.len as usize));
            }
        }
    }
}

#[test]
fn two_sections_of_one_name_are_refused() {
    let mut stream = write(0, &[section("ide", b"1"), section("idf", b"2")]).unwrap();
    let second = HEADER + SECTION + 8 + section::NAME;
    stream[second..second + 3].copy_from_slice(b"ide");
    repaired(&mut stream);
    assert_eq!(read(&stream), Err(ReadError::Order));
}

/// Kept inputs of the fuzz target.
#[test]
fn kept_inputs_hold_the_invariants() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/stream");
    let mut taken = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        exercise(&bytes).unwrap();
        let mut whole = bytes;
        repaired(&mut whole);
        taken += usize::from(read(&whole).is_ok());
    }
    assert!(taken > 0, "no kept input is a stream");
}
