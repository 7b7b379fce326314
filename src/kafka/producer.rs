//! Records on their way to Kafka: queued, delivered, and what became of them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

use super::access::KafkaAccess;
use super::heard::Heard;
use crate::error::Result;

/// How long buffered records may take to be delivered.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends records; used by the demo and for dead-letter topics.
pub struct Producer(BaseProducer<Deliveries>);

/// One record to send. Without a partition the key decides.
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub payload: Option<&'a [u8]>,
    pub headers: &'a [(String, Option<Vec<u8>>)],
    /// `None`: when it is sent, by this machine's clock.
    pub timestamp_ms: Option<i64>,
}

/// Remembers the first record that was not delivered, for the next flush.
struct Deliveries {
    failure: Mutex<Option<KafkaError>>,
    heard: Heard,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.heard.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.heard.event(&error, reason);
    }
}

impl rdkafka::producer::ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::message::DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
            failure.get_or_insert_with(|| error.clone());
        }
    }
}

impl Producer {
    /// Waits for no broker: that none is there shows when records are sent or flushed.
    pub fn new(access: &KafkaAccess) -> Result<Self> {
        let (mut config, heard) = (access.config(), access.heard.clone());
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        let inner = config
            .create_with_context(Deliveries { failure: Mutex::default(), heard })
            .map_err(|error| access.unusable(error))?;
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
                        let doing = format!("cannot send to `{}`", record.topic);
                        return Err(self.0.context().heard.error(&doing, error));
                    }
                    base = unsent;
                    self.0.poll(Duration::from_millis(10));
                }
            }
        }
    }

    /// Waits until everything queued is delivered. Fails if a record since the last flush was not.
    pub fn flush(&self) -> Result<()> {
        let context = self.0.context();
        let failed = |error| context.heard.error("records were not delivered", error);
        self.0.flush(DELIVERY_TIMEOUT).map_err(failed)?;
        let failure = context.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |error| Err(failed(error)))
    }
}
