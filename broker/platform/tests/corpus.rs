//! What fuzzing has found worth keeping (`fuzz/seeds`), and random bytes, through the same harness; and states that earlier
//! versions have saved (`tests/golden`), which must be understood for ever.
#![allow(clippy::unwrap_used)]
use bulkhead_bus::exercise::{exercise, loads};
use proptest::prelude::*;

#[test]
fn platform_states_of_earlier_versions_are_understood() {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let mut read = 0;
    for entry in std::fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("platform-") {
            let state = std::fs::read(&path).unwrap();
            assert_eq!(loads(&bulkhead_platform::exercised, &state), Ok(state), "{}", path.display());
            read += 1;
        }
    }
    assert!(read > 0, "no states");
}

#[test]
fn platform_seeds() {
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/platform");
    let mut run = 0;
    for entry in std::fs::read_dir(seeds).unwrap() {
        let path = entry.unwrap().path();
        if let Err(e) = exercise(&bulkhead_platform::exercised, &std::fs::read(&path).unwrap()) {
            panic!("{}: {e}", path.display());
        }
        run += 1;
    }
    assert!(run > 0, "no seeds");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn platform_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_platform::exercised, &bytes), Ok(()));
    }
}
