//! Runs the kept fuzzing seeds (`fuzz/seeds`) and random bytes through the fuzz target's harness, and loads states that earlier
//! versions have saved (`tests/golden`), which all later versions must accept.
use bulkhead_bus::exercise::{exercise, golden, grown, seeds};
use proptest::prelude::*;

#[test]
fn platform_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_board::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "platform-"),
        Ok(())
    );
}

#[test]
fn platform_seeds() {
    assert_eq!(seeds(&bulkhead_dev_board::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/platform")), Ok(()));
}

#[test]
fn fw_cfg_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_board::fw_cfg::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/fwcfg")),
        Ok(())
    );
}

#[test]
fn fw_cfg_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_board::fw_cfg::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "fwcfg-"),
        Ok(())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn platform_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_board::TARGET, &bytes), Ok(()));
    }

    #[test]
    fn fw_cfg_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_board::fw_cfg::TARGET, &bytes), Ok(()));
    }
}

#[test]
fn platform_mutated() {
    assert_eq!(grown(&bulkhead_dev_board::TARGET, 300), Ok(()));
}

#[test]
fn fw_cfg_mutated() {
    assert_eq!(grown(&bulkhead_dev_board::fw_cfg::TARGET, 300), Ok(()));
}
