//! Codes that only one process can make: HMAC-SHA256 under a key of its own, another one for every
//! purpose, so that what was sealed for one is worthless for another. A restart forgets the key.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::token::random;

/// Bytes that a seal adds.
pub const CODE_BYTES: usize = 32;

/// The key of one process.
pub struct Seal {
    key: [u8; 32],
}

impl Seal {
    /// A key from the system's source of randomness.
    pub fn random() -> Self {
        Self { key: random() }
    }

    /// `payload` with its code behind it.
    pub fn seal(&self, purpose: &str, payload: &[u8]) -> Vec<u8> {
        [payload, &self.code(purpose, payload)].concat()
    }

    /// What was sealed here for `purpose`.
    pub fn unseal<'a>(&self, purpose: &str, sealed: &'a [u8]) -> Option<&'a [u8]> {
        let (payload, code) = sealed.split_at(sealed.len().checked_sub(CODE_BYTES)?);
        self.is_code(purpose, payload, code).then_some(payload)
    }

    /// The code alone.
    pub fn code(&self, purpose: &str, payload: &[u8]) -> [u8; CODE_BYTES] {
        self.hmac(purpose, payload).finalize().into_bytes().into()
    }

    /// Compared in constant time.
    pub fn is_code(&self, purpose: &str, payload: &[u8], code: &[u8]) -> bool {
        self.hmac(purpose, payload).verify_slice(code).is_ok()
    }

    fn hmac(&self, purpose: &str, payload: &[u8]) -> Hmac<Sha256> {
        let of_purpose = keyed(&self.key).chain_update(purpose).finalize().into_bytes();
        keyed(&of_purpose).chain_update(payload)
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_its_payload_its_purpose_and_its_process() {
        let seal = Seal::random();
        let sealed = seal.seal("ticket", b"payload");
        assert_eq!(seal.unseal("ticket", &sealed), Some(b"payload".as_slice()));
        assert_eq!(seal.unseal("bearer", &sealed), None);
        assert_eq!(Seal::random().unseal("ticket", &sealed), None);
        for at in 0..sealed.len() {
            let mut tampered = sealed.clone();
            tampered[at] ^= 1;
            assert_eq!(seal.unseal("ticket", &tampered), None, "byte {at}");
            assert_eq!(seal.unseal("ticket", &sealed[..at]), None, "cut at {at}");
        }
        assert_eq!(seal.unseal("ticket", &seal.seal("ticket", b"")), Some(b"".as_slice()));
    }
}
