#![no_main]
bulkhead_fuzz_targets::device!(bulkhead_dev_net::e1000::TARGET);
