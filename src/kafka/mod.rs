//! Kafka, and with the files below it the only one that names rdkafka: consuming with offsets of our own, watermarks,
//! producing, and the in-process mock broker of the demo. Decodes nothing and commits nothing to
//! the lake. Kafka's own group commits are written for lag displays and never read.

mod consumer;
mod native;
mod topic_id;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

pub use self::consumer::{Assignments, Consumer, Polled, Received};
use crate::error::{Error, ErrorKind, Result};

/// How long a broker may take to answer a question about a topic.
const METADATA_TIMEOUT: Duration = Duration::from_secs(10);
/// How long buffered records may take to be delivered.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long to look for a message behind an offset before saying there is none.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
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
    fn config(&self) -> ClientConfig {
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

    fn consumer_config(&self, group: &str) -> ClientConfig {
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

    /// Low and high watermark of every partition of `topic`; the high one is the last stable
    /// offset, behind which no open transaction hides.
    pub fn watermarks(&self, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
        let consumer: BaseConsumer<Quiet> = self
            .consumer_config("flowguard-watermarks")
            .create_with_context(Quiet)
            .map_err(|error| kafka_error("cannot use Kafka", error))?;
        watermarks_of(consumer.client(), topic)
    }

    /// The id that the broker gave `topic` when it was created; `None` when it does not tell.
    pub fn topic_id(&self, topic: &str) -> Result<Option<String>> {
        if self.has_no_topic_ids {
            return Ok(None);
        }
        let consumer: BaseConsumer<Quiet> = self
            .consumer_config("flowguard-watermarks")
            .create_with_context(Quiet)
            .map_err(|error| kafka_error("cannot use Kafka", error))?;
        Ok(topic_id::topic_id(consumer.client().native_ptr(), topic, METADATA_TIMEOUT))
    }

    /// The offset of the first message at or after `offset` that a read_committed consumer sees,
    /// or `None` when there is none before the end of the partition.
    pub fn next_offset(&self, topic: &str, partition: i32, offset: i64) -> Result<Option<i64>> {
        let failed =
            |error| kafka_error(&format!("cannot read `{topic}` partition {partition}"), error);
        let consumer: BaseConsumer<Quiet> =
            self.consumer_config("flowguard-audit").create_with_context(Quiet).map_err(failed)?;
        let mut start = TopicPartitionList::new();
        start.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(failed)?;
        consumer.assign(&start).map_err(failed)?;
        let deadline = std::time::Instant::now() + READ_TIMEOUT;
        while std::time::Instant::now() < deadline {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => return Ok(Some(message.offset())),
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
                Some(Err(error)) if is_fatal(&error) => return Err(failed(error)),
                Some(Err(_)) | None => {}
            }
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("`{topic}` partition {partition} did not answer at offset {offset}"),
        ))
    }
}

fn watermarks_of<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
) -> Result<BTreeMap<i32, (i64, i64)>> {
    let failed = |error| kafka_error(&format!("cannot ask for topic `{topic}`"), error);
    let metadata = client.fetch_metadata(Some(topic), METADATA_TIMEOUT).map_err(failed)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found.filter(|found| found.error().is_none()) else {
        return Err(missing_topic(topic));
    };
    let mut watermarks = BTreeMap::new();
    for partition in found.partitions() {
        let id = partition.id();
        let bounds = client.fetch_watermarks(topic, id, METADATA_TIMEOUT).map_err(failed)?;
        watermarks.insert(id, bounds);
    }
    if watermarks.is_empty() {
        return Err(missing_topic(topic));
    }
    Ok(watermarks)
}

fn missing_topic(topic: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no topic `{topic}` on the broker"))
        .hint("create it, or correct `source.topic` in the model's header")
}

/// One clear error from what librdkafka says.
fn kafka_error(doing: &str, error: KafkaError) -> Error {
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

fn is_fatal(error: &KafkaError) -> bool {
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

/// Logs in our words and leaves metrics alone.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client error");
    }
}

impl ConsumerContext for Quiet {}

fn log_line(level: RDKafkaLogLevel, facility: &str, message: &str) {
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

/// Sends records; used by the demo and for dead-letter topics.
pub struct Producer(BaseProducer<Deliveries>);

/// One record to send. Without a partition the key decides.
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub headers: &'a [(String, Option<Vec<u8>>)],
    pub timestamp_ms: Option<i64>,
}

/// Remembers the first record that was not delivered, for the next flush.
#[derive(Default)]
struct Deliveries(Mutex<Option<KafkaError>>);

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log_line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client error");
    }
}

impl rdkafka::producer::ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut failure = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| error.clone());
        }
    }
}

impl Producer {
    pub fn new(access: &KafkaAccess) -> Result<Self> {
        let mut config = access.config();
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        let inner = config
            .create_with_context(Deliveries::default())
            .map_err(|error| kafka_error("cannot use Kafka", error))?;
        Ok(Self(inner))
    }

    /// Queues a record, waiting while the queue is full.
    pub fn send(&self, record: &Record<'_>) -> Result<()> {
        let mut base: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(record.topic);
        if let Some(partition) = record.partition {
            base = base.partition(partition);
        }
        if let Some(key) = record.key {
            base = base.key(key);
        }
        if let Some(payload) = record.payload {
            base = base.payload(payload);
        }
        if let Some(timestamp_ms) = record.timestamp_ms {
            base = base.timestamp(timestamp_ms);
        }
        if !record.headers.is_empty() {
            let empty = OwnedHeaders::new_with_capacity(record.headers.len());
            base = base.headers(record.headers.iter().fold(empty, |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            }));
        }
        let deadline = std::time::Instant::now() + DELIVERY_TIMEOUT;
        loop {
            match self.0.send(base) {
                Ok(()) => return Ok(()),
                Err((error, unsent)) => {
                    let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                    if !full || std::time::Instant::now() > deadline {
                        return Err(kafka_error(
                            &format!("cannot send to `{}`", record.topic),
                            error,
                        ));
                    }
                    base = unsent;
                    self.0.poll(Duration::from_millis(10));
                }
            }
        }
    }

    /// Waits until everything queued is delivered. Fails if a record since the last flush was not.
    pub fn flush(&self) -> Result<()> {
        let failed = |error| kafka_error("records were not delivered", error);
        self.0.flush(DELIVERY_TIMEOUT).map_err(failed)?;
        let failure = &self.0.context().0;
        let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |error| Err(failed(error)))
    }
}

/// librdkafka's broker inside this process, on loopback, without persistence. Evidence for
/// nothing about Kafka; good for a demo and for unit tests.
pub struct MockBroker(MockCluster<'static, DefaultProducerContext>);

impl MockBroker {
    /// What the mock keeps of a partition before it drops the oldest messages.
    pub const PARTITION_BYTES_MAX: u64 = 5 << 20;

    pub fn start(topics: &[(&str, i32)]) -> Result<Self> {
        let failed = |error| kafka_error("cannot start the mock broker", error);
        let cluster = MockCluster::new(1).map_err(failed)?;
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 1).map_err(failed)?;
        }
        Ok(Self(cluster))
    }

    pub fn access(&self) -> KafkaAccess {
        KafkaAccess {
            bootstrap_servers: self.0.bootstrap_servers(),
            has_no_topic_ids: true,
            ..KafkaAccess::default()
        }
    }
}
