//! What fuzzing has found worth keeping (`fuzz/seeds`), and random bytes, through the same harness.
#![allow(clippy::unwrap_used)]
use bulkhead_bus::exercise::exercise;
use proptest::prelude::*;

#[test]
fn ps2_seeds() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/ps2");
    let mut run = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        let path = entry.unwrap().path();
        if let Err(e) = exercise(&bulkhead_dev_input::ps2::exercised, &std::fs::read(&path).unwrap()) {
            panic!("{}: {e}", path.display());
        }
        run += 1;
    }
    assert!(run > 0, "no seeds");
}

#[test]
fn serial_seeds() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/serial");
    let mut run = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        let path = entry.unwrap().path();
        if let Err(e) = exercise(&bulkhead_dev_input::serial::exercised, &std::fs::read(&path).unwrap()) {
            panic!("{}: {e}", path.display());
        }
        run += 1;
    }
    assert!(run > 0, "no seeds");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn ps2_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_input::ps2::exercised, &bytes), Ok(()));
    }

    #[test]
    fn serial_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_input::serial::exercised, &bytes), Ok(()));
    }
}
