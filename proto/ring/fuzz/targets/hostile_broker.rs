#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(e) = bulkhead_ring::exercise::hostile_broker(bytes) {
        panic!("{e}");
    }
});
