//! Kafka's errors as ours. What was heard meanwhile is added elsewhere.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::error::{Error, ErrorKind};

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
