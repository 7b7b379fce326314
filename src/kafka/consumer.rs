//! A member of a consumer group on one topic, whose offsets its owner keeps: who decides where
//! partitions start, and what comes from them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::access::{HeaderList, KafkaAccess};
use super::errors::{is_fatal, kafka_error};
use super::heard::Heard;
use super::native::{Batch, BatchConsumer, Group, RawMessage, Rebalanced, Rebalances};
use super::watermarks::watermarks_of;
use crate::error::Result;

/// Messages taken at once, and about how many bytes: fewer where messages are large.
const BATCH_MESSAGES_MAX: usize = 512;
const BATCH_BYTES: usize = 4 << 20;

/// Who decides where partitions are read, and what happens before they are given up. Both are
/// called on the polling thread, during calls to [`Consumer`], and at the end when it is dropped.
pub trait Assignments: Send + Sync + 'static {
    /// The next offset of each of `partitions`, which are this member's; `None` is the beginning of
    /// the log. Those that are new are taken over, all others go on where they are: a group may
    /// rebalance as a whole or step by step, and ask at any time. Partitions that are left out are
    /// not consumed.
    fn assigned(&self, partitions: &[i32]) -> Vec<(i32, Option<i64>)>;
    /// Gives `partitions` up, and keeps the others: what of them is not committed when this returns
    /// may be another member's from then on.
    fn revoked(&self, partitions: &[i32]);
}

struct Context {
    topic: String,
    assignments: Arc<dyn Assignments>,
    rebalances: Rebalanced,
    heard: Heard,
}

impl Context {
    fn starts(&self, partitions: &[i32]) -> Result<TopicPartitionList> {
        let mut starts = TopicPartitionList::new();
        for (partition, next) in self.assignments.assigned(partitions) {
            let offset = next.map_or(Offset::Beginning, Offset::Offset);
            starts
                .add_partition_offset(&self.topic, partition, offset)
                .map_err(|error| kafka_error("cannot assign a partition", error))?;
        }
        Ok(starts)
    }

    /// Reads on where the owner is, in all partitions that are assigned but those of `except`.
    /// librdkafka pauses whatever a rebalance leaves in place, and would itself go on one offset
    /// behind the end of a partition that it told the end of: it counts that for a message.
    fn realign(&self, group: Group<'_>, except: &[i32]) -> Result<()> {
        let failed = |error| kafka_error(&format!("cannot read on in `{}`", self.topic), error);
        let mut kept = partitions_of(&group.assignment().map_err(failed)?);
        kept.retain(|partition| !except.contains(partition));
        if kept.is_empty() {
            return Ok(());
        }
        group.seek(&self.starts(&kept)?).map_err(failed)
    }

    fn report(&self, outcome: Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(topic = self.topic, %error, "rebalance failed, the group will repeat it");
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.heard.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.heard.event(&error, reason);
    }
}

impl Rebalances for Context {
    fn assigned(&self, group: Group<'_>, partitions: &TopicPartitionList) {
        let partitions = partitions_of(partitions);
        tracing::info!(topic = self.topic, ?partitions, "partitions assigned");
        self.report(self.realign(group, &partitions));
        self.report(self.starts(&partitions).and_then(|starts| {
            // A pause outlives an assignment: partitions that were taken away while paused would
            // never be fetched again.
            let taken = group.assign(&starts).and_then(|()| group.resume(&starts));
            taken.map_err(|error| kafka_error("cannot take an assignment", error))
        }));
    }

    fn revoked(&self, group: Group<'_>, partitions: &TopicPartitionList) {
        let given_up = partitions_of(partitions);
        self.assignments.revoked(&given_up);
        self.report(self.realign(group, &given_up));
        let released = group.unassign(partitions);
        tracing::info!(topic = self.topic, partitions = ?given_up, "partitions revoked");
        self.report(released.map_err(|error| kafka_error("cannot release an assignment", error)));
    }

    fn rebalances(&self) -> &Rebalanced {
        &self.rebalances
    }
}

fn partitions_of(list: &TopicPartitionList) -> Vec<i32> {
    list.elements().iter().map(|element| element.partition()).collect()
}

/// A member of a consumer group on one topic, read_committed, whose offsets its owner keeps.
pub struct Consumer {
    topic: String,
    heard: Heard,
    inner: BatchConsumer<Context>,
    /// The next poll begins where the owner is.
    restarts: bool,
    messages_wanted: usize,
}

/// What a poll brought, in the order of each partition. Gone with the next poll.
#[derive(Default)]
pub struct Polled<'a> {
    batch: Option<Batch<'a>>,
    /// Partitions of which everything up to the last stable offset has been handed out, as the broker
    /// that was asked knows it, and that offset.
    pub ends: Vec<(i32, i64)>,
}

impl Polled<'_> {
    /// Without what librdkafka says in place of messages.
    pub fn messages(&self) -> impl Iterator<Item = Received<'_>> {
        let messages = self.batch.iter().flat_map(Batch::iter);
        messages.filter(|message| message.error().is_none()).map(Received)
    }
}

impl Consumer {
    /// Joins `group` on `topic`. `queue_bytes_max` bounds what librdkafka fetches ahead.
    pub fn subscribe(
        access: &KafkaAccess,
        topic: &str,
        group: &str,
        queue_bytes_max: u64,
        assignments: Arc<dyn Assignments>,
    ) -> Result<Self> {
        let mut config = access.consumer_config(group);
        config.set("queued.max.messages.kbytes", (queue_bytes_max / 1024).max(1024).to_string());
        let (topic_name, rebalances) = (topic.to_owned(), Rebalanced::default());
        let heard = access.heard.clone();
        let context = Context { topic: topic_name, assignments, rebalances, heard };
        let inner = BatchConsumer::new(&config, context, BATCH_MESSAGES_MAX)
            .map_err(|error| access.unusable(error))?;
        watermarks_of(inner.client(), topic, |doing, error| {
            inner.listen();
            access.heard.error(doing, error)
        })?;
        access.heard.answered();
        inner
            .subscribe(topic)
            .map_err(|error| kafka_error(&format!("cannot subscribe to `{topic}`"), error))?;
        Ok(Self {
            topic: topic.to_owned(),
            heard: access.heard.clone(),
            inner,
            restarts: false,
            messages_wanted: BATCH_MESSAGES_MAX,
        })
    }

    /// What comes within `timeout`. Errors that librdkafka recovers from by itself are none.
    pub fn poll(&mut self, timeout: Duration) -> Result<Polled<'_>> {
        if std::mem::take(&mut self.restarts) {
            self.restart()?;
        }
        let batch = self.inner.poll(timeout, self.messages_wanted);
        let mut ends = Vec::new();
        let (mut messages, mut bytes) = (1, 1);
        for message in batch.iter() {
            match message.error().map(RDKafkaErrorCode::from) {
                None => {
                    messages += 1;
                    bytes += message.payload().map_or(0, <[u8]>::len);
                }
                Some(RDKafkaErrorCode::PartitionEOF) => {
                    ends.push((message.partition(), message.offset()));
                }
                Some(code) => check(&self.heard, &self.topic, code)?,
            }
        }
        if batch.spans_rebalance && !batch.is_empty() {
            // Old and new messages of a partition may stand side by side; a gap between them would
            // look like offsets without messages.
            self.restarts = true;
            return Ok(Polled::default());
        }
        self.messages_wanted = (BATCH_BYTES * messages / bytes).clamp(1, BATCH_MESSAGES_MAX);
        Ok(Polled { batch: Some(batch), ends })
    }

    /// Low watermark and last stable offset of every partition. Asks the broker, and waits for it.
    pub fn watermarks(&self) -> Result<BTreeMap<i32, (i64, i64)>> {
        let failed = |doing: &str, error| self.heard.error(doing, error);
        watermarks_of(self.inner.client(), &self.topic, failed)
    }

    /// Asks the owner where it is and reads on from there; what was fetched is fetched again.
    pub fn restart(&self) -> Result<()> {
        self.inner.client().context().realign(self.inner.group(), &[])
    }

    /// Whether the group has taken this member in. One that gets no partitions may be told of none.
    pub fn has_joined(&self) -> bool {
        self.inner.group().has_joined()
    }

    /// Stops or resumes fetching; polling goes on, so that the group keeps its member. What was
    /// fetched ahead is fetched again afterwards.
    pub fn set_paused(&self, paused: bool) -> Result<()> {
        let failed = |error| kafka_error(&format!("cannot pause `{}`", self.topic), error);
        let group = self.inner.group();
        let assigned = group.assignment().map_err(failed)?;
        if !paused {
            return group.resume(&assigned).map_err(failed);
        }
        group.pause(&assigned).map_err(failed)?;
        // See `Context::realign`: what comes in behind an end would be passed over.
        self.restart()
    }

    /// Tells the group how far the lake is, for lag displays. Best effort.
    pub fn show_progress(&self, next_offsets: &[(i32, i64)]) {
        let mut list = TopicPartitionList::new();
        for (partition, next) in next_offsets {
            let _ = list.add_partition_offset(&self.topic, *partition, Offset::Offset(*next));
        }
        if let Err(error) = self.inner.group().commit(&list) {
            tracing::debug!(topic = self.topic, %error, "group offsets were not updated");
        }
    }
}

fn check(heard: &Heard, topic: &str, code: RDKafkaErrorCode) -> Result<()> {
    let error = match code {
        RDKafkaErrorCode::Fatal => KafkaError::MessageConsumptionFatal(code),
        _ => KafkaError::MessageConsumption(code),
    };
    if is_fatal(&error) {
        return Err(kafka_error(&format!("cannot read `{topic}`"), error));
    }
    heard.event(&error, topic);
    Ok(())
}

/// A message, borrowed from librdkafka's buffer.
pub struct Received<'a>(RawMessage<'a>);

impl<'a> Received<'a> {
    pub(super) fn new(message: RawMessage<'a>) -> Self {
        Self(message)
    }

    pub fn partition(&self) -> i32 {
        self.0.partition()
    }

    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    /// That of the leader which appended the message; `None` where the broker does not tell.
    pub fn leader_epoch(&self) -> Option<i32> {
        self.0.leader_epoch()
    }

    /// In milliseconds since 1970 UTC.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.0.timestamp_ms()
    }

    /// `None` if there is no key, which an empty one is not.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.0.key()
    }

    /// `None` is a tombstone; an empty payload is not.
    pub fn payload(&self) -> Option<&'a [u8]> {
        self.0.payload()
    }

    /// In the order in which they were sent; names may repeat.
    pub fn headers(&self) -> HeaderList {
        self.0.headers()
    }
}
