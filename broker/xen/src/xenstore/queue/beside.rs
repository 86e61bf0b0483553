//! A node that is written if another one exists, in one transaction and without waiting: a directory that is removed meanwhile is not
//! made anew.
use super::{Call, XenstoreQueue};
use crate::xenstore::{CONFLICT, MISSING, TRIES};
use crate::{Result, XenError};

/// Such a write. Its owner passes it the answers that it awaits, until it is done.
#[derive(Debug)]
pub struct WriteBeside {
    there: String,
    path: String,
    value: String,
    step: Step,
    transaction: u32,
    /// Number of the awaited answer.
    awaits: u32,
    tries: u32,
    given_up: bool,
    /// Why the transaction is being dropped.
    refused: Option<XenError>,
}

/// The call whose answer is awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Look,
    Write,
    Commit,
    Drop,
}

/// How a [`WriteBeside`] goes on.
#[derive(Debug)]
pub enum Progress {
    /// It awaits another answer.
    Awaits,
    /// It is done: whether the node was written, or the error that xenstored has named.
    Done(Result<bool>),
}

impl WriteBeside {
    /// Begins to write `value` to the node `path` if the node `there` exists.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn begin(queue: &mut XenstoreQueue, there: &str, path: &str, value: &str) -> Result<Self> {
        let awaits = queue.ask(0, Call::Begin)?;
        let [there, path, value] = [there, path, value].map(str::to_owned);
        let (step, tries) = (Step::Begin, 1);
        Ok(Self { there, path, value, step, transaction: 0, awaits, tries, given_up: false, refused: None })
    }

    /// The number of the answer that it awaits.
    pub fn awaits(&self) -> u32 {
        self.awaits
    }

    /// Writes nothing any more, unless xenstored has been told to already. It still awaits answers, to end its transaction.
    pub fn give_up(&mut self) {
        self.given_up = true;
    }

    /// Takes the awaited answer.
    ///
    /// # Errors
    /// The connection is lost, or the write is given up.
    pub fn answer(&mut self, queue: &mut XenstoreQueue, answer: Result<Vec<u8>>) -> Result<Progress> {
        let next = match (self.step, answer) {
            (Step::Begin, Ok(id)) => {
                let invalid = || XenError::new("xenstore", std::io::ErrorKind::InvalidData);
                self.transaction = XenstoreQueue::transaction(&id).ok_or_else(invalid)?;
                Step::Look
            }
            (Step::Look, Ok(_)) => Step::Write,
            (Step::Look, Err(e)) if e.names(MISSING) => Step::Drop,
            (Step::Write, Ok(_)) => Step::Commit,
            (Step::Look | Step::Write, Err(e)) => {
                self.refused = Some(e);
                Step::Drop
            }
            (Step::Commit, Ok(_)) => return Ok(Progress::Done(Ok(true))),
            (Step::Commit, Err(e)) if e.names(CONFLICT) && self.tries < TRIES && !self.given_up => {
                self.tries = self.tries.saturating_add(1);
                self.transaction = 0;
                Step::Begin
            }
            (Step::Begin | Step::Commit, Err(e)) => return Ok(Progress::Done(Err(e))),
            (Step::Drop, _) => return Ok(Progress::Done(self.refused.take().map_or(Ok(false), Err))),
        };
        self.step = if self.given_up { Step::Drop } else { next };
        let call = match self.step {
            Step::Begin => Call::Begin,
            Step::Look => Call::Read(&self.there),
            Step::Write => Call::Write(&self.path, &self.value),
            Step::Commit => Call::End(true),
            Step::Drop => Call::End(false),
        };
        self.awaits = queue.ask(self.transaction, call)?;
        Ok(Progress::Awaits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xenstore::queue::Heard;
    use bulkhead_xen_abi::xenstore::{self, Header};
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use zerocopy::{FromBytes as _, IntoBytes as _};

    type Answer = std::result::Result<&'static str, &'static str>;

    /// xenstored's end: takes the one call that is waiting, and answers it.
    fn serve(far: &mut UnixStream, answer: Answer) -> (u32, u32, String) {
        let mut head = [0; 16];
        far.read_exact(&mut head).unwrap();
        let header = Header::read_from_bytes(&head).unwrap();
        let mut payload = vec![0; header.len as usize];
        far.read_exact(&mut payload).unwrap();
        let (kind, text) = match answer {
            Ok(text) => (header.kind, text),
            Err(name) => (xenstore::XS_ERROR, name),
        };
        let text = [text.as_bytes(), b"\0"].concat();
        let head = Header { kind, len: text.len() as u32, ..header };
        far.write_all(&[head.as_bytes(), &text].concat()).unwrap();
        (header.kind, header.tx_id, String::from_utf8(payload).unwrap())
    }

    fn calls(answers: &[Answer], give_up_after: usize) -> (Vec<(u32, u32, String)>, Result<bool>) {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut queue = XenstoreQueue::over_socket(near.into());
        let mut write = WriteBeside::begin(&mut queue, "/b/state", "/b/info", "1").unwrap();
        let mut calls = Vec::new();
        for (n, answer) in answers.iter().enumerate() {
            if n == give_up_after {
                write.give_up();
            }
            calls.push(serve(&mut far, *answer));
            let Some(Heard::Answer(number, answer)) = queue.hear().unwrap() else { panic!() };
            assert_eq!(number, write.awaits());
            if let Progress::Done(done) = write.answer(&mut queue, answer).unwrap() {
                assert_eq!(n + 1, answers.len(), "done before the last answer");
                return (calls, done);
            }
        }
        panic!("not done: {calls:?}");
    }

    const NEVER: usize = usize::MAX;
    const WHOLE: [(u32, u32, &str); 4] = [
        (xenstore::XS_TRANSACTION_START, 0, "\0"),
        (xenstore::XS_READ, 7, "/b/state\0"),
        (xenstore::XS_WRITE, 7, "/b/info\x001"),
        (xenstore::XS_TRANSACTION_END, 7, "T\0"),
    ];

    fn shown(calls: &[(u32, u32, String)]) -> Vec<(u32, u32, &str)> {
        calls.iter().map(|(kind, id, text)| (*kind, *id, text.as_str())).collect()
    }

    #[test]
    fn a_conflict_is_no_success_and_the_write_is_made_again() {
        let round = |end| [Ok("7"), Ok("4"), Ok("OK"), end];
        let (calls, done) = calls(&[round(Err("EAGAIN")), round(Ok("OK"))].concat(), NEVER);
        assert!(done.unwrap());
        assert_eq!(shown(&calls), [WHOLE, WHOLE].concat());
    }

    #[test]
    fn conflicts_without_end_are_an_error() {
        let round = [Ok("7"), Ok("4"), Ok("OK"), Err("EAGAIN")];
        let (all, done) = calls(&round.repeat(TRIES as usize), NEVER);
        assert!(done.is_err_and(|e| e.names(CONFLICT)));
        assert_eq!(all.len(), 4 * TRIES as usize);
    }

    #[test]
    fn where_the_other_node_is_gone_nothing_is_written_and_the_transaction_ends() {
        let (all, done) = calls(&[Ok("7"), Err("ENOENT"), Ok("OK")], NEVER);
        assert!(!done.unwrap());
        assert_eq!(shown(&all)[2], (xenstore::XS_TRANSACTION_END, 7, "F\0"));
        // An error that does not say that the node is gone.
        let (_, done) = calls(&[Ok("7"), Err("EIO"), Ok("OK")], NEVER);
        assert!(done.is_err());
        let (all, done) = calls(&[Ok("7"), Ok("4"), Err("EACCES"), Ok("OK")], NEVER);
        assert!(done.is_err_and(|e| e.names("EACCES")));
        assert_eq!(shown(&all)[3], (xenstore::XS_TRANSACTION_END, 7, "F\0"));
    }

    #[test]
    fn a_write_that_is_given_up_ends_its_transaction_and_writes_nothing() {
        for after in 0..3 {
            let answers = [&[Ok("7"), Ok("4"), Ok("OK")][..=after], &[Ok("OK")]].concat();
            let (all, done) = calls(&answers, after);
            assert!(!done.unwrap());
            assert_eq!(shown(&all).last(), Some(&(xenstore::XS_TRANSACTION_END, 7, "F\0")), "{after}");
        }
    }
}
