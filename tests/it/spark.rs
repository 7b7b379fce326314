//! The whole way on real Kafka and real MinIO, read by Spark with Delta's own jars: a reader that
//! shares nothing with the program must see the same tables.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use arrow::datatypes::DataType;
use flowguard::demo::events::{Event, Options, history};
use flowguard::lake::Lake;
use flowguard::lake::store::S3Access;
use serde_json::Value;
use url::Url;

use crate::expected::expected;
use crate::gold::assert_gold;
use crate::kill9::{Random, new_seed};
use crate::program::{Project, finish};
use crate::services::{Services, User, say, services};
use crate::statistics::{pools, write_table};
use crate::traffic::produce_history;

/// Rows and sums by table, as text.
type Sums = BTreeMap<String, BTreeMap<String, String>>;

#[test]
fn spark_reads_the_same_lake() {
    let Some(services) = services("spark::spark_reads_the_same_lake") else { return };
    let options = Options { days: 9, orders: 3_000, clicks: 20_000, ..Options::default() };
    let events: Vec<Event> = history(&options).collect();
    produce_history(&services, &events);
    let path = format!("spark-{}", services.nonce);
    let project = Project::on_services(&services, User::Root, &path)
        // Enough commits for checkpoints in the logs.
        .with("FLOWGUARD_INGEST_FLUSH_ROWS_MAX", "500");
    project.run(&["ingest", "--once"]).succeeded();
    project.run(&["run"]).succeeded();
    assert_gold(&project, &expected(&events));
    project.run(&["audit"]).succeeded();

    let bounds = write_bounds(&services, &path);
    let mut by_spark = read_by_spark(&services, &path);
    // Bounds that lie lose rows, there as here.
    for name in &bounds {
        let found = by_spark.remove(name).unwrap();
        let (filtered, all) = (&found["filtered"], &found["unfiltered"]);
        assert_eq!(filtered, all, "{name}: {}", found["filters"]);
        assert!(filtered.split(',').count() > 2, "{name}: {filtered}");
    }
    let mut by_us = Sums::new();
    for (table, sums) in &by_spark {
        let sums = sums.keys().map(|name| match name.as_str() {
            "rows" => "count(*) AS rows".to_owned(),
            // As wide as Spark's own, so that neither side overflows.
            name => format!("sum(CAST({name} AS DECIMAL(38, {}))) AS {name}", scale(name)),
        });
        let columns = sums.collect::<Vec<_>>().join(", ");
        let row = project.query(&format!("SELECT {columns} FROM {table}")).remove(0);
        by_us.insert(table.clone(), by_spark[table].keys().cloned().zip(row).collect());
    }
    let tables: Vec<&str> = by_spark.keys().map(String::as_str).collect();
    assert_eq!(
        tables,
        [
            "bronze.clicks_raw",
            "bronze.dead_letters",
            "bronze.orders_raw",
            "gold.daily_metrics",
            "gold.food_item_performance",
            "gold.funnel_metrics",
            "gold.user_cohorts",
            "silver.clicks_cleaned",
            "silver.orders_cleaned",
            "silver.user_sessions",
        ]
    );
    assert_eq!(by_spark, by_us);
}

/// Tables of keys whose bounds no narrower type can say, each read by Spark under filters too.
fn write_bounds(services: &Services, path: &str) -> Vec<String> {
    let (key, secret) = User::Root.keys();
    let access = S3Access {
        endpoint: Some(services.s3_endpoint.clone()),
        region: services.s3_region.clone(),
        access_key_id: Some(key),
        secret_access_key: Some(secret),
        session_token: None,
        path_style: true,
        allow_http: true,
    };
    let root = Url::parse(&format!("s3://{}/{path}/", services.s3_bucket)).unwrap();
    let lake = Lake::open(&root, &access).unwrap();
    let seed = new_seed();
    say(&format!("spark: FLOWGUARD_TEST_SEED={seed}"));
    let mut random = Random::new(seed, 12);
    // Doubles have no bounds, and Python's clock ends with the year 9999.
    let is_read = |kind: &DataType| {
        matches!(
            kind,
            DataType::Decimal128(..) | DataType::Int64 | DataType::Utf8 | DataType::Date32
        )
    };
    let pools = pools().into_iter().filter(|(kind, _)| is_read(kind)).enumerate();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let tables = pools.map(|(number, (kind, pool))| {
        let name = format!("silver.bounds_{number}");
        runtime.block_on(write_table(&lake, &name, &kind, &pool, &mut random));
        name
    });
    tables.collect()
}

/// Digits after the point of a summed column of the reference models.
fn scale(column: &str) -> u8 {
    match column {
        "ctr_percent" => 4,
        "price" | "gmv" | "avg_order_value" | "revenue" | "avg_price" | "retention_percent" => 2,
        _ => 0,
    }
}

fn read_by_spark(services: &Services, path: &str) -> Sums {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spark");
    let installed = finish(&mut Command::new(scripts.join("install"))).succeeded();
    let home = Path::new(installed.stdout.trim());
    let (key, secret) = User::Root.keys();
    let read = finish(
        Command::new(home.join("python/bin/python"))
            .arg(scripts.join("read_lake.py"))
            .arg(home.join("jars"))
            .env("LAKE_S3_ENDPOINT", &services.s3_endpoint)
            .env("LAKE_S3_REGION", &services.s3_region)
            .env("LAKE_S3_BUCKET", format!("{}/{path}", services.s3_bucket))
            .env("LAKE_S3_ACCESS_KEY_ID", key)
            .env("LAKE_S3_SECRET_ACCESS_KEY", secret),
    )
    .succeeded();
    let mut found = Sums::new();
    for line in read.stdout.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON per table");
        let sums = line["sums"].as_object().expect("sums by column");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut of_table: BTreeMap<String, String> =
            sums.iter().map(|(name, sum)| (name.clone(), text(sum))).collect();
        of_table.insert("rows".to_owned(), line["rows"].to_string());
        found.insert(text(&line["table"]), of_table);
    }
    found
}
