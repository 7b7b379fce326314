//! Bounds in the log never lose a row: whatever is compared with a key of whatever type, a filtered
//! scan gives what the filter gives of an unfiltered one.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, concat};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use chrono_tz::Tz;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::{Expr, Operator, binary_expr, lit};
use datafusion::prelude::col;
use datafusion::scalar::ScalarValue;
use flowguard::lake::Lake;
use flowguard::lake::commit::{Commit, commit};
use flowguard::lake::ledger::Ledger;
use flowguard::lake::spec::TableSpec;
use flowguard::lake::stage::Stager;
use url::Url;
use uuid::Uuid;

use crate::kill9::{Random, new_seed};
use crate::services::say;
use crate::topic_in_memory::engine;

const FILES: u64 = 24;

/// Values of a type as text, among them the ones that narrower types cannot hold.
pub fn pools() -> Vec<(DataType, Vec<&'static str>)> {
    let at = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let decimals = vec![
        "0",
        "0.01",
        "-0.01",
        "1",
        "90071992547409.92",
        "90071992547409.93",
        "90071992547409.94",
        "-90071992547409.93",
        "9999999999999.99",
        "9999999999999.98",
        "1000000000000000.01",
        "1000000000000000",
    ];
    let whole = vec![
        "0",
        "1",
        "-1",
        "9223372036854775806",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
        "18446744073709551615",
        "18446744073709551616",
        "999999999999999",
        "1000000000000000",
        "1000000000000001",
    ];
    let integers = vec![
        "0",
        "-1",
        "9007199254740992",
        "9007199254740993",
        "-9007199254740993",
        "9223372036854775807",
        "-9223372036854775808",
    ];
    let reals = vec!["0", "-0.0", "0.1", "1e300", "-1e300", "NaN", "inf", "-inf", "4.9e-324"];
    let texts = vec![
        "",
        "a",
        "b",
        "Z",
        "\u{10ffff}",
        "\u{ffff}",
        "é",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab",
        "\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}\u{10ffff}",
    ];
    let times = vec![
        "1970-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "2026-03-01T00:00:00.000001Z",
        "2026-03-01T00:00:00.000999Z",
        "2026-03-01T00:00:00.001Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999Z",
        "253402300800000000us",
        "-63500000000000000us",
        "8000000000000000000us",
        "9223372036854775807us",
        "-9223372036854775808us",
    ];
    let days = vec!["1970-01-01", "1969-12-31", "2026-03-01", "0001-01-01", "9999-12-31"];
    vec![
        (DataType::Decimal128(18, 2), decimals.clone()),
        (DataType::Decimal128(38, 2), decimals.clone()),
        (
            DataType::Decimal128(38, 18),
            vec![
                "0",
                "0.000000000000000001",
                "0.1",
                "12345678.000000000000000001",
                "12345678.000000000000000002",
            ],
        ),
        (DataType::Decimal128(38, 0), whole.clone()),
        (DataType::Decimal128(20, 0), whole[..8].to_vec()),
        (DataType::Int64, integers),
        (DataType::Int32, vec!["0", "2147483647", "-2147483648"]),
        (DataType::Boolean, vec!["true", "false"]),
        (DataType::Float64, reals.clone()),
        (DataType::Utf8, texts),
        (at, times),
        (DataType::Date32, days),
    ]
}

fn array(text: &str, data_type: &DataType) -> ArrayRef {
    if let Some(micros) = text.strip_suffix("us") {
        let micros: ArrayRef = Arc::new(Int64Array::from(vec![micros.parse::<i64>().unwrap()]));
        return arrow::compute::cast(&micros, data_type).unwrap();
    }
    let text: ArrayRef = Arc::new(arrow::array::StringArray::from(vec![text]));
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&text, data_type, &strict)
        .unwrap_or_else(|error| panic!("{data_type}: {error}"))
}

/// A table of files of one to three values, each with bounds of its own, and its rows.
pub async fn write_table(
    lake: &Lake,
    name: &str,
    data_type: &DataType,
    pool: &[&str],
    random: &mut Random,
) -> (TableSpec, Vec<RecordBatch>) {
    let columns = Arc::new(Schema::new(vec![Field::new("k", data_type.clone(), true)]));
    let spec = TableSpec {
        name: name.parse().unwrap(),
        columns: Arc::clone(&columns),
        time: None,
        partition_by_day: false,
        timezone: Tz::UTC,
        key: vec!["k".to_owned()],
        doc: None,
        shape: "`kind: full`".to_owned(),
    };
    let mut all: Vec<RecordBatch> = Vec::new();
    for file in 0..FILES {
        let mut values = vec![array(pool[(file % pool.len() as u64) as usize], data_type)];
        for _ in 0..random.below(3) {
            values.push(match random.below(6) {
                0 => new_null_array(data_type, 1),
                _ => array(pool[random.below(pool.len() as u64) as usize], data_type),
            });
        }
        let values: Vec<&dyn arrow::array::Array> = values.iter().map(AsRef::as_ref).collect();
        let rows = RecordBatch::try_new(columns.clone(), vec![concat(&values).unwrap()]).unwrap();
        let mut stager = Stager::new(lake, &spec).unwrap();
        stager.write(&rows).await.unwrap();
        let staged = stager.finish().await.unwrap();
        let (advances, ledger) = (Vec::new(), Ledger::new("test", Uuid::nil()));
        let write = Commit { spec: &spec, staged, removal: None, advances, ledger };
        commit(lake, &write).await.unwrap();
        all.push(rows);
    }
    (spec, all)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filtered_scan_gives_what_the_filter_gives_of_all_rows() {
    let seed = new_seed();
    say(&format!("statistics: FLOWGUARD_TEST_SEED={seed}"));
    let mut random = Random::new(seed, 11);
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (number, (data_type, pool)) in pools().into_iter().enumerate() {
        let root =
            Url::parse(&format!("memory:///statistics-{number}-{}/", Uuid::now_v7())).unwrap();
        let lake = Lake::with_store(&root, Arc::new(object_store::memory::InMemory::new()));
        let (spec, all) = write_table(&lake, "silver.t", &data_type, &pool, &mut random).await;
        let columns = &spec.columns;
        let session = engine().session();
        let table = lake.snapshot(&spec.name).await.unwrap().unwrap();
        let stored = table.provider().await.unwrap();
        let held = Arc::new(MemTable::try_new(columns.clone(), vec![all]).unwrap());
        for text in &pool {
            let value = ScalarValue::try_from_array(&array(text, &data_type), 0).unwrap();
            let mut conditions: Vec<Expr> = [
                Operator::Eq,
                Operator::NotEq,
                Operator::Lt,
                Operator::LtEq,
                Operator::Gt,
                Operator::GtEq,
                Operator::IsDistinctFrom,
            ]
            .into_iter()
            .map(|operator| binary_expr(col("k"), operator, lit(value.clone())))
            .collect();
            conditions.push(col("k").in_list(vec![lit(value.clone())], false));
            conditions.push(col("k").in_list(vec![lit(value.clone())], true));
            conditions.push(col("k").between(lit(value.clone()), lit(value.clone())));
            for condition in conditions {
                let count = |table: Arc<dyn datafusion::catalog::TableProvider>| {
                    let (session, condition) = (session.clone(), condition.clone());
                    async move {
                        let frame = session.read_table(table).unwrap().filter(condition).unwrap();
                        frame.count().await
                    }
                };
                let (found, expected) = (count(stored.clone()).await, count(held.clone()).await);
                compared += 1;
                match (found, expected) {
                    (Ok(found), Ok(expected)) if found == expected => {}
                    (found, expected) => {
                        wrong
                            .push(format!("{data_type}: {condition}: {found:?}, not {expected:?}"));
                    }
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "seed {seed}, {} of {compared} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
