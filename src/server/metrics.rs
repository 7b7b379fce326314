//! What `/metrics` says, in Prometheus' text form. Counts nothing twice: ingestion reports its
//! commits here, everything else is read from where it is kept.
//! https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::health::{Health, Part};
use super::listen::OpenConnections;
use crate::access::Principal;
use crate::ingest::batch::BatchReport;
use crate::ingest::status::Position;
use crate::ingest::worker::WorkerReport;
use crate::statements::Statements;
use crate::statements::figures::SECONDS_BUCKETS;
use crate::table::TableName;

/// Upper bounds of the buckets of commit time, in seconds.
const COMMIT_SECONDS_BUCKETS: [f64; 9] = [0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

/// Everything that is measured.
pub struct Metrics {
    pub statements: Statements,
    pub ingest: IngestFigures,
    /// What does not work while the rest goes on.
    pub health: Health,
    /// By the server's name.
    pub connections: Vec<(&'static str, OpenConnections)>,
    /// Microseconds since 1970 UTC.
    pub started: i64,
}

impl Metrics {
    /// Parts that do not work, and why.
    pub fn broken(&self) -> BTreeMap<Part, String> {
        self.health.broken(self.statements.unreadable())
    }

    /// All samples of this moment, without those of tables that `principal` may not read.
    pub fn text(&self, principal: &Principal) -> String {
        let mut page = Page::default();
        page.family("flowguard_build_info", "gauge", "Version of the program; always 1.");
        page.sample("flowguard_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
        page.family("flowguard_start_time_seconds", "gauge", "When the process began to serve.");
        page.sample("flowguard_start_time_seconds", &[], self.started as f64 / 1e6);
        page.family("flowguard_connections", "gauge", "Open connections.");
        for (server, open) in &self.connections {
            page.sample("flowguard_connections", &[("server", server)], open.count());
        }
        page.family("flowguard_broken", "gauge", "1 for each part that does not work.");
        let broken = self.broken();
        for part in broken.keys().filter(|part| part.is_known_to(principal)) {
            page.sample("flowguard_broken", &[("part", part.kind()), ("name", &part.name())], 1);
        }
        page.family("flowguard_broken_parts", "gauge", "How many parts do not work.");
        page.sample("flowguard_broken_parts", &[], broken.len());
        write_statements(&mut page, &self.statements);
        self.ingest.write(&mut page, principal);
        page.0
    }
}

fn write_statements(page: &mut Page, statements: &Statements) {
    let counts = statements.figures().counts();
    page.family("flowguard_statements_total", "counter", "Statements by how they ended.");
    let outcomes =
        [("done", counts.done), ("cancelled", counts.cancelled), ("failed", counts.failed)];
    for (outcome, count) in outcomes {
        page.sample("flowguard_statements_total", &[("outcome", outcome)], count);
    }
    page.family("flowguard_statement_rows_total", "counter", "Rows given to users.");
    page.sample("flowguard_statement_rows_total", &[], counts.rows);
    page.family("flowguard_statement_bytes_total", "counter", "Bytes given, as Arrow in memory.");
    page.sample("flowguard_statement_bytes_total", &[], counts.bytes);
    page.family("flowguard_statement_seconds", "histogram", "From a statement's start to its end.");
    let seconds = Histogram {
        buckets: &SECONDS_BUCKETS,
        within: &counts.within,
        count: counts.done + counts.cancelled + counts.failed,
        sum: counts.seconds,
    };
    page.histogram("flowguard_statement_seconds", &[], &seconds);
    page.family("flowguard_results_held", "gauge", "Results that wait to be read.");
    page.sample("flowguard_results_held", &[], counts.held);
    page.family("flowguard_results_held_bytes", "gauge", "What they keep in memory.");
    page.sample("flowguard_results_held_bytes", &[], counts.held_bytes);
    page.family("flowguard_statements_running", "gauge", "Statements that run now.");
    page.sample("flowguard_statements_running", &[], statements.running());
    page.family("flowguard_statements_waiting", "gauge", "Statements that wait for others.");
    page.sample("flowguard_statements_waiting", &[], statements.waiting());
    let limits = &statements.limits().admission;
    page.family("flowguard_statements_running_max", "gauge", "How many may run at once.");
    page.sample("flowguard_statements_running_max", &[], limits.running_max);
    page.family("flowguard_statements_waiting_max", "gauge", "How many may wait.");
    page.sample("flowguard_statements_waiting_max", &[], limits.waiting_max);
    page.family("flowguard_engine_memory_bytes", "gauge", "Memory that plans hold now.");
    page.sample("flowguard_engine_memory_bytes", &[], statements.memory_bytes());
}

/// Counts of ingestion since the start, and where its partitions stand. Cheap to clone.
#[derive(Clone, Default)]
pub struct IngestFigures(Arc<Mutex<Ingested>>);

#[derive(Default)]
struct Ingested {
    tables: BTreeMap<TableName, Commits>,
    /// Whether each table is ingested, as far as is known.
    up: BTreeMap<TableName, bool>,
    /// As last seen; none while the broker or the lake cannot be asked.
    positions: BTreeMap<TableName, Vec<Position>>,
}

#[derive(Default)]
struct Commits {
    totals: WorkerReport,
    seconds: f64,
    within: [u64; COMMIT_SECONDS_BUCKETS.len()],
}

impl IngestFigures {
    /// Counts begin at 0, so that the first commit is seen as growth.
    pub fn expect(&self, table: TableName) {
        self.lock().tables.entry(table).or_default();
    }

    pub fn add(&self, table: &TableName, report: &BatchReport) {
        let mut ingested = self.lock();
        let commits = ingested.tables.entry(table.clone()).or_default();
        commits.totals.add(report);
        let seconds = report.commit_ms as f64 / 1e3;
        commits.seconds += seconds;
        for (count, bound) in commits.within.iter_mut().zip(COMMIT_SECONDS_BUCKETS) {
            *count += u64::from(seconds <= bound);
        }
    }

    /// Whether the table is ingested.
    pub fn set_up(&self, table: &TableName, is_up: bool) {
        self.lock().up.insert(table.clone(), is_up);
    }

    /// The table is no longer ingested; what was committed stays counted.
    pub fn forget(&self, table: &TableName) {
        let mut ingested = self.lock();
        ingested.up.remove(table);
        ingested.positions.remove(table);
    }

    /// In place of those that were there; none while they cannot be asked for.
    pub fn set_positions(&self, table: &TableName, positions: Vec<Position>) {
        self.lock().positions.insert(table.clone(), positions);
    }

    fn lock(&self) -> MutexGuard<'_, Ingested> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, page: &mut Page, principal: &Principal) {
        type Total = fn(&WorkerReport) -> u64;
        let totals: [(&str, &str, Total); 5] = [
            ("flowguard_ingest_rows_total", "Rows committed.", |t| t.rows),
            ("flowguard_ingest_rejects_total", "Messages in the dead letters.", |t| t.rejects),
            ("flowguard_ingest_payload_bytes_total", "Bytes of messages.", |t| t.payload_bytes),
            ("flowguard_ingest_file_bytes_total", "Bytes of data files.", |t| t.file_bytes),
            ("flowguard_ingest_commits_total", "Commits.", |t| t.commits),
        ];
        let ingested = self.lock();
        let tables: Vec<(&TableName, &Commits)> =
            ingested.tables.iter().filter(|(table, _)| principal.may_read(table)).collect();
        for (name, help, total) in totals {
            page.family(name, "counter", help);
            for (table, commits) in &tables {
                page.sample(name, &[("table", &table.to_string())], total(&commits.totals));
            }
        }
        let help = "From the start of a batch's write to its commit.";
        page.family("flowguard_ingest_commit_seconds", "histogram", help);
        for (table, commits) in &tables {
            let seconds = Histogram {
                buckets: &COMMIT_SECONDS_BUCKETS,
                within: &commits.within,
                count: commits.totals.commits,
                sum: commits.seconds,
            };
            let labels = [("table", table.to_string())];
            let labels = labels.each_ref().map(|(key, value)| (*key, value.as_str()));
            page.histogram("flowguard_ingest_commit_seconds", &labels, &seconds);
        }
        let help = "1 while a worker ingests the table and its brokers answer, else 0.";
        page.family("flowguard_ingest_up", "gauge", help);
        for (table, is_up) in ingested.up.iter().filter(|(table, _)| principal.may_read(table)) {
            page.sample("flowguard_ingest_up", &[("table", &table.to_string())], u8::from(*is_up));
        }
        let help = "Offsets that the broker has and the lake has not.";
        page.family("flowguard_ingest_lag_offsets", "gauge", help);
        let positions = ingested.positions.iter().filter(|(table, _)| principal.may_read(table));
        for position in positions.flat_map(|(_, positions)| positions) {
            let partition = position.partition.to_string();
            let labels = [
                ("table", position.table.as_str()),
                ("topic", position.topic.as_str()),
                ("partition", partition.as_str()),
            ];
            page.sample("flowguard_ingest_lag_offsets", &labels, position.lag);
        }
    }
}

struct Histogram<'a> {
    buckets: &'a [f64],
    /// How many were at most each of `buckets`.
    within: &'a [u64],
    count: u64,
    sum: f64,
}

#[derive(Default)]
struct Page(String);

type Labels<'a> = [(&'a str, &'a str)];

impl Page {
    /// What the samples after it are.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (index, (key, value)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{key}=\"{value}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn histogram(&mut self, name: &str, labels: &Labels<'_>, histogram: &Histogram<'_>) {
        let mut bucket = |bound: &str, count| {
            let labels = [labels, &[("le", bound)]].concat();
            self.sample(&format!("{name}_bucket"), &labels, count);
        };
        for (bound, count) in histogram.buckets.iter().zip(histogram.within) {
            bucket(&bound.to_string(), *count);
        }
        bucket("+Inf", histogram.count);
        self.sample(&format!("{name}_sum"), labels, histogram.sum);
        self.sample(&format!("{name}_count"), labels, histogram.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_and_positions_are_written_as_prometheus_reads_them() {
        let figures = IngestFigures::default();
        let table: TableName = "bronze.orders_raw".parse().unwrap();
        figures.expect(table.clone());
        for commit_ms in [40, 3_000] {
            let report = BatchReport {
                rows: 7,
                rejects: 1,
                payload_bytes: 100,
                file_bytes: 50,
                commit_ms,
                ..BatchReport::default()
            };
            figures.add(&table, &report);
        }
        let position = Position {
            table: table.to_string(),
            topic: "raw.\"orders\"".to_owned(),
            partition: 3,
            next_offset: Some(5),
            end_offset: 9,
            lag: 4,
        };
        figures.set_up(&table, true);
        figures.set_positions(&table, vec![position]);
        let mut page = Page::default();
        figures.write(&mut page, &Principal::local());
        let samples: Vec<&str> = page.0.lines().filter(|line| !line.starts_with('#')).collect();
        let bucket = |bound: &str, count| {
            format!(
                "flowguard_ingest_commit_seconds_bucket{{table=\"bronze.orders_raw\",le=\"{bound}\"}} {count}"
            )
        };
        let mut expected: Vec<String> = [
            "flowguard_ingest_rows_total{table=\"bronze.orders_raw\"} 14",
            "flowguard_ingest_rejects_total{table=\"bronze.orders_raw\"} 2",
            "flowguard_ingest_payload_bytes_total{table=\"bronze.orders_raw\"} 200",
            "flowguard_ingest_file_bytes_total{table=\"bronze.orders_raw\"} 100",
            "flowguard_ingest_commits_total{table=\"bronze.orders_raw\"} 2",
        ]
        .map(str::to_owned)
        .into();
        expected.push(bucket("0.025", 0));
        for bound in ["0.05", "0.1", "0.25", "0.5", "1", "2.5"] {
            expected.push(bucket(bound, 1));
        }
        expected.extend(["10", "60", "+Inf"].map(|bound| bucket(bound, 2)));
        expected.extend(
            [
                "flowguard_ingest_commit_seconds_sum{table=\"bronze.orders_raw\"} 3.04",
                "flowguard_ingest_commit_seconds_count{table=\"bronze.orders_raw\"} 2",
                "flowguard_ingest_up{table=\"bronze.orders_raw\"} 1",
                "flowguard_ingest_lag_offsets{table=\"bronze.orders_raw\",topic=\"raw.\\\"orders\\\"\",partition=\"3\"} 4",
            ]
            .map(str::to_owned),
        );
        assert_eq!(samples, expected);
    }
}
