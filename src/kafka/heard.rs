//! What librdkafka says while it tries on by itself: told in few lines, and remembered, because a
//! question that failed says only that nobody answered. Tries nothing again and ends nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::errors::kafka_error;
use crate::error::{Error, ErrorKind};

/// Of the same kind and broker, one line is told in so long a time.
const FOLDED: Duration = Duration::from_secs(10);
/// Kinds and brokers that are kept apart; when there are more, what was left out of them is forgotten.
const KINDS_MAX: usize = 256;
/// How long a reason may explain that nobody answers: librdkafka repeats one every 30 seconds.
const FRESH: Duration = Duration::from_secs(60);

/// Shared by all clients of a cluster, since the one that is asked need not be the one that knows.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    /// By kind and broker: when it was told last, and how often it was not told since.
    told: HashMap<String, (Instant, u64)>,
    fault: Option<(Instant, &'static Fault, String)>,
}

/// Why no broker answers, as far as librdkafka's words tell. They are of the version that is
/// compiled in; `tests/it/refused.rs` holds them against real listeners.
struct Fault {
    /// All of them are said.
    words: &'static [&'static str],
    kind: ErrorKind,
    what: &'static str,
    hint: &'static str,
}

/// The first that fits; those before others say more.
static FAULTS: [Fault; 8] = [
    Fault {
        words: &["mechanism handshake failed"],
        kind: ErrorKind::Denied,
        what: "the broker does not take the SASL mechanism",
        hint: "set `sasl.mechanisms` in `kafka.options` to one that the broker takes",
    },
    Fault {
        words: &["SASL authentication"],
        kind: ErrorKind::Denied,
        what: "the broker refuses the SASL login",
        hint: "check `sasl.username`, `sasl.password` and `sasl.mechanisms` in `kafka.options`",
    },
    Fault {
        words: &["Certificate", EXPIRED],
        kind: ErrorKind::Unavailable,
        what: "the broker's certificate has expired",
        hint: "give the brokers a new certificate",
    },
    Fault {
        words: &["Certificate", OTHER_NAME],
        kind: ErrorKind::Unavailable,
        what: "the broker's certificate is of another name",
        hint: "name the brokers in `kafka.bootstrap_servers` as their certificate does",
    },
    Fault {
        words: &["Certificate"],
        kind: ErrorKind::Unavailable,
        what: "the broker's certificate is not to be trusted",
        hint: "set `ssl.ca.location` in `kafka.options` to the authority that signed it",
    },
    Fault {
        words: &["certificate", "verif"],
        kind: ErrorKind::Unavailable,
        what: "the broker's certificate could not be verified",
        hint: "set `ssl.ca.location` in `kafka.options` to the authority that signed it, and see \
               whether it has expired",
    },
    Fault {
        words: &["PLAINTEXT broker listener"],
        kind: ErrorKind::Unavailable,
        what: "the broker's port does not speak TLS",
        hint: "name the port that does in `kafka.bootstrap_servers`, or set `security.protocol` in \
               `kafka.options` to plaintext or sasl_plaintext",
    },
    Fault {
        words: &["SSL handshake failed"],
        kind: ErrorKind::Unavailable,
        what: "the TLS handshake failed",
        hint: "check the `ssl.` settings in `kafka.options`; the broker may ask for a certificate of \
               the client's own",
    },
];

/// What a broker that closes a new connection without a word may mean by it, by librdkafka's state of
/// the connection. It may as well stop: that nobody listens any more takes the guess back.
static GUESSES: [Fault; 2] = [
    Fault {
        words: &["Disconnected", "ms in state APIVERSION_QUERY"],
        kind: ErrorKind::Unavailable,
        what: "the broker's port seems to speak TLS, which the client does not",
        hint: "set `security.protocol` in `kafka.options` to ssl or sasl_ssl",
    },
    Fault {
        words: &["Disconnected", "ms in state UP"],
        kind: ErrorKind::Unavailable,
        what: "the broker seems to end connections of clients that do not log in",
        hint: "set `security.protocol` (sasl_plaintext or sasl_ssl) and `sasl.mechanisms` in \
               `kafka.options`",
    },
];
/// How old a new connection is at most.
const NEW_MS_MAX: u64 = 2_000;
const REFUSED: &str = "Connection refused";

impl Fault {
    fn is_in(&self, reason: &str) -> bool {
        self.words.iter().all(|words| reason.contains(words))
    }

    fn guessed(reason: &str) -> Option<&'static Self> {
        let (_, after) = reason.rsplit_once("(after ")?;
        let age_ms: u64 = after.split("ms").next()?.parse().ok()?;
        GUESSES.iter().find(|guess| age_ms <= NEW_MS_MAX && guess.is_in(reason))
    }

    /// Where among all of them; what comes first says more.
    fn place(&self) -> usize {
        let place = FAULTS.iter().position(|fault| std::ptr::eq(fault, self));
        place.unwrap_or(FAULTS.len())
    }
}

/// What is wrong with a certificate, by OpenSSL's number of it.
pub(super) fn why_untrusted(x509_error: i32) -> &'static str {
    match x509_error {
        9 => "it is not valid yet",
        10 => EXPIRED,
        18 | 19 => "it is signed by itself",
        2 | 20 | 21 => "its issuer is not known",
        23 => "it was revoked",
        62 | 64 => OTHER_NAME,
        _ => "OpenSSL does not trust it",
    }
}

const EXPIRED: &str = "it has expired";
const OTHER_NAME: &str = "it is of another name";

impl Heard {
    /// A line of librdkafka's log. Errors are warnings here, since it tries again by itself, and
    /// all else is for debugging; failing connections come as events too, which are told.
    pub(super) fn line(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.note(message);
        let is_error = matches!(
            level,
            RDKafkaLogLevel::Emerg
                | RDKafkaLogLevel::Alert
                | RDKafkaLogLevel::Critical
                | RDKafkaLogLevel::Error
        );
        if !is_error || facility == "FAIL" {
            tracing::debug!(facility, message, "librdkafka");
        } else if let Some(left_out) = self.is_told(facility, message) {
            tracing::warn!(facility, message, left_out, "librdkafka");
        }
    }

    /// An event of a client that goes on.
    pub(super) fn event(&self, error: &KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        // Comes in the place of a message, to whoever reads.
        if code == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        self.note(reason);
        let kind = code.map_or(String::new(), |code| format!("{code:?}"));
        match self.is_told(&kind, reason) {
            Some(left_out) => {
                tracing::warn!(%error, reason, left_out, "kafka error, librdkafka goes on");
            }
            None => tracing::debug!(%error, reason, "kafka error, librdkafka goes on"),
        }
    }

    /// A broker answered: what was heard before explains nothing any more.
    pub(super) fn answered(&self) {
        self.lock().fault = None;
    }

    /// One clear error of a question that failed: where nobody answered, the reason that was heard.
    pub(super) fn error(&self, doing: &str, error: KafkaError) -> Error {
        let plain = kafka_error(doing, error);
        let said = self.lock();
        match &said.fault {
            Some((at, fault, reason))
                if plain.kind == ErrorKind::Unavailable && at.elapsed() < FRESH =>
            {
                Error::new(fault.kind, format!("{doing}: {}", fault.what))
                    .hint(fault.hint)
                    .source(reason.clone())
            }
            _ => plain,
        }
    }

    /// What is said of a certificate is not replaced by what follows from it.
    fn note(&self, reason: &str) {
        let mut said = self.lock();
        let before = said.fault.as_ref().filter(|(at, ..)| at.elapsed() < FRESH);
        let before = before.map(|(_, fault, _)| fault.place());
        if before == Some(FAULTS.len()) && reason.contains(REFUSED) {
            said.fault = None;
        }
        let fault = FAULTS.iter().find(|fault| fault.is_in(reason));
        let Some(fault) = fault.or_else(|| Fault::guessed(reason)) else { return };
        if before.is_none_or(|before| before >= fault.place()) {
            said.fault = Some((Instant::now(), fault, reason.to_owned()));
        }
    }

    /// Whether to tell it, and then how many like it were left out since the last one.
    fn is_told(&self, kind: &str, reason: &str) -> Option<u64> {
        // Each line begins with the name of its broker.
        let broker = reason.split(": ").next().unwrap_or_default();
        let mut said = self.lock();
        let told = &mut said.told;
        if told.len() >= KINDS_MAX {
            told.clear();
        }
        let now = Instant::now();
        match told.get_mut(&format!("{kind} {broker}")) {
            Some((at, left_out)) if now.duration_since(*at) < FOLDED => {
                *left_out += 1;
                None
            }
            Some(known) => Some(std::mem::replace(known, (now, 0)).1),
            None => {
                told.insert(format!("{kind} {broker}"), (now, 0));
                Some(0)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::error::RDKafkaErrorCode as Code;

    use super::*;

    /// 200 lines within a second.
    #[test]
    fn a_refused_broker_is_one_line() {
        let heard = Heard::default();
        let refused = |port: u32, ms: u32| {
            let reason = format!("127.0.0.1:{port}/bootstrap: Connect failed (after {ms}ms)");
            heard.is_told("BrokerTransportFailure", &reason)
        };
        let told: Vec<u64> = (0..200).filter_map(|ms| refused(9_092, ms)).collect();
        assert_eq!((told, refused(9_093, 0)), (vec![0], Some(0)));
        for (at, _) in heard.lock().told.values_mut() {
            *at = at.checked_sub(FOLDED).unwrap();
        }
        assert_eq!(
            (refused(9_092, 0), refused(9_093, 0), refused(9_092, 0)),
            (Some(199), Some(0), None)
        );
    }

    #[test]
    fn a_reason_is_of_use_until_a_broker_answers() {
        let heard = Heard::default();
        let asked = || {
            let timeout = KafkaError::MetadataFetch(Code::OperationTimedOut);
            heard.error("cannot ask for topic `t`", timeout).message
        };
        let nobody = "cannot ask for topic `t`: the brokers do not answer";
        assert_eq!(asked(), nobody);
        heard.note("ssl://b:1/boot: Certificate (subject=/CN=b) callback failed: it has expired");
        heard.note("ssl://b:1/boot: SSL handshake failed: certificate verify failed: verify that");
        assert_eq!(asked(), "cannot ask for topic `t`: the broker's certificate has expired");
        heard.note("sasl://b:1/boot: SASL authentication error: Invalid username or password");
        assert_eq!(asked(), "cannot ask for topic `t`: the broker refuses the SASL login");
        heard.answered();
        assert_eq!(asked(), nobody);
        // A broker that stops closes connections too.
        heard.note("b:1/1: Disconnected: connection closed (after 90000ms in state UP)");
        assert_eq!(asked(), nobody);
        heard
            .note("b:1/boot: Disconnected: connection closed (after 1ms in state UP, 3 identical)");
        let guess = "the broker seems to end connections of clients that do not log in";
        assert_eq!(asked(), format!("cannot ask for topic `t`: {guess}"));
        heard.note("b:1/boot: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms)");
        assert_eq!(asked(), nobody);
    }
}
