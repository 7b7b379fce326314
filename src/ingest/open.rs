//! The batch that is being filled, and how far it goes in each partition. An offset is passed in the
//! same step that puts its message into the rows or the rejects, so nothing can be committed as read
//! that is in neither. Reads no broker and writes no lake.

use std::collections::{BTreeMap, HashSet};

use arrow::array::RecordBatch;

use super::Pipeline;
use super::decode::{DeadLetters, Decoder, Message, RejectReason, UnknownFields};
use super::mark::{Mark, message_hash};
use super::refusal;
use crate::error::{Error, Result};
use crate::interval::RangeSet;
use crate::lake::ledger::Sum;

/// Where one partition stands: what the lake holds, and what the open batch adds.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The next offset in the bronze table's transaction; `None` before the first commit.
    pub committed: Option<i64>,
    /// The next offset in the dead letters' transaction; after a crash it can be ahead of
    /// `committed`.
    pub dead_committed: Option<i64>,
    /// The owner's number in both tables; an earlier owner's late commits fail on it.
    pub epoch: i64,
    known_rejects: HashSet<i64>,
    /// See [`Taken`]; so is the next one.
    log: u32,
    log_begin: Option<i64>,
    /// The value of the mark's transaction.
    committed_mark: Option<i64>,
    /// The last message before `start`, which the log must still hold; `None` once the batch has
    /// moved, or where nothing is to be compared.
    mark: Option<Mark>,
    /// Whether the marked message is still to be read.
    is_unknown: bool,
    start: i64,
    next: i64,
    /// Offset and hash of the last message before `next`.
    last: Option<(i64, u64)>,
    leader_epoch: Option<i32>,
    messages: Sum,
    rows: u64,
    rejects: u64,
    holes: Vec<[i64; 2]>,
}

/// What the lake holds of a partition that is taken over.
#[derive(Debug, Clone, Default)]
pub struct Taken {
    /// See [`Progress`]; so are the next three.
    pub committed: Option<i64>,
    pub dead_committed: Option<i64>,
    pub epoch: i64,
    pub known_rejects: HashSet<i64>,
    /// Which log of the topic is ingested, and what all of its rows are ingested later than, as
    /// [`Logs`](crate::lake::logs::Logs) has it.
    pub log: u32,
    pub log_begin: Option<i64>,
    /// See [`Mark`].
    pub mark: Option<i64>,
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
    pub fn at(start: i64, taken: Taken) -> Self {
        let mark = taken.mark.and_then(|value| Mark::unpack(value, start));
        Self {
            committed: taken.committed,
            dead_committed: taken.dead_committed,
            epoch: taken.epoch,
            known_rejects: taken.known_rejects,
            log: taken.log,
            log_begin: taken.log_begin,
            committed_mark: taken.mark,
            mark,
            is_unknown: mark.is_some(),
            start,
            next: start,
            last: mark.map(|mark| (mark.offset(start), mark.hash())),
            leader_epoch: None,
            messages: Sum::default(),
            rows: 0,
            rejects: 0,
            holes: Vec::new(),
        }
    }

    /// In a log that begins at `low`, the last message that the lake holds is read first, to be
    /// known again, unless the log has dropped it.
    pub fn begin_in(&mut self, low: i64) {
        self.mark = self.mark.filter(|mark| mark.offset(self.start) >= low);
        self.is_unknown = self.mark.is_some();
    }

    /// Where to read on: at the last message that the lake holds until it is known again, then at
    /// the offset after the open batch.
    pub fn position(&self) -> i64 {
        let mark = self.mark.filter(|_| self.is_unknown);
        mark.map_or(self.next, |mark| mark.offset(self.start))
    }

    /// Whether the last message that the lake holds is still to be read.
    pub fn is_unknown(&self) -> bool {
        self.is_unknown
    }

    /// The value of the mark's transaction before and after the open batch.
    pub fn mark(&self) -> (Option<i64>, i64) {
        let mark = self.last.and_then(|(offset, hash)| Mark::new(self.next, offset, hash));
        (self.committed_mark, Mark::pack(mark, self.next))
    }

    /// Which log of the topic is read; see [`Taken`].
    pub fn log(&self) -> u32 {
        self.log
    }

    /// Of the last message of the open batch.
    pub fn leader_epoch(&self) -> Option<i32> {
        self.leader_epoch
    }

    /// Over the messages of the open batch.
    pub fn messages(&self) -> Sum {
        self.messages
    }

    /// False if the lake holds another message there, or none.
    fn knows(&mut self, message: &Message<'_>) -> bool {
        let Some(mark) = self.mark else { return true };
        self.is_unknown &= message.offset < mark.offset(self.start);
        message.offset >= self.start || mark.allows(self.start, message)
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

    /// Messages of the open batch that became rows.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Messages of the open batch that became rejects, without those that the dead letters hold
    /// already.
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

    fn pass(&mut self, message: &Message<'_>, place: &Place) {
        self.skip_to(message.offset);
        self.is_unknown = false;
        self.next = message.offset + 1;
        let hash = message_hash(message);
        self.messages.add(hash);
        self.last = Some((message.offset, hash));
        self.leader_epoch = message.leader_epoch;
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
            self.committed_mark = Some(self.mark().1);
            if self.rejects > 0 {
                self.dead_committed = Some(self.dead_next());
            }
        }
        self.start = self.next;
        self.mark = None;
        self.is_unknown = false;
        self.messages = Sum::default();
        self.leader_epoch = None;
        self.rows = 0;
        self.rejects = 0;
        self.holes.clear();
        self.known_rejects.retain(|offset| *offset >= self.next);
    }
}

/// What a batch held when it was closed. `dead` is `None` without rejects.
pub struct Batch {
    pub rows: RecordBatch,
    pub dead: Option<RecordBatch>,
    pub touched: RangeSet,
    pub partitions: Vec<(i32, Progress)>,
    pub payload_bytes: u64,
}

/// Rows and rejects until they are committed, and how far they go in each partition.
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

    /// Begins with `partitions` beside the others.
    pub fn take_over(&mut self, partitions: impl IntoIterator<Item = (i32, Progress)>) {
        self.partitions.extend(partitions);
    }

    /// Passes over everything of `partitions` from now on. Only between two batches: what the open
    /// one holds of them stays in it.
    pub fn give_up(&mut self, partitions: &[i32]) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
    }

    /// All that are owned, whether the batch has moved them or not.
    pub fn partitions(&self) -> &BTreeMap<i32, Progress> {
        &self.partitions
    }

    /// Rows and rejects that are buffered.
    pub fn messages(&self) -> usize {
        self.decoder.rows() + self.dead.rows()
    }

    /// What rows and rejects take in memory.
    pub fn bytes(&self) -> usize {
        self.decoder.buffered_bytes() + self.dead.buffered_bytes()
    }

    /// Ranges that the ledger of the open batch will list: holes, and hours that rows fall into, of
    /// which those that follow each other will be one.
    pub fn ledger_ranges(&self) -> usize {
        let holes: usize = self.partitions.values().map(|progress| progress.holes.len()).sum();
        holes + self.decoder.touched_hours()
    }

    /// Whether there is an offset to commit, if only one past known rejects or holes.
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
            if progress.knows(message) {
                return Ok(false);
            }
            let why = refusal::changed(offset);
            return Err(refusal::error(&self.topic, partition, &self.table, &why));
        }
        let ingested_at =
            progress.log_begin.map_or(ingested_at, |begin| ingested_at.max(begin + 1));
        if progress.known_rejects.contains(&offset) {
            progress.pass(message, &Place::Lake);
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
        progress.pass(message, &place);
        self.payload_bytes += message.payload.map_or(0, <[u8]>::len) as u64;
        Ok(true)
    }

    /// At the end of a partition, whatever lies between the last message and the end seen at the
    /// start holds no messages: control records of transactions, or compacted ones.
    pub fn reach_end(&mut self, partition: i32, end: i64) {
        if let Some(progress) = self.partitions.get_mut(&partition) {
            progress.is_unknown = false;
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
