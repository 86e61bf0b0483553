#![no_main]
bulkhead_fuzz_targets::device!(bulkhead_dev_display::vnc::TARGET);
