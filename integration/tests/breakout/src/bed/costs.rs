//! What processes have cost so far, as /proc counts it. One that has ended meanwhile counts nothing.
use crate::Done;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The first word of a process's command line, without its directory.
fn named(pid: &str) -> String {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let first = String::from_utf8_lossy(words.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    first.rsplit('/').next().unwrap_or_default().to_owned()
}

/// The directories of a process's threads.
fn threads(pid: &str) -> Vec<PathBuf> {
    std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

/// A number of a file whose lines are `KEY: NUMBER ...`.
fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn read(file: PathBuf) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// How often threads have waited.
fn waited(thread: &Path) -> u64 {
    number(&read(thread.join("status")), "voluntary_ctxt_switches")
}

/// Microseconds on a processor, of all threads.
pub(crate) fn ran(pids: &[String]) -> Done {
    let of = |thread: PathBuf| read(thread.join("schedstat")).split(' ').next().and_then(|n| n.parse::<u64>().ok());
    let sum: u64 = pids.iter().flat_map(|p| threads(p)).filter_map(of).sum();
    println!("{}", sum / 1000);
    Ok(())
}

/// How often all threads have waited.
pub(crate) fn waits(pids: &[String]) -> Done {
    println!("{}", pids.iter().flat_map(|p| threads(p)).map(|t| waited(&t)).sum::<u64>());
    Ok(())
}

/// Context switches of the main threads, by their own wish and others'.
pub(crate) fn switches(pids: &[String]) -> Done {
    let of = |pid: &String| {
        let status = read(format!("/proc/{pid}/status").into());
        number(&status, "voluntary_ctxt_switches") + number(&status, "nonvoluntary_ctxt_switches")
    };
    println!("{}", pids.iter().map(of).sum::<u64>());
    Ok(())
}

/// Proportional set sizes: of each process, and their sum in kB.
pub(crate) fn pss(pids: &[String]) -> Done {
    let mut sum = 0;
    for pid in pids {
        let kb = number(&read(format!("/proc/{pid}/smaps_rollup").into()), "Pss");
        sum += kb;
        print!("{} {kb} ", named(pid));
    }
    println!("= {sum} kB");
    Ok(())
}

/// A line for each thread: its directory, how often it has waited, process/thread.
pub(crate) fn thread_waits(pids: &[String]) -> Done {
    for pid in pids {
        for thread in threads(pid) {
            let comm = read(thread.join("comm"));
            println!("{} {} {}/{}", thread.display(), waited(&thread), named(pid), comm.trim());
        }
    }
    Ok(())
}

/// How often threads that were there both times have waited between two outputs of `thread-waits`: the sum, then by what they are.
pub(crate) fn between(before: &str, after: &str) -> Done {
    println!("{}", difference(&std::fs::read_to_string(before)?, &std::fs::read_to_string(after)?));
    Ok(())
}

fn difference(before: &str, after: &str) -> String {
    fn line(l: &str) -> Option<(&str, u64, &str)> {
        let mut words = l.splitn(3, ' ');
        Some((words.next()?, words.next()?.parse().ok()?, words.next()?))
    }
    let was: BTreeMap<&str, u64> = before.lines().filter_map(line).map(|(thread, n, _)| (thread, n)).collect();
    let mut by: BTreeMap<&str, u64> = BTreeMap::new();
    for (thread, now, what) in after.lines().filter_map(line) {
        let more = was.get(thread).map_or(0, |then| now.saturating_sub(*then));
        if more > 0 {
            *by.entry(what).or_default() += more;
        }
    }
    by.iter().fold(by.values().sum::<u64>().to_string(), |text, (what, n)| format!("{text} {what} {n}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_of_threads_that_stay() {
        let before = "/proc/1/task/1 5 ide/ide\n/proc/2/task/2 7 vga/vga\n/proc/2/task/3 1 vga/a b\n";
        let after =
            "/proc/1/task/1 9 ide/ide\n/proc/2/task/2 7 vga/vga\n/proc/2/task/3 4 vga/a b\n/proc/4/task/4 8 new/new\n";
        assert_eq!(difference(before, after), "7 ide/ide 4 vga/a b 3");
        assert_eq!(difference("", after), "0");
    }

    #[test]
    fn numbers_of_proc() {
        assert_eq!(
            number("voluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n", "voluntary_ctxt_switches"),
            12
        );
        assert_eq!(number("Rss: 9 kB\nPss:      44 kB\nPss_Dirty: 1 kB\n", "Pss"), 44);
        assert_eq!(number("", "Pss"), 0);
    }
}
