//! Runs the kept fuzzing seeds (`fuzz/seeds`) and random bytes through the fuzz target's harness, and loads states that earlier
//! versions have saved (`tests/golden`), which all later versions must accept.
use bulkhead_bus::exercise::{exercise, golden, grown, loads, seeds};
use proptest::prelude::*;

#[test]
fn ps2_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_input::ps2::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "ps2-2"),
        Ok(())
    );
    // A state of version 1 is saved as version 2.
    let old = loads(&bulkhead_dev_input::ps2::TARGET, include_bytes!("golden/ps2-1.state")).unwrap();
    assert_eq!(loads(&bulkhead_dev_input::ps2::TARGET, &old), Ok(old));
}

#[test]
fn ps2_seeds() {
    assert_eq!(seeds(&bulkhead_dev_input::ps2::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/ps2")), Ok(()));
}

#[test]
fn serial_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_input::serial::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "serial-"),
        Ok(())
    );
}

#[test]
fn serial_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_input::serial::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/serial")),
        Ok(())
    );
}

#[test]
fn vkbd_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_input::vkbd::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/vkbd")),
        Ok(())
    );
}

#[test]
fn console_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_input::console::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/console")),
        Ok(())
    );
}

#[test]
fn usb_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_input::usb::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "usb-2"),
        Ok(())
    );
    // A state of version 1 is saved as version 2.
    for (old, new) in [
        (&include_bytes!("golden/usb-1.state")[..], &include_bytes!("golden/usb-2.state")[..]),
        (include_bytes!("golden/usb-1-waiting.state"), include_bytes!("golden/usb-2-waiting.state")),
    ] {
        assert_eq!(loads(&bulkhead_dev_input::usb::TARGET, old).unwrap(), new);
    }
}

#[test]
fn usb_seeds() {
    assert_eq!(seeds(&bulkhead_dev_input::usb::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/usb")), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn ps2_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_input::ps2::TARGET, &bytes), Ok(()));
    }

    #[test]
    fn serial_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_input::serial::TARGET, &bytes), Ok(()));
    }

    #[test]
    fn usb_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_input::usb::TARGET, &bytes), Ok(()));
    }

    #[test]
    fn vkbd_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_input::vkbd::TARGET, &bytes), Ok(()));
    }

    #[test]
    fn console_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_input::console::TARGET, &bytes), Ok(()));
    }
}

#[test]
fn ps2_made() {
    assert_eq!(grown(&bulkhead_dev_input::ps2::TARGET, 600), Ok(()));
}

#[test]
fn serial_made() {
    assert_eq!(grown(&bulkhead_dev_input::serial::TARGET, 600), Ok(()));
}

#[test]
fn usb_made() {
    assert_eq!(grown(&bulkhead_dev_input::usb::TARGET, 600), Ok(()));
}

#[test]
fn vkbd_made() {
    assert_eq!(grown(&bulkhead_dev_input::vkbd::TARGET, 600), Ok(()));
}

#[test]
fn console_made() {
    assert_eq!(grown(&bulkhead_dev_input::console::TARGET, 600), Ok(()));
}
