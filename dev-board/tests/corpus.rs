//! Runs the kept fuzzing seeds (`fuzz/seeds`) and random bytes through the fuzz target's harness, and loads states that earlier
//! versions have saved (`tests/golden`), which all later versions must accept.
use bulkhead_bus::exercise::{Mutator, Random, Target, exercise, golden, seeds};
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

/// Inputs that the mutator makes of an empty one and of each other.
fn mutated(target: &Target, directory: &str) -> Result<(), String> {
    let mutator = Mutator::new(target);
    let mut random = Random::new(1);
    let mut kept = vec![Vec::new()];
    for seed in 0..300 {
        let from = random.of(&kept).cloned().unwrap_or_default();
        let input = match random.of(&kept).filter(|_| seed % 5 == 0) {
            Some(other) => mutator.cross(&from, other, 4096, seed),
            None => mutator.mutate(&from, 4096, seed),
        };
        exercise(target, &input).map_err(|e| {
            let kept = std::env::temp_dir().join(format!("{}-{seed}", target.name));
            let _ = std::fs::write(&kept, &input);
            format!("{}: {e}; keep it in {directory}", kept.display())
        })?;
        kept.push(input);
    }
    Ok(())
}

#[test]
fn platform_mutated() {
    assert_eq!(mutated(&bulkhead_dev_board::TARGET, "fuzz/seeds/platform"), Ok(()));
}

#[test]
fn fw_cfg_mutated() {
    assert_eq!(mutated(&bulkhead_dev_board::fw_cfg::TARGET, "fuzz/seeds/fwcfg"), Ok(()));
}
