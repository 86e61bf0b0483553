//! A small VNC viewer (RFC 6143), so that the suite sees and touches a guest by the road that an operator's viewer takes.
//!
//! Words: `type TEXT`, `key KEYSYM` (a number, X11's), `chord KEYSYM,KEYSYM` (held together), `shown WIDTH HEIGHT` (waits until the screen
//! has this size), `pointer X Y BUTTONS`, `picture FILE`
//! (PPM), `watch FILE` (every change by ZRLE and CopyRect until FILE is there; says how many bytes came), `echo N` (presses N keys,
//! one after the other; says how long each took to be seen), `wish WIDTH HEIGHT`.
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

type Failed = Box<dyn std::error::Error>;

/// Raw pixels; a new size of the screen.
const RAW: i32 = 0;
const DESKTOP_SIZE: i32 = -223;
/// Between two events: a guest's keyboard remembers sixteen bytes, and its controller takes one after the other.
const PACE: Duration = Duration::from_millis(60);
/// X11's names of what is not in ASCII.
const SHIFT: u32 = 0xffe1;
const RETURN: u32 = 0xff0d;

struct Viewer {
    stream: TcpStream,
    size: [u16; 2],
}

impl Viewer {
    fn connect(address: &str) -> Result<Self, Failed> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_nodelay(true)?;
        let mut viewer = Self { stream, size: [0; 2] };
        let version = viewer.take(12)?;
        if version != b"RFB 003.008\n" {
            return Err(format!("the server says {:?}", String::from_utf8_lossy(&version)).into());
        }
        viewer.stream.write_all(&version)?;
        let kinds = usize::from(viewer.take(1)?[0]);
        let kinds = viewer.take(kinds)?;
        if !kinds.contains(&1) {
            return Err(format!("security types {kinds:?}, not none").into());
        }
        viewer.stream.write_all(&[1])?;
        if viewer.take(4)? != [0; 4] {
            return Err("the server refused".into());
        }
        viewer.stream.write_all(&[1])?;
        let init = viewer.take(24)?;
        viewer.size = [u16::from_be_bytes([init[0], init[1]]), u16::from_be_bytes([init[2], init[3]])];
        let name = u32::from_be_bytes([init[20], init[21], init[22], init[23]]);
        viewer.take(name.min(4096) as usize)?;
        // 32 bits, blue lowest; then what we understand.
        viewer.stream.write_all(&[0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0])?;
        let mut encodings = vec![2, 0, 0, 2];
        encodings.extend(RAW.to_be_bytes());
        encodings.extend(DESKTOP_SIZE.to_be_bytes());
        viewer.stream.write_all(&encodings)?;
        Ok(viewer)
    }

    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, Failed> {
        let mut buffer = vec![0; bytes];
        self.stream.read_exact(&mut buffer)?;
        Ok(buffer)
    }

    fn key(&mut self, keysym: u32, down: bool) -> Result<(), Failed> {
        let mut event = vec![4, u8::from(down), 0, 0];
        event.extend(keysym.to_be_bytes());
        self.stream.write_all(&event)?;
        std::thread::sleep(PACE);
        Ok(())
    }

    fn press(&mut self, keysym: u32) -> Result<(), Failed> {
        self.key(keysym, true)?;
        self.key(keysym, false)
    }

    fn write(&mut self, text: &str) -> Result<(), Failed> {
        for c in text.chars() {
            let shifted = c.is_ascii_uppercase() || "~!@#$%^&*()_+{}|:\"<>?".contains(c);
            if shifted {
                self.key(SHIFT, true)?;
            }
            self.press(if c == '\n' { RETURN } else { c as u32 })?;
            if shifted {
                self.key(SHIFT, false)?;
            }
        }
        Ok(())
    }

    fn pointer(&mut self, x: u16, y: u16, buttons: u8) -> Result<(), Failed> {
        let [[x0, x1], [y0, y1]] = [x.to_be_bytes(), y.to_be_bytes()];
        self.stream.write_all(&[5, buttons, x0, x1, y0, y1])?;
        std::thread::sleep(PACE);
        Ok(())
    }

    /// Until the screen has a size. A pointer's place is a part of the screen that the server has at that moment.
    fn shown(&mut self, size: [u16; 2]) -> Result<(), Failed> {
        let begun = std::time::Instant::now();
        while {
            self.picture()?;
            self.size != size
        } {
            if begun.elapsed() > Duration::from_secs(120) {
                return Err(format!("the screen has {:?}, not {size:?}", self.size).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The whole screen as RGB, of the size that it has when it is whole.
    fn picture(&mut self) -> Result<Vec<u8>, Failed> {
        'ask: loop {
            let [width, height] = self.size.map(usize::from);
            let mut pixels = vec![0; width * height * 3];
            let ([w0, w1], [h0, h1]) = (self.size[0].to_be_bytes(), self.size[1].to_be_bytes());
            self.stream.write_all(&[3, 0, 0, 0, 0, 0, w0, w1, h0, h1])?;
            let mut left = width * height;
            while left > 0 {
                match self.take(1)?[0] {
                    0 => {}
                    2 => continue,
                    3 => {
                        let head = self.take(7)?;
                        self.take(u32::from_be_bytes([head[3], head[4], head[5], head[6]]).min(1 << 20) as usize)?;
                        continue;
                    }
                    kind => return Err(format!("a message {kind}").into()),
                }
                let head = self.take(3)?;
                let mut resized = false;
                for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
                    let r = self.take(12)?;
                    let [x, y, w, h] = [0, 2, 4, 6].map(|i| usize::from(u16::from_be_bytes([r[i], r[i + 1]])));
                    match i32::from_be_bytes([r[8], r[9], r[10], r[11]]) {
                        RAW => {
                            let data = self.take(w * h * 4)?;
                            for (row, line) in data.chunks(w * 4).enumerate() {
                                for (column, p) in line.chunks(4).enumerate() {
                                    if x + column < width && y + row < height {
                                        let at = ((y + row) * width + x + column) * 3;
                                        pixels[at..at + 3].copy_from_slice(&[p[2], p[1], p[0]]);
                                    }
                                }
                            }
                            left = left.saturating_sub(w * h);
                        }
                        DESKTOP_SIZE => {
                            self.size = [w as u16, h as u16];
                            resized = true;
                        }
                        other => return Err(format!("an encoding {other}").into()),
                    }
                }
                if resized {
                    continue 'ask;
                }
            }
            return Ok(pixels);
        }
    }
}

/// What a viewer that watches asks for.
const ZRLE: i32 = 16;
const COPY_RECT: i32 = 1;
const EXTENDED_DESKTOP_SIZE: i32 = -308;

impl Viewer {
    fn took(&mut self, bytes: usize, count: &mut u64) -> Result<Vec<u8>, Failed> {
        *count += bytes as u64;
        self.take(bytes)
    }

    fn ask(&mut self, incremental: u8) -> Result<(), Failed> {
        let ([w0, w1], [h0, h1]) = (self.size[0].to_be_bytes(), self.size[1].to_be_bytes());
        Ok(self.stream.write_all(&[3, incremental, 0, 0, 0, 0, w0, w1, h0, h1])?)
    }

    /// Takes the encodings that viewers ask for.
    fn as_viewers_do(&mut self) -> Result<(), Failed> {
        let mut encodings = vec![2, 0, 0, 3];
        [ZRLE, COPY_RECT, DESKTOP_SIZE].iter().for_each(|e| encodings.extend(e.to_be_bytes()));
        Ok(self.stream.write_all(&encodings)?)
    }

    /// The rest of an update, whose first byte has come. Whether the picture has another size now.
    fn update(&mut self, count: &mut Count) -> Result<bool, Failed> {
        let mut resized = false;
        let head = self.took(3, &mut count.bytes)?;
        (count.bytes, count.updates) = (count.bytes + 1, count.updates + 1);
        for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
            let r = self.took(12, &mut count.bytes)?;
            count.rectangles += 1;
            match i32::from_be_bytes([r[8], r[9], r[10], r[11]]) {
                RAW => drop(self.took(
                    usize::from(u16::from_be_bytes([r[4], r[5]])) * usize::from(u16::from_be_bytes([r[6], r[7]])) * 4,
                    &mut count.bytes,
                )?),
                COPY_RECT => {
                    count.moves += 1;
                    self.took(4, &mut count.bytes)?;
                }
                ZRLE => {
                    let n = self.took(4, &mut count.bytes)?;
                    self.took(u32::from_be_bytes([n[0], n[1], n[2], n[3]]) as usize, &mut count.bytes)?;
                }
                DESKTOP_SIZE => {
                    self.size = [u16::from_be_bytes([r[4], r[5]]), u16::from_be_bytes([r[6], r[7]])];
                    resized = true;
                }
                other => return Err(format!("an encoding {other}").into()),
            }
        }
        Ok(resized)
    }

    /// Asks for every change, as a viewer does, until the server goes or the file is there; then says how much came.
    fn watch(&mut self, file: &str) -> Result<(), Failed> {
        self.as_viewers_do()?;
        let (mut count, mut incremental, mut asked) = (Count::default(), 0, false);
        while !std::path::Path::new(file).exists() {
            if !asked {
                self.ask(incremental)?;
                asked = true;
            }
            self.stream.set_read_timeout(Some(Duration::from_millis(500)))?;
            let mut kind = [0];
            match self.stream.read(&mut kind) {
                Ok(1) if kind[0] == 0 => {}
                Ok(1) => return Err(format!("a message {}", kind[0]).into()),
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => continue,
                _ => break,
            }
            self.stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            asked = false;
            incremental = u8::from(!self.update(&mut count)?);
        }
        println!(
            "watched: {} bytes, {} updates, {} rectangles, {} moved",
            count.bytes, count.updates, count.rectangles, count.moves
        );
        Ok(())
    }

    /// Wishes for another size, and waits until it is known that somebody takes the wish.
    fn wish(&mut self, width: u16, height: u16) -> Result<(), Failed> {
        let mut encodings = vec![2, 0, 0, 2];
        [RAW, EXTENDED_DESKTOP_SIZE].iter().for_each(|e| encodings.extend(e.to_be_bytes()));
        self.stream.write_all(&encodings)?;
        self.ask(1)?;
        let ([w0, w1], [h0, h1]) = (width.to_be_bytes(), height.to_be_bytes());
        self.stream.write_all(&[251, 0, w0, w1, h0, h1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, w0, w1, h0, h1, 0, 0, 0, 0])?;
        loop {
            if self.take(1)?[0] != 0 {
                return Err("a message that is no update".into());
            }
            let head = self.take(3)?;
            let mut done = false;
            for _ in 0..u16::from_be_bytes([head[1], head[2]]) {
                let r = self.take(12)?;
                match i32::from_be_bytes([r[8], r[9], r[10], r[11]]) {
                    RAW => drop(self.take(
                        usize::from(u16::from_be_bytes([r[4], r[5]]))
                            * usize::from(u16::from_be_bytes([r[6], r[7]]))
                            * 4,
                    )?),
                    EXTENDED_DESKTOP_SIZE => {
                        let screens = usize::from(self.take(4)?[0]);
                        self.take(screens * 16)?;
                        // Reason 1: this viewer's wish; status 4: it was forwarded.
                        match (r[1], r[3]) {
                            (1, 4) => done = true,
                            (1, status) => return Err(format!("the wish is answered with {status}").into()),
                            _ => {}
                        }
                    }
                    other => return Err(format!("an encoding {other}").into()),
                }
            }
            if done {
                return Ok(());
            }
            self.ask(1)?;
        }
    }

    /// Presses keys that the guest shows, one after the other; says how long each took to be seen, in microseconds.
    fn echo(&mut self, keys: usize) -> Result<(), Failed> {
        self.as_viewers_do()?;
        let mut count = Count::default();
        self.ask(0)?;
        let mut took = Vec::new();
        for n in 0..=keys {
            loop {
                let kind = self.take(1)?[0];
                if kind != 0 {
                    return Err(format!("a message {kind}").into());
                }
                if !self.update(&mut count)? {
                    break;
                }
                self.ask(0)?;
            }
            took.push(std::time::Instant::now());
            if n < keys {
                self.ask(1)?;
                // The server has looked at the picture long ago when the key comes.
                std::thread::sleep(Duration::from_millis(777 + 13 * n as u64));
                took.push(std::time::Instant::now());
                for down in [1, 0] {
                    self.stream.write_all(&[4, down, 0, 0, 0, 0, 0, b'a' + (n % 26) as u8])?;
                }
            }
        }
        let mut micros: Vec<u128> =
            took[1..].chunks_exact(2).map(|pair| pair[1].duration_since(pair[0]).as_micros()).collect();
        micros.sort_unstable();
        println!(
            "key to picture: {} us the fastest, {} the median, {} the slowest of {keys}",
            micros[0],
            micros[micros.len() / 2],
            micros[micros.len() - 1]
        );
        Ok(())
    }
}

/// What a viewer was told.
#[derive(Default)]
struct Count {
    bytes: u64,
    updates: u64,
    rectangles: u64,
    moves: u64,
}

/// Connects and does what the words say, in order.
pub(crate) fn run(words: &[String]) -> Result<(), Failed> {
    let (address, mut words) = words.split_first().ok_or("which address?")?;
    let mut viewer = Viewer::connect(address)?;
    while let Some((word, rest)) = words.split_first() {
        words = match (word.as_str(), rest) {
            ("type", [text, rest @ ..]) => {
                viewer.write(text)?;
                rest
            }
            ("line", [text, rest @ ..]) => {
                viewer.write(&format!("{text}\n"))?;
                rest
            }
            ("key", [keysym, rest @ ..]) => {
                viewer.press(keysym.parse()?)?;
                rest
            }
            ("chord", [keysyms, rest @ ..]) => {
                let keysyms = keysyms.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
                keysyms.iter().try_for_each(|k| viewer.key(*k, true))?;
                keysyms.iter().rev().try_for_each(|k| viewer.key(*k, false))?;
                rest
            }
            ("pointer", [x, y, buttons, rest @ ..]) => {
                viewer.pointer(x.parse()?, y.parse()?, buttons.parse()?)?;
                rest
            }
            ("picture", [file, rest @ ..]) => {
                let pixels = viewer.picture()?;
                let mut ppm = format!("P6\n{} {}\n255\n", viewer.size[0], viewer.size[1]).into_bytes();
                ppm.extend(pixels);
                std::fs::write(file, ppm)?;
                rest
            }
            ("shown", [width, height, rest @ ..]) => {
                viewer.shown([width.parse()?, height.parse()?])?;
                rest
            }
            ("watch", [file, rest @ ..]) => {
                viewer.watch(file)?;
                rest
            }
            ("wish", [width, height, rest @ ..]) => {
                viewer.wish(width.parse()?, height.parse()?)?;
                rest
            }
            ("echo", [keys, rest @ ..]) => {
                viewer.echo(keys.parse()?)?;
                rest
            }
            _ => return Err(format!("what is {word}?").into()),
        };
    }
    Ok(())
}
