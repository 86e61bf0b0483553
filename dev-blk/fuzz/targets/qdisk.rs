//! qdisk: bytes → actions of a guest and a host on a PV back end (bulkhead_bus::pv::exercise).
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(e) = bulkhead_bus::pv::exercise::exercise(&bulkhead_dev_blk::qdisk::exercised(), bytes) {
        panic!("{e}");
    }
});
