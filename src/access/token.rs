//! Tokens: random texts that stand for a user. The file of users holds their ids and hashes only; a
//! hash without salt is enough for 256 random bits.

use std::fmt;
use std::fmt::Write;

use argon2::password_hash::phc::Salt;
use hmac::digest::CtOutput;
use sha2::{Digest, Sha256};

use crate::config::Secret;
use crate::interval::Instant;

/// What every token begins with, so that scanners for leaked secrets can know it.
const PREFIX: &str = "fg_";
const ID_BYTES: usize = 8;

/// A token as the file of users has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Stands in the token itself, for finding it.
    pub id: String,
    pub name: String,
    pub hash: TokenHash,
    /// `None`: never.
    pub expires: Option<Instant>,
}

impl Token {
    /// A new token, and the text that its user keeps: `fg_<id>_<secret>`.
    pub fn generate(name: &str, expires: Option<Instant>) -> (Token, Secret) {
        let id = hex(&random()[..ID_BYTES]);
        let text = format!("{PREFIX}{id}_{}", hex(&random()));
        let hash = TokenHash::of(&text);
        (Token { id, name: name.to_owned(), hash, expires }, Secret::new(text))
    }

    /// `now` is in microseconds since 1970 UTC.
    pub fn is_expired(&self, now: i64) -> bool {
        self.expires.is_some_and(|expires| expires.0 <= now)
    }
}

/// SHA-256 of a token's text. Equality is for comparing files; [`Self::is_of`] checks a token.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// `text` is the whole token, with prefix and id.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// From 64 hexadecimal digits.
    pub fn parse(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Compared in constant time.
    pub fn is_of(&self, text: &str) -> bool {
        let output = |hash: TokenHash| CtOutput::<Sha256>::new(hash.0.into());
        output(self.clone()) == output(Self::of(text))
    }

    /// As [`Self::parse`] reads it.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Secret::new("").fmt(f)
    }
}

/// The id in a token's text; `None` for what is no token.
pub fn id_of(text: &str) -> Option<&str> {
    let (id, _) = text.strip_prefix(PREFIX)?.split_once('_')?;
    is_id(id).then_some(id)
}

/// Whether `text` has the form of an id, in lower case.
pub fn is_id(text: &str) -> bool {
    text.len() == 2 * ID_BYTES && text.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
}

/// 256 bits from the system's source of randomness, by way of the one function for it in the tree:
/// a salt for passwords is 128 of them.
pub fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    for half in bytes.chunks_mut(Salt::RECOMMENDED_LENGTH) {
        half.copy_from_slice(&Salt::generate());
    }
    bytes
}

/// Two digits a byte, in lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_by_its_id_and_known_by_its_hash() {
        let (token, text) = Token::generate("ci", None);
        assert_eq!(id_of(text.expose()), Some(token.id.as_str()));
        assert!(token.hash.is_of(text.expose()));
        assert!(!token.hash.is_of(&text.expose().replace("fg_", "fh_")));
        assert_eq!(TokenHash::parse(&token.hash.to_hex()), Some(token.hash.clone()));
        let (other, _) = Token::generate("ci", None);
        assert_ne!((&token.id, &token.hash), (&other.id, &other.hash));
        let debugged = format!("{token:?}{text:?}");
        assert!(!debugged.contains(&token.hash.to_hex()), "{debugged}");
    }

    #[test]
    fn what_is_no_token_has_no_id() {
        for text in ["", "fg_", "fg_0123", "fg_0123456789abcde_x", "fg_0123456789ABCDEF_x"] {
            assert_eq!(id_of(text), None, "{text}");
        }
        assert_eq!(id_of("fg_0123456789abcdef_x"), Some("0123456789abcdef"));
        for text in ["", "00", &"é0".repeat(32), &"+0".repeat(32), &"0".repeat(63)] {
            assert!(TokenHash::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn a_token_ends_with_its_time() {
        let (token, _) = Token::generate("ci", Some(Instant(10)));
        assert_eq!((token.is_expired(9), token.is_expired(10)), (false, true));
    }
}
