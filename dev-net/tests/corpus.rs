//! Runs the kept fuzzing seeds (`fuzz/seeds`) and random bytes through the fuzz target's harness, and loads states that earlier versions
//! have saved (`tests/golden`), which all later versions must accept.
use bulkhead_bus::exercise::{exercise, golden, seeds};
use proptest::prelude::*;

#[test]
fn e1000_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_net::e1000::exercised, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "e1000-"),
        Ok(())
    );
}

#[test]
fn e1000_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_net::e1000::exercised, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/e1000")),
        Ok(())
    );
}

#[test]
fn rtl8139_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_net::rtl8139::exercised, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "rtl8139-"),
        Ok(())
    );
}

#[test]
fn rtl8139_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_net::rtl8139::exercised, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/rtl8139")),
        Ok(())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn e1000_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_net::e1000::exercised, &bytes), Ok(()));
    }

    #[test]
    fn rtl8139_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_net::rtl8139::exercised, &bytes), Ok(()));
    }
}
