//! Runs the kept fuzzing seeds (`fuzz/seeds`) and random bytes through the fuzz target's harness, and loads states that earlier
//! versions have saved (`tests/golden`), which all later versions must accept.
use bulkhead_bus::exercise::{exercise, golden, grown, loads, seeds};
use proptest::prelude::*;

#[test]
fn vga_states_of_earlier_versions_are_understood() {
    assert_eq!(
        golden(&bulkhead_dev_display::vga::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"), "vga-2"),
        Ok(())
    );
    // A state of version 1 is saved as version 2.
    for (old, new) in [
        (&include_bytes!("golden/vga-1.state")[..], &include_bytes!("golden/vga-2.state")[..]),
        (include_bytes!("golden/vga-1-graphics.state"), include_bytes!("golden/vga-2-graphics.state")),
        (include_bytes!("golden/vga-1-monitor.state"), include_bytes!("golden/vga-2-monitor.state")),
    ] {
        assert_eq!(loads(&bulkhead_dev_display::vga::TARGET, old).unwrap(), new);
    }
}

#[test]
fn vga_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_display::vga::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/vga")),
        Ok(())
    );
}

#[test]
fn vfb_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_display::vfb::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/vfb")),
        Ok(())
    );
}

#[test]
fn vnc_seeds() {
    assert_eq!(
        seeds(&bulkhead_dev_display::vnc::TARGET, concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/vnc")),
        Ok(())
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn vga_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_display::vga::TARGET, &bytes), Ok(()));
    }

    #[test]
    fn vnc_random(said in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_display::vnc::TARGET, &said), Ok(()));
    }

    #[test]
    fn vfb_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_display::vfb::TARGET, &bytes), Ok(()));
    }
}

#[test]
fn vga_made() {
    assert_eq!(grown(&bulkhead_dev_display::vga::TARGET, 300), Ok(()));
}

#[test]
fn vfb_made() {
    assert_eq!(grown(&bulkhead_dev_display::vfb::TARGET, 400), Ok(()));
}

#[test]
fn vnc_made() {
    assert_eq!(grown(&bulkhead_dev_display::vnc::TARGET, 400), Ok(()));
}
