//! What fuzzing has found worth keeping (`fuzz/seeds`), and random bytes, through the same harness; and states that earlier
//! versions have saved (`tests/golden`), which must be understood for ever.
use bulkhead_bus::exercise::{exercise, golden, seeds};
use proptest::prelude::*;

#[test]
fn platform_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_board::exercised, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "platform-"),
        Ok(())
    );
}

#[test]
fn platform_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_board::exercised, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/platform")),
        Ok(())
    );
}

#[test]
fn fw_cfg_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_board::fw_cfg::exercised, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/fwcfg")),
        Ok(())
    );
}

#[test]
fn fw_cfg_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_board::fw_cfg::exercised, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "fwcfg-"),
        Ok(())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn platform_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_board::exercised, &bytes), Ok(()));
    }

    #[test]
    fn fw_cfg_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_board::fw_cfg::exercised, &bytes), Ok(()));
    }
}
