//! A client that asks a cluster about a topic and reads stretches of it, outside of any group.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::access::KafkaAccess;
use super::consumer::Received;
use super::errors::{is_fatal, kafka_error};
use super::heard::Heard;
use super::native::RawMessage;
use super::topic_id;
use super::watermarks::{METADATA_TIMEOUT, watermarks_of};
use crate::error::{Error, ErrorKind, Result};

/// Silence of a broker that should have a message, or the end of the log, to hand out.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const POLL_TIMEOUT: Duration = Duration::from_millis(200);
/// A fetch at the end of one partition holds back the fetches of the next one for so long.
const FETCH_WAIT_MS: &str = "10";
/// Events that are listened to after a question failed.
const EVENTS_MAX: u32 = 64;
const ID_ATTEMPTS_MAX: u32 = 10;
const ID_PAUSE: Duration = Duration::from_millis(500);

/// One client; each method may be called from any thread, and reads wait for each other.
pub struct Probe {
    client: BaseConsumer<Quiet>,
    /// Held by whoever reads.
    reads: Mutex<()>,
    has_no_topic_ids: bool,
}

impl Probe {
    /// Opens connections of its own.
    pub fn open(access: &KafkaAccess) -> Result<Self> {
        let client = access
            .consumer_config("flowguard-probe")
            .set("fetch.wait.max.ms", FETCH_WAIT_MS)
            .create_with_context(Quiet(access.heard.clone()))
            .map_err(|error| access.unusable(error))?;
        let has_no_topic_ids = access.has_no_topic_ids;
        Ok(Self { client, reads: Mutex::default(), has_no_topic_ids })
    }

    /// Low and high watermark of every partition of `topic`; the high one is the last stable
    /// offset, behind which no open transaction hides.
    pub fn watermarks(&self, topic: &str) -> Result<BTreeMap<i32, (i64, i64)>> {
        let watermarks = watermarks_of(self.client.client(), topic, |doing, error| {
            self.listen();
            self.heard().error(doing, error)
        })?;
        self.heard().answered();
        Ok(watermarks)
    }

    /// Events wait until somebody polls.
    fn listen(&self) {
        // Whoever reads polls already, and messages are theirs.
        if let Ok(_reads) = self.reads.try_lock() {
            for _ in 0..EVENTS_MAX {
                drop(self.client.poll(Duration::ZERO));
            }
        }
    }

    fn heard(&self) -> &Heard {
        &self.client.context().0
    }

    /// The id that the broker gave `topic` when it was created; `None` when it does not tell. If it
    /// once did (`is_known`), it does again after a moment: a topic that was just made anew must not
    /// pass for one without an id.
    #[expect(
        clippy::disallowed_methods,
        reason = "whoever asks a probe waits on a thread that may"
    )]
    pub fn topic_id(&self, topic: &str, is_known: bool) -> Result<Option<String>> {
        if self.has_no_topic_ids {
            return Ok(None);
        }
        for attempt in 1.. {
            let id = topic_id::topic_id(self.client.client().native_ptr(), topic, METADATA_TIMEOUT);
            if id.is_some() || !is_known {
                return Ok(id);
            }
            if attempt == ID_ATTEMPTS_MAX {
                break;
            }
            std::thread::sleep(ID_PAUSE);
        }
        let message = format!("the broker no longer tells the id of `{topic}`");
        Err(Error::new(ErrorKind::Unavailable, message)
            .hint("without it a recreated topic cannot be told; check the right to describe it"))
    }

    /// Hands the messages of `[start, end)` that a read_committed consumer sees to `take`, in order,
    /// until it breaks or none is left. False if the log has dropped some of them.
    pub fn read(
        &self,
        place: (&str, i32),
        [start, end]: [i64; 2],
        mut take: impl FnMut(&Received<'_>) -> ControlFlow<()>,
    ) -> Result<bool> {
        if start >= end {
            return Ok(true);
        }
        let ranges = BTreeMap::from([(place.1, [start, end])]);
        let read = self.read_each(place.0, ranges, &mut take);
        match read {
            Err(error) if error.kind == ErrorKind::DataLoss => {
                let low = self.watermarks(place.0)?.get(&place.1).map_or(0, |(low, _)| *low);
                if low <= start {
                    return Err(error);
                }
                self.read(place, [low, end], take).map(|_| false)
            }
            read => read.map(|()| true),
        }
    }

    /// The same of many partitions of `topic` at once, each in order; `take` breaks off the one that
    /// its message is of. `DataLoss` if a log no longer has where its range begins.
    pub fn read_each(
        &self,
        topic: &str,
        mut ranges: BTreeMap<i32, [i64; 2]>,
        mut take: impl FnMut(&Received<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        ranges.retain(|_, [start, end]| start < end);
        let _reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.read_open(topic, ranges, &mut take);
        let _ = self.client.unassign();
        read
    }

    fn read_open(
        &self,
        topic: &str,
        mut open: BTreeMap<i32, [i64; 2]>,
        take: &mut dyn FnMut(&Received<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let failed = |error| kafka_error(&format!("cannot read `{topic}`"), error);
        let mut from = TopicPartitionList::new();
        for (partition, [start, _]) in &open {
            let start = Offset::Offset(*start);
            from.add_partition_offset(topic, *partition, start).map_err(failed)?;
        }
        self.client.assign(&from).map_err(failed)?;
        let mut heard = Instant::now();
        while !open.is_empty() && heard.elapsed() < SILENCE_MAX {
            match self.client.poll(POLL_TIMEOUT) {
                Some(Ok(message)) => {
                    let received = Received::new(RawMessage::of(&message));
                    let (partition, offset) = (received.partition(), received.offset());
                    let Some([_, end]) = open.get(&partition).copied() else { continue };
                    // Behind the last one, only the end of the log would be waited for.
                    if offset >= end || take(&received).is_break() || offset + 1 == end {
                        open.remove(&partition);
                        self.fetch_no_more(topic, partition);
                    }
                    heard = Instant::now();
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(open.remove(&partition)),
                // No group is needed for a look.
                Some(Err(error))
                    if error.rdkafka_error_code()
                        == Some(RDKafkaErrorCode::GroupAuthorizationFailed) => {}
                Some(Err(error)) if is_fatal(&error) => return Err(failed(error)),
                Some(Err(_)) | None => {}
            }
        }
        let Some((partition, [start, _])) = open.pop_first() else { return Ok(()) };
        let message = format!("`{topic}` partition {partition} did not answer from {start} on");
        Err(Error::new(ErrorKind::Unavailable, message))
    }

    /// Spares the broker what nobody waits for.
    fn fetch_no_more(&self, topic: &str, partition: i32) {
        let mut done = TopicPartitionList::new();
        done.add_partition(topic, partition);
        if let Err(error) = self.client.incremental_unassign(&done) {
            tracing::debug!(topic, partition, %error, "a partition is fetched on for nothing");
        }
    }
}

/// Work that waits for a broker, on a thread that may.
pub async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|source| Error::internal("asking Kafka stopped").source(source))?
}

/// Logs in our words and leaves metrics alone.
struct Quiet(Heard);

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.line(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.event(&error, reason);
    }
}

impl ConsumerContext for Quiet {}
