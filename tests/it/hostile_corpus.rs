//! Random statements that are deep, wide, or much more than they look like, of one user, against a
//! server that may use no more address space than a machine has. It answers or refuses each; its
//! health, another user's statements and ingestion go on meanwhile, and its memory comes back. By hand
//! `FLOWGUARD_TEST_SECONDS` is how long, of another seed each time, which is printed, and which
//! `FLOWGUARD_TEST_SEED` repeats.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowguard::kafka::{KafkaAccess, Producer, Record};

use crate::kill9::{Random, new_seed};
use crate::program::{Project, model};
use crate::served::{PATIENCE, Request, Served};
use crate::services::{Services, say, services};

/// Statements at once, all of the same user.
const ATTACKERS: usize = 3;
/// Of the server, with stacks: each of its threads may use 256 MiB, and uses little.
const ADDRESS_SPACE_KIB: u64 = 32 << 20;
/// Of the engine, of constants and results of all who ask, and of the program.
const MEMORY_MIB_MAX: f64 = 4096.0;
/// Of `/healthz`, while statements of the corpus are planned and run on all processors.
const HEALTH_P99_MAX: Duration = Duration::from_millis(100);
const HEALTH_P99_MAX_BESIDE_TESTS: Duration = Duration::from_secs(1);
/// What `make test` asks, for how long.
const SEED: u64 = 20_261;
const SECONDS: u64 = 15;
/// What one statement of somebody else may wait: longer than a statement of the corpus runs.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(8);
const RUN_MS_MAX: u64 = 2_000;
/// What a minute after the last statement may still be held over what was before the first.
const MEMORY_LEFT_MIB_MAX: f64 = 512.0;
const TICK: Duration = Duration::from_millis(20);

/// Writes statements.
struct Corpus(Random);

impl Corpus {
    fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.0.below(bound)).unwrap()
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len() as u64)]
    }

    /// How often something is repeated: often few times, sometimes very many.
    fn count(&mut self) -> usize {
        let magnitude = self.below(5);
        let most = [8, 60, 600, 5_000, 40_000][magnitude];
        1 + self.below(most)
    }

    fn statement(&mut self) -> String {
        let statement = match self.below(8) {
            0 => self.depth(),
            1 => self.width(),
            2 => self.folding(),
            3 => self.doubling(),
            4 => self.literal(),
            5 => self.pattern(),
            6 => self.recursion(),
            _ => self.catalog(),
        };
        match self.below(8) {
            0 => format!("EXPLAIN {statement}"),
            1 => format!("SELECT count(*) FROM ({statement}) AS t"),
            2 => format!("WITH t AS ({statement}) SELECT * FROM t UNION ALL SELECT * FROM t"),
            3 => format!("{statement} LIMIT 5"),
            _ => statement,
        }
    }

    /// Constructs within each other.
    fn depth(&mut self) -> String {
        let (before, core, after) = [
            ("(", "1", ")"),
            ("NOT ", "true", ""),
            ("- ", "1", ""),
            ("abs(", "1", ")"),
            ("CASE WHEN true THEN ", "1", " END"),
            ("CASE ", "1", " WHEN 1 THEN 1 END"),
            ("", "1", "::INT"),
            ("", "[1]", "[1]"),
            ("[", "1", "]"),
            ("struct(", "1", ")"),
            ("", "now()", " AT TIME ZONE 'UTC'"),
            ("", "'a'", " LIKE 'a'"),
            ("", "1", " BETWEEN 0 AND 1"),
            ("", "1", " IS NOT NULL"),
            ("", "1", " IN (1)"),
            ("(SELECT ", "1", ")"),
            ("CAST(", "1", " AS TEXT)"),
            ("COALESCE(NULL, ", "1", ")"),
            ("EXISTS (SELECT ", "1", ")"),
            ("1 IN (SELECT ", "1", ")"),
            ("INTERVAL '1 day' * ", "1", ""),
            ("EXTRACT(year FROM ", "now()", ")"),
            ("1 = ANY(ARRAY[", "1", "])"),
            ("{'a': ", "1", "}"),
        ][self.below(24)];
        let count = self.count();
        let nested = format!("{}{core}{}", before.repeat(count), after.repeat(count));
        match self.below(6) {
            0 => format!("SELECT x FROM silver.one WHERE ({nested}) IS NOT NULL"),
            1 => format!("SELECT x FROM silver.one ORDER BY {nested}"),
            2 => format!("SELECT sum(x) OVER (ORDER BY {nested}) FROM silver.one"),
            3 => {
                let (before, after) = [
                    ("SELECT * FROM (", ") AS t"),
                    ("EXPLAIN ", ""),
                    ("WITH t AS (", ") SELECT * FROM t"),
                    ("(", ")"),
                    ("SELECT 1 EXCEPT (", ")"),
                    ("SELECT 1 WHERE 1 IN (", ")"),
                ][self.below(6)];
                format!("{}SELECT 1 AS n{}", before.repeat(count), after.repeat(count))
            }
            4 => {
                let types = ["INT", "List(", "STRUCT<a ", "MAP(INT, "];
                let each = types[self.below(4)];
                format!(
                    "SELECT arrow_cast(NULL, '{}'), CAST(NULL AS {})",
                    each.repeat(count),
                    each.repeat(count)
                )
            }
            _ => format!("SELECT {nested} AS n"),
        }
    }

    /// Many of the same beside each other.
    fn width(&mut self) -> String {
        let (before, link, after) = [
            ("SELECT 1", " + #", ""),
            ("SELECT 1.5", " * 1.0", ""),
            ("SELECT 'a'", " || 'b#'", ""),
            ("SELECT x FROM silver.one WHERE true", " AND x <> #", ""),
            ("SELECT x FROM silver.one WHERE false", " OR x = # AND x > -#", ""),
            ("SELECT x FROM silver.one WHERE x IN (0", ", #", ")"),
            ("SELECT x FROM silver.one WHERE x NOT IN (0", ", # + 1", ")"),
            ("SELECT 0", ", #", ""),
            ("SELECT 0 AS c", ", x AS c#", " FROM silver.one"),
            ("VALUES (0)", ", (#)", ""),
            ("SELECT 1", " UNION ALL SELECT #", ""),
            ("SELECT 1", " UNION SELECT #", ""),
            ("SELECT 1", " INTERSECT SELECT #", ""),
            ("SELECT 1", " EXCEPT ALL SELECT #", ""),
            ("SELECT count(*) FROM silver.one", ", silver.one AS t#", ""),
            ("SELECT count(*) FROM silver.one AS t", " JOIN silver.one AS t# USING (x)", ""),
            ("WITH t AS (SELECT 1 AS n)", ", t# AS (SELECT n + # AS n FROM t)", " SELECT * FROM t"),
            ("SELECT count(*) FROM silver.one GROUP BY x", ", x + #", ""),
            ("SELECT count(*) FROM silver.one GROUP BY CUBE(x", ", x + #", ")"),
            ("SELECT count(*) FROM silver.one GROUP BY GROUPING SETS ((x)", ", (x + #)", ")"),
            ("SELECT x FROM silver.one ORDER BY x", ", x + #", ""),
            ("SELECT CASE x WHEN 0 THEN 1", " WHEN # THEN #", " END FROM silver.one"),
            ("SELECT concat('a'", ", 'b#'", ")"),
            ("SELECT greatest(1", ", #", ")"),
            ("SELECT make_array(1", ", #", ")"),
            ("SELECT 1 IN (?", ", ?", ")"),
            ("SELECT sum(x) OVER w FROM silver.one WINDOW w AS ()", ", w# AS (ORDER BY x)", ""),
            (
                "SELECT lag(x) OVER (ORDER BY x)",
                ", lag(x, #) OVER (ORDER BY x)",
                " FROM silver.one",
            ),
        ][self.below(28)];
        let links: Vec<String> =
            (0..self.count()).map(|at| link.replace('#', &at.to_string())).collect();
        format!("{before}{}{after}", links.concat())
    }

    /// Little that becomes much while it is planned, or as it runs.
    fn folding(&mut self) -> String {
        let size = 10_u64.pow(3 + u32::try_from(self.below(7)).unwrap());
        let text = self.one_of(&["'x'", "'häß'", "CAST(x AS TEXT)", "repeat('y', 1000)"]);
        let big = [
            format!("repeat({text}, {size})"),
            format!("lpad({text}, {size}, 'ab')"),
            format!("rpad({text}, {size})"),
            format!("array_to_string(array_repeat({text}, {size}), ',')"),
            format!("CAST(range(0, {size}) AS TEXT)"),
            format!("replace(repeat('a', {size}), 'a', repeat('b', {size}))"),
            format!("translate(repeat('a', {size}), 'a', 'bc')"),
            format!("regexp_replace(repeat('a', {size}), 'a', 'bbbb', 'g')"),
            format!("encode(repeat('a', {size}), 'hex')"),
            format!("concat(repeat('a', {size}), repeat('b', {size}))"),
            format!("upper(repeat('ß', {size}))"),
        ];
        let big = &big[self.below(big.len() as u64)];
        match self.below(7) {
            0 => format!("SELECT {big} AS n FROM silver.one"),
            1 => {
                format!("SELECT string_agg({big}, ',') FROM generate_series(1, {size}), silver.one")
            }
            2 => format!("SELECT array_agg({big}) FROM generate_series(1, {size}), silver.one"),
            3 => format!(
                "SELECT DISTINCT {big} || value FROM generate_series(1, {size}), silver.one"
            ),
            4 => format!(
                "SELECT max({big} || value) OVER () FROM generate_series(1, {size}), silver.one"
            ),
            5 => format!(
                "SELECT value, {big} FROM generate_series(1, {size}), silver.one ORDER BY 2, 1"
            ),
            _ => format!("SELECT length({big}) FROM silver.one"),
        }
    }

    /// Twice as much by every line.
    fn doubling(&mut self) -> String {
        let times = 2 + self.below(40);
        let each = |step: &dyn Fn(usize) -> String| (1..=times).map(step).collect::<String>();
        match self.below(5) {
            0 => {
                let ctes =
                    each(&|at| format!(", a{at} AS (SELECT x.n FROM a{0} x, a{0} y)", at - 1));
                format!("WITH a0 AS (SELECT 1 AS n){ctes} SELECT count(*) FROM a{times}")
            }
            1 => {
                let ctes = each(&|at| {
                    format!(", a{at} AS (SELECT n FROM a{0} UNION ALL SELECT n FROM a{0})", at - 1)
                });
                format!("WITH a0 AS (SELECT 1 AS n){ctes} SELECT count(*) FROM a{times}")
            }
            2 => {
                let ctes = each(&|at| format!(", a{at} AS (SELECT n || n AS n FROM a{})", at - 1));
                format!("WITH a0 AS (SELECT 'ab' AS n){ctes} SELECT length(n) FROM a{times}")
            }
            3 => {
                let ctes =
                    each(&|at| format!(", a{at} AS (SELECT [n, n, n] AS n FROM a{})", at - 1));
                format!("WITH a0 AS (SELECT 'ab' AS n){ctes} SELECT n FROM a{times}")
            }
            _ => {
                let joins = each(&|at| format!(" CROSS JOIN generate_series(1, 1000) AS g{at}(v)"));
                format!("SELECT count(*) FROM silver.one{joins}")
            }
        }
    }

    fn literal(&mut self) -> String {
        let count = self.count() * 10;
        match self.below(10) {
            0 => format!("SELECT '{}' AS n", "x".repeat(count)),
            1 => format!("SELECT {} AS n", "9".repeat(count)),
            2 => format!("SELECT 1e{} AS n, 1.{} AS m", "9".repeat(count % 400), "3".repeat(count)),
            3 => format!("SELECT X'{}' AS n", "ab".repeat(count)),
            4 => format!("SELECT 1 AS \"{}\"", "n".repeat(count)),
            5 => format!("SELECT 1 {} AS n", "/*".repeat(count)),
            6 => format!("SELECT 1 AS n {}", "-- x\n".repeat(count)),
            7 => format!("SELECT '{}", "''".repeat(count)),
            8 => format!(
                "SELECT DATE '{}', INTERVAL '{} days'",
                "9".repeat(count),
                "9".repeat(count)
            ),
            _ => format!("SELECT '\u{0}\u{202e}{}' AS n;{}", "🎉".repeat(count), ";".repeat(count)),
        }
    }

    fn pattern(&mut self) -> String {
        let count = self.count();
        let text = format!("repeat('a', {count})");
        let pattern = match self.below(7) {
            0 => "(a*)*b".to_owned(),
            1 => format!("{}a{}", "(".repeat(count), ")*".repeat(count)),
            2 => "a{1000}{1000}{1000}".to_owned(),
            3 => format!("({})*c", "a|".repeat(count)),
            4 => format!("[{}]", "a-z".repeat(count)),
            5 => "\\p{L}{1,999}".repeat(1 + count % 50),
            _ => format!("(?:{}", "(?i".repeat(count)),
        };
        match self.below(4) {
            0 => format!("SELECT regexp_like({text}, '{pattern}') AS n"),
            1 => format!("SELECT regexp_replace({text}, '{pattern}', 'b', 'g') AS n"),
            2 => format!("SELECT {text} LIKE '{}' AS n", "%a".repeat(count)),
            _ => format!("SELECT x FROM silver.one WHERE CAST(x AS TEXT) ~ '{pattern}'"),
        }
    }

    fn recursion(&mut self) -> String {
        let step = self.one_of(&["n + 1", "n", "n || n", "repeat(n, 10)", "[n]", "n * 2.0"]);
        let first = if step.contains("||") || step.contains("repeat") { "'a'" } else { "1" };
        let more =
            self.one_of(&["", ", generate_series(1, 1000)", ", t AS u", " WHERE n IS NOT NULL"]);
        let all = self.one_of(&["ALL ", ""]);
        format!(
            "WITH RECURSIVE t AS (SELECT {first} AS n UNION {all}SELECT {step} FROM t{more}) \
             SELECT count(*) FROM t"
        )
    }

    /// What a server knows of itself, and what it has no business with.
    fn catalog(&mut self) -> String {
        let tables =
            ["columns", "tables", "views", "routines", "df_settings", "schemata", "parameters"];
        let listed: Vec<String> = (0..1 + self.below(6))
            .map(|at| format!("information_schema.{} AS t{at}", tables[self.below(7)]))
            .collect();
        match self.below(8) {
            0 => format!("SELECT count(*) FROM {}", listed.join(", ")),
            1 => format!("SELECT * FROM {}", listed.join(" CROSS JOIN ")),
            2 => "SHOW ALL".to_owned(),
            3 => format!(
                "SELECT * FROM '{}'",
                self.one_of(&["/etc/passwd", "/proc/self/environ", "s3://x/y"])
            ),
            4 => self
                .one_of(&["DESCRIBE silver.one", "SHOW COLUMNS FROM silver.one", "SHOW FUNCTIONS"])
                .to_owned(),
            5 => self
                .one_of(&[
                    "COPY (SELECT 1) TO '/tmp/flowguard-hostile'",
                    "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
                    "SET datafusion.execution.target_partitions = 100000",
                    "PREPARE p AS SELECT $1",
                    "DROP TABLE silver.one",
                    "INSERT INTO silver.one VALUES (1)",
                    "CREATE TABLE t AS SELECT * FROM generate_series(1, 1000000000)",
                ])
                .to_owned(),
            6 => "EXPLAIN ANALYZE SELECT count(*) FROM generate_series(1, 100000000)".to_owned(),
            _ => format!(
                "SELECT * FROM generate_series(1, {}) ORDER BY value DESC",
                u64::MAX >> self.below(60)
            ),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Attack<'a> {
    served: &'a Served,
    seed: u64,
    ends: Instant,
    asked: AtomicU64,
    refused: AtomicU64,
    /// The latest of each attacker.
    latest: [Mutex<String>; ATTACKERS],
    wrong: Mutex<Vec<String>>,
}

fn ask(served: &Served, user: &str, sql: &str) -> (u16, String) {
    let proof = format!("Basic {}", STANDARD.encode(format!("{user}:sesame of {user}")));
    let headers = &[("content-type", "text/plain"), ("authorization", proof.as_str())];
    let request = Request { method: "POST", path: "/api/v1/query", headers, body: sql.as_bytes() };
    let reply = served.ask(&request);
    (reply.status, String::from_utf8_lossy(&reply.body).chars().take(300).collect())
}

impl Attack<'_> {
    fn go_on(&self, attacker: u64) {
        let mut corpus = Corpus(Random::new(self.seed, attacker));
        while Instant::now() < self.ends {
            let sql = corpus.statement();
            sql.clone_into(&mut lock(&self.latest[attacker as usize]));
            let (status, said) = ask(self.served, "ana", &sql);
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.refused.fetch_add(u64::from(status != 200), Ordering::Relaxed);
            // Answered; no valid statement, or too much; not allowed; too long to read; limits.
            if !matches!(status, 200 | 400 | 403 | 404 | 413 | 429) {
                let shown: String = sql.chars().take(300).collect();
                lock(&self.wrong).push(format!("{status} {said}\n  {} bytes: {shown}", sql.len()));
            }
        }
    }

    /// How long `/healthz` took each time, until the end.
    fn watch_health(&self) -> Vec<Duration> {
        let mut took = Vec::new();
        while Instant::now() < self.ends {
            let began = Instant::now();
            assert_eq!(self.served.get("/healthz").succeeded(), "ok\n");
            took.push(began.elapsed());
            thread::sleep(TICK);
        }
        took.sort();
        took
    }

    /// The longest that another user waited for a small statement.
    fn others_waited(&self) -> Duration {
        let mut longest = Duration::ZERO;
        while Instant::now() < self.ends {
            let began = Instant::now();
            let answer = ask(self.served, "eve", "SELECT x FROM silver.one");
            assert_eq!(answer, (200, "{\"x\":1}\n".to_owned()));
            longest = longest.max(began.elapsed());
            thread::sleep(TICK);
        }
        longest
    }
}

/// Messages at a steady rate until `done`; how many there were.
fn produced(kafka: &KafkaAccess, topic: &str, done: &AtomicBool) -> u64 {
    let producer = Producer::new(kafka).unwrap();
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        let payload = format!("{{\"n\":{count}}}");
        let payload = Some(payload.as_bytes());
        let headers = &[] as &[_];
        let record =
            Record { topic, partition: Some(0), key: None, payload, headers, timestamp_ms: None };
        producer.send(&record).unwrap();
        count += 1;
        thread::sleep(TICK);
    }
    producer.flush().unwrap();
    count
}

fn project(services: &Services, topic: &str) -> Project {
    let ticks = format!(
        "kind: append\nsource: {{topic: {topic}, format: json}}\ncolumns:\n  n: {{type: bigint}}"
    );
    let project = Project::of_models(&[
        ("bronze/ticks", &model(&ticks, "SELECT * FROM kafka.ticks")),
        ("silver/one", &model("kind: full", "SELECT 1 AS x")),
    ]);
    project.run(&["run", "silver.one"]).succeeded();
    for (user, role) in [("ana", "analyst"), ("eve", "engineer")] {
        let arguments = ["user", "add", user, "--role", role, "--password-stdin"];
        project.run_with_input(&arguments, &format!("sesame of {user}")).succeeded();
    }
    project
        .with("FLOWGUARD_KAFKA_BOOTSTRAP_SERVERS", &services.kafka)
        .with("FLOWGUARD_INGEST_FLUSH_AGE_MS_MAX", "500ms")
}

#[test]
fn a_hostile_user_takes_nothing_from_others() {
    let by_hand = std::env::var("FLOWGUARD_TEST_SECONDS").ok();
    let seconds = by_hand.as_ref().map(|text| text.parse().expect("seconds are a number"));
    let test = "hostile_corpus::a_hostile_user_takes_nothing_from_others";
    let Some(services) = services(test) else { return };
    let seed = if by_hand.is_some() { new_seed() } else { SEED };
    let seconds = seconds.unwrap_or(SECONDS);
    say(&format!("hostile_corpus: FLOWGUARD_TEST_SEED={seed}"));
    let topic = format!("test.{}.ticks", services.nonce);
    services.create_topic(&topic, 1);
    let kafka = KafkaAccess { bootstrap_servers: services.kafka.clone(), ..KafkaAccess::default() };
    let project = project(&services, &topic);
    let limited = format!("ulimit -v {ADDRESS_SPACE_KIB}; exec \"$0\" \"$@\"");
    let run_max = format!("--set=server.statement_run_ms_max={RUN_MS_MAX}");
    let served = Served::start_through(&project, &["sh", "-c", &limited], &[&run_max]);
    assert_eq!(ask(&served, "ana", "SELECT x FROM silver.one").0, 200);
    let before = served.memory_mib("VmRSS");
    let attack = Attack {
        served: &served,
        seed,
        ends: Instant::now() + Duration::from_secs(seconds),
        asked: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        latest: Default::default(),
        wrong: Mutex::default(),
    };
    let done = AtomicBool::new(false);
    let (health, waited, sent) = thread::scope(|scope| {
        let attackers = (0..ATTACKERS as u64).map(|at| {
            scope.spawn({
                let attack = &attack;
                move || attack.go_on(at)
            })
        });
        let attackers: Vec<_> = attackers.collect();
        let health = scope.spawn(|| attack.watch_health());
        let others = scope.spawn(|| attack.others_waited());
        let messages = scope.spawn(|| produced(&kafka, &topic, &done));
        let answered: Vec<_> = attackers.into_iter().map(|attacker| attacker.join()).collect();
        done.store(true, Ordering::Relaxed);
        let is_answered = answered.iter().all(Result::is_ok);
        let latest = attack.latest.each_ref().map(|sql| lock(sql).chars().take(300).collect());
        let latest: [String; ATTACKERS] = latest;
        assert!(is_answered, "FLOWGUARD_TEST_SEED={seed}: {latest:#?}\n{}", served.said());
        let health = health.join().expect("health is answered");
        let waited = others.join().expect("others are answered");
        (health, waited, messages.join().expect("messages are sent"))
    });
    let p99 = health[health.len() * 99 / 100];
    let peak = served.memory_mib("VmHWM");
    let (asked, refused) = (&attack.asked, &attack.refused);
    say(&format!(
        "hostile_corpus: {asked:?} statements, {refused:?} refused; /healthz p99 {p99:?}, max {:?}; \
         others waited {waited:?} at most; {peak:.0} MiB at most, {before:.0} before",
        health.last().unwrap()
    ));
    let wrong = lock(&attack.wrong);
    assert!(wrong.is_empty(), "FLOWGUARD_TEST_SEED={seed}:\n{}", wrong.join("\n"));
    assert!(peak <= MEMORY_MIB_MAX, "{peak} MiB");
    let p99_max = if by_hand.is_some() { HEALTH_P99_MAX } else { HEALTH_P99_MAX_BESIDE_TESTS };
    assert!(p99 <= p99_max, "/healthz took {p99:?}");
    assert!(waited <= OTHERS_WAIT_MAX, "others waited {waited:?}");
    let deadline = Instant::now() + PATIENCE;
    let is_restored = || {
        let count = ask(&served, "eve", "SELECT count(*) AS n FROM bronze.ticks").1;
        let left = served.memory_mib("VmRSS") - before;
        (count == format!("{{\"n\":{sent}}}\n") && left < MEMORY_LEFT_MIB_MAX, count, left)
    };
    loop {
        let (is_restored, count, left) = is_restored();
        if is_restored {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{sent} sent, {count} held; {left} MiB left\n{}",
            served.said()
        );
        thread::sleep(TICK);
    }
    assert_eq!(served.stop(), Some(0));
}
