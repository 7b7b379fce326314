//! Files that users write: YAML by itself, `dags.yaml`, model files. Whatever stands in them, every
//! problem is at a place that its text has.

use flowguard::dag::{Dags, FILE_NAME};
use flowguard::error::Diagnostic;
use flowguard::interval::Instant;
use flowguard::model::Reading;
use flowguard::source::{Problems, Source};
use flowguard::table::{Layer, TableName};
use flowguard::yaml::{self, Embedded};

use super::repository;

const MODELS: [&str; 9] = [
    "bronze/clicks_raw",
    "bronze/orders_raw",
    "gold/daily_metrics",
    "gold/food_item_performance",
    "gold/funnel_metrics",
    "gold/user_cohorts",
    "silver/clicks_cleaned",
    "silver/orders_cleaned",
    "silver/user_sessions",
];

/// Every place is in the text, or at the end of one of its lines, or is the whole file.
fn check_places(text: &str, problems: &[Diagnostic]) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for problem in problems.iter().filter(|problem| problem.line > 0) {
        let lines = text.split('\n').count();
        assert!(problem.line <= lines, "{lines} lines: {problem:?}");
        let line = text.split('\n').nth(problem.line - 1).unwrap_or_default();
        let end = line.chars().count() + 1;
        assert!((1..=end).contains(&problem.column), "{end}: {problem:?}");
        let width = problem.width;
        assert!(width == 1 || problem.column + width <= end, "{end}: {problem:?}");
        assert!(line.starts_with(&problem.text), "{line:?}: {problem:?}");
    }
}

pub fn yaml(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let source = Source::new("fuzzed.yaml", text);
    let problems = Problems::new(&source);
    // As whoever reads a file hands it over.
    let unmarked = text.strip_prefix('\u{feff}').unwrap_or(text);
    let embedded = Embedded { text: unmarked, lines_before: 0, columns_before: 0 };
    let node = yaml::parse(embedded, &problems);
    assert!(node.is_some() || !problems.is_empty(), "refused without a reason");
    if let Some(map) = node.as_ref().and_then(|node| node.mapping("the file", &problems)) {
        for value in map.entries() {
            value.string();
            value.bool();
            value.int();
            value.strings();
            value.timezone();
        }
        map.finish();
    }
    check_places(text, &problems.into_diagnostics());
}

pub fn yaml_seeds() -> Vec<Vec<u8>> {
    let mut seeds = dags_seeds();
    seeds.push(repository("minio/monitoring/alerts.yaml"));
    seeds.push(
        b"a: [1, 0x2, .inf, ~, 'it''s', \"\\u00e9\\n\"]\nb: |\n  text\n c: &x !t {d: *x}\n".into(),
    );
    seeds
}

pub fn dags(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Dags::of_text(Source::new(FILE_NAME, text)) {
        Ok(read) => {
            for schedule in read.dags.values().filter_map(|dag| dag.schedule.as_ref()) {
                let first = schedule.next_after(Instant(0)).expect("it was found to come round");
                assert!(schedule.next_after(first).is_none_or(|second| second > first));
            }
        }
        Err(error) => {
            assert_ne!(error.diagnostics, [], "refused without a reason");
            check_places(text, &error.diagnostics);
        }
    }
}

pub fn dags_seeds() -> Vec<Vec<u8>> {
    let all = "version: 1\ndefaults: {timezone: Europe/Rome}\ndags:\n  nightly:\n    description: d\n    \
               schedule: \"*/5 0-3,22 1,15 jan-mar sun\"\n    timezone: UTC\n    select: [+gold.*, \
               tag:a]\n  hourly: {schedule: \"@hourly\", select: [silver.a+]}\n";
    vec![repository("dags.yaml"), all.into()]
}

/// The first byte chooses the layer, the rest is the file.
pub fn models(bytes: &[u8]) {
    let Some((layer, bytes)) = bytes.split_first() else { return };
    let Ok(text) = str::from_utf8(bytes) else { return };
    let table = |layer: Layer, name| TableName::new(layer, name).unwrap();
    let fuzzed = table(Layer::ALL[usize::from(*layer) % Layer::ALL.len()], "fuzzed");
    let other = String::from_utf8(repository("sql/bronze/orders_raw.sql")).unwrap();
    let files = vec![
        (fuzzed.clone(), Ok(Source::new("fuzzed.sql", text))),
        (table(Layer::Bronze, "orders_raw"), Ok(Source::new("orders_raw.sql", other))),
    ];
    let read = Reading::of_texts(files, Vec::new());
    let is_good = read.good.get(&fuzzed).is_some();
    let is_whole = read.diagnostics.is_empty();
    assert!(is_good || !is_whole, "refused without a reason");
    let own = |problem: &&Diagnostic| problem.file.ends_with("fuzzed.sql");
    let own: Vec<Diagnostic> = read.diagnostics.iter().filter(own).cloned().collect();
    check_places(text, &own);
}

pub fn model_seeds() -> Vec<Vec<u8>> {
    let numbered = MODELS.iter().map(|model| {
        let layer = Layer::ALL.iter().position(|layer| model.starts_with(layer.as_str()));
        let mut seed = vec![u8::try_from(layer.unwrap()).unwrap()];
        seed.extend(repository(&format!("sql/{model}.sql")));
        seed
    });
    numbered.collect()
}
