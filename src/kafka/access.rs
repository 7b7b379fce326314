//! How to reach Kafka, and its errors as ours. Connects to nothing.

use std::collections::BTreeMap;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::{Error, ErrorKind};

/// New partitions are noticed within this time.
const METADATA_REFRESH_MS: u32 = 10_000;
/// How long librdkafka does not fetch after its queue was full. Its default of a second leaves a
/// consumer that empties the queue faster than that without work.
const FETCH_BACKOFF: &str = "fetch.queue.backoff.ms";
const FETCH_BACKOFF_MS: u32 = 10;

/// How to reach Kafka. `options` pass through to librdkafka and win over everything but what
/// exactly-once needs.
#[derive(Clone, Default)]
pub struct KafkaAccess {
    pub bootstrap_servers: String,
    pub options: BTreeMap<String, String>,
    /// The mock broker leaves the question for a topic's id unanswered.
    pub has_no_topic_ids: bool,
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
            .set_log_level(RDKafkaLogLevel::Warning);
        for (key, value) in &self.options {
            config.set(key, value);
        }
        config
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

/// One clear error from what librdkafka says.
pub(super) fn kafka_error(doing: &str, error: KafkaError) -> Error {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code();
    let (kind, why, hint) = match code {
        // What a client says of a partition whose leader it lost sight of.
        Some(Code::UnknownPartition | Code::UnknownTopic) => (
            ErrorKind::Unavailable,
            "the partition has no leader that is known",
            "wait for the brokers",
        ),
        Some(Code::UnknownTopicOrPartition) => {
            (ErrorKind::NotFound, "no such topic or partition", "create the topic")
        }
        Some(
            Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication,
        ) => (ErrorKind::Denied, "not authorised", "check the SASL settings in `kafka.options`"),
        Some(Code::OffsetOutOfRange | Code::AutoOffsetReset) => (
            ErrorKind::DataLoss,
            "the next offset is not in the log",
            "raise the topic's retention; see `flowguard audit`",
        ),
        Some(Code::InvalidArgument | Code::InvalidConfig) => {
            (ErrorKind::Invalid, "a setting is not valid", "check `kafka.options`")
        }
        _ if matches!(error, KafkaError::ClientConfig(..)) => {
            (ErrorKind::Invalid, "a setting is not valid", "check `kafka.options`")
        }
        _ => (
            ErrorKind::Unavailable,
            "the brokers do not answer",
            "check `kafka.bootstrap_servers` and that the brokers run",
        ),
    };
    Error::new(kind, format!("{doing}: {why}")).hint(hint).source(error)
}

/// Whether polling on cannot cure it: librdkafka itself recovers from all others.
pub(super) fn is_fatal(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            error.rdkafka_error_code(),
            Some(
                Code::OffsetOutOfRange
                    | Code::AutoOffsetReset
                    | Code::TopicAuthorizationFailed
                    | Code::GroupAuthorizationFailed
            )
        )
}

/// Errors of librdkafka are warnings here, since it tries again by itself; all else is for debugging.
pub(super) fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg
        | RDKafkaLogLevel::Alert
        | RDKafkaLogLevel::Critical
        | RDKafkaLogLevel::Error => tracing::warn!(facility, message, "librdkafka"),
        _ => tracing::debug!(facility, message, "librdkafka"),
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
