//! Statements that are long, deep, or much more than they look like: each is answered or refused, and
//! while it is, the server is well, answers others, and takes no more memory than it may.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::program::{Project, model};
use crate::served::{Request, Served};

/// What others may wait while a statement is planned or runs. A busy machine takes some of it; planning
/// on the threads that serve took 22 s.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(3);
/// Of resident memory, at any time: that of one statement, and the program itself.
const MEMORY_MIB_MAX: f64 = 2_048.0;

fn chain(before: &str, link: &str, count: usize, after: &str) -> String {
    let links: Vec<String> = (0..count).map(|at| link.replace('#', &at.to_string())).collect();
    format!("{before}{}{after}", links.concat())
}

/// Statement, status, and what the answer contains.
fn statements() -> Vec<(String, u16, &'static str)> {
    let doubling = |times: usize| {
        let each = (1..=times).map(|at| {
            let before = at - 1;
            format!(", a{at} AS (SELECT x.n FROM a{before} x, a{before} y)")
        });
        format!("WITH a0 AS (SELECT 1 AS n){} SELECT n FROM a{times}", each.collect::<String>())
    };
    let one = "SELECT count(*) AS n FROM silver.one WHERE x IN (0";
    let not = "SELECT count(*) AS n FROM silver.one WHERE x = 1";
    vec![
        // What simply works, however long it is.
        (chain("SELECT 1", "+1", 20_000, " AS n"), 200, "20001"),
        (chain(one, ", #", 100_000, ")"), 200, "{\"n\":1}"),
        (chain("SELECT 1 AS n WHERE true", " AND 1 = 1", 20_000, ""), 200, "{\"n\":1}"),
        (chain(not, " OR x = -#", 20_000, ""), 200, "{\"n\":1}"),
        (
            chain("SELECT count(*) AS n FROM (SELECT 1", " UNION ALL SELECT 1", 3_000, ")"),
            200,
            "3001",
        ),
        (chain("SELECT count(*) AS n FROM (SELECT 1", " UNION SELECT #", 2_000, ")"), 200, "2000"),
        (
            chain("SELECT count(*) AS n FROM (SELECT 1", " EXCEPT SELECT #", 2_000, ")"),
            200,
            "\"n\":0",
        ),
        (chain("SELECT length('a'", "||'b'", 20_000, ") AS n"), 200, "20001"),
        // What is refused before it is planned.
        (chain("SELECT 1", "::INT", 20_000, ""), 400, "nested too deeply"),
        (chain("SELECT 1", " - 1", 20_000, ""), 400, "nested too deeply"),
        (chain("SELECT 1 AS n", " EXCEPT ALL SELECT 1", 20_000, ""), 400, "nested too deeply"),
        (chain("SELECT CAST(NULL AS INT", "[]", 20_000, ")"), 400, "nested too deeply"),
        (doubling(20), 400, "may add 4096"),
        (doubling(60), 400, "may add 4096"),
        (
            chain("SELECT 1 FROM silver.one GROUP BY CUBE(x", ", x + #", 23, ")"),
            400,
            "16777216 grouping sets",
        ),
        (chain("SELECT 1 IN (?", ", ?", 100_000, ")"), 400, "placeholders"),
        ("SELECT arrow_cast(X'00', 'FixedSizeBinary(2147483647)')".to_owned(), 400, "fixed length"),
        // What would be made of literals while they are planned.
        ("SELECT length(repeat('x', 2000000000))".to_owned(), 429, "may make 32 MiB"),
        ("SELECT length(lpad('x', 2000000000))".to_owned(), 429, "may make 32 MiB"),
        ("SELECT array_length(array_repeat(1, 500000000))".to_owned(), 429, "may make 32 MiB"),
        ("SELECT array_length(range(0, 2000000000))".to_owned(), 429, "may make 32 MiB"),
        (
            "SELECT length(replace(repeat('a', 1000000), 'a', repeat('b', 1000000)))".to_owned(),
            429,
            "may make 32 MiB",
        ),
        (grown("n || n"), 429, "may make 32 MiB"),
        (grown("concat(n, n, n)"), 429, "may make 32 MiB"),
        (grown("[n, n, n]"), 429, "may make 32 MiB"),
        (grown("struct(n, n, n)"), 400, "more than 10000 fields"),
        (grown("{'a': n, 'b': n, 'c': n}"), 400, "more than 10000 fields"),
        (grown("replace(n, 'a', 'aaa')"), 429, "may make 32 MiB"),
        (grown("regexp_replace(n, '(.)', '$1$1$1', 'g')"), 429, "may make 32 MiB"),
        (grown("array_to_string([n, n, n], n)"), 429, "may make"),
        (grown("concat_ws(n, n, n, n)"), 429, "may make"),
        (
            "SELECT cardinality(array_resize([], 100000, repeat('x', 1000000)))".to_owned(),
            429,
            "may make 32 MiB",
        ),
        (
            "SELECT array_replace_all(array_repeat(1, 1000000), 1, length(repeat('x', 1000000))) = [1]"
                .to_owned(),
            200,
            "",
        ),
        (
            "SELECT cardinality(array_replace_all(array_repeat('a', 100000), 'a', repeat('x', 1000000)))"
                .to_owned(),
            429,
            "may make 32 MiB",
        ),
        // A constant in every row of a batch.
        (
            "SELECT max(length(t)) FROM (SELECT repeat('x', 1000000) AS t, value AS n \
             FROM generate_series(1, 100000) ORDER BY n + length(t))"
                .to_owned(),
            429,
            "may make 256 MiB",
        ),
        (
            "SELECT repeat('x', 1000000) AS t, value AS n FROM generate_series(1, 100000)"
                .to_owned(),
            429,
            "may make 256 MiB",
        ),
        (
            "SELECT array_agg(repeat('x', 1000000)) FROM generate_series(1, 100000)".to_owned(),
            429,
            "may make 256 MiB",
        ),
        (
            "SELECT lag(repeat('x', 1000000)) OVER (ORDER BY value) FROM generate_series(1, 100000)"
                .to_owned(),
            429,
            "may make 256 MiB",
        ),
        (
            "SELECT CASE WHEN value > 5 THEN range(0, 1000000) END AS t \
             FROM generate_series(1, 100000)"
                .to_owned(),
            429,
            "may make 256 MiB",
        ),
        (
            "SELECT max(length(repeat('x', 100000) || value)) AS n FROM generate_series(1, 100000)"
                .to_owned(),
            429,
            "may make 256 MiB",
        ),
        ("SELECT length(repeat('x', 1000000) || 'y') AS n".to_owned(), 200, "1000001"),
        ("SELECT substr(repeat('x', 1000000), 1, 2) AS n".to_owned(), 200, "xx"),
        ("SELECT right(t, 2) AS n FROM (SELECT repeat('x', 1000000) AS t)".to_owned(), 200, "xx"),
        (
            "SELECT regexp_replace(repeat('ab', 1000000), 'x', repeat('y', 1000), 'g') LIKE 'ab%' AS n"
                .to_owned(),
            200,
            "true",
        ),
    ]
}

/// A value that each of thirty queries makes of the one before, `n`.
fn grown(by: &str) -> String {
    let mut sql = "WITH q0 AS (SELECT 'ab' AS n)".to_owned();
    for at in 1..30 {
        sql.push_str(&format!(", q{at} AS (SELECT {by} AS n FROM q{})", at - 1));
    }
    sql + " SELECT count(n) FROM q29 WHERE n IS NOT NULL"
}

fn ask(served: &Served, sql: &str) -> (u16, String) {
    let headers = &[("content-type", "text/plain")];
    let request = Request { method: "POST", path: "/api/v1/query", headers, body: sql.as_bytes() };
    let reply = served.ask(&request);
    (reply.status, reply.text())
}

/// The longest that anybody else waited, until `done`.
fn longest_wait(served: &Served, done: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        assert_eq!(served.get("/healthz").succeeded(), "ok\n");
        assert_eq!(ask(served, "SELECT 1 AS one").0, 200);
        longest = longest.max(began.elapsed());
        thread::sleep(Duration::from_millis(20));
    }
    longest
}

#[test]
fn hostile_statements_take_nothing_from_others() {
    let project = Project::of_models(&[("silver/one", &model("kind: full", "SELECT 1 AS x"))]);
    project.run(&["run"]).succeeded();
    let served = Served::start(&project, &[]);
    let done = AtomicBool::new(false);
    let mut wrong = BTreeMap::new();
    let waited = thread::scope(|scope| {
        let others = scope.spawn(|| longest_wait(&served, &done));
        for (sql, status, part) in statements() {
            let (found, said) = ask(&served, &sql);
            if found != status || !said.contains(part) {
                let said: String = said.chars().take(400).collect();
                wrong.insert(sql[..sql.len().min(60)].to_owned(), format!("{found} {said}"));
            }
        }
        done.store(true, Ordering::Relaxed);
        others.join().expect("others are answered")
    });
    let peak = served.memory_mib("VmHWM");
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(waited < OTHERS_WAIT_MAX, "others waited {waited:?}");
    assert!(peak < MEMORY_MIB_MAX, "{peak} MiB");
    assert_eq!(served.stop(), Some(0));
}

/// It neither gives way nor finds a row, on all processors.
#[test]
fn a_join_that_finds_nothing_ends_in_time() {
    let project = Project::of_models(&[("silver/one", &model("kind: full", "SELECT 1 AS x"))]);
    project.run(&["run"]).succeeded();
    let served = Served::start(&project, &["--set=server.statement_run_ms_max=3s"]);
    let done = AtomicBool::new(false);
    let waited = thread::scope(|scope| {
        let others = scope.spawn(|| longest_wait(&served, &done));
        let began = Instant::now();
        let (status, said) = ask(
            &served,
            "SELECT count(*) FROM generate_series(1, 200000) a(x) \
             JOIN generate_series(1, 200000) b(y) ON a.x * a.x + b.y * b.y = -1",
        );
        assert_eq!(status, 429, "{said}");
        assert!(said.contains("ran longer than 3 s"), "{said}");
        assert!(
            began.elapsed() < Duration::from_secs(3) + OTHERS_WAIT_MAX,
            "{:?}",
            began.elapsed()
        );
        done.store(true, Ordering::Relaxed);
        others.join().expect("others are answered")
    });
    assert!(waited < OTHERS_WAIT_MAX, "others waited {waited:?}");
}
