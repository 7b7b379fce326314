//! Passwords as argon2id hashes, in the text form of the PHC. Slow by design: some 20 ms and 19 MiB
//! a check.

use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};

use super::token::random;
use crate::config::Secret;
use crate::error::{Error, ErrorKind, Result};

/// Shortest password accepted from a person, as NIST SP 800-63B has it.
pub const CHARS_MIN: usize = 8;
/// Longest password looked at.
pub const BYTES_MAX: usize = 1024;
/// Memory times passes of the weakest choice that OWASP lists: 7 MiB, 5 passes.
/// <https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id>
const EFFORT_KIB_MIN: u64 = 7168 * 5;
/// What one check may take, whatever a hash from elsewhere asks for.
const MEMORY_KIB_MAX: u32 = 64 << 10;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 16;
/// Letters and digits that are not mistaken for each other.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const GENERATED_CHARS: usize = 24;

/// Hash of a password that nobody has, with the parameters of [`hash`].
static NOBODY: LazyLock<Result<Secret>> = LazyLock::new(|| hash(&generate()));

/// OWASP's first choice: 19 MiB, 2 passes, 1 lane.
fn argon2() -> Result<Argon2<'static>> {
    let params = Params::new(19_456, 2, 1, None)
        .map_err(|error| Error::internal("the parameters of argon2 are wrong").source(error))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// For the file of users; another one each time.
pub fn hash(password: &Secret) -> Result<Secret> {
    let hash: PasswordHash = argon2()?
        .hash_password(password.expose().as_bytes())
        .map_err(|error| Error::internal("a password cannot be hashed").source(error))?;
    Ok(Secret::new(hash.to_string()))
}

/// Whether `password` has this hash. Takes as long without one.
pub fn verify(password: &str, hash: Option<&Secret>) -> Result<bool> {
    if password.len() > BYTES_MAX {
        return Ok(false);
    }
    let checked = match hash {
        Some(hash) => hash.expose(),
        None => match &*NOBODY {
            Ok(hash) => hash.expose(),
            Err(_) => return Err(Error::internal("a password cannot be hashed")),
        },
    };
    match argon2()?.verify_password(password.as_bytes(), checked) {
        Ok(()) => Ok(hash.is_some()),
        Err(argon2::password_hash::Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(Error::internal("a password cannot be checked").source(error)),
    }
}

/// Makes what [`verify`] needs for unknown users, so that the first of them takes no longer.
pub fn prepare() {
    LazyLock::force(&NOBODY);
}

/// 120 random bits as letters and digits.
pub fn generate() -> Secret {
    let letters = random().into_iter().take(GENERATED_CHARS);
    Secret::new(letters.map(|byte| char::from(LETTERS[usize::from(byte) % 32])).collect::<String>())
}

/// Refuses a password that is too short or too long.
pub fn check_new(password: &Secret) -> Result<()> {
    let text = password.expose();
    if text.chars().count() < CHARS_MIN {
        return Err(Error::invalid(format!("a password has at least {CHARS_MIN} characters")));
    }
    if text.len() > BYTES_MAX || text.contains(char::is_control) {
        return Err(Error::invalid(format!(
            "a password has at most {BYTES_MAX} bytes, and no control characters"
        )));
    }
    Ok(())
}

/// Refuses what is no hash, or one too weak or too slow to check.
pub fn check_hash(text: &str) -> Result<()> {
    let refused = |message: &str| {
        Err(Error::new(ErrorKind::Invalid, message)
            .hint("let `flowguard user password NAME` write it"))
    };
    let Ok(hash) = PasswordHash::new(text) else {
        return refused("`password` must be a hash, not a password");
    };
    let is_argon2id = hash.algorithm.as_str() == "argon2id" && hash.version == Some(19);
    let (true, Ok(params)) = (is_argon2id, Params::try_from(&hash)) else {
        return refused("`password` must be a hash by argon2id, version 19");
    };
    if hash.salt.is_none() || hash.hash.is_none() {
        return refused("`password` has no salt or no hash");
    }
    let (memory, passes) = (params.m_cost(), params.t_cost());
    if u64::from(memory) * u64::from(passes) < EFFORT_KIB_MIN {
        return refused("`password` is hashed with too little memory or too few passes");
    }
    if memory > MEMORY_KIB_MAX || passes > PASSES_MAX || params.p_cost() > LANES_MAX {
        return refused("`password` is hashed with more memory or passes than one check may take");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_has_its_own_hash_only() {
        let password = generate();
        let hashed = hash(&password).unwrap();
        assert!(hashed.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hashed:?}");
        assert!(check_hash(hashed.expose()).is_ok());
        assert!(verify(password.expose(), Some(&hashed)).unwrap());
        assert!(!verify(generate().expose(), Some(&hashed)).unwrap());
        assert!(!verify(password.expose(), None).unwrap());
        assert!(!verify(&"a".repeat(BYTES_MAX + 1), Some(&hashed)).unwrap());
        assert_ne!(hash(&password).unwrap(), hashed, "each hash has its own salt");
    }

    #[test]
    fn nobody_has_the_password_of_unknown_users() {
        let nobody = NOBODY.as_ref().unwrap();
        let parameters = |text: &str| text.split('$').take(4).collect::<String>();
        let hashed = hash(&generate()).unwrap();
        assert_eq!(parameters(nobody.expose()), parameters(hashed.expose()), "as slow as others");
    }

    #[test]
    fn a_hash_must_be_strong_and_quick_enough() {
        let rest = "$c2FsdHNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let check = |head: &str| match check_hash(&format!("{head}{rest}")) {
            Ok(()) => String::new(),
            Err(error) => error.message,
        };
        assert_eq!(check("$argon2id$v=19$m=19456,t=2,p=1"), "");
        assert_eq!(check("$argon2id$v=19$m=7168,t=5,p=1"), "");
        let weak = "`password` is hashed with too little memory or too few passes";
        assert_eq!(check("$argon2id$v=19$m=4096,t=3,p=1"), weak);
        let slow = "`password` is hashed with more memory or passes than one check may take";
        assert_eq!(check("$argon2id$v=19$m=4194304,t=2,p=1"), slow);
        let other = "`password` must be a hash by argon2id, version 19";
        assert_eq!(check("$argon2i$v=19$m=19456,t=2,p=1"), other);
        assert_eq!(check("$argon2id$v=16$m=19456,t=2,p=1"), other);
        let planted = check_hash("hunter2-planted").unwrap_err();
        assert_eq!(planted.message, "`password` must be a hash, not a password");
        let bare = check_hash("$argon2id$v=19$m=19456,t=2,p=1").unwrap_err();
        assert_eq!(bare.message, "`password` has no salt or no hash");
    }
}
