//! `kill -9` of `flowguard export run` itself: between its steps, and of it or its driver at random
//! moments of its whole life. Afterwards the driver's process ends and publishes nothing, the target
//! holds the rows of the version that its ledger names, and the next run brings the newest, once.
//!
//! On DuckDB that is between every two steps. On the others, whose conversations only differ in what
//! comes before the transaction, it is where the transaction is, and at some steps of the rest that
//! are others in each run. `FLOWGUARD_TEST_MOMENTS` (see `tests/soak`) is every step everywhere, and
//! how many random moments; `FLOWGUARD_TEST_SEED` repeats the choices, not the machine's timing.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::kill9::{Random, moments, new_seed};
use crate::program::{Project, model};
use crate::runs::{add, project};
use crate::services::say;
use crate::stand_in::{StandIn, drivers_in};
use crate::warehouse::Warehouse;

const DAILY: &str = "kind: interval\nevery: 1d\ntime: at\npartition_by: day";
const CLEAN: &str = "SELECT id, at, CAST(n AS BIGINT) AS n FROM bronze.events \
                     WHERE at >= $start AND at < $end";
const AT_FIRST: [(&str, &str, &str); 3] = [
    ("a", "2026-01-05T10:00:00Z", "1"),
    ("b", "2026-01-06T10:00:00Z", "2"),
    ("c", "2026-01-07T10:00:00Z", "3"),
];
/// Random moments at which an export is killed, on each target.
const MOMENTS: u32 = 15;
/// Steps outside of the transaction, where not every step is one to die at.
const OTHER_STEPS: usize = 2;
/// Of a request, without what is another word in each run.
const REQUEST_START_CHARS: usize = 40;
/// A driver's process has nothing more to do once its engine is dead.
pub const ORPHAN_AGE_MAX: Duration = Duration::from_secs(2);

/// A table whose every version is one row longer, and the target that it is exported to.
pub struct Growing<'a> {
    pub project: &'a Project,
    pub warehouse: &'a Warehouse,
    /// In the lake.
    pub version: u64,
    /// Whether the target has its tables for certain.
    is_known: bool,
}

pub async fn growing_project() -> Project {
    let project = project(&[("silver/clean", &model(DAILY, CLEAN))]);
    build(&project).await;
    project
}

async fn build(project: &Project) {
    add(project, &AT_FIRST).await;
    project.run(&["run"]).succeeded();
}

impl<'a> Growing<'a> {
    /// Every run of the export compares the table afterwards.
    pub fn new(project: &'a Project, warehouse: &'a Warehouse) -> Self {
        warehouse.configure(project, "silver.*");
        compare_each_run(project);
        Self { project, warehouse, version: 0, is_known: false }
    }

    /// The lake as it was at first, and nothing in the target.
    pub async fn begins_anew(&mut self) {
        std::fs::remove_dir_all(self.project.folder().join(".flowguard")).unwrap();
        build(self.project).await;
        self.version = 0;
        self.forget();
    }

    fn forget(&mut self) {
        let drop = |schema: &str| format!("DROP SCHEMA IF EXISTS {schema} CASCADE");
        self.warehouse.ask(&["silver", "flowguard"].map(drop).join("; "));
        self.is_known = false;
    }

    pub async fn grow(&mut self) {
        self.version += 1;
        let id = format!("e{:04}", self.version);
        add(self.project, &[(&id, "2026-01-06T12:00:00Z", "5")]).await;
        let day = ["run", "silver.clean", "--start", "2026-01-06", "--end", "2026-01-07"];
        self.project.run(&day).succeeded();
    }

    fn rows_at(version: u64) -> BTreeSet<String> {
        let added = (1..=version).map(|version| format!("e{version:04} 5"));
        let first = AT_FIRST.iter().map(|(id, _, n)| format!("{id} {n}"));
        first.chain(added).collect()
    }

    /// What the target's own client finds: the version that the ledger names, and what is wrong:
    /// rows that are not that version's, entries of the history that are not the ledger's.
    pub fn look(&self) -> (Option<u64>, Vec<String>) {
        let there = "SELECT count(*) FROM information_schema.tables WHERE \
                     (table_schema = 'flowguard' AND table_name IN ('exports', 'history')) \
                     OR (table_schema = 'silver' AND table_name = 'clean')";
        if !self.is_known && self.warehouse.ask(there) != ["3"] {
            return (None, Vec::new());
        }
        let done = "flowguard.history WHERE what = 'export' AND outcome = 'done'";
        let found = self.warehouse.ask(&format!(
            "SELECT 'row ' || id || ' ' || CAST(n AS VARCHAR) AS line FROM silver.clean \
             UNION ALL SELECT 'holds ' || CAST(version AS VARCHAR) FROM flowguard.exports \
             WHERE version >= 0 \
             UNION ALL SELECT 'is told twice: ' || CAST(version AS VARCHAR) FROM {done} \
             GROUP BY version HAVING count(*) > 1 \
             UNION ALL SELECT 'is not told: ' || CAST(version AS VARCHAR) FROM flowguard.exports \
             WHERE version >= 0 AND version NOT IN (SELECT version FROM {done}) ORDER BY line"
        ));
        let starting = |start: &str| {
            let lines = found.iter().filter_map(|line| line.strip_prefix(start));
            lines.map(str::to_owned).collect::<Vec<String>>()
        };
        let held = starting("holds ").first().map(|version| version.parse().unwrap());
        let rows = starting("row ");
        let expected = held.map(Self::rows_at).unwrap_or_default();
        let distinct: BTreeSet<String> = rows.iter().cloned().collect();
        let mut wrong = starting("is ");
        wrong.extend(expected.difference(&distinct).map(|row| format!("lost: {row}")));
        wrong.extend(distinct.difference(&expected).map(|row| format!("too many: {row}")));
        wrong.extend((rows.len() > distinct.len()).then(|| "doubled".to_owned()));
        (held, wrong)
    }

    /// Runs the export again, compared by itself and by the target's own client; how long it took.
    pub fn goes_on(&mut self, when: &str) -> Duration {
        let began = Instant::now();
        let again = self.project.run(&["export", "run"]);
        let lasted = began.elapsed();
        assert_eq!(again.code, Some(0), "{when}: {}", again.stderr);
        assert_eq!(self.look(), (Some(self.version), Vec::new()), "{when}");
        self.is_known = true;
        lasted
    }
}

/// Makes every run of the export compare its tables, and fail where one differs.
pub fn compare_each_run(project: &Project) {
    let file = project.folder().join("dags.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("select:", "check: parity, select:")).unwrap();
}

/// Waits for the end of drivers whose engine is dead.
pub fn await_orphans(project: &Project, when: &str) {
    let died = Instant::now();
    while !drivers_in(project.folder()).is_empty() {
        assert!(died.elapsed() < ORPHAN_AGE_MAX, "a driver outlives its engine: {when}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The steps of an export, from one in which nobody died.
pub struct Steps {
    requests: Vec<String>,
    begins: usize,
    commits: usize,
}

impl Steps {
    /// Counted from 1.
    pub fn of(requests: Vec<String>) -> Self {
        let [begins, commits] = ["BEGIN TRANSACTION", "COMMIT"].map(|sql| {
            let request = serde_json::json!({"Execute": {"sql": sql}}).to_string();
            1 + requests.iter().position(|seen| *seen == request).expect(sql)
        });
        Self { requests, begins, commits }
    }

    pub fn to_die_at(&self, warehouse: &Warehouse, random: &mut Random) -> BTreeSet<usize> {
        let all = 1..=self.requests.len();
        if matches!(warehouse, Warehouse::Duckdb { .. }) || moments().is_some() {
            return all.collect();
        }
        let mut steps: BTreeSet<usize> = (self.begins - 1..=self.commits + 1).collect();
        steps.insert(1);
        let wanted = steps.len() + OTHER_STEPS;
        while steps.len() < wanted.min(self.requests.len()) {
            steps.insert(1 + random.below(self.requests.len() as u64) as usize);
        }
        steps
    }

    /// Whether the target holds the new rows after a death at `step`. The commit is one step:
    /// nothing before it publishes, also not after the death; within it, either may be.
    fn publishes(&self, step: usize, moment: &str) -> Option<bool> {
        match step.cmp(&self.commits) {
            Ordering::Less => Some(false),
            Ordering::Equal if moment == "during" => None,
            _ => Some(true),
        }
    }

    /// Whether a conversation that ended at `step` had been the same one.
    fn begin_like(&self, requests: &[String], step: usize) -> bool {
        let starts = |requests: &[String]| -> Vec<String> {
            requests.iter().map(|text| text.chars().take(REQUEST_START_CHARS).collect()).collect()
        };
        requests.len() == step && starts(requests) == starts(&self.requests[..step])
    }
}

/// Kills the engine at steps of a first export or of a later one.
async fn kill_at_steps(
    table: &mut Growing<'_>,
    stand_in: &StandIn,
    (moment, is_first): (&str, bool),
    random: &mut Random,
) {
    begin(table, is_first).await;
    if !is_first {
        // What is made once for all later exports is there.
        table.goes_on("at first");
        begin(table, is_first).await;
    }
    stand_in.dies("engine", 0, moment);
    stand_in.run(table.project, &["export", "run"]).succeeded();
    let steps = Steps::of(stand_in.requests());
    assert!(steps.begins > 8 && steps.commits > steps.begins + 4, "{:?}", steps.requests);
    for step in steps.to_die_at(table.warehouse, random) {
        begin(table, is_first).await;
        let when = format!("{moment} step {step}, first: {is_first}");
        stand_in.dies("engine", step, moment);
        let outcome = stand_in.run(table.project, &["export", "run"]);
        assert_eq!(outcome.code, None, "{when}: {}", outcome.stderr);
        let requests = stand_in.requests();
        assert!(
            steps.begin_like(&requests, step),
            "{when}: {requests:?}, not {:?}",
            steps.requests
        );
        await_orphans(table.project, &when);
        assert!(!table.warehouse.was_cut_short(), "a driver was cut short: {when}");
        let (held, wrong) = table.look();
        assert_eq!(wrong, Vec::<String>::new(), "{when}");
        let published = held == Some(table.version);
        assert_eq!(steps.publishes(step, moment).unwrap_or(published), published, "{when}");
        table.goes_on(&when);
    }
}

async fn begin(table: &mut Growing<'_>, is_first: bool) {
    if is_first {
        table.forget();
    } else {
        table.grow().await;
    }
}

/// In a lake of its own, so that the targets need not wait for each other.
async fn killed_at_steps(test: &str, warehouse: impl FnOnce(&Project) -> Option<Warehouse>) {
    let project = growing_project().await;
    let Some(warehouse) = warehouse(&project) else { return };
    let seed = new_seed();
    say(&format!("{test}: FLOWGUARD_TEST_SEED={seed} chooses steps"));
    let mut random = Random::new(seed, 6);
    let stand_in = StandIn::new();
    let mut table = Growing::new(&project, &warehouse);
    for death in [("during", true), ("after", true), ("during", false), ("after", false)] {
        kill_at_steps(&mut table, &stand_in, death, &mut random).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_to_duckdb_killed_at_any_step_publishes_once() {
    let test = "export_deaths::to_duckdb_killed_at_any_step";
    killed_at_steps(test, |project| Warehouse::duckdb(test, project)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_to_postgresql_killed_about_its_transaction_publishes_once() {
    let test = "export_deaths::to_postgresql_killed_about_its_transaction";
    killed_at_steps(test, |_| Warehouse::postgresql(test)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_to_snowflake_killed_about_its_transaction_publishes_once() {
    let test = "export_deaths::to_snowflake_killed_about_its_transaction";
    killed_at_steps(test, |_| Warehouse::snowflake(test)).await;
}

/// Whoever ends a service may reach the driver before the engine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_whose_driver_is_asked_to_end_was_interrupted() {
    let project = growing_project().await;
    let test = "export_deaths::driver_is_asked";
    let Some(warehouse) = Warehouse::duckdb(test, &project) else { return };
    let mut table = Growing::new(&project, &warehouse);
    let stand_in = StandIn::new();
    table.begins_anew().await;
    for step in [1, 2, 5, 9] {
        table.grow().await;
        stand_in.dies("asked", step, "during");
        let outcome = stand_in.run(&project, &["export", "run"]);
        assert_eq!(outcome.code, Some(130), "step {step}: {}", outcome.stderr);
        assert_eq!(stand_in.requests().len(), step);
        let (_, wrong) = table.look();
        assert_eq!(wrong, Vec::<String>::new(), "step {step}");
        table.goes_on(&format!("step {step}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_killed_at_random_moments_publishes_once() {
    let seed = new_seed();
    let moments = moments().unwrap_or(MOMENTS);
    let project = growing_project().await;
    let mut random = Random::new(seed, 5);
    for warehouse in Warehouse::all("export_deaths::killed_at_random_moments", &project) {
        let mut table = Growing::new(&project, &warehouse);
        table.begins_anew().await;
        table.goes_on("at first");
        table.grow().await;
        let mut lasts = table.goes_on("at first");
        let (mut engines, mut drivers, mut asked, mut published) = (0, 0, 0, 0);
        for moment in 0..moments {
            table.grow().await;
            let mut command = project.command(&["export", "run"]);
            let mut engine = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let part = (f64::from(moment) + random.below(1_000) as f64 / 1e3) / f64::from(moments);
            let after = lasts.mul_f64(part);
            thread::sleep(after);
            let when = format!("FLOWGUARD_TEST_SEED={seed}: moment {moment}, after {after:?}");
            let driver = drivers_in(project.folder()).first().copied();
            let kill = |signal: &str, victims: &[u32]| {
                let victims = victims.iter().map(u32::to_string);
                Command::new("kill").arg(signal).args(victims).status().unwrap().success()
            };
            let engine_id = engine.id();
            let both: Vec<u32> = driver.into_iter().chain([engine_id]).collect();
            // The driver's process, if there is one yet, or the engine; or they are asked to end: by
            // Ctrl-C, by a second one that does not wait, or all of a service at once.
            let mut is_asked = false;
            match (moment % 3, driver, moment / 3 % 3) {
                (0, ..) | (1, None, _) => drop(kill("-KILL", &[engine_id])),
                (1, Some(driver), _) => drivers += u32::from(kill("-KILL", &[driver])),
                (_, _, way) => {
                    is_asked = true;
                    match way {
                        0 => drop(kill("-INT", &[engine_id])),
                        1 => drop((kill("-INT", &[engine_id]), kill("-INT", &[engine_id]))),
                        _ => drop(kill("-TERM", &both)),
                    }
                }
            }
            let ended = engine.wait().unwrap();
            if is_asked && ended.code() != Some(0) {
                assert_eq!(ended.code(), Some(130), "{when}");
                await_orphans(&project, &when);
                assert!(!warehouse.was_cut_short(), "a driver was cut short: {when}");
                asked += 1;
            }
            let is_killed = ended.code().is_none();
            // After the death of its driver an export goes on with another; a comparison does not.
            engines += u32::from(is_killed);
            // Half of the next runs come at once, while a driver may still be there.
            if moment % 2 == 0 {
                await_orphans(&project, &when);
                let (held, wrong) = table.look();
                assert_eq!(wrong, Vec::<String>::new(), "{when}");
                published += u32::from(held == Some(table.version));
            }
            lasts = table.goes_on(&when);
        }
        say(&format!(
            "export_deaths: FLOWGUARD_TEST_SEED={seed}: killed were {engines} exports and {drivers} \
             drivers, interrupted {asked}; {published} after they had published"
        ));
        let enough = moments / 6;
        assert!(engines > enough && drivers > enough, "{engines} and {drivers}");
        assert!(asked > enough, "{asked}");
    }
}
