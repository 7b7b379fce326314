//! The `authorization` header and the older handshake: nobody gets in but by a password, a token or
//! a bearer exactly as it was given out.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;

use arrow_flight::BasicAuth;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_PAD_INDIFFERENT};
use flowguard::access::token::Token;
use flowguard::access::{Access, password};
use flowguard::config::Secret;
use prost::Message;

use super::{Judge, edited};

const USER: &str = "ana";
const PASSWORD: &str = "sesame of ana";
const NOW: i64 = 1_767_571_200_000_000;

struct House {
    access: Access,
    token: String,
    bearer: String,
}

impl House {
    fn new() -> Self {
        let (token, text) = Token::generate("fuzzed", None);
        let hash = password::hash(&Secret::new(PASSWORD)).unwrap();
        let users = format!(
            "version: 1\nusers:\n  {USER}:\n    role: analyst\n    password: \"{}\"\n    tokens:\n      \
             - {{id: \"{}\", name: fuzzed, sha256: \"{}\"}}\n",
            hash.expose(),
            token.id,
            token.hash.to_hex()
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.yaml");
        std::fs::write(&path, users).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let access = Access::read(&path).unwrap();
        let principal = access.current(USER, NOW).unwrap();
        let bearer = access.bearer(&principal, NOW);
        Self { access, token: text.expose().to_owned(), bearer }
    }

    fn is_genuine(&self, user: &str, secret: &str) -> bool {
        user == USER && (secret == PASSWORD || secret == self.token)
    }

    fn check_header(&self, header: &str, peer: IpAddr) {
        if self.access.authorize(Some(header), peer, NOW).is_err() {
            return;
        }
        let (scheme, credentials) = header.trim().split_once(' ').unwrap();
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            assert!(credentials == self.token || credentials == self.bearer, "{header} got in");
            return;
        }
        let decoded = STANDARD_PAD_INDIFFERENT.decode(credentials).unwrap();
        let decoded = String::from_utf8(decoded).unwrap();
        let (user, secret) = decoded.split_once(':').unwrap();
        assert!(self.is_genuine(user, secret), "{header} got in");
    }

    fn check_handshake(&self, message: &[u8], peer: IpAddr) {
        let Ok(BasicAuth { username, password }) = BasicAuth::decode(message) else { return };
        if self.access.password(&username, &password, peer, NOW).is_ok() {
            assert!(self.is_genuine(&username, &password), "{username}:{password} got in");
        }
    }
}

/// The first byte chooses what the rest is: a header, changes of one that is good, a handshake.
pub fn judge() -> Judge {
    let house = House::new();
    let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let good = [basic, format!("Bearer {}", house.token), format!("Bearer {}", house.bearer)];
    // A password that was right once is known again without the slow hash.
    for header in &good {
        house.access.authorize(Some(header), IpAddr::from([10, 0, 0, 9]), NOW).unwrap();
    }
    Box::new(move |bytes| {
        let Some((kind, rest)) = bytes.split_first() else { return };
        // Each address has few wrong passwords; a check of one takes a core 50 ms.
        let peer = IpAddr::from([10, 0, 0, kind % 4]);
        match usize::from(*kind) % (good.len() + 2) {
            0 => house.check_header(&String::from_utf8_lossy(rest), peer),
            1 => house.check_handshake(rest, peer),
            other => {
                let header = edited(good[other - 2].as_bytes(), rest);
                house.check_header(&String::from_utf8_lossy(&header), peer);
            }
        }
    })
}

pub fn seeds() -> Vec<Vec<u8>> {
    let handshake = BasicAuth { username: USER.to_owned(), password: PASSWORD.to_owned() };
    let basic = format!("\0 bAsIc  {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let edits = (2..5).flat_map(|kind| [vec![kind], vec![kind, 0, 40, 1], vec![kind, 1, 60, 0]]);
    let mut seeds: Vec<Vec<u8>> = edits.collect();
    seeds.push([vec![1], handshake.encode_to_vec()].concat());
    seeds.push(basic.into_bytes());
    seeds.push(b"\0Bearer fg_0123456789abcdef_00".to_vec());
    seeds
}
