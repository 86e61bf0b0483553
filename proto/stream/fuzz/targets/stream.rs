#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(e) = bulkhead_stream::exercise(bytes) {
        panic!("{e}");
    }
});
