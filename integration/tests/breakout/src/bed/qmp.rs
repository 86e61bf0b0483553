//! Noise on QMP.
use crate::Done;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Commands that leave the machine as it is.
const HARMLESS: &[&str] = &[
    r#"{"execute":"query-status","id":1}"#,
    r#"{"execute":"query-version"}"#,
    r#"{"execute":"query-chardev","id":{"a":[1,2,3]}}"#,
    r#"{"execute":"query-vnc","arguments":{}}"#,
    r#"{"execute":"stop","id":"x"}"#,
    r#"{"execute":"cont"}"#,
    r#"{"execute":"query-block"}"#,
    r#"{"execute":"send-key","arguments":{"keys":[{"type":"qcode","data":"a"}],"hold-time":1}}"#,
    r#"{"execute":"input-send-event","arguments":{"events":[{"type":"rel","data":{"axis":"x","value":3}}]}}"#,
    r#"{"execute":"no-such-command","id":18446744073709551615}"#,
    r#"{"execute":"remove-fd","arguments":{"fdset-id":99}}"#,
    r#"{"execute":"screendump","arguments":{"filename":"/etc/shadow"}}"#,
];

/// Connects and says the first words.
fn qmp_connect(path: &str) -> Result<BufReader<UnixStream>, Box<dyn std::error::Error>> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.contains("\"QMP\"") {
        return Err(format!("no greeting: {line}").into());
    }
    reader.get_mut().write_all(b"{\"execute\":\"qmp_capabilities\"}\r\n")?;
    reader.read_line(&mut line)?;
    Ok(reader)
}

pub(crate) fn qmp_noise(path: &str) -> Done {
    // xorshift64, always the same.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut lines, mut mutated, mut closed) = (0u32, 0u32, 0u32);
    let mut connection = qmp_connect(path)?;
    for block in 0..40 {
        for _ in 0..25 {
            let mut line = HARMLESS[random(HARMLESS.len())].as_bytes().to_vec();
            if random(2) == 0 {
                mutated += 1;
                for _ in 0..=random(4) {
                    let at = random(line.len().max(1));
                    match random(5) {
                        0 if !line.is_empty() => line[at] = random(256) as u8,
                        1 if !line.is_empty() => drop(line.remove(at)),
                        2 => line.insert(at.min(line.len()), b"{}[]\",:\\\0\xff\r"[random(11)]),
                        3 => line.truncate(at),
                        _ => {
                            let again = line.clone();
                            line.splice(at.min(again.len()).., again);
                        }
                    }
                }
            }
            line.extend_from_slice(b"\r\n");
            lines += 1;
            if connection.get_mut().write_all(&line).is_err() {
                closed += 1;
                connection = qmp_connect(path)?;
            }
        }
        // A valid command, on a line of its own: whatever the noise has left open is closed by it or by an error.
        let id = 1_000_000 + block;
        let mut tries = 0;
        'answer: loop {
            tries += 1;
            if tries > 3 {
                return Err(format!("block {block}: query-status is not answered").into());
            }
            let command = format!("\r\n{{\"execute\":\"query-status\",\"id\":{id}}}\r\n");
            if connection.get_mut().write_all(command.as_bytes()).is_ok() {
                let mut line = Vec::new();
                while matches!(connection.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                    let text = String::from_utf8_lossy(&line).into_owned();
                    if text.contains(&format!("\"id\":{id}"))
                        && text.contains("\"return\"")
                        && text.contains("\"status\"")
                    {
                        break 'answer;
                    }
                    line.clear();
                }
            }
            closed += 1;
            connection = qmp_connect(path)?;
        }
    }
    connection.get_mut().write_all(b"{\"execute\":\"cont\"}\r\n")?;
    println!("{lines} lines, {mutated} of them mutated, the connection was closed {closed} times");
    Ok(())
}
