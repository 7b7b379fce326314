//! A topic that is a list, a worker that reads it through the ingestion protocol on any store, and
//! the check that every offset arrived exactly once. Stands in for Kafka where only the lake's
//! side of the protocol is under test.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::util::display::array_value_to_string;
use flowguard::audit::{Auditor, PartitionAudit, audit};
use flowguard::clock::Clock;
use flowguard::engine::{Engine, EngineOptions};
use flowguard::error::Result;
use flowguard::ingest::batch::{Written, dead_letters_spec, take_over, write};
use flowguard::ingest::decode::{Message as Received, UnknownFields};
use flowguard::ingest::open::{Batch, OpenBatch};
use flowguard::ingest::{Limits, Pipeline};
use flowguard::interval::Instant;
use flowguard::kafka::KafkaAccess;
use flowguard::lake::Lake;
use flowguard::lake::commit::ensure_table;
use flowguard::lake::ledger::Ledger;
use flowguard::lake::spec::TableSpec;
use flowguard::model::{ModelSet, dead_letters};
use flowguard::table::TableName;
use flowguard::typecheck::typecheck;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use url::Url;
use uuid::Uuid;

use crate::faulty_store::{Fault, FaultyStore};
use crate::program::{Project, model};

pub const TOPIC: &str = "raw.messages.v1";
/// Messages above this are rejected by [`Header::Strict`] and taken by [`Header::Wide`].
const STRICT_BYTES_MAX: u64 = 100;

/// What stands at one offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    Good(Vec<u8>),
    /// A row or a reject, depending on the header.
    Disputed(Vec<u8>),
    Malformed(Vec<u8>),
    Tombstone,
    /// Nothing: a control record, or compacted away.
    Hole,
}

impl Slot {
    fn name(&self) -> &'static str {
        match self {
            Slot::Good(_) => "Good",
            Slot::Disputed(_) => "Disputed",
            Slot::Malformed(_) => "Malformed",
            Slot::Tombstone => "Tombstone",
            Slot::Hole => "Hole",
        }
    }

    pub fn payload(&self) -> Option<&[u8]> {
        match self {
            Slot::Good(bytes) | Slot::Disputed(bytes) | Slot::Malformed(bytes) => Some(bytes),
            Slot::Tombstone | Slot::Hole => None,
        }
    }
}

/// Two versions of a table's settings, as workers of two releases have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    Strict,
    Wide,
}

/// A topic, a store, and the table that the one goes to on the other.
pub struct World {
    pub partitions: Vec<Vec<Slot>>,
    store: Arc<dyn ObjectStore>,
    root: Url,
    models: ModelSet,
    spec: TableSpec,
}

pub fn table() -> TableName {
    "bronze.messages".parse().unwrap()
}

pub fn engine() -> Engine {
    Engine::new(&EngineOptions { memory_bytes_max: 256 << 20, spill_dir: None, threads: 2 })
        .unwrap()
}

/// One slot per letter: `g`ood, `d`isputed, `m`alformed, `t`ombstone, `.` for a hole.
pub fn slots(letters: &[&str]) -> Vec<Vec<Slot>> {
    let slot = |partition: usize, offset: usize, letter: char| {
        let pad = if letter == 'd' { "x".repeat(STRICT_BYTES_MAX as usize) } else { String::new() };
        let row = format!(r#"{{"id":"{partition}-{offset}","n":{},"pad":"{pad}"}}"#, offset * 7);
        match letter {
            'g' => Slot::Good(row.into_bytes()),
            'd' => Slot::Disputed(row.into_bytes()),
            'm' => Slot::Malformed(row.as_bytes()[1..].to_vec()),
            't' => Slot::Tombstone,
            _ => Slot::Hole,
        }
    };
    let of_partition = |(partition, letters): (usize, &&str)| {
        letters
            .chars()
            .enumerate()
            .map(|(offset, letter)| slot(partition, offset, letter))
            .collect()
    };
    letters.iter().enumerate().map(of_partition).collect()
}

/// `partitions` of `messages` each: mostly good ones, others and holes strewn among them.
pub fn topic(partitions: usize, messages: usize, seed: u64) -> Vec<Vec<Slot>> {
    let mut random = Random(seed);
    let mut letter = || b"gggggggmmdt."[random.below(12) as usize] as char;
    let letters: Vec<String> =
        (0..partitions).map(|_| (0..messages).map(|_| letter()).collect()).collect();
    slots(&letters.iter().map(String::as_str).collect::<Vec<_>>())
}

/// SplitMix64 (Steele, Lea and Flood 2014): the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// How a worker's reading ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Drained,
    /// Another worker owns the partitions.
    Superseded,
}

impl World {
    pub async fn new(partitions: Vec<Vec<Slot>>) -> Self {
        Self::with_store(partitions, Arc::new(InMemory::new())).await
    }

    pub async fn with_store(partitions: Vec<Vec<Slot>>, store: Arc<dyn ObjectStore>) -> Self {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        let number = WORLDS.fetch_add(1, Ordering::SeqCst);
        let header = format!(
            "kind: append\nsource: {{topic: {TOPIC}, format: json, unknown_fields: ignore}}\n\
             columns:\n  id: {{type: string, not_null: true}}\n  n: {{type: bigint}}\n  \
             pad: {{type: string}}"
        );
        let sql = model(&header, "SELECT * FROM kafka.messages");
        let models =
            ModelSet::read(Project::of_models(&[("bronze/messages", &sql)]).folder()).unwrap();
        let typed = typecheck(&engine(), &models).await.unwrap();
        let spec = typed.get(&table()).unwrap().spec.clone();
        let root = Url::parse(&format!("memory:///lake-{number}/")).unwrap();
        Self { partitions, store, root, models, spec }
    }

    /// The lake as a process sees it that nothing happens to.
    pub fn lake(&self) -> Lake {
        Lake::with_store(&self.root, Arc::clone(&self.store))
    }

    pub fn store(
        &self,
        plan: impl Fn(&crate::faulty_store::Operation<'_>) -> Fault + Send + Sync + 'static,
    ) -> FaultyStore {
        FaultyStore::new(Arc::clone(&self.store), plan)
    }

    /// A process that has just started on `store`.
    pub fn worker(&self, store: FaultyStore, header: Header) -> Pipeline {
        self.pipeline(Lake::with_store(&self.root, Arc::new(store)), header)
    }

    pub fn pipeline(&self, lake: Lake, header: Header) -> Pipeline {
        Pipeline {
            lake,
            engine: engine(),
            kafka: KafkaAccess::default(),
            name: "test".to_owned(),
            group: "test".to_owned(),
            topic: TOPIC.to_owned(),
            columns: self
                .models
                .get(&table())
                .map(|model| model.columns.iter().map(|(column, _)| column.clone()).collect())
                .unwrap(),
            unknown_fields: UnknownFields::Ignore,
            spec: self.spec.clone(),
            limits: Limits {
                flush_rows_max: 40,
                flush_bytes_max: 1 << 30,
                flush_age_max: Duration::from_millis(200),
                memory_bytes_max: 64 << 20,
                message_bytes_max: match header {
                    Header::Strict => STRICT_BYTES_MAX,
                    Header::Wide => 64 << 20,
                },
                poll_pause_max: Duration::from_secs(5),
            },
            dead_letter_topic: false,
            run: Uuid::now_v7(),
            clock: Clock::at(Instant(0)),
        }
    }

    /// Takes over all partitions and reads them to their ends in batches of `batch_messages`.
    pub async fn consume(&self, worker: &Pipeline, batch_messages: usize) -> Result<End> {
        ensure_tables(worker).await?;
        let mut reader = self.take_over(worker).await?;
        while let Some(batch) = reader.next_batch(self, batch_messages)? {
            if let Written::Superseded = write(worker, batch).await? {
                return Ok(End::Superseded);
            }
        }
        Ok(End::Drained)
    }

    pub async fn take_over(&self, worker: &Pipeline) -> Result<Reader> {
        let ids: Vec<i32> = (0..self.partitions.len() as i32).collect();
        let mut open = OpenBatch::new(worker)?;
        open.restart(take_over(worker, &ids, |_| 0).await?)?;
        Ok(Reader(open))
    }

    /// Every offset once, as what it must be, and the audit agrees; or what is wrong.
    pub async fn verify(&self) -> std::result::Result<(), String> {
        let mut found = self.found().await;
        let mut wrong = Vec::new();
        for (partition, slots) in self.partitions.iter().enumerate() {
            for (offset, slot) in slots.iter().enumerate() {
                let at = (partition as i32, offset as i64);
                let texts = found.remove(&at).unwrap_or_default();
                let is_right = match (slot, texts.as_slice()) {
                    (Slot::Hole, []) => true,
                    (Slot::Good(_), [text]) => *text == row_text(slot),
                    (Slot::Disputed(_), [text]) => {
                        [row_text(slot), reject_text(slot)].contains(text)
                    }
                    (Slot::Malformed(_) | Slot::Tombstone, [text]) => *text == reject_text(slot),
                    _ => false,
                };
                if !is_right {
                    wrong.push(format!("{at:?} {}: found {texts:?}", slot.name()));
                }
            }
        }
        wrong.extend(found.iter().map(|(at, texts)| format!("{at:?}: never produced, {texts:?}")));
        let audits = self.audit().await;
        let dirty = audits.iter().filter(|audit| !audit.is_clean());
        wrong.extend(dirty.map(|audit| format!("audit: {audit:?}")));
        for (audit, slots) in audits.iter().zip(&self.partitions) {
            let messages = slots.iter().filter(|slot| **slot != Slot::Hole).count() as u64;
            if audit.rows + audit.rejects != messages {
                wrong.push(format!("audit counts other than {messages}: {audit:?}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    pub async fn audit(&self) -> Vec<PartitionAudit> {
        let (lake, engine) = (self.lake(), engine());
        let auditor =
            Auditor { lake: &lake, engine: &engine, pipeline: "test", kafka: None, payloads: true };
        audit(&auditor, self.models.get(&table()).unwrap()).await.unwrap()
    }

    /// What the two tables hold at each partition and offset.
    async fn found(&self) -> HashMap<(i32, i64), Vec<String>> {
        let lake = self.lake();
        let mut found: HashMap<(i32, i64), Vec<String>> = HashMap::new();
        for (name, values) in
            [(table(), ["id", "n", "pad"].as_slice()), (dead_letters(), &["payload"])]
        {
            let Some(snapshot) = lake.snapshot(&name).await.unwrap() else { continue };
            let columns = [&["_partition", "_offset"], values].concat();
            let provider = snapshot.provider().await.unwrap();
            let frame = engine().session().read_table(provider).unwrap();
            let batches = frame.select_columns(&columns).unwrap().collect().await.unwrap();
            for batch in batches {
                let partitions = batch.column(0).as_primitive::<Int32Type>().clone();
                let offsets = batch.column(1).as_primitive::<Int64Type>().clone();
                for row in 0..batch.num_rows() {
                    let values: Vec<String> = (2..batch.num_columns())
                        .map(|column| array_value_to_string(batch.column(column), row).unwrap())
                        .collect();
                    let at = (partitions.value(row), offsets.value(row));
                    found.entry(at).or_default().push(format!(
                        "{} {}",
                        name.name(),
                        values.join(",")
                    ));
                }
            }
        }
        found
    }
}

/// What a process does before it ingests.
pub async fn ensure_tables(worker: &Pipeline) -> Result<()> {
    for spec in [&worker.spec, &dead_letters_spec()] {
        ensure_table(&worker.lake, spec, &Ledger::new("test", worker.run)).await?;
    }
    Ok(())
}

fn row_text(slot: &Slot) -> String {
    let fields: serde_json::Value = serde_json::from_slice(slot.payload().unwrap()).unwrap();
    let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
    format!("messages {},{},{}", text("id"), fields["n"], text("pad"))
}

fn reject_text(slot: &Slot) -> String {
    let bytes = slot.payload().unwrap_or_default();
    format!("dead_letters {}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Reads as a worker does, from where the lake stands.
pub struct Reader(pub OpenBatch);

impl Reader {
    /// The next messages of all partitions in turn; `None` at their ends.
    pub fn next_batch(&mut self, world: &World, messages_max: usize) -> Result<Option<Batch>> {
        let mut left = messages_max;
        while left > 0 {
            let before = left;
            for partition in 0..world.partitions.len() as i32 {
                let slots = &world.partitions[partition as usize];
                let next = usize::try_from(self.0.partitions()[&partition].next()).unwrap();
                let Some(ahead) = slots.iter().skip(next).position(|slot| *slot != Slot::Hole)
                else {
                    continue;
                };
                left = left.saturating_sub(1);
                let message = Received {
                    partition,
                    offset: (next + ahead) as i64,
                    leader_epoch: None,
                    timestamp_ms: Some(0),
                    key: None,
                    headers: &[],
                    payload: slots[next + ahead].payload(),
                };
                self.0.take(&message, 0)?;
            }
            if left == before {
                break;
            }
        }
        self.0.close()
    }
}
