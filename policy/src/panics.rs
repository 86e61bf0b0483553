//! The end of a process in which a thread has panicked.

/// From now on a panic of any thread ends the process, after the standard hook's words, in builds that unwind too. A process with a
/// sandbox replaces this by a hook that needs fewer system calls.
pub fn end_on_panic() {
    let says = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |why| {
        says(why);
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;

    const CHILD: &str = "BULKHEAD_TEST_PANICS";

    #[test]
    fn a_panic_of_a_thread_ends_the_process() {
        if std::env::var_os(CHILD).is_some() {
            end_on_panic();
            let _ = std::thread::spawn(|| panic!("in a thread")).join();
            return;
        }
        let test = "panics::tests::a_panic_of_a_thread_ends_the_process";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let out = child.args(["--exact", test, "--nocapture"]).env(CHILD, "1").output().unwrap();
        assert_eq!(out.status.signal(), Some(6), "{out:?}");
    }
}
