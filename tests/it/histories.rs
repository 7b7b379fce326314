//! Random histories, against what they must leave: builds of ranges in any zone and layout, what an
//! export is told to move between any two versions, and writers that race on a store with faults.
//! Other histories in each run; `FLOWGUARD_TEST_SEED` repeats one, `FLOWGUARD_TEST_MOMENTS` asks for
//! as many as there is time for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit, TimestampMicrosecondType};
use chrono_tz::Tz;
use flowguard::export::change::{Change, Held, change_since};
use flowguard::interval::{Every, Instant, Range};
use flowguard::lake::commit::{Advance, Commit, Outcome, commit};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::spec::TableSpec;
use flowguard::lake::stage::Stager;
use flowguard::lake::{Lake, Snapshot};
use flowguard::model::ModelSet;
use flowguard::runner::{self, RunContext, tasks_of};
use flowguard::table::TableName;
use flowguard::typecheck::{Typed, typecheck};
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::faulty_store::{FaultyStore, mixed};
use crate::kill9::{Random, moments, new_seed};
use crate::program::model;
use crate::runs::project;
use crate::services::say;
use crate::topic_in_memory::engine;

const HOUR: i64 = 3_600_000_000;
/// Histories of builds in a run of all tests.
const HISTORIES: u32 = 24;
const BUILDS: u64 = 7;
const RACES: u32 = 12;
/// Of the random numbers, the first that is of a race.
const RACES_STREAM: u64 = 100;
/// With steps of a whole and of half an hour, at midnight and in the night, and a day that is not.
const ZONES: [(&str, &str); 8] = [
    ("UTC", "2026-03-29T00:00:00Z"),
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("America/Havana", "2026-03-08T05:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Asia/Kathmandu", "2026-01-01T00:00:00Z"),
    ("Africa/Cairo", "2026-04-23T22:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
];
const STEPS: [&str; 6] = ["1h", "6h", "12h", "1d", "1w", "1mo"];

/// Rows by their id, with their time.
type Rows = BTreeMap<i64, i64>;

/// One model over `bronze.events`, and the lake that both are in.
struct History {
    lake: Lake,
    models: Arc<ModelSet>,
    typed: Arc<Typed>,
    clean: TableName,
    /// What the input holds, and what the model's table must.
    input: Rows,
    expected: Rows,
    /// Of every version, from the one that the first entry names.
    versions: Vec<(u64, Rows)>,
}

impl History {
    async fn new(zone: Tz, every: &str, is_partitioned: bool) -> Self {
        let partitions = if is_partitioned { "\npartition_by: day" } else { "" };
        let header =
            format!("kind: interval\nevery: {every}\ntime: at\ntimezone: {zone}{partitions}");
        let sql = "SELECT CAST(id AS BIGINT) AS id, at FROM bronze.events \
                   WHERE at >= $start AND at < $end";
        let project = project(&[("silver/clean", &model(&header, sql))]);
        let models = Arc::new(ModelSet::read(project.folder()).unwrap());
        let typed = Arc::new(typecheck(&engine(), &models).await.unwrap());
        let root = Url::parse(&format!("memory:///histories-{}/", Uuid::now_v7())).unwrap();
        let lake = Lake::with_store(&root, Arc::new(InMemory::new()));
        let clean = "silver.clean".parse().unwrap();
        let (input, expected, versions) = (Rows::new(), Rows::new(), Vec::new());
        Self { lake, models, typed, clean, input, expected, versions }
    }

    /// Events come in, a file of them.
    async fn add(&mut self, times: &[i64]) {
        let spec = &self.typed.get(&"bronze.events".parse().unwrap()).unwrap().spec;
        let ids: Vec<i64> = (self.input.len() as i64..).take(times.len()).collect();
        let texts: ArrayRef =
            Arc::new(ids.iter().map(|id| Some(id.to_string())).collect::<StringArray>());
        let at = TimestampMicrosecondArray::from(times.to_vec()).with_timezone("UTC");
        let columns = spec.columns.fields().iter().map(|field| match field.name().as_str() {
            "id" => Arc::clone(&texts),
            "at" => Arc::new(at.clone()),
            _ => arrow::array::new_null_array(field.data_type(), times.len()),
        });
        let columns: Vec<ArrayRef> = columns.collect();
        let nullable: Vec<Field> =
            spec.columns.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let spec = TableSpec { columns: Arc::new(Schema::new(nullable)), ..spec.clone() };
        let rows = RecordBatch::try_new(Arc::clone(&spec.columns), columns).unwrap();
        let mut stager = Stager::new(&self.lake, &spec).unwrap();
        stager.write(&rows).await.unwrap();
        let staged = stager.finish().await.unwrap();
        let (advances, ledger) = (Vec::new(), Ledger::new("test", Uuid::nil()));
        let write = Commit { spec: &spec, staged, removal: None, advances, ledger };
        commit(&self.lake, &write).await.unwrap();
        self.input.extend(ids.into_iter().zip(times.iter().copied()));
    }

    /// Builds `range`; all rows of other ranges stay what they are.
    async fn build(&mut self, range: Range, told: &str) {
        let context = RunContext {
            lake: self.lake.clone(),
            engine: engine(),
            models: Arc::clone(&self.models),
            typed: Arc::clone(&self.typed),
            run: Uuid::now_v7(),
            parallel_models_max: 1,
        };
        let mut failure = None;
        let tasks = tasks_of(std::slice::from_ref(&self.clean), Some(range));
        let stop = CancellationToken::new();
        let report = runner::run(Arc::new(context), tasks, &stop, |event| {
            if let runner::RunEvent::Finished { outcome: runner::Outcome::Failed(error), .. } =
                event
            {
                failure = Some(error.report());
            }
        });
        assert_eq!(report.await.built, 1, "{told}: {failure:?}");
        let is_within = |at: i64| range.contains(Instant(at));
        self.expected.retain(|_, at| !is_within(*at));
        let built = self.input.iter().filter(|(_, at)| is_within(**at));
        self.expected.extend(built.map(|(id, at)| (*id, *at)));
        let table = self.table().await;
        assert_eq!(rows(&table).await, self.expected, "{told}");
        self.versions.push((table.version(), self.expected.clone()));
    }

    async fn table(&self) -> Snapshot {
        self.lake.snapshot(&self.clean).await.unwrap().unwrap()
    }

    /// What an export would move from every version that there was covers what differs, and nothing
    /// that no build since has replaced.
    async fn check_changes(&self, told: &str) {
        let newest = self.table().await;
        let model = self.models.get(&self.clean).unwrap();
        for (version, held) in &self.versions {
            let (id, version) = (newest.id().to_owned(), *version);
            let told = format!("{told}: from version {version}");
            let held_there = Held { table_id: id, version };
            let change = change_since(Some(&held_there), &newest, model).await.unwrap();
            let moved = |at: i64| match &change {
                Change::None => false,
                Change::Ranges(ranges) => ranges.iter().any(|range| range.contains(Instant(at))),
                Change::Whole(reason) => panic!("{told}: everything, {}", reason.as_str()),
            };
            let differing = held
                .iter()
                .filter(|(id, _)| !self.expected.contains_key(id))
                .chain(self.expected.iter().filter(|(id, _)| !held.contains_key(id)));
            for (id, at) in differing {
                assert!(moved(*at), "{told}: row {id} at {} stays behind", Instant(*at));
            }
        }
    }
}

async fn rows(table: &Snapshot) -> Rows {
    let frame = engine().session().read_table(table.provider().await.unwrap()).unwrap();
    let batches = frame.select_columns(&["id", "at"]).unwrap().collect().await.unwrap();
    let mut rows = Rows::new();
    for batch in batches {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        let times = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        for (id, at) in ids.values().iter().zip(times.values()) {
            assert_eq!(rows.insert(*id, *at), None, "row {id} is doubled");
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_of_ranges_leave_their_rows_and_all_others_and_exports_see_what_moved() {
    let seed = new_seed();
    say(&format!("histories: FLOWGUARD_TEST_SEED={seed} builds"));
    let mut random = Random::new(seed, 7);
    for number in 0..moments().unwrap_or(HISTORIES) {
        let (zone, center) = ZONES[random.below(ZONES.len() as u64) as usize];
        let step = STEPS[random.below(STEPS.len() as u64) as usize];
        let is_partitioned = random.below(2) == 0;
        let (zone, every): (Tz, Every) = (zone.parse().unwrap(), step.parse().unwrap());
        let center = Instant::parse(center, Tz::UTC).unwrap().0;
        let told = format!(
            "FLOWGUARD_TEST_SEED={seed}: history {number}, {zone}, every {step}, partitioned: \
             {is_partitioned}"
        );
        let mut history = History::new(zone, step, is_partitioned).await;
        let reach = if matches!(step, "1w" | "1mo") { 60 * 24 } else { 40 };
        for build in 0..BUILDS {
            let mut instant = || {
                let micros = random.below(2 * reach as u64 * HOUR as u64) as i64;
                // Some at the full hour, where intervals begin, and one before.
                let at = center - reach * HOUR + micros;
                match random.below(4) {
                    0 => at - at.rem_euclid(HOUR),
                    1 => at - at.rem_euclid(HOUR) - 1,
                    _ => at,
                }
            };
            let times: Vec<i64> = (0..1 + build % 3 * 9).map(|_| instant()).collect();
            let (one, other) = (instant(), instant());
            history.add(&times).await;
            let range = Range { start: Instant(one.min(other)), end: Instant(one.max(other) + 1) };
            let range = every.align(range, zone);
            history.build(range, &format!("{told}, build {build} of {range}")).await;
        }
        history.check_changes(&told).await;
    }
}

fn numbers() -> TableSpec {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new("at", at, false)];
    TableSpec {
        name: "silver.numbers".parse().unwrap(),
        columns: Arc::new(Schema::new(fields)),
        time: Some("at".to_owned()),
        partition_by_day: false,
        timezone: Tz::UTC,
        key: Vec::new(),
        doc: None,
        shape: "`kind: full`".to_owned(),
    }
}

/// What one writer knows of one of its commits.
#[derive(Debug, PartialEq)]
enum Told {
    Committed(u64),
    Superseded,
    /// It gave up: nobody has told it what became of the commit.
    Unknown,
}

/// Counts one transaction up from what it last saw, a row for each number, as often as it may.
async fn count_up(lake: Lake, spec: TableSpec, writer: i64, times: i64) -> Vec<(i64, i64, Told)> {
    let (mut told, mut expected) = (Vec::new(), None);
    for turn in 0..times {
        let id = writer * 1_000 + turn;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![id])),
            Arc::new(TimestampMicrosecondArray::from(vec![id]).with_timezone("UTC")),
        ];
        let rows = RecordBatch::try_new(Arc::clone(&spec.columns), columns).unwrap();
        let mut stager = Stager::new(&lake, &spec).unwrap();
        if stager.write(&rows).await.is_err() {
            continue;
        }
        let Ok(staged) = stager.finish().await else { continue };
        let next = expected.unwrap_or(0) + 1;
        let advances = vec![Advance { app_id: "flowguard/count".to_owned(), expected, next }];
        let ledger = Ledger::new("silver.numbers", Uuid::now_v7());
        let write = Commit { spec: &spec, staged, removal: None, advances, ledger };
        match commit(&lake, &write).await {
            Ok(Outcome::Committed { version }) => {
                told.push((id, next, Told::Committed(version)));
                expected = Some(next);
            }
            Ok(Outcome::Superseded { found }) => {
                told.push((id, next, Told::Superseded));
                expected = found.first().and_then(|(_, value)| *value);
            }
            Err(_) => told.push((id, next, Told::Unknown)),
        }
    }
    told
}

/// Side by side: their writers wait most of the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_writers_on_a_store_with_faults_are_as_if_one_came_after_the_other() {
    let seed = new_seed();
    say(&format!("histories: FLOWGUARD_TEST_SEED={seed} races"));
    let mut races = JoinSet::new();
    for number in 0..moments().unwrap_or(RACES) {
        let random = Random::new(seed, RACES_STREAM + u64::from(number));
        races.spawn(race(random, format!("FLOWGUARD_TEST_SEED={seed}: race {number}")));
    }
    races.join_all().await;
}

async fn race(mut random: Random, when: String) {
    let root = Url::parse(&format!("memory:///races-{}/", Uuid::now_v7())).unwrap();
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let spec = numbers();
    let mut writers = Vec::new();
    for writer in 0..2 + random.below(2) as i64 {
        let plan = mixed(random.below(1 << 40), random.below(250));
        let own = Arc::new(FaultyStore::new(Arc::clone(&store), plan));
        let lake = Lake::with_store(&root, own);
        writers.push(tokio::spawn(count_up(lake, spec.clone(), writer, 6)));
    }
    let mut told = Vec::new();
    for writer in writers {
        told.extend(writer.await.unwrap());
    }
    let lake = Lake::with_store(&root, Arc::clone(&store));
    let Some(table) = lake.snapshot(&spec.name).await.unwrap() else {
        assert!(told.iter().all(|(_, _, told)| *told == Told::Unknown), "{when}: {told:?}");
        return;
    };
    let there: BTreeSet<i64> = rows(&table).await.into_keys().collect();
    let of = |wanted: fn(&Told) -> bool| -> BTreeSet<i64> {
        told.iter().filter(|(_, _, told)| wanted(told)).map(|(id, ..)| *id).collect()
    };
    let committed = of(|told| matches!(told, Told::Committed(_)));
    let unknown = of(|told| *told == Told::Unknown);
    assert!(committed.is_subset(&there), "{when}: lost of {told:?}, there are {there:?}");
    let extra: Vec<&i64> = there.difference(&committed).collect();
    assert!(extra.iter().all(|id| unknown.contains(id)), "{when}: {extra:?} of {told:?}");
    // Every number was taken by one commit, in the order of the versions.
    let count = table.transaction("flowguard/count").await.unwrap();
    assert_eq!(count, Some(there.len() as i64), "{when}: {told:?}");
    let by_version: BTreeMap<u64, i64> = told
        .iter()
        .filter_map(|(_, next, told)| match told {
            Told::Committed(version) => Some((*version, *next)),
            Told::Superseded | Told::Unknown => None,
        })
        .collect();
    assert_eq!(by_version.len(), committed.len(), "{when}: two commits in a version: {told:?}");
    assert!(by_version.values().is_sorted(), "{when}: {told:?}");
    let entries = table.ledgers(0).await.unwrap().len() as u64;
    assert_eq!(entries, table.version() + 1, "{when}: an entry that is nobody's");
}
