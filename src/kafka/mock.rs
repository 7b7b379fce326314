//! librdkafka's broker inside this process, for the demo and for tests that want no real one.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

use super::access::KafkaAccess;
use super::errors::kafka_error;
use crate::error::Result;

/// librdkafka's broker inside this process, on loopback, without persistence. Evidence for
/// nothing about Kafka; good for a demo and for unit tests.
pub struct MockBroker(MockCluster<'static, DefaultProducerContext>);

impl MockBroker {
    /// What the mock keeps of a partition before it drops the oldest messages.
    pub const PARTITION_BYTES_MAX: u64 = 5 << 20;

    /// `topics` by name, with the number of their partitions. The broker ends when it is dropped.
    pub fn start(topics: &[(&str, i32)]) -> Result<Self> {
        let failed = |error| kafka_error("cannot start the mock broker", error);
        let cluster = MockCluster::new(1).map_err(failed)?;
        for (topic, partitions) in topics {
            cluster.create_topic(topic, *partitions, 1).map_err(failed)?;
        }
        Ok(Self(cluster))
    }

    /// Of use only while the broker lives. It gives topics no ids.
    pub fn access(&self) -> KafkaAccess {
        KafkaAccess {
            bootstrap_servers: self.0.bootstrap_servers(),
            has_no_topic_ids: true,
            ..KafkaAccess::default()
        }
    }
}
