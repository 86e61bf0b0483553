//! The transactions of a frame, from the schedule in guest memory (UHCI 3). The schedule is hostile: every structure is copied once
//! and checked, and the number of steps is bounded.
use super::Uhci;
use super::function::Handshake;
use super::spec::{Control, Link, Token, pid};
use bulkhead_bus::{DmaError, GuestMemory};

/// Most queue heads and transfer descriptors of a frame, together. A bus of 12 Mbit/s carries fewer than 200 transactions in a
/// millisecond.
pub(super) const STRUCTURES: usize = 256;
/// Bytes of a frame: 12 Mbit/s for a millisecond. A transaction that begins within them is carried out whole.
pub(super) const BYTES: usize = 1500;
/// Most bytes of a transaction (UHCI 3.2.3).
const LONGEST: usize = 1280;

/// The result of one or more frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    /// A descriptor with IOC has completed (`complete`), or a short packet with detection enabled has arrived (`short`).
    pub(super) complete: bool,
    pub(super) short: bool,
    /// A transaction has failed.
    pub(super) error: bool,
    /// The schedule is invalid: the controller halts.
    pub(super) process_error: bool,
    /// An address in the schedule is no RAM.
    pub(super) host_error: bool,
    /// Number of transactions that transferred data.
    pub(super) moved: u32,
}

/// The work that is left in a frame. The guest decides how queues and descriptors are nested, so both loops draw on it.
struct Budget {
    structures: usize,
    bytes: usize,
}

impl Budget {
    /// Takes one structure; false: the frame is over.
    fn take(&mut self) -> bool {
        let left = self.structures > 0 && self.bytes > 0;
        self.structures = self.structures.saturating_sub(1);
        left
    }
}

/// The result of a descriptor's transaction.
enum Step {
    /// Completed: the queue advances to the next descriptor.
    Done,
    /// Pending or failed: the queue does not advance.
    Stays,
}

struct Descriptor {
    at: u64,
    link: Link,
    control: Control,
    token: Token,
    buffer: u32,
}

fn words<const N: usize>(memory: &dyn GuestMemory, at: u64) -> Result<[u32; N], DmaError> {
    let mut bytes = [0; 16];
    let n = N.saturating_mul(4).min(bytes.len());
    memory.read(at, bytes.get_mut(..n).unwrap_or_default())?;
    let mut out = [0; N];
    out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(w, b)| *w = u32::from_le_bytes(*b));
    Ok(out)
}

impl Uhci {
    /// Processes one frame.
    pub(super) fn frame(&mut self, memory: &dyn GuestMemory, out: &mut Outcome) {
        if let Err(e) = self.walk(memory, out) {
            self.dma_errors = self.dma_errors.saturating_add(1);
            self.last_dma_error = Some(e);
            out.host_error = true;
        }
    }

    fn walk(&mut self, memory: &dyn GuestMemory, out: &mut Outcome) -> Result<(), DmaError> {
        let entry = u64::from(self.frame_list).saturating_add(u64::from(self.frame_number & 0x3ff) << 2);
        let [first] = words::<1>(memory, entry)?;
        let mut link = Link::from_bits(first);
        // The queue at which a round begins, and the number of transactions at that time: a round without a transaction ends the
        // frame.
        let (mut turn, mut moved) = (None, 0);
        let mut budget = Budget { structures: STRUCTURES, bytes: BYTES };
        loop {
            if link.terminate() || !budget.take() {
                return Ok(());
            }
            if !link.queue() {
                // Isochronous: the frame continues, whether the transaction completes or not.
                let descriptor = Self::descriptor(memory, link.address())?;
                self.transact(memory, &descriptor, &mut budget, out)?;
                link = descriptor.link;
                continue;
            }
            let queue = link.address();
            if turn == Some(queue) {
                if moved == out.moved {
                    return Ok(());
                }
                moved = out.moved;
            }
            turn.get_or_insert(queue);
            let [head, element] = words::<2>(memory, queue)?.map(Link::from_bits);
            link = head;
            let mut element = element;
            // Depth first: descriptors of one queue follow each other.
            loop {
                if element.terminate() {
                    break;
                }
                if element.queue() {
                    link = element;
                    break;
                }
                if !budget.take() {
                    return Ok(());
                }
                let descriptor = Self::descriptor(memory, element.address())?;
                if let Step::Stays = self.transact(memory, &descriptor, &mut budget, out)? {
                    break;
                }
                memory.write(queue.saturating_add(4), &descriptor.link.into_bits().to_le_bytes())?;
                element = descriptor.link;
                if !element.depth_first() {
                    break;
                }
            }
        }
    }

    fn descriptor(memory: &dyn GuestMemory, at: u64) -> Result<Descriptor, DmaError> {
        let [link, control, token, buffer] = words::<4>(memory, at)?;
        Ok(Descriptor {
            at,
            link: Link::from_bits(link),
            control: Control::from_bits(control),
            token: Token::from_bits(token),
            buffer,
        })
    }

    fn transact(
        &mut self,
        memory: &dyn GuestMemory,
        d: &Descriptor,
        budget: &mut Budget,
        out: &mut Outcome,
    ) -> Result<Step, DmaError> {
        if !d.control.active() {
            return Ok(Step::Stays);
        }
        let (kind, length) = (d.token.pid(), usize::from(d.token.length().wrapping_add(1) & 0x7ff));
        if !matches!(kind, pid::IN | pid::OUT | pid::SETUP) || length > LONGEST {
            out.process_error = true;
            return Ok(Step::Stays);
        }
        budget.bytes = budget.bytes.saturating_sub(length);
        let mut data = vec![0; if kind == pid::IN { 0 } else { length }];
        memory.read(u64::from(d.buffer), &mut data)?;
        let function = self
            .ports
            .iter_mut()
            .filter(|p| p.status.enabled() && !p.status.suspend())
            .filter_map(|p| p.function.as_mut())
            .find(|f| f.address == d.token.device());
        let answer = function.map(|f| f.transact(kind, d.token.endpoint(), &data, length));
        let mut control = d.control;
        let step = match answer {
            Some(Handshake::Ack(bytes)) => {
                let moved = if kind == pid::IN { bytes.len() } else { length };
                memory.write(u64::from(d.buffer), &bytes)?;
                out.moved = out.moved.saturating_add(1);
                control =
                    control.with_active(false).with_nak(false).with_actual((moved as u16).wrapping_sub(1) & 0x7ff);
                let short = kind == pid::IN && moved < length && control.short();
                out.short |= short;
                out.complete |= control.on_complete();
                // A short packet stops the queue if its detection is enabled (UHCI 3.4.2.2).
                if short { Step::Stays } else { Step::Done }
            }
            Some(Handshake::Nak) => {
                control = control.with_nak(true);
                // A NAK is no error; the descriptor is written only for the first one.
                if d.control.nak() {
                    return Ok(Step::Stays);
                }
                Step::Stays
            }
            Some(Handshake::Stall) => {
                control = control.with_active(false).with_stalled(true).with_actual(0x7ff);
                (out.error, out.complete) = (true, out.complete | control.on_complete());
                Step::Stays
            }
            // No device has the address: all retries time out at once.
            None => {
                control =
                    control.with_active(false).with_timeout(true).with_stalled(true).with_errors(0).with_actual(0x7ff);
                (out.error, out.complete) = (true, out.complete | control.on_complete());
                Step::Stays
            }
        };
        memory.write(d.at.saturating_add(4), &control.into_bits().to_le_bytes())?;
        Ok(step)
    }
}
