//! Authentication of viewers by VncAuth (RFC 6143, 7.2.2), which libxl configures. `strangers.rs` says when an answer is judged.
use des::Des;
use des::cipher::{Array, BlockCipherEncrypt as _, KeyInit as _};

/// Bytes of a challenge.
pub(crate) const CHALLENGE: usize = 16;

/// The server's password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Password {
    /// Viewers need no password.
    #[default]
    None,
    /// Viewers need a password, and none has been set: all are refused.
    Unset,
    /// The first eight bytes of the password, padded with zeroes.
    Is([u8; 8]),
}

impl Password {
    /// A password. With an empty one all viewers are refused. A longer one is cut to eight bytes, as always with VncAuth.
    pub fn new(text: &[u8]) -> Self {
        if text.is_empty() {
            return Self::Unset;
        }
        let mut key = [0; 8];
        key.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
        Self::Is(key)
    }
}

/// The right response to a challenge: each half encrypted with the password, with the bits of its bytes reversed.
pub(crate) fn response(key: [u8; 8], challenge: [u8; CHALLENGE]) -> [u8; CHALLENGE] {
    let cipher = Des::new(&Array::from(key.map(u8::reverse_bits)));
    let mut answer = challenge;
    let (halves, _) = answer.as_chunks_mut::<8>();
    for half in halves {
        let mut block = Array::from(*half);
        cipher.encrypt_block(&mut block);
        *half = block.into();
    }
    answer
}

impl Password {
    /// Whether this is the answer to the challenge.
    pub(crate) fn accepts(&self, challenge: [u8; CHALLENGE], answer: [u8; CHALLENGE]) -> bool {
        match self {
            Self::None => true,
            Self::Unset => false,
            // All bytes are compared, so that the time does not depend on the first difference.
            Self::Is(key) => response(*key, challenge).iter().zip(answer).fold(0, |d, (a, b)| d | (a ^ b)) == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_des_with_the_passwords_bits_mirrored() {
        // FIPS 81's "Now is t" under 0123456789abcdef is 3fa40e8a984d4815; the key has reversed bits, as a password would have.
        let key = [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xefu8].map(u8::reverse_bits);
        let mut challenge = [0; CHALLENGE];
        challenge[..8].copy_from_slice(b"Now is t");
        challenge[8..].copy_from_slice(b"Now is t");
        let want = [0x3f, 0xa4, 0x0e, 0x8a, 0x98, 0x4d, 0x48, 0x15];
        assert_eq!(response(key, challenge), [want, want].concat()[..]);
    }

    #[test]
    fn a_password_accepts_its_own_answer_alone() {
        let (password, challenge) = (Password::new(b"secret"), [7; CHALLENGE]);
        let right = response(*b"secret\0\0", challenge);
        assert!(password.accepts(challenge, right));
        assert!(!password.accepts([8; CHALLENGE], right), "the answer to another challenge");
        for bit in 0..CHALLENGE * 8 {
            let mut wrong = right;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!password.accepts(challenge, wrong), "bit {bit}");
        }
        assert!(!Password::new(b"").accepts(challenge, response([0; 8], challenge)), "an empty password is nobody's");
        assert_eq!(Password::new(b"longer than eight"), Password::new(b"longer t"));
    }
}
