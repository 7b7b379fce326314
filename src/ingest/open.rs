//! The batch that is being filled, and how far it goes in each partition. An offset is passed in the
//! same step that puts its message into the rows or the rejects, so nothing can be committed as read
//! that is in neither. Reads no broker and writes no lake.

use std::collections::{BTreeMap, HashSet};

use arrow::array::RecordBatch;

use super::Pipeline;
use super::decode::{DeadLetters, Decoder, Message, RejectReason, UnknownFields};
use crate::error::{Error, Result};
use crate::interval::RangeSet;

/// Where one partition stands: what the lake holds, and what the open batch adds.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The next offset in the bronze table's transaction; `None` before the first commit.
    pub committed: Option<i64>,
    /// The same of the dead letters.
    pub dead_committed: Option<i64>,
    /// The owner's number in both tables; an earlier owner's late commits fail on it.
    pub epoch: i64,
    known_rejects: HashSet<i64>,
    start: i64,
    next: i64,
    rows: u64,
    rejects: u64,
    holes: Vec<[i64; 2]>,
}

/// Where the message of a passed offset is.
#[derive(PartialEq)]
enum Place {
    Rows,
    Rejects,
    /// In the dead letters since an earlier attempt.
    Lake,
}

impl Progress {
    /// A partition that was just taken over, to be read from `start` on.
    pub fn at(
        start: i64,
        committed: Option<i64>,
        dead_committed: Option<i64>,
        epoch: i64,
        known_rejects: HashSet<i64>,
    ) -> Self {
        Self {
            committed,
            dead_committed,
            epoch,
            known_rejects,
            start,
            next: start,
            rows: 0,
            rejects: 0,
            holes: Vec::new(),
        }
    }

    /// Offsets that a dead-letter commit already holds but the bronze commit beside it did not
    /// follow; they are passed over.
    pub fn known_rejects(&self) -> &HashSet<i64> {
        &self.known_rejects
    }

    /// The first offset of the open batch.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// The offset after the open batch.
    pub fn next(&self) -> i64 {
        self.next
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    pub fn rejects(&self) -> u64 {
        self.rejects
    }

    /// Ranges within the open batch, `[start, end)`, that hold no message.
    pub fn holes(&self) -> &[[i64; 2]] {
        &self.holes
    }

    /// Whether the open batch has moved this partition.
    pub fn has_moved(&self) -> bool {
        self.next > self.start
    }

    /// What the dead letters' transaction becomes. It never goes back: after a crash it can be
    /// ahead of the rows'.
    pub fn dead_next(&self) -> i64 {
        self.dead_committed.map_or(self.next, |committed| committed.max(self.next))
    }

    fn pass(&mut self, offset: i64, place: &Place) {
        self.skip_to(offset);
        self.next = offset + 1;
        match place {
            Place::Rows => self.rows += 1,
            Place::Rejects => self.rejects += 1,
            Place::Lake => {}
        }
    }

    /// Notes that nothing lies before `offset`.
    fn skip_to(&mut self, offset: i64) {
        if offset > self.next {
            self.holes.push([self.next, offset]);
            self.next = offset;
        }
    }

    /// Opens the next batch, as if the current one were committed.
    fn begin_next(&mut self) {
        if self.has_moved() {
            self.committed = Some(self.next);
            if self.rejects > 0 {
                self.dead_committed = Some(self.dead_next());
            }
        }
        self.start = self.next;
        self.rows = 0;
        self.rejects = 0;
        self.holes.clear();
        self.known_rejects.retain(|offset| *offset >= self.next);
    }
}

/// A closed batch.
pub struct Batch {
    pub rows: RecordBatch,
    pub dead: Option<RecordBatch>,
    pub touched: RangeSet,
    pub partitions: Vec<(i32, Progress)>,
    pub payload_bytes: u64,
}

pub struct OpenBatch {
    topic: String,
    table: String,
    unknown_fields: UnknownFields,
    decoder: Decoder,
    dead: DeadLetters,
    partitions: BTreeMap<i32, Progress>,
    payload_bytes: u64,
}

impl OpenBatch {
    /// Without partitions: every message is passed over.
    pub fn new(pipeline: &Pipeline) -> Result<Self> {
        let decoder = Decoder::new(
            &pipeline.topic,
            &pipeline.columns,
            pipeline.spec.time.as_deref(),
            pipeline.unknown_fields,
            usize::try_from(pipeline.limits.message_bytes_max).unwrap_or(usize::MAX),
        )?;
        Ok(Self {
            topic: pipeline.topic.clone(),
            table: pipeline.spec.name.to_string(),
            unknown_fields: pipeline.unknown_fields,
            decoder,
            dead: DeadLetters::new(&pipeline.topic),
            partitions: BTreeMap::new(),
            payload_bytes: 0,
        })
    }

    /// Forgets everything that is not committed, and goes on with `partitions` alone.
    pub fn restart(&mut self, partitions: impl IntoIterator<Item = (i32, Progress)>) -> Result<()> {
        self.partitions.clear();
        self.payload_bytes = 0;
        self.decoder.finish()?;
        self.dead.finish()?;
        self.partitions.extend(partitions);
        Ok(())
    }

    pub fn partitions(&self) -> &BTreeMap<i32, Progress> {
        &self.partitions
    }

    /// Rows and rejects that are buffered.
    pub fn messages(&self) -> usize {
        self.decoder.rows() + self.dead.rows()
    }

    pub fn bytes(&self) -> usize {
        self.decoder.buffered_bytes() + self.dead.buffered_bytes()
    }

    pub fn has_moved(&self) -> bool {
        self.partitions.values().any(Progress::has_moved)
    }

    /// Takes a message as a row or as a reject; false if it is left out, because it counts already
    /// or its partition is another owner's. Fails at a field that the model wants to fail at; the
    /// batch is then what it was before.
    pub fn take(&mut self, message: &Message<'_>, ingested_at: i64) -> Result<bool> {
        let (partition, offset) = (message.partition, message.offset);
        let Some(progress) = self.partitions.get_mut(&partition) else { return Ok(false) };
        if offset < progress.next {
            return Ok(false);
        }
        if progress.known_rejects.contains(&offset) {
            progress.pass(offset, &Place::Lake);
            return Ok(true);
        }
        let place = match self.decoder.push(message, ingested_at) {
            Ok(()) => Place::Rows,
            Err(reject)
                if reject.reason == RejectReason::UnknownField
                    && self.unknown_fields == UnknownFields::Fail =>
            {
                return Err(Error::invalid(format!(
                    "`{}` partition {partition} offset {offset}: {}",
                    self.topic, reject.error
                ))
                .hint(
                    "add the column to the header, or set `unknown_fields: rescue`; \
                     this message and those after it are not ingested yet",
                ));
            }
            Err(reject) => {
                self.dead.push(message, &reject, &self.table, ingested_at);
                Place::Rejects
            }
        };
        progress.pass(offset, &place);
        self.payload_bytes += message.payload.map_or(0, <[u8]>::len) as u64;
        Ok(true)
    }

    /// At the end of a partition, whatever lies between the last message and the end seen at the
    /// start holds no messages: control records of transactions, or compacted ones.
    pub fn reach_end(&mut self, partition: i32, end: i64) {
        if let Some(progress) = self.partitions.get_mut(&partition) {
            progress.skip_to(end);
        }
    }

    /// Everything taken since the last call; `None` if no partition has moved. After an error the
    /// batch has no partitions left, so that nothing can be committed without its rows.
    pub fn close(&mut self) -> Result<Option<Batch>> {
        if !self.has_moved() {
            return Ok(None);
        }
        let mut partitions = std::mem::take(&mut self.partitions);
        let touched = self.decoder.touched();
        let batch = Batch {
            rows: self.decoder.finish()?,
            dead: if self.dead.rows() > 0 { Some(self.dead.finish()?) } else { None },
            touched,
            partitions: partitions.iter().map(|(id, p)| (*id, p.clone())).collect(),
            payload_bytes: std::mem::take(&mut self.payload_bytes),
        };
        partitions.values_mut().for_each(Progress::begin_next);
        self.partitions = partitions;
        Ok(Some(batch))
    }
}
