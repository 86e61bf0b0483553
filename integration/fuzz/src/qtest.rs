//! A program that speaks qtest on its standard input and output.
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The reply to one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// `OK` and what follows it, or another word.
    pub text: String,
    /// Interrupts that were reported before it: number, and whether it was raised.
    pub interrupts: Vec<(u32, bool)>,
}

/// The running program.
pub struct Peer {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    name: String,
}

impl Peer {
    /// Starts `program` (words) with the machine's arguments. A QEMU also gets what makes it speak qtest and show nothing.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: &str, arguments: &[String]) -> Result<Self, String> {
        let mut words = program.split_whitespace();
        let name = words.next().ok_or("no program")?.to_owned();
        let mut command = Command::new(&name);
        command.args(words).args(arguments);
        if name.contains("qemu-system") {
            command.args([
                "-machine",
                "pc",
                "-m",
                "128",
                "-nodefaults",
                "-display",
                "none",
                "-qtest",
                "stdio",
                "-qtest-log",
                "none",
            ]);
        }
        Self::speak(command, name)
    }

    /// A shell's script in the place of a machine.
    #[cfg(test)]
    pub fn shell(script: &str) -> Result<Self, String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Self::speak(command, "sh".into())
    }

    fn speak(mut command: Command, name: String) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("{name}: {e}"))?;
        let (to, from) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        let mut peer = Self { child, to, from: BufReader::new(from), name };
        peer.say("irq_intercept_in ioapic")?;
        Ok(peer)
    }

    /// Says a line and waits for its reply.
    ///
    /// # Errors
    /// The program has ended.
    pub fn say(&mut self, line: &str) -> Result<Reply, String> {
        let ended = |this: &mut Self| {
            let status = this.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
            format!("{} ends ({status}) at: {line}", this.name)
        };
        if writeln!(self.to, "{line}").and_then(|()| self.to.flush()).is_err() {
            return Err(ended(self));
        }
        let mut interrupts = Vec::new();
        loop {
            let mut text = String::new();
            match self.from.read_line(&mut text) {
                Ok(n) if n > 0 => {}
                _ => return Err(ended(self)),
            }
            let text = text.trim();
            let mut words = text.split_whitespace();
            match (words.next(), words.next(), words.next().and_then(|w| w.parse().ok())) {
                (Some("IRQ"), Some(how), Some(number)) => interrupts.push((number, how == "raise")),
                (Some("IRQ"), ..) => {}
                _ => return Ok(Reply { text: text.into(), interrupts }),
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
