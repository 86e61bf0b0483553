//! Runs the kept fuzzing seeds (`fuzz/seeds`) and random bytes through the fuzz target's harness, and loads states that earlier
//! versions have saved (`tests/golden`), which all later versions must accept.
use bulkhead_bus::exercise::{exercise, golden, grown, loads, seeds};
use proptest::prelude::*;

#[test]
fn e1000_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_net::e1000::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "e1000-2"),
        Ok(())
    );
    // A state of version 1 is saved as version 2.
    for (old, new) in [
        (&include_bytes!("golden/e1000-1.state")[..], &include_bytes!("golden/e1000-2.state")[..]),
        (include_bytes!("golden/e1000-1-context.state"), include_bytes!("golden/e1000-2-context.state")),
    ] {
        assert_eq!(loads(&bulkhead_dev_net::e1000::TARGET, old).unwrap(), new);
    }
}

#[test]
fn e1000_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_net::e1000::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/e1000")),
        Ok(())
    );
}

#[test]
fn rtl8139_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_net::rtl8139::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "rtl8139-2"),
        Ok(())
    );
    // A state of version 1 is saved as version 2.
    for (old, new) in [
        (&include_bytes!("golden/rtl8139-1.state")[..], &include_bytes!("golden/rtl8139-2.state")[..]),
        (include_bytes!("golden/rtl8139-1-rings.state"), include_bytes!("golden/rtl8139-2-rings.state")),
    ] {
        assert_eq!(loads(&bulkhead_dev_net::rtl8139::TARGET, old).unwrap(), new);
    }
}

#[test]
fn rtl8139_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_net::rtl8139::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/rtl8139")),
        Ok(())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn e1000_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_net::e1000::TARGET, &bytes), Ok(()));
    }

    #[test]
    fn rtl8139_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_net::rtl8139::TARGET, &bytes), Ok(()));
    }
}

#[test]
fn e1000_mutated() {
    assert_eq!(grown(&bulkhead_dev_net::e1000::TARGET, 3000), Ok(()));
}

#[test]
fn rtl8139_mutated() {
    assert_eq!(grown(&bulkhead_dev_net::rtl8139::TARGET, 3000), Ok(()));
}
