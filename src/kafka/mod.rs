//! Kafka, and the only room that names rdkafka: consuming with offsets of our own, watermarks,
//! producing, and the in-process mock broker of the demo. Decodes nothing and commits nothing to the
//! lake. Kafka's own group commits are written for lag displays and never read.

mod access;
mod consumer;
mod errors;
mod heard;
mod mock;
mod native;
mod probe;
mod producer;
mod topic_id;
mod watermarks;

pub use self::access::{HeaderList, KafkaAccess};
pub use self::consumer::{Assignments, Consumer, Polled, Received};
pub use self::heard::Heard;
pub use self::mock::MockBroker;
pub use self::probe::{Probe, waiting};
pub use self::producer::{Producer, Record};
