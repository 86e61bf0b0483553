#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    if let Err(e) = bulkhead_launcher::argv::parse(text.split('\n').map(str::to_owned)) {
        assert!(!e.to_string().is_empty());
    }
});
