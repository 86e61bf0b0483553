//! Parts of files: compared, written, read.
use crate::Done;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

/// Bytes at once.
const BLOCK: usize = 1 << 20;

/// A number of bytes, with k, M or G behind it if it is so many times 1024.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, 'k')) => (&text[..at], 10),
        Some((at, 'M')) => (&text[..at], 20),
        Some((at, 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().map(|n| n << shift).map_err(|_| format!("{text} is no number of bytes"))
}

/// Whether a stretch of a file is the same as one of another.
pub(crate) fn same(one: &str, from: &str, other: &str, at: &str, length: &str) -> Done {
    let (files, starts) = ([File::open(one)?, File::open(other)?], [bytes(from)?, bytes(at)?]);
    let (length, mut done) = (bytes(length)?, 0);
    let mut blocks = [vec![0; BLOCK], vec![0; BLOCK]];
    while done < length {
        let now = usize::try_from(length - done).unwrap_or(BLOCK).min(BLOCK);
        for ((file, start), block) in files.iter().zip(starts).zip(&mut blocks) {
            file.read_exact_at(&mut block[..now], start + done)?;
        }
        if let Some(wrong) = (0..now).find(|i| blocks[0][*i] != blocks[1][*i]) {
            return Err(format!("{one} and {other} differ at byte {} of {length}", done + wrong as u64).into());
        }
        done += now as u64;
    }
    Ok(())
}

/// Writes a text into a file, filled up with spaces to a width and cut there.
pub(crate) fn put(file: &str, at: &str, text: &str, width: Option<&String>) -> Done {
    let mut text = text.as_bytes().to_vec();
    if let Some(width) = width {
        text.resize(width.parse()?, b' ');
    }
    Ok(File::options().write(true).open(file)?.write_all_at(&text, bytes(at)?)?)
}

/// A word of 32 bits, low byte first.
pub(crate) fn put_word(file: &str, at: &str, value: &str) -> Done {
    Ok(File::options().write(true).open(file)?.write_all_at(&value.parse::<u32>()?.to_le_bytes(), bytes(at)?)?)
}

/// The records `record N of NAME` from 0 to `last`: each begins `step` bytes after the one before it and is followed by a zero.
pub(crate) fn records(file: &str, start: &str, step: &str, last: &str, name: &str) -> Done {
    let (start, step, last) = (bytes(start)?, bytes(step)?, last.parse::<u64>()?);
    let opened = File::open(file)?;
    for n in 0..=last {
        let want = format!("record {n} of {name}\0");
        let mut got = vec![0; want.len()];
        opened.read_exact_at(&mut got, start + n * step)?;
        if got != want.as_bytes() {
            return Err(format!("record {n} of {name} is lost").into());
        }
    }
    println!("records 0 to {last} of {name} are there");
    Ok(())
}

/// Bytes of a file.
pub(crate) fn hex(file: &str, at: &str, count: &str) -> Done {
    let mut read = vec![0; usize::try_from(bytes(count)?)?.min(BLOCK)];
    File::open(file)?.read_exact_at(&mut read, bytes(at)?)?;
    println!("{}", read.iter().map(|b| format!("{b:02x}")).collect::<String>());
    Ok(())
}

/// Passes a random part of so many milliseconds.
pub(crate) fn moment(most: &str) -> Done {
    let mut random = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    std::thread::sleep(Duration::from_millis(u64::from_le_bytes(random) % most.parse::<u64>()?.max(1)));
    Ok(())
}

/// What follows a word on the last line of a file that has it.
pub(crate) fn after(file: &str, word: &str) -> Done {
    let text = String::from_utf8_lossy(&std::fs::read(file)?).replace('\r', "");
    let line = text.lines().rev().find_map(|l| l.split_once(word)).ok_or_else(|| format!("{file} has no {word}"))?;
    println!("{}", line.1.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_and_records() {
        let file = std::env::temp_dir().join(format!("bulkhead-bed-files-{}", std::process::id()));
        let path = file.to_str().unwrap();
        std::fs::write(path, vec![0; 64 << 10]).unwrap();
        put(path, "4k", "record 0 of a", None).unwrap();
        put(path, "8k", "record 1 of a", None).unwrap();
        records(path, "4k", "4k", "1", "a").unwrap();
        assert!(records(path, "4k", "4k", "2", "a").is_err(), "a record that nobody wrote");
        put(path, "12k", "ab", Some(&"4".to_owned())).unwrap();
        put(path, "20k", "ab  ", None).unwrap();
        same(path, "12k", path, "20k", "4k").unwrap();
        assert!(same(path, "4k", path, "8k", "4k").is_err(), "two records");
        assert!(same(path, "0", path, "60k", "8k").is_err(), "beyond the end");
        put_word(path, "0", "2147483647").unwrap();
        assert_eq!(std::fs::read(path).unwrap()[..4], [0xff, 0xff, 0xff, 0x7f]);
        std::fs::remove_file(path).unwrap();
    }
}
