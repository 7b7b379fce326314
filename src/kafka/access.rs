//! How to reach Kafka: the settings of every client, and what is wrong with them. Connects to nothing.

use std::collections::BTreeMap;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;

use super::errors::kafka_error;
use super::heard::Heard;
use crate::error::Error;

/// New partitions are noticed within this time.
const METADATA_REFRESH_MS: u32 = 10_000;
/// How long librdkafka does not fetch after its queue was full. Its default of a second leaves a
/// consumer that empties the queue faster than that without work.
const FETCH_BACKOFF: &str = "fetch.queue.backoff.ms";
const FETCH_BACKOFF_MS: u32 = 10;

const MECHANISMS: &str = "set `sasl.mechanisms` in `kafka.options` to PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER";

/// How to reach Kafka. `options` pass through to librdkafka and win over everything but what
/// exactly-once needs.
#[derive(Clone, Default)]
pub struct KafkaAccess {
    pub bootstrap_servers: String,
    pub options: BTreeMap<String, String>,
    /// The mock broker leaves the question for a topic's id unanswered.
    pub has_no_topic_ids: bool,
    /// What its clients hear.
    pub heard: Heard,
}

impl KafkaAccess {
    /// For every client. `options` win over what is set here.
    pub(super) fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", "flowguard")
            .set("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS.to_string())
            .set("allow.auto.create.topics", "false")
            // Not only warnings: that a port speaks TLS is said below them.
            .set_log_level(RDKafkaLogLevel::Info);
        for (key, value) in &self.options {
            config.set(key, value);
        }
        config
    }

    /// One clear error of a client that could not be made.
    pub(super) fn unusable(&self, error: KafkaError) -> Error {
        let KafkaError::ClientCreation(why) = &error else {
            return kafka_error("cannot use Kafka", error);
        };
        let option = |name: &str| self.options.get(name);
        let mechanism = option("sasl.mechanisms").or_else(|| option("sasl.mechanism"));
        let protocol = option("security.protocol").map(|name| name.to_lowercase());
        let is_sasl = protocol.is_some_and(|name| name.starts_with("sasl"));
        let (what, hint) = match mechanism {
            None if is_sasl => ("no SASL mechanism is set".to_owned(), MECHANISMS),
            Some(name) if is_sasl && why.contains("SASL mechanism") => {
                (format!("there is no SASL mechanism `{name}` here"), MECHANISMS)
            }
            _ => (why.trim().to_owned(), "check `kafka.options`"),
        };
        Error::invalid(format!("cannot use Kafka: {what}")).hint(hint)
    }

    /// Wins over `options` where exactly once depends on it: no commits, no resets, no open
    /// transactions.
    pub(super) fn consumer_config(&self, group: &str) -> ClientConfig {
        let mut config = self.config();
        // Not in `config`: a producer would warn of it.
        if !self.options.contains_key(FETCH_BACKOFF) {
            config.set(FETCH_BACKOFF, FETCH_BACKOFF_MS.to_string());
        }
        config
            .set("group.id", group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            // An offset that the log no longer holds must stop ingestion, never skip.
            .set("auto.offset.reset", "error");
        config
    }
}

/// A message's headers: a key may repeat, a value may be null.
pub type HeaderList = Vec<(String, Option<Vec<u8>>)>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ingestion_idled_for_a_second_after_its_queue_was_full() {
        let backoff = |access: &KafkaAccess| {
            access.consumer_config("g").get("fetch.queue.backoff.ms").map(str::to_owned)
        };
        let mut access = KafkaAccess::default();
        assert_eq!(backoff(&access).as_deref(), Some("10"));
        access.options.insert("fetch.queue.backoff.ms".to_owned(), "250".to_owned());
        assert_eq!(backoff(&access).as_deref(), Some("250"));
        // A producer would warn of it.
        assert_eq!(KafkaAccess::default().config().get("fetch.queue.backoff.ms"), None);
    }
}
