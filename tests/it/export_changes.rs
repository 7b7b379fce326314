//! Random changes to tables of the lake, and an export after each: appended and late events,
//! intervals rebuilt, rows that a changed model leaves out, columns added, tables made anew. The
//! warehouse must hold the same cells, as its own client reads them and as DuckDB reads the files
//! that the lake's log names; FlowGuard reads neither side.
//!
//! `FLOWGUARD_TEST_SEED` repeats the changes.

use std::fmt::Write as _;

use crate::export_deaths::compare_each_run;
use crate::kill9::{Random, seed};
use crate::program::{Project, model};
use crate::runs::{add, project};
use crate::warehouse::{Warehouse, lake_rows};

/// Changes, with an export after most.
const STEPS: usize = 25;
const DAYS: u64 = 6;
const COLUMNS_ADDED_MAX: usize = 4;
/// Numbers with this remainder may be left out by a later form of the model.
const LEFT_OUT_OF: u64 = 5;

/// With what they are ahead of UTC in January.
const ZONES: [(&str, &str); 3] =
    [("UTC", "+00:00"), ("Europe/Rome", "+01:00"), ("America/St_Johns", "-03:30")];
const DAILY: &str = "kind: interval\nevery: 1d\ntime: at";
const BY_DAY: &str = "SELECT id, CAST(at AS DATE) AS day, sum(price) AS price, count(*) AS events \
                      FROM silver.clean GROUP BY id, CAST(at AS DATE)";

/// A project that changes, and what was done to it.
struct Changing<'a> {
    project: &'a Project,
    random: Random,
    is_partitioned: bool,
    timezone: (&'static str, &'static str),
    left_out: u64,
    columns_added: usize,
    done: String,
}

impl<'a> Changing<'a> {
    /// Begins with a lake of its own.
    async fn new(project: &'a Project, seed: u64, stream: u64) -> Self {
        let mut random = Random::new(seed, stream);
        let mut changing = Self {
            project,
            is_partitioned: random.below(2) == 0,
            random,
            timezone: ZONES[0],
            left_out: LEFT_OUT_OF,
            columns_added: 0,
            done: format!("FLOWGUARD_TEST_SEED={seed}"),
        };
        let _ = std::fs::remove_dir_all(project.folder().join(".flowguard"));
        changing.write_model();
        changing.add_events().await;
        changing.build(&[]);
        changing
    }

    fn write_model(&self) {
        let mut columns = String::new();
        for number in 0..self.columns_added {
            let _ = write!(columns, ", CAST(n AS BIGINT) + {number} AS added_{number}");
        }
        let (left_out, of) = (self.left_out, LEFT_OUT_OF);
        let sql = format!(
            "SELECT id, at, CAST(n AS BIGINT) AS n, CAST(n AS DOUBLE) / 4 AS quarter, \
             CAST(n AS DECIMAL(12, 2)) AS price, \
             CASE WHEN n LIKE '%3' THEN NULL WHEN n LIKE '%4' THEN '' ELSE 'ü|' || id END AS t{columns} \
             FROM bronze.events WHERE at >= $start AND at < $end \
             AND CAST(n AS BIGINT) % {of} <> {left_out}"
        );
        // In files of one day each, or of several.
        let layout = if self.is_partitioned { "\npartition_by: day" } else { "" };
        let header = format!("{DAILY}{layout}\ntimezone: {}", self.timezone.0);
        self.project.write("sql/silver/clean.sql", &model(&header, &sql));
    }

    async fn add_events(&mut self) {
        let events: Vec<[String; 3]> = (0..=self.random.below(6))
            .map(|_| {
                let (day, hour) = (5 + self.random.below(DAYS), self.random.below(24));
                let id = ["a", "b", "ü", "''", "e"][self.random.below(5) as usize];
                let at = format!("2026-01-{day:02}T{hour:02}:59:59.999999Z");
                [id.to_owned(), at, self.random.below(1_000).to_string()]
            })
            .collect();
        let _ = write!(self.done, "\nadded {events:?}");
        let events: Vec<(&str, &str, &str)> =
            events.iter().map(|[id, at, n]| (id.as_str(), at.as_str(), n.as_str())).collect();
        add(self.project, &events).await;
    }

    fn build(&mut self, arguments: &[&str]) {
        let _ = write!(self.done, "\nbuilt {arguments:?}");
        let arguments = [&["run"], arguments].concat();
        let built = self.project.run(&arguments);
        assert_eq!(built.code, Some(0), "{}\n{}", self.done, built.stderr);
    }

    /// Builds some days, whether anything changed in them or not.
    fn build_days(&mut self) {
        let start = 5 + self.random.below(DAYS);
        let end = start + 1 + self.random.below(DAYS);
        let midnight = |day: u64| format!("2026-01-{day:02}T00:00:00{}", self.timezone.1);
        let (start, end) = (midnight(start), midnight(end));
        self.build(&["--start", &start, "--end", &end]);
    }

    async fn change(&mut self) {
        match self.random.below(14) {
            0..=3 => {
                self.add_events().await;
                self.build_days();
            }
            4 | 5 => {
                self.add_events().await;
                self.build(&[]);
            }
            6 => self.build_days(),
            7 => self.build(&[]),
            8 | 9 => {
                self.left_out = self.random.below(LEFT_OUT_OF + 1);
                let _ = write!(self.done, "\nleft out {}", self.left_out);
                self.write_model();
                self.build_days();
            }
            10 if self.columns_added < COLUMNS_ADDED_MAX => {
                self.columns_added += 1;
                self.done.push_str("\nadded a column");
                self.write_model();
                self.build_days();
            }
            10 | 11 => {
                // Days begin elsewhere, and files may hold one day or several.
                self.timezone = ZONES[self.random.below(3) as usize];
                self.is_partitioned ^= self.random.below(2) == 0;
                let _ = write!(self.done, "\n{:?} {}", self.timezone, self.is_partitioned);
                self.write_model();
                if self.random.below(2) == 0 {
                    self.add_events().await;
                }
                self.build(&["silver.clean", "--full-refresh"]);
                self.build(&[]);
            }
            _ => {
                self.done.push_str("\nmade anew");
                let table = self.project.folder().join(".flowguard/silver/clean");
                std::fs::remove_dir_all(table).unwrap();
                self.build(&[]);
            }
        }
    }

    fn export(&mut self) {
        let arguments: &[&str] = match self.random.below(6) {
            0 => &["export", "run", "--full"],
            _ => &["export", "run"],
        };
        let _ = write!(self.done, "\n{}", arguments.join(" "));
        let exported = self.project.run(arguments);
        assert_eq!(exported.code, Some(0), "{}\n{}", self.done, exported.stderr);
    }

    fn compare(&self, warehouse: &Warehouse) {
        let mut clean: Vec<String> =
            ["id", "n", "CAST(quarter * 4 AS BIGINT)", "price", "t"].map(str::to_owned).into();
        clean.extend((0..self.columns_added).map(|number| format!("added_{number}")));
        let by_day = ["id", "day", "price", "events"].map(str::to_owned);
        let (own_time, their_time) = ("epoch_us(\"at\")", micros(warehouse));
        for (table, columns, own_time, their_time) in [
            ("silver.clean", &clean[..], Some(own_time), Some(their_time)),
            ("gold.by_day", &by_day[..], None, None),
        ] {
            let own = lake_rows(self.project, table, &row_text(columns, own_time));
            let text = row_text(columns, their_time);
            let mut theirs = warehouse.ask(&format!("SELECT {text} FROM {table}"));
            theirs.sort();
            assert_eq!(theirs, own, "{table}\n{}", self.done);
        }
    }
}

/// One text per row, in words that several warehouses know. The cells may hold no line's end.
fn row_text(columns: &[String], time: Option<&str>) -> String {
    let cells: Vec<String> = columns
        .iter()
        .map(String::as_str)
        .chain(time)
        .map(|cell| format!("coalesce(CAST({cell} AS VARCHAR), 'null')"))
        .collect();
    cells.join(" || '; ' || ")
}

/// Of the column `at`, since 1970.
pub fn micros(warehouse: &Warehouse) -> &'static str {
    match warehouse {
        Warehouse::Postgresql { .. } => "CAST(extract(epoch FROM \"at\") * 1000000 AS bigint)",
        _ => "epoch_us(\"at\")",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_random_changes_both_sides_hold_the_same_cells() {
    let project = project(&[("gold/by_day", &model("kind: full", BY_DAY))]);
    let warehouses = Warehouse::all("export_changes::after_random_changes", &project);
    for (stream, warehouse) in (100..).zip(warehouses) {
        warehouse.configure(&project, "silver.*, gold.*");
        compare_each_run(&project);
        let mut changing = Changing::new(&project, seed(), stream).await;
        for _ in 0..STEPS {
            changing.change().await;
            // Changes of several versions come together.
            if changing.random.below(4) == 0 {
                changing.change().await;
            }
            changing.export();
            changing.compare(&warehouse);
        }
    }
}
