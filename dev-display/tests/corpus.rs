//! Runs the kept fuzzing seeds (`fuzz/seeds`) and random bytes through the fuzz target's harness, and loads states that earlier
//! versions have saved (`tests/golden`), which all later versions must accept.
use bulkhead_bus::exercise::{exercise, golden, grown, loads, seeds};
use bulkhead_bus::pv;
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
        pv::exercise::seeds(
            &bulkhead_dev_display::vfb::exercised(),
            concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/vfb")
        ),
        Ok(())
    );
}

#[test]
fn vnc_seeds() {
    let seeds = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/vnc")).unwrap();
    let files: Vec<_> = seeds.map(|f| f.unwrap().path()).collect();
    assert!(!files.is_empty());
    for file in files {
        assert_eq!(
            bulkhead_dev_display::vnc::exercise_session(&std::fs::read(&file).unwrap()),
            Ok(()),
            "{}",
            file.display()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn vga_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(exercise(&bulkhead_dev_display::vga::TARGET, &bytes), Ok(()));
    }

    #[test]
    fn vnc_random(said in prop::collection::vec(any::<u8>(), 0..600), first: u8) {
        // A valid session up to the first request, then any bytes.
        let mut bytes = vec![first & !1, 14];
        bytes.extend_from_slice(b"RFB 003.008\n\x01\x01");
        bytes.extend_from_slice(&[0x40, 0x12, 2, 0, 0, 2, 0, 0, 0, first & 0x15, 0, 0, 0, 1, 3, 1, 0, 0, 0, 0]);
        bytes.extend_from_slice(&said);
        prop_assert_eq!(bulkhead_dev_display::vnc::exercise_session(&bytes), Ok(()));
        prop_assert_eq!(bulkhead_dev_display::vnc::exercise_session(&said), Ok(()));
    }

    #[test]
    fn vfb_random(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert_eq!(pv::exercise::exercise(&bulkhead_dev_display::vfb::exercised(), &bytes), Ok(()));
    }
}

#[test]
fn vga_mutated() {
    assert_eq!(grown(&bulkhead_dev_display::vga::TARGET, 300), Ok(()));
}
