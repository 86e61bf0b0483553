//! What a guest does with its own machine, and hears of its input devices.
use crate::Done;

/// How long reads of a port take, ns: each is a round trip to whoever emulates it.
pub(crate) fn ports(port: i32, count: i32) -> Done {
    let file = std::fs::File::open("/dev/port")?;
    let mut times = Vec::new();
    for _ in 0..count.max(1) {
        let start = std::time::Instant::now();
        rustix::io::pread(&file, &mut [0u8; 1], u64::try_from(port)?)?;
        times.push(start.elapsed().as_nanos());
    }
    times.sort_unstable();
    println!("ports: median {} longest {}", times[times.len() / 2], times[times.len() - 1]);
    Ok(())
}

pub(crate) fn outw(port: i32, value: i32) -> Done {
    let (port, value) = (u16::try_from(port)?, u16::try_from(value)?);
    // SAFETY: the ports of this guest; the instruction touches no memory.
    unsafe {
        if libc::iopl(3) != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        std::arch::asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags));
    }
    Ok(())
}

/// Goes on with another kernel (kexec_file_load(2)), or with `crash` loads the one for a crash, and crashes. Returns only if it could not.
pub(crate) fn kexec(kernel: &str, initrd: &str, words: &str, crash: bool) -> Done {
    const KEXEC_FILE_ON_CRASH: libc::c_ulong = 2;
    use std::os::fd::AsRawFd as _;
    let (kernel, initrd) = (std::fs::File::open(kernel)?, std::fs::File::open(initrd)?);
    let words = std::ffi::CString::new(words)?;
    let length = words.as_bytes_with_nul().len();
    let flags = if crash { KEXEC_FILE_ON_CRASH } else { 0 };
    // SAFETY: the kernel reads `length` bytes of the text, and both files.
    let loaded = unsafe {
        libc::syscall(libc::SYS_kexec_file_load, kernel.as_raw_fd(), initrd.as_raw_fd(), length, words.as_ptr(), flags)
    };
    if loaded != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    println!("kexec: {words:?}");
    if crash {
        std::fs::write("/proc/sysrq-trigger", "c")?;
    }
    // SAFETY: it ends this system; no memory is touched.
    unsafe { libc::reboot(libc::LINUX_REBOOT_CMD_KEXEC) };
    Err(std::io::Error::last_os_error().into())
}

/// The device file of the first input device that has one of these (`A|B`) in its name.
pub(crate) fn input(names: &str) -> Done {
    let mut devices: Vec<(u32, String)> = std::fs::read_dir("/sys/class/input")?
        .flatten()
        .filter_map(|e| {
            let number = e.file_name().to_str()?.strip_prefix("event")?.parse().ok()?;
            Some((number, std::fs::read_to_string(e.path().join("device/name")).ok()?))
        })
        .collect();
    devices.sort_unstable();
    let (number, _) = devices
        .iter()
        .find(|(_, device)| names.split('|').any(|name| device.contains(name)))
        .ok_or_else(|| format!("no input device is named {names}"))?;
    println!("/dev/input/event{number}");
    Ok(())
}

/// What the events in a file come to: the last place or, of a device that tells movements only, their sum; turns of the wheel; keys
/// and buttons, each with 1 for down and 0 for up.
pub(crate) fn events(file: &str) -> Done {
    println!("{}", told(&std::fs::read(file)?));
    Ok(())
}

/// struct input_event: two times of 64 bits, type and code of 16 bits, a value of 32.
fn told(file: &[u8]) -> String {
    let (mut moved, mut place, mut wheel, mut buttons) = ([0, 0], [None, None], 0, String::new());
    for event in file.chunks_exact(24) {
        let half = |at: usize| usize::from(u16::from_le_bytes([event[at], event[at + 1]]));
        let value = i32::from_le_bytes([event[20], event[21], event[22], event[23]]);
        match (half(16), half(18)) {
            (1, button) => buttons += &format!(" {button}:{value}"),
            (2, axis @ (0 | 1)) => moved[axis] += value,
            (2, 8) => wheel += value,
            (3, axis @ (0 | 1)) => place[axis] = Some(value),
            _ => {}
        }
    }
    let [x, y] = [0, 1].map(|axis| place[axis].unwrap_or(moved[axis]));
    format!("x={x} y={y} wheel={wheel} buttons={buttons}")
}

#[cfg(test)]
mod tests {
    use super::told;

    #[test]
    fn events_come_to_a_line() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = vec![0; 16];
            bytes.extend(kind.to_le_bytes());
            bytes.extend(code.to_le_bytes());
            bytes.extend(value.to_le_bytes());
            bytes
        };
        let mouse =
            [event(2, 0, 60), event(2, 0, -10), event(2, 1, 20), event(1, 272, 1), event(0, 0, 0), event(1, 272, 0)];
        assert_eq!(told(&mouse.concat()), "x=50 y=20 wheel=0 buttons= 272:1 272:0");
        let tablet = [event(3, 0, 9), event(3, 1, 9), event(3, 0, 32767), event(2, 8, 1)];
        assert_eq!(told(&tablet.concat()), "x=32767 y=9 wheel=1 buttons=");
        assert_eq!(told(&[1; 23]), "x=0 y=0 wheel=0 buttons=");
    }
}
