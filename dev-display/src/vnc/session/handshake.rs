//! The handshake (RFC 6143, 7.1): version, security, ClientInit, and the reasons of a refusal.
use super::message::Parsed;
use super::{HANDSHAKE, HandshakeState, SessionContext, ViewerError, ViewerSession};
use crate::vnc::auth::{CHALLENGE, Password};
use crate::vnc::spec::security;
use crate::vnc::strangers::Progress;

/// The versions whose handshakes differ (RFC 6143, 7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// 3.3: the server decides the security type; a refusal has no reason.
    V3,
    /// 3.7: the viewer chooses the security type; without a password there is no SecurityResult.
    V7,
    /// 3.8: every choice has a SecurityResult, a refusal has a reason.
    V8,
}

impl Version {
    /// The handshake of a viewer whose version is `major.minor`. An unknown 3.x uses that of 3.3 (RFC 6143, 7.1.1), as UltraVNC's
    /// 3.4, 3.6, 3.14 and 3.16 do. Apple's 3.889 and RealVNC's 4.x and 5.x use that of 3.8, and other servers treat them so
    /// (TigerVNC and LibVNCServer for 3.889, noVNC for 4.0, 4.1 and 5.0). There is no version before 3.
    fn of(major: u16, minor: u16) -> Option<Self> {
        match (major, minor) {
            (0..=2, _) => None,
            (3, 7) => Some(Self::V7),
            (3, 8 | 889) | (4.., _) => Some(Self::V8),
            (3, _) => Some(Self::V3),
        }
    }
}

/// A viewer's message of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeMessage {
    /// ProtocolVersion: major, minor.
    Version(u16, u16),
    /// The chosen security type.
    Security(u8),
    /// A challenge, and the response to it.
    Response([u8; CHALLENGE], [u8; CHALLENGE]),
    /// ClientInit's shared flag: other viewers may stay connected.
    Shared(bool),
}

impl HandshakeMessage {
    /// Parses the message that this state expects.
    pub(super) fn parse(state: HandshakeState, bytes: &[u8]) -> Parsed<Self> {
        let whole = match state {
            HandshakeState::Version => return parse_version(bytes),
            HandshakeState::Security => bytes.first().map(|chosen| (Self::Security(*chosen), 1)),
            HandshakeState::Response(challenge) => {
                bytes.first_chunk().map(|answer| (Self::Response(challenge, *answer), CHALLENGE))
            }
            HandshakeState::ClientInit => bytes.first().map(|shared| (Self::Shared(*shared != 0), 1)),
            // These states expect no message of the handshake.
            HandshakeState::Answered { .. } | HandshakeState::AwaitingSize | HandshakeState::Running => None,
        };
        whole.map_or(Parsed::Partial, |(message, taken)| Parsed::Whole(message, taken))
    }
}

/// `RFB ddd.ddd\n` as two numbers.
fn parse_version(bytes: &[u8]) -> Parsed<HandshakeMessage> {
    let form = b"RFB 000.000\n";
    let fits = |(said, form): (&u8, &u8)| if *form == b'0' { said.is_ascii_digit() } else { said == form };
    if !bytes.iter().zip(form).all(fits) {
        return Parsed::Broken(ViewerError::NotRfb);
    }
    let number = |from: usize| -> Option<u16> { std::str::from_utf8(bytes.get(from..)?.get(..3)?).ok()?.parse().ok() };
    let version = bytes.get(..form.len()).and_then(|_| number(4).zip(number(8)));
    version.map_or(Parsed::Partial, |(major, minor)| Parsed::Whole(HandshakeMessage::Version(major, minor), form.len()))
}

impl ViewerSession {
    /// Handles one message of the handshake.
    pub(super) fn enter(
        &mut self,
        message: HandshakeMessage,
        context: &mut SessionContext<'_>,
    ) -> Result<(), ViewerError> {
        self.stepped = Some(context.now);
        match message {
            HandshakeMessage::Version(major, minor) => self.version(major, minor, context),
            HandshakeMessage::Security(chosen) => self.security(chosen, context),
            HandshakeMessage::Response(challenge, answer) => {
                self.handshake = HandshakeState::Answered { challenge, answer, at: context.now };
                Ok(())
            }
            HandshakeMessage::Shared(shared) => self.init(shared, context),
        }
    }

    /// Handles the version, and sends the security types, or for 3.3 the challenge at once.
    fn version(&mut self, major: u16, minor: u16, context: &mut SessionContext<'_>) -> Result<(), ViewerError> {
        self.version = Version::of(major, minor).unwrap_or(Version::V3);
        if Version::of(major, minor).is_none() {
            return Err(self.refuse(ViewerError::UnknownVersion));
        }
        if context.full {
            return Err(self.refuse(ViewerError::TooManyViewers));
        }
        let offered = if context.needs_password { security::VNC_AUTH } else { security::NONE };
        if self.version == Version::V3 {
            self.output.extend_from_slice(&u32::from(offered).to_be_bytes());
            match offered {
                security::NONE => self.handshake = HandshakeState::ClientInit,
                _ => self.challenge(context)?,
            }
        } else {
            self.output.extend_from_slice(&[1, offered]);
            self.handshake = HandshakeState::Security;
        }
        Ok(())
    }

    /// Handles the security type that the viewer chooses (7.1.2).
    fn security(&mut self, chosen: u8, context: &mut SessionContext<'_>) -> Result<(), ViewerError> {
        match chosen {
            security::NONE if !context.needs_password => {
                if self.version >= Version::V8 {
                    self.output.extend_from_slice(&security::OK.to_be_bytes());
                }
                self.handshake = HandshakeState::ClientInit;
            }
            security::VNC_AUTH if context.needs_password => self.challenge(context)?,
            _ => {
                self.failed(ViewerError::SecurityType);
                return Err(ViewerError::SecurityType);
            }
        }
        Ok(())
    }

    fn challenge(&mut self, context: &SessionContext<'_>) -> Result<(), ViewerError> {
        let challenge = (context.random)().ok_or(ViewerError::NoRandomBytes)?;
        self.output.extend_from_slice(&challenge);
        self.handshake = HandshakeState::Response(challenge);
        Ok(())
    }

    /// Judges the answer to the challenge, if there is one (7.2.2), and sends the result.
    pub(crate) fn judge(&mut self, password: &Password, now: u64) -> Result<(), ViewerError> {
        let HandshakeState::Answered { challenge, answer, .. } = self.handshake else { return Ok(()) };
        if !password.accepts(challenge, answer) {
            self.failed(ViewerError::WrongPassword);
            return Err(ViewerError::WrongPassword);
        }
        self.output.extend_from_slice(&security::OK.to_be_bytes());
        self.handshake = HandshakeState::ClientInit;
        self.stepped = Some(now);
        self.deadline = now.saturating_add(HANDSHAKE);
        Ok(())
    }

    /// How far the handshake has come; `None` after it.
    pub(crate) fn progress(&self) -> Option<Progress> {
        match self.handshake {
            HandshakeState::Version | HandshakeState::Security | HandshakeState::ClientInit => {
                Some(self.stepped.map_or(Progress::Mute(self.connected), Progress::Stepped))
            }
            HandshakeState::Response(_) => Some(Progress::Typing),
            HandshakeState::Answered { at, .. } => Some(Progress::Answered(at)),
            HandshakeState::AwaitingSize | HandshakeState::Running => None,
        }
    }

    /// When the handshake must have come further, in nanoseconds. An answer waits for its verdict without a limit of its own.
    pub(crate) fn deadline(&self) -> Option<u64> {
        match self.progress()? {
            Progress::Mute(_) | Progress::Stepped(_) | Progress::Typing => Some(self.deadline),
            Progress::Answered(_) => None,
        }
    }

    /// Handles ClientInit (7.3.1).
    fn init(&mut self, shared: bool, context: &mut SessionContext<'_>) -> Result<(), ViewerError> {
        context.alone = !shared;
        if context.full && !context.alone {
            // Other viewers have completed their handshakes since this one sent its version.
            return Err(ViewerError::TooManyViewers);
        }
        self.handshake = HandshakeState::AwaitingSize;
        Ok(())
    }

    /// Ends a handshake that takes too long.
    pub(crate) fn time(&self, now: u64) -> Result<(), ViewerError> {
        match self.deadline() {
            Some(deadline) if now >= deadline => Err(ViewerError::Timeout),
            _ => Ok(()),
        }
    }

    /// Sends an empty list of security types and the reason (7.1.2).
    fn refuse(&mut self, why: ViewerError) -> ViewerError {
        match self.version {
            Version::V3 => self.output.extend_from_slice(&[0; 4]),
            _ => self.output.push(0),
        }
        self.reason(why);
        why
    }

    /// Sends a failed SecurityResult and, from 3.8 on, the reason (7.1.3).
    fn failed(&mut self, why: ViewerError) {
        self.output.extend_from_slice(&security::FAILED.to_be_bytes());
        if self.version >= Version::V8 {
            self.reason(why);
        }
    }

    fn reason(&mut self, why: ViewerError) {
        let why = why.to_string();
        self.output.extend_from_slice(&(why.len() as u32).to_be_bytes());
        self.output.extend_from_slice(why.as_bytes());
    }
}
