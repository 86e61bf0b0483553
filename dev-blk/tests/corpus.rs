//! Runs the kept fuzzing seeds (`fuzz/seeds`) and random bytes through the fuzz target's harness, and loads states that earlier
//! versions have saved (`tests/golden`), which all later versions must accept.
use bulkhead_bus::exercise::{exercise, golden, grown, loads, seeds};
use proptest::prelude::*;

#[test]
fn ide_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_blk::ide::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "ide-2"),
        Ok(())
    );
    // A state of version 1 is saved as version 2.
    for (old, new) in [
        (&include_bytes!("golden/ide-1.state")[..], &include_bytes!("golden/ide-2.state")[..]),
        (include_bytes!("golden/ide-1-command.state"), include_bytes!("golden/ide-2-command.state")),
        (include_bytes!("golden/ide-1-registers.state"), include_bytes!("golden/ide-2-registers.state")),
    ] {
        assert_eq!(loads(&bulkhead_dev_blk::ide::TARGET, old).unwrap(), new);
    }
}

#[test]
fn ide_seeds() {
    assert_eq!(seeds(&bulkhead_dev_blk::ide::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/ide")), Ok(()));
}

#[test]
fn ide_made() {
    assert_eq!(grown(&bulkhead_dev_blk::ide::TARGET, 400), Ok(()));
}

#[test]
fn qdisk_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_blk::qdisk::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/qdisk")),
        Ok(())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn ide_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_blk::ide::TARGET, &bytes), Ok(()));
    }

    #[test]
    fn qdisk_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_blk::qdisk::TARGET, &bytes), Ok(()));
    }
}

#[test]
fn qdisk_made() {
    assert_eq!(grown(&bulkhead_dev_blk::qdisk::TARGET, 400), Ok(()));
}
