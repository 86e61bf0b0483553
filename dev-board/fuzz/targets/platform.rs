//! platform: bytes → accesses (bulkhead_bus::exercise).
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(e) = bulkhead_bus::exercise::exercise(&bulkhead_dev_board::exercised, bytes) {
        panic!("{e}");
    }
});
