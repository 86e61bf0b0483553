//! How a viewer comes in (RFC 6143, 7.1): version, security, and what it is told when it does not.
use super::message::Parsed;
use super::{End, Host, Phase, Session};
use crate::vnc::auth::{CHALLENGE, Password};
use crate::vnc::spec::security;

/// The versions whose handshakes differ (RFC 6143, 7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// The server decides how the viewer is asked; no reasons.
    V3,
    /// The viewer chooses; who is not asked hears no result.
    V7,
    /// Every choice has a result, a bad one a reason.
    V8,
}

impl Version {
    /// Which handshake a viewer means that says `major.minor`. An unknown 3.x is 3.3 (RFC 6143, 7.1.1): UltraVNC's 3.4, 3.6, 3.14 and 3.16
    /// are. Apple's 3.889 and RealVNC's 4.x and 5.x know the handshake of 3.8, and servers that meet them take them so (TigerVNC and
    /// LibVNCServer for 3.889, noVNC for 4.0, 4.1 and 5.0). Before 3 there was no protocol.
    fn of(major: u16, minor: u16) -> Option<Self> {
        match (major, minor) {
            (0..=2, _) => None,
            (3, 7) => Some(Self::V7),
            (3, 8 | 889) | (4.., _) => Some(Self::V8),
            (3, _) => Some(Self::V3),
        }
    }
}

/// What a viewer says while it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The version that it speaks.
    Version(u16, u16),
    /// The security type that it chooses.
    Security(u8),
    /// The answer to a challenge.
    Response([u8; CHALLENGE], [u8; CHALLENGE]),
    /// Whether others may stay.
    Shared(bool),
}

impl Step {
    /// Reads what a viewer in this phase has to say.
    pub(super) fn parse(phase: Phase, bytes: &[u8]) -> Parsed<Self> {
        let whole = match phase {
            Phase::Version => return parse_version(bytes),
            Phase::Security => bytes.first().map(|chosen| (Self::Security(*chosen), 1)),
            Phase::Response(challenge) => {
                bytes.first_chunk().map(|answer| (Self::Response(challenge, *answer), CHALLENGE))
            }
            Phase::Init => bytes.first().map(|shared| (Self::Shared(*shared != 0), 1)),
            // It has nothing to say.
            Phase::Wrong(_) | Phase::Entering | Phase::Running => None,
        };
        whole.map_or(Parsed::Partial, |(step, taken)| Parsed::Whole(step, taken))
    }
}

/// `RFB ddd.ddd\n` as two numbers.
fn parse_version(bytes: &[u8]) -> Parsed<Step> {
    let form = b"RFB 000.000\n";
    let fits = |(said, form): (&u8, &u8)| if *form == b'0' { said.is_ascii_digit() } else { said == form };
    if !bytes.iter().zip(form).all(fits) {
        return Parsed::Broken("no RFB client");
    }
    let number = |from: usize| -> Option<u16> { std::str::from_utf8(bytes.get(from..)?.get(..3)?).ok()?.parse().ok() };
    let version = bytes.get(..form.len()).and_then(|_| number(4).zip(number(8)));
    version.map_or(Parsed::Partial, |(major, minor)| Parsed::Whole(Step::Version(major, minor), form.len()))
}

impl Session {
    /// Takes the next step of the handshake.
    pub(super) fn enter(&mut self, step: Step, host: &mut Host<'_>) -> Result<(), End> {
        match step {
            Step::Version(major, minor) => self.version(major, minor, host),
            Step::Security(chosen) => self.security(chosen, host),
            Step::Response(challenge, answer) => {
                self.response(challenge, answer, host);
                Ok(())
            }
            Step::Shared(shared) => self.init(shared, host),
        }
    }

    /// Takes the version; what a viewer is asked follows.
    fn version(&mut self, major: u16, minor: u16, host: &mut Host<'_>) -> Result<(), End> {
        self.version = Version::of(major, minor).unwrap_or(Version::V3);
        if Version::of(major, minor).is_none() {
            return Err(self.refuse("a version that there is not"));
        }
        if host.full {
            return Err(self.refuse("too many viewers"));
        }
        let offered = if host.gate.password == Password::None { security::NONE } else { security::VNC_AUTH };
        if self.version == Version::V3 {
            self.output.extend_from_slice(&u32::from(offered).to_be_bytes());
            match offered {
                security::NONE => self.phase = Phase::Init,
                _ => self.challenge(host)?,
            }
        } else {
            self.output.extend_from_slice(&[1, offered]);
            self.phase = Phase::Security;
        }
        Ok(())
    }

    /// Takes the security type that a viewer chooses (7.1.2).
    fn security(&mut self, chosen: u8, host: &mut Host<'_>) -> Result<(), End> {
        match chosen {
            security::NONE if host.gate.password == Password::None => {
                if self.version >= Version::V8 {
                    self.output.extend_from_slice(&security::OK.to_be_bytes());
                }
                self.phase = Phase::Init;
            }
            security::VNC_AUTH if host.gate.password != Password::None => self.challenge(host)?,
            _ => {
                let why = "a security type that was not offered";
                self.failed(why);
                return Err(End::Protocol(why));
            }
        }
        Ok(())
    }

    fn challenge(&mut self, host: &Host<'_>) -> Result<(), End> {
        let challenge = (host.random)().ok_or(End::Protocol("the kernel gives no random bytes"))?;
        self.output.extend_from_slice(&challenge);
        self.phase = Phase::Response(challenge);
        Ok(())
    }

    /// Takes the answer to a challenge (7.2.2).
    fn response(&mut self, challenge: [u8; CHALLENGE], answer: [u8; CHALLENGE], host: &mut Host<'_>) {
        match host.gate.check(challenge, answer) {
            Ok(()) => {
                self.output.extend_from_slice(&security::OK.to_be_bytes());
                self.phase = Phase::Init;
            }
            Err(wait) => {
                self.phase = Phase::Wrong(host.now.saturating_add(wait));
                self.deadline = host.now.saturating_add(wait);
            }
        }
    }

    /// Takes whether others may stay (7.3.1).
    fn init(&mut self, shared: bool, host: &mut Host<'_>) -> Result<(), End> {
        host.alone = !shared;
        if host.full && !host.alone {
            // Others have come in while this one was asked.
            return Err(End::Protocol("too many viewers"));
        }
        self.phase = Phase::Entering;
        Ok(())
    }

    /// Time goes by: a viewer with a wrong password hears of it.
    pub(crate) fn time(&mut self, now: u64) -> Result<(), End> {
        match self.phase {
            Phase::Entering | Phase::Running => Ok(()),
            Phase::Wrong(at) if now >= at => {
                self.failed("wrong password");
                Err(End::Refused)
            }
            _ if now >= self.deadline => Err(End::Protocol("it takes too long to come in")),
            _ => Ok(()),
        }
    }

    /// There is no security type for this viewer, and why (7.1.2).
    fn refuse(&mut self, why: &'static str) -> End {
        match self.version {
            Version::V3 => self.output.extend_from_slice(&[0; 4]),
            _ => self.output.push(0),
        }
        self.reason(why);
        End::Protocol(why)
    }

    /// The result of the security handshake is bad, and why (7.1.3).
    fn failed(&mut self, why: &str) {
        self.output.extend_from_slice(&security::FAILED.to_be_bytes());
        if self.version >= Version::V8 {
            self.reason(why);
        }
    }

    fn reason(&mut self, why: &str) {
        self.output.extend_from_slice(&(why.len() as u32).to_be_bytes());
        self.output.extend_from_slice(why.as_bytes());
    }
}
