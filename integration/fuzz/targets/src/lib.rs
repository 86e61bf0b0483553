//! The body of a device's fuzz target: a run of the exercise, and a mutator that knows the device.
//!
//! It is a workspace of its own, so that the product does not depend on libFuzzer.
pub use libfuzzer_sys;

use bulkhead_bus::exercise::{Mutator, Target};

/// One of so many changes is libFuzzer's own, of bytes.
const BYTEWISE: u32 = 8;

/// Changes `data`, of which `size` bytes are the input, and returns the new size.
pub fn mutate(mutator: &Mutator<'_>, data: &mut [u8], size: usize, most: usize, seed: u32) -> usize {
    if seed.is_multiple_of(BYTEWISE) {
        return libfuzzer_sys::fuzzer_mutate(data, size, most);
    }
    let new = mutator.mutate(data.get(..size).unwrap_or_default(), most, seed.into());
    put(data, &new)
}

/// Makes an input of two.
pub fn cross(mutator: &Mutator<'_>, one: &[u8], other: &[u8], out: &mut [u8], seed: u32) -> usize {
    let new = mutator.cross(one, other, out.len(), seed.into());
    put(out, &new)
}

fn put(to: &mut [u8], from: &[u8]) -> usize {
    let len = from.len().min(to.len());
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    len
}

/// One run. A violation ends the process, as libFuzzer expects.
pub fn run(target: &Target, bytes: &[u8]) {
    if let Err(e) = bulkhead_bus::exercise::exercise(target, bytes) {
        panic!("{e}");
    }
}

/// The whole of a device's fuzz target.
#[macro_export]
macro_rules! device {
    ($target:path) => {
        static MUTATOR: std::sync::LazyLock<bulkhead_bus::exercise::Mutator<'static>> =
            std::sync::LazyLock::new(|| bulkhead_bus::exercise::Mutator::new(&$target));
        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::run(&$target, bytes));
        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::mutate(&MUTATOR, data, size, max_size, seed)
        });
        $crate::libfuzzer_sys::fuzz_crossover!(|data1: &[u8], data2: &[u8], out: &mut [u8], seed: u32| {
            $crate::cross(&MUTATOR, data1, data2, out, seed)
        });
    };
}
