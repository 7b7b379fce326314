//! Silver and gold against the independent computation of `expected`, to the cent: on an embedded
//! lake here, on real services in `spark`.

use flowguard::demo::events::{Event, Options, history};
use tempfile::TempDir;

use crate::expected::{Expected, expected};
use crate::program::Project;

/// Every table of silver and gold as the program gives it, against `wanted`.
#[track_caller]
pub fn assert_gold(project: &Project, wanted: &Expected) {
    for table in &wanted.tables {
        let columns = table.columns.join(", ");
        let mut rows = project.query(&format!("SELECT {columns} FROM {}", table.name));
        rows.iter_mut().flatten().for_each(|cell| *cell = normal(cell));
        rows.sort_unstable();
        assert!(!rows.is_empty(), "{} has rows", table.name);
        assert_eq!(rows, table.rows, "{}", table.name);
    }
    let count = |table: &str| -> usize {
        let rows = project.query(&format!("SELECT count(*) AS rows FROM {table}"));
        rows[0][0].parse().expect("a count")
    };
    let counts = (count("bronze.orders_raw"), count("bronze.clicks_raw"));
    assert_eq!(counts, (wanted.orders_raw, wanted.clicks_raw));
    assert_eq!(count("bronze.dead_letters"), wanted.dead_letters);
}

/// Instants with all six digits; anything else as it is.
fn normal(cell: &str) -> String {
    match chrono::DateTime::parse_from_rfc3339(cell) {
        Ok(at) => at.to_utc().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
        Err(_) => cell.to_owned(),
    }
}

#[test]
fn silver_and_gold_of_the_demo_equal_an_independent_computation() {
    let lake = TempDir::new().unwrap();
    let project = Project::on_lake(lake.path());
    let arguments = ["--days", "16", "--orders", "4000", "--clicks", "30000", "--seed", "7"];
    project.run(&[&["demo"][..], &arguments].concat()).succeeded();
    let options =
        Options { days: 16, orders: 4_000, clicks: 30_000, seed: 7, ..Options::default() };
    let events: Vec<Event> = history(&options).collect();
    assert_gold(&project, &expected(&events));
}
