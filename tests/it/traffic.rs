//! A plain producer and a plain consumer: what stands in Kafka, without any of the program's code.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use flowguard::demo::events::{Event, Topic};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::program::{CLICKS, ORDERS, Project};
use crate::services::Services;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Payloads by topic, partition and offset; `None` for a tombstone.
pub type Delivered = BTreeMap<(String, i32, i64), Option<Vec<u8>>>;

/// Everything that a read_committed consumer is given of `topics`.
pub fn read_all(services: &Services, topics: &[&str]) -> Delivered {
    let consumer: BaseConsumer = services
        .client()
        .set("group.id", "test-plain-consumer")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .expect("the client settings are valid");
    let mut delivered = Delivered::new();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_TIMEOUT).expect("an answer");
        let ids = metadata.topics()[0].partitions().iter().map(|partition| partition.id());
        let mut open: BTreeSet<i32> = ids.collect();
        assert!(!open.is_empty(), "`{topic}` has partitions");
        let mut starts = TopicPartitionList::new();
        for id in &open {
            starts.add_partition_offset(topic, *id, Offset::Beginning).expect("a valid offset");
        }
        consumer.assign(&starts).expect("a valid assignment");
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while !open.is_empty() {
            assert!(Instant::now() < deadline, "`{topic}` partitions {open:?} have no end");
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let place = ((*topic).to_owned(), message.partition(), message.offset());
                    let before = delivered.insert(place, message.payload().map(<[u8]>::to_vec));
                    assert_eq!(before, None, "an offset is delivered once");
                }
                Some(Err(KafkaError::PartitionEOF(id))) => drop(open.remove(&id)),
                Some(Err(error)) => panic!("`{topic}` cannot be read: {error}"),
                None => {}
            }
        }
    }
    delivered
}

/// One message on its way.
#[derive(Debug, Clone)]
pub struct Outgoing {
    pub topic: String,
    pub partition: i32,
    pub key: String,
    pub payload: Option<Vec<u8>>,
    pub timestamp_ms: Option<i64>,
}

pub struct Sender(ThreadedProducer<DefaultProducerContext>);

impl Sender {
    pub fn plain(services: &Services) -> Self {
        let mut config = services.client();
        config.set("enable.idempotence", "true").set("linger.ms", "5");
        Self(config.create().expect("the client settings are valid"))
    }

    pub fn transactional(services: &Services) -> Self {
        let mut config = services.client();
        config.set("transactional.id", format!("test-{}", services.nonce));
        let producer: ThreadedProducer<DefaultProducerContext> =
            config.create().expect("the client settings are valid");
        producer.init_transactions(ANSWER_TIMEOUT).expect("a transaction coordinator");
        Self(producer)
    }

    /// Queues a message, waiting while the queue is full or a new partition is not yet known.
    pub fn send(&self, message: &Outgoing) {
        let mut record: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(&message.topic).partition(message.partition).key(message.key.as_bytes());
        if let Some(payload) = &message.payload {
            record = record.payload(payload);
        }
        if let Some(timestamp_ms) = message.timestamp_ms {
            record = record.timestamp(timestamp_ms);
        }
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        while let Err((error, unsent)) = self.0.send(record) {
            use RDKafkaErrorCode as Code;
            let code = error.rdkafka_error_code();
            let passes = matches!(code, Some(Code::QueueFull | Code::UnknownPartition));
            assert!(passes && Instant::now() < deadline, "cannot send: {error}");
            std::thread::sleep(Duration::from_millis(20));
            record = unsent;
        }
    }

    pub fn flush(&self) {
        self.0.flush(ANSWER_TIMEOUT).expect("the broker takes what was sent");
    }

    /// Sends `messages` in a transaction. Those of an aborted one take offsets too.
    pub fn send_in_transaction(&self, messages: &[Outgoing], commits: bool) {
        self.0.begin_transaction().expect("no transaction is open");
        messages.iter().for_each(|message| self.send(message));
        self.flush();
        let ended = match commits {
            true => self.0.commit_transaction(ANSWER_TIMEOUT),
            false => self.0.abort_transaction(ANSWER_TIMEOUT),
        };
        ended.expect("the transaction ends");
    }
}

/// Creates this run's topics and sends a history as the demo's producer would.
pub fn produce_history(services: &Services, events: &[Event]) {
    for topic in Topic::ALL {
        services.create_topic(&Project::topic(services, topic.name()), topic.partitions());
    }
    let sender = Sender::plain(services);
    for event in events {
        let reference = match event.topic {
            Topic::Orders => ORDERS,
            Topic::Clicks => CLICKS,
        };
        sender.send(&Outgoing {
            topic: Project::topic(services, reference),
            partition: event.partition,
            key: event.key.clone(),
            payload: Some(event.payload.clone()),
            timestamp_ms: Some(event.timestamp_ms),
        });
    }
    sender.flush();
}

/// What a plain consumer would be given of a history on a broker that holds nothing else.
pub fn as_delivered(events: &[Event]) -> Delivered {
    let mut next = BTreeMap::<(Topic, i32), i64>::new();
    let mut delivered = Delivered::new();
    for event in events {
        let offset = next.entry((event.topic, event.partition)).or_default();
        let place = (event.topic.name().to_owned(), event.partition, *offset);
        delivered.insert(place, Some(event.payload.clone()));
        *offset += 1;
    }
    delivered
}
