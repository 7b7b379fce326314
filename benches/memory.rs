//! How much memory the builds of a medallion project take at their peak, and how long, within a limit:
//! `cargo bench --bench memory [-- EVENTS [NAME …]]`. `FLOWGUARD_BENCH_BEFORE` names another build of
//! the program, which is measured by turns with this one. Limits are 500 MB and 1 GiB, or what
//! `FLOWGUARD_BENCH_LIMITS` lists, in bytes.

#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const EVENTS_DEFAULT: u64 = 10_000_000;
const LIMITS: &str = "500000000 1073741824";
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Built first, in this order, without being measured.
const INPUTS: [&str; 3] = ["silver.orders", "silver.events", "silver.year"];
const KEEPS: &str = "FLOWGUARD_BENCH_KEEP";

/// What is made of the events, at once.
const STATEMENTS: [(&str, &str); 12] = [
    (
        "gold.items",
        "WITH seen AS (SELECT item_id, sum(price) AS price, count(*) AS events, \
         count(DISTINCT user_id) AS users FROM silver.events GROUP BY item_id), \
         bought AS (SELECT item_id, sum(amount) AS amount, count(*) AS orders, \
         count(DISTINCT user_id) AS buyers FROM silver.orders GROUP BY item_id) \
         SELECT s.*, b.amount, b.orders, b.buyers FROM seen s LEFT JOIN bought b \
         ON b.item_id = s.item_id",
    ),
    (
        "gold.item_numbers",
        "SELECT item_id, sum(price) AS price, count(*) AS events, \
         count(DISTINCT user_number) AS users FROM silver.events GROUP BY item_id",
    ),
    (
        "gold.users",
        "SELECT user_id, count(*) AS events, sum(price) AS price, count(DISTINCT item_id) AS items, \
         count(DISTINCT order_id) AS orders FROM silver.events GROUP BY user_id",
    ),
    (
        "gold.two_texts",
        "SELECT item_id, count(DISTINCT user_id) AS users, count(DISTINCT trace) AS traces, \
         count(*) AS events FROM silver.events GROUP BY item_id",
    ),
    (
        "gold.days",
        "SELECT CAST(at AS DATE) AS day, count(*) AS events, sum(price) AS price, \
         count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items \
         FROM silver.events GROUP BY CAST(at AS DATE)",
    ),
    (
        "gold.traces",
        "SELECT trace, sum(price) AS price, min(at) AS at FROM silver.events GROUP BY trace",
    ),
    (
        "gold.latest",
        "SELECT * FROM silver.events QUALIFY row_number() OVER (PARTITION BY order_id \
         ORDER BY at DESC, event_id DESC) = 1",
    ),
    (
        "gold.enriched",
        "SELECT e.*, o.amount, o.at AS ordered_at FROM silver.events e \
         JOIN silver.orders o ON o.order_id = e.order_id",
    ),
    (
        "gold.pairs",
        "SELECT a.event_id, b.event_id AS other, a.price + b.price AS price FROM silver.events a \
         JOIN silver.events b ON b.trace = a.trace",
    ),
    (
        "gold.attributed",
        "SELECT o.order_id, o.amount, e.event_id, e.item_id, e.at AS seen_at FROM silver.orders o \
         LEFT JOIN silver.events e ON e.user_id = o.user_id AND e.at <= o.at \
         AND e.at >= o.at - INTERVAL '7 days' QUALIFY row_number() OVER (PARTITION BY o.order_id \
         ORDER BY e.at DESC, e.event_id DESC) = 1",
    ),
    (
        "gold.sessions",
        "SELECT user_id, session, min(at) AS began, max(at) AS ended, count(*) AS events FROM (\
         SELECT user_id, at, sum(is_new) OVER (PARTITION BY user_id ORDER BY at, event_id) AS session \
         FROM (SELECT user_id, event_id, at, CASE WHEN at - lag(at) OVER (PARTITION BY user_id \
         ORDER BY at, event_id) < INTERVAL '30 minutes' THEN 0 ELSE 1 END AS is_new \
         FROM silver.events)) GROUP BY user_id, session",
    ),
    ("gold.sorted", "SELECT * FROM silver.events ORDER BY trace"),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let count = arguments.iter().find_map(|argument| argument.parse().ok());
    let count = count.unwrap_or(EVENTS_DEFAULT);
    let named: Vec<&String> = arguments.iter().filter(|a| a.parse::<u64>().is_err()).collect();
    let ours = env!("CARGO_BIN_EXE_flowguard").to_owned();
    let before = std::env::var("FLOWGUARD_BENCH_BEFORE").ok();
    let limits = std::env::var("FLOWGUARD_BENCH_LIMITS").unwrap_or_else(|_| LIMITS.to_owned());
    let folder = TempDir::new().expect("a folder");
    let kept = std::env::var(KEEPS).ok();
    let project = kept.as_deref().map_or(folder.path(), Path::new);
    write_project(project, count);
    for input in INPUTS {
        if !project.join("lake").join(input.replace('.', "/")).exists() {
            let built = build(&ours, project, input, 4 << 30);
            println!("{input:<18} {built}");
        }
    }
    for limit in limits.split_whitespace().map(|limit| limit.parse().expect("bytes")) {
        println!("\n{count} events, {limit} bytes: seconds, MiB at most");
        for (name, _) in models(count) {
            let is_named = named.is_empty() || named.iter().any(|n| name.contains(n.as_str()));
            if INPUTS.contains(&name) || !is_named {
                continue;
            }
            let was = before.as_deref().map(|before| build(before, project, name, limit));
            let is = build(&ours, project, name, limit);
            println!("{name:<18} {}{is}", was.map_or(String::new(), |was| format!("{was} -> ")));
        }
    }
}

/// Builds one model anew; what it took.
fn build(program: &str, project: &Path, name: &str, limit: u64) -> String {
    let start = Instant::now();
    let mut command = Command::new(program);
    command.current_dir(project).env_clear();
    command.env("FLOWGUARD_ENGINE_MEMORY_BYTES_MAX", limit.to_string());
    if let Ok(options) = std::env::var("_RJEM_MALLOC_CONF") {
        command.env("_RJEM_MALLOC_CONF", options);
    }
    command.args(["run", name, "--full-refresh"]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut peak = 0.0;
    while child.try_wait().expect("it is ours").is_none() {
        peak = f64::max(peak, most_memory_mib(child.id()));
        std::thread::sleep(LOOK_INTERVAL);
    }
    let seconds = start.elapsed().as_secs_f64();
    let output = child.wait_with_output().expect("it has ended");
    let said = String::from_utf8_lossy(&output.stderr);
    let why = said.lines().find(|line| line.contains("cannot") || line.contains("error"));
    match output.status.success() {
        true => format!("{seconds:>6.1} s {peak:>6.0} MiB"),
        false => format!("{seconds:>6.1} s {peak:>6.0} MiB FAILED ({})", why.unwrap_or_default()),
    }
}

/// Zero of a process that is gone.
fn most_memory_mib(process: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

fn write_project(project: &Path, count: u64) {
    fs::write(project.join("flowguard.toml"), "lake = \"lake\"\n").expect("a writable folder");
    fs::write(project.join("dags.yaml"), "version: 1\ndags: {}\n").expect("a writable folder");
    for (name, text) in models(count) {
        let (layer, table) = name.split_once('.').expect("a layer and a name");
        let folder = project.join("sql").join(layer);
        fs::create_dir_all(&folder).expect("a writable folder");
        fs::write(folder.join(format!("{table}.sql")), text).expect("a writable folder");
    }
}

fn model(header: &str, sql: &str) -> String {
    let header: String = header.lines().map(|line| format!("-- {}\n", line.trim())).collect();
    format!("-- /// flowguard\n{header}-- ///\n{sql}\n")
}

/// Events of users who look at items and order some of them, in thirty days, and the same in ninety.
/// Numbers are multiplied by primes so that none come in order.
fn inputs(count: u64) -> [(&'static str, String); 3] {
    let (users, items, orders) = (count / 8, count / 50, count / 4);
    let at = |number: &str, of: u64| {
        format!("to_timestamp_micros(1767225600000000 + {number} * {})", 2_592_000_000_000 / of)
    };
    let inputs = [
        (
            "silver.orders",
            format!(
                "SELECT value AS order_id, concat('user-', value * 7919 % {users}) AS user_id, \
                 value * 104729 % {items} AS item_id, CAST(value % 9973 AS DECIMAL(10, 2)) AS amount, \
                 {} AS at FROM generate_series(0, {orders} - 1)",
                at("value", orders)
            ),
        ),
        (
            "silver.events",
            format!(
                "SELECT value AS event_id, concat('user-', value * 15485863 % {users}) AS user_id, \
                 value * 15485863 % {users} AS user_number, value * 32452843 % {items} AS item_id, \
                 value * 49979687 % {orders} AS order_id, md5(CAST(value AS VARCHAR)) AS trace, \
                 CAST(value % 9973 AS DECIMAL(10, 2)) AS price, {} AS at \
                 FROM generate_series(0, {count} - 1)",
                at("value", count)
            ),
        ),
        (
            "silver.year",
            "SELECT event_id, user_id, item_id, price, trace, at + make_interval AS at \
             FROM silver.events, (SELECT INTERVAL '0 days' AS make_interval UNION ALL \
             SELECT INTERVAL '30 days' UNION ALL SELECT INTERVAL '60 days')"
                .to_owned(),
        ),
    ];
    inputs.map(|(name, sql)| (name, model("kind: full", &sql)))
}

/// The last so many of ninety days.
fn days(days: i64) -> String {
    let start = 1_767_225_600_000_000 + (90 - days) * 86_400_000_000;
    let sql = format!(
        "SELECT * FROM silver.year WHERE at >= $start AND at < $end \
         AND at >= to_timestamp_micros({start})"
    );
    model("kind: interval\nevery: 1d\ntime: at\npartition_by: day", &sql)
}

fn models(count: u64) -> Vec<(&'static str, String)> {
    let mut all = inputs(count).to_vec();
    all.extend(STATEMENTS.map(|(name, sql)| (name, model("kind: full", sql))));
    all.extend([
        ("gold.days_10", days(10)),
        ("gold.days_30", days(30)),
        ("gold.days_90", days(90)),
    ]);
    all
}
