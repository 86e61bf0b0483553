//! vnc: bytes → a viewer's messages, and changes of the picture.
#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(e) = bulkhead_dev_display::vnc::exercise_session(bytes) {
        panic!("{e}");
    }
});
