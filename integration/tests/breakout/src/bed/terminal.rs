//! The other ends of terminals and sockets.
use crate::Done;
use std::io::Write as _;
use std::os::unix::net::UnixStream;

/// Ends when the other end does.
pub(crate) fn line(socket: &str) -> Done {
    let mut socket = UnixStream::connect(socket)?;
    let mut write = socket.try_clone()?;
    std::thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut write));
    std::io::copy(&mut socket, &mut std::io::stdout())?;
    Ok(())
}

/// `xl console` sends what is typed only if it has a terminal.
pub(crate) fn terminal(command: &[String]) -> Done {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let (program, arguments) = command.split_first().ok_or("which command?")?;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = std::fs::File::options().read(true).write(true).open(ptsname(&master, Vec::new())?.to_str()?)?;
    let mut modes = rustix::termios::tcgetattr(&slave)?;
    modes.make_raw();
    rustix::termios::tcsetattr(&slave, rustix::termios::OptionalActions::Now, &modes)?;
    let mut child = std::process::Command::new(program);
    let mut child = child.args(arguments).stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave).spawn()?;
    let mut write = std::fs::File::from(rustix::io::dup(&master)?);
    std::thread::spawn(move || std::io::copy(&mut std::io::stdin(), &mut write));
    // Ends with EIO when nobody has the terminal open any more.
    // Line by line, so that who looks at the output sees whole ones; a prompt, which has no end, after a while.
    let patience = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
    let (mut line, mut bytes) = (Vec::new(), [0; 4096]);
    let mut out = std::io::stdout().lock();
    loop {
        let mut fds = [rustix::event::PollFd::new(&master, rustix::event::PollFlags::IN)];
        if rustix::event::poll(&mut fds, Some(&patience))? > 0 {
            let Ok(n @ 1..) = rustix::io::read(&master, &mut bytes) else { break };
            line.extend_from_slice(&bytes[..n]);
            let whole = line.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
            out.write_all(&line[..whole])?;
            line.drain(..whole);
        } else {
            out.write_all(&line)?;
            line.clear();
        }
        out.flush()?;
    }
    out.write_all(&line)?;
    out.flush()?;
    child.wait()?;
    Ok(())
}
