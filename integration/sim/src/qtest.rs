//! The qtest line protocol (QEMU's system/qtest.c) over the simulated machine.
use crate::Sim;
use crate::machine::parse;
use std::fmt::Write as _;

/// Executes lines of the protocol, and keeps the state that they set.
#[derive(Debug, Default)]
pub struct Interpreter {
    /// Whether interrupts are reported (`irq_intercept_in`).
    intercept: bool,
    /// The last value written to port 0xcf8. QEMU uses its lowest two bits as part of the address, and its tests depend on that; on
    /// a real bus they are zero, and the data port selects the byte.
    address: u32,
}

/// Most bytes of one `read` or `write`.
const MAX: u64 = 64 << 20;

impl Interpreter {
    /// Executes one line; returns the lines to print, with the reply last, or `None` for a blank line.
    pub fn line(&mut self, sim: &mut Sim, line: &str) -> Option<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = *words.first()?;
        let number = |i: usize| words.get(i).and_then(|w| parse(w));
        sim.edges.clear();
        let reply = match self.command(sim, name, &words, number) {
            Ok(reply) => reply,
            Err(e) => format!("FAIL {e}"),
        };
        let mut out = String::new();
        if self.intercept {
            for (irq, level) in std::mem::take(&mut sim.edges) {
                let _ = writeln!(out, "IRQ {} {irq}", if level { "raise" } else { "lower" });
            }
        }
        out.push_str(&reply);
        Some(out)
    }

    /// Selects the register of byte `i` of an access whose address has low bits; returns the data port of the byte.
    fn byte(&self, sim: &mut Sim, i: u32) -> Result<u16, crate::SimError> {
        let at = self.address.wrapping_add(i);
        sim.port_write(0xcf8, 4, at & !3)?;
        Ok(0xcfc | (at & 3) as u16)
    }

    fn command(
        &mut self,
        sim: &mut Sim,
        name: &str,
        words: &[&str],
        number: impl Fn(usize) -> Option<u64>,
    ) -> Result<String, crate::SimError> {
        let bad = || crate::SimError(format!("{name}: wrong arguments"));
        let size = |suffix: &str| match suffix {
            "b" => Some(1u32),
            "w" => Some(2),
            "l" => Some(4),
            "q" => Some(8),
            _ => None,
        };
        if let Some(size) = name.strip_prefix("out").and_then(size).filter(|s| *s <= 4) {
            let port = number(1).and_then(|p| u16::try_from(p).ok()).ok_or_else(bad)?;
            let value = number(2).ok_or_else(bad)? as u32;
            if (port, size) == (0xcf8, 4) {
                self.address = value;
            }
            if port != 0xcfc || self.address & 3 == 0 {
                sim.port_write(port, size, value)?;
                return Ok("OK".into());
            }
            for (i, byte) in (0u32..size).zip(value.to_le_bytes()) {
                let port = self.byte(sim, i)?;
                sim.port_write(port, 1, u32::from(byte))?;
            }
            sim.port_write(0xcf8, 4, self.address)?;
            return Ok("OK".into());
        }
        if let Some(size) = name.strip_prefix("in").and_then(size).filter(|s| *s <= 4) {
            let port = number(1).and_then(|p| u16::try_from(p).ok()).ok_or_else(bad)?;
            if port != 0xcfc || self.address & 3 == 0 {
                return Ok(format!("OK 0x{:04x}", sim.port_read(port, size)?));
            }
            let mut bytes = [0; 4];
            for (i, byte) in (0u32..size).zip(bytes.iter_mut()) {
                let port = self.byte(sim, i)?;
                *byte = sim.port_read(port, 1)? as u8;
            }
            sim.port_write(0xcf8, 4, self.address)?;
            return Ok(format!("OK 0x{:04x}", u32::from_le_bytes(bytes)));
        }
        if let Some(size) = name.strip_prefix("write").and_then(size) {
            let bytes = number(2).ok_or_else(bad)?.to_le_bytes();
            sim.memory_write(number(1).ok_or_else(bad)?, bytes.get(..size as usize).unwrap_or_default())?;
            return Ok("OK".into());
        }
        if let Some(size) = name.strip_prefix("read").and_then(size) {
            let mut bytes = [0; 8];
            sim.memory_read(number(1).ok_or_else(bad)?, bytes.get_mut(..size as usize).unwrap_or_default())?;
            return Ok(format!("OK 0x{:016x}", u64::from_le_bytes(bytes)));
        }
        match name {
            "endianness" => Ok("OK little".into()),
            "read" => {
                let len = number(2).filter(|n| (1..=MAX).contains(n)).ok_or_else(bad)?;
                let mut bytes = vec![0; len as usize];
                sim.memory_read(number(1).ok_or_else(bad)?, &mut bytes)?;
                Ok(bytes.iter().fold("OK 0x".to_owned(), |mut text, b| {
                    let _ = write!(text, "{b:02x}");
                    text
                }))
            }
            "write" => {
                let len = number(2).filter(|n| (1..=MAX).contains(n)).ok_or_else(bad)?;
                let hex = words.get(3).filter(|h| h.len() >= 3).ok_or(crate::SimError("invalid argument size".into()));
                let Ok(hex) = hex else { return Ok("ERR invalid argument size".into()) };
                let digits = hex.strip_prefix("0x").unwrap_or(hex).as_bytes();
                let nibble = |i: usize| digits.get(i).and_then(|d| char::from(*d).to_digit(16)).unwrap_or(0) as u8;
                let bytes: Vec<u8> = (0..len as usize)
                    .map(|i| nibble(i.saturating_mul(2)) << 4 | nibble(i.saturating_mul(2).saturating_add(1)))
                    .collect();
                sim.memory_write(number(1).ok_or_else(bad)?, &bytes)?;
                Ok("OK".into())
            }
            "memset" => {
                let len = number(2).filter(|n| *n <= MAX).ok_or_else(bad)?;
                let bytes = vec![number(3).ok_or_else(bad)? as u8; len as usize];
                sim.memory_write(number(1).ok_or_else(bad)?, &bytes)?;
                Ok("OK".into())
            }
            "clock_step" => {
                let to = match words.get(1) {
                    Some(_) => sim.now().saturating_add(number(1).ok_or_else(bad)?),
                    None => match sim.next_deadline()? {
                        Some(deadline) => deadline.max(sim.now()),
                        None => return Ok("FAIL no timer is set".into()),
                    },
                };
                sim.advance_to(to)?;
                Ok(format!("OK {}", sim.now()))
            }
            "clock_set" => {
                let to = number(1).filter(|n| *n >= sim.now()).ok_or_else(bad)?;
                sim.advance_to(to)?;
                Ok(format!("OK {}", sim.now()))
            }
            "irq_intercept_in" if words.get(1) == Some(&"ioapic") => {
                self.intercept = true;
                Ok("OK".into())
            }
            _ => Ok(format!("FAIL Unknown command '{name}'")),
        }
    }
}
