//! `export sql --zero-copy`: what it prints for a lake in a bucket, what it refuses and why.
//! Whether Snowflake takes it, only a real account can tell.

use std::path::Path;
use std::sync::Arc;

use flowguard::export::sql::zero_copy::script;
use flowguard::lake::Lake;
use futures::StreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;
use url::Url;

use crate::export::{THREE, changing_project};
use crate::runs::add;

/// The project's lake as if it were in a bucket.
async fn bucket(folder: &Path) -> Lake {
    let local = LocalFileSystem::new_with_prefix(folder.join(".flowguard")).unwrap();
    let store = InMemory::new();
    let mut objects = local.list(None);
    while let Some(object) = objects.next().await {
        let path = object.unwrap().location;
        let content = local.get(&path).await.unwrap().bytes().await.unwrap();
        store.put(&path, content.into()).await.unwrap();
    }
    Lake::with_store(&Url::parse("s3://lake").unwrap(), Arc::new(store))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_bucket_are_read_where_they_are() {
    let project = changing_project();
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    let tables = [("silver.clean", ["silver", "clean"]), ("gold.by_day", ["marts", "by_day"])];
    let tables = tables.map(|(name, place)| (name.parse().unwrap(), place.map(str::to_owned)));
    let made = script(&bucket(project.folder()).await, None, &tables).await.unwrap();
    assert_eq!(made.refused, 0);
    for part in [
        "    STORAGE_PROVIDER = 'S3'\n    STORAGE_BASE_URL = 's3://lake/'\n",
        "  CATALOG_SOURCE = OBJECT_STORE\n  TABLE_FORMAT = DELTA\n",
        "\n-- silver.clean: version 0, 3 files, ",
        "-- It is partitioned: Snowflake shows the column _day",
        "CREATE ICEBERG TABLE IF NOT EXISTS \"marts\".\"by_day\"\n  \
         EXTERNAL_VOLUME = 'flowguard_lake'\n  CATALOG = 'flowguard_delta'\n  \
         BASE_LOCATION = 'gold/by_day/'\n  AUTO_REFRESH = TRUE;\n",
    ] {
        assert!(made.text.contains(part), "no `{part}` in\n{}", made.text);
    }
    let endpoint = Url::parse("https://store.example.org").unwrap();
    let made = script(&bucket(project.folder()).await, Some(&endpoint), &tables).await.unwrap();
    assert!(made.text.contains("    STORAGE_BASE_URL = 's3compat://lake/'\n"), "{}", made.text);
    assert!(made.text.contains("    STORAGE_ENDPOINT = 'store.example.org'\n"), "{}", made.text);

    // Somebody else's writer turns on what Snowflake does not read.
    let log = project.folder().join(".flowguard/gold/by_day/_delta_log");
    let first = std::fs::read_to_string(log.join(format!("{:020}.json", 0))).unwrap();
    let mut actions = first.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut changed = actions.find(|action| action.get("metaData").is_some()).unwrap();
    changed["metaData"]["configuration"]["delta.enableChangeDataFeed"] = "true".into();
    std::fs::write(log.join(format!("{:020}.json", 1)), changed.to_string()).unwrap();
    let made = script(&bucket(project.folder()).await, None, &tables).await.unwrap();
    assert_eq!(made.refused, 1);
    let reason = "-- gold.by_day cannot be read in place:\n--   it writes change data";
    assert!(made.text.contains(reason), "{}", made.text);
    assert!(!made.text.contains("\"marts\".\"by_day\""), "{}", made.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_on_this_machine_is_refused_with_a_way_out() {
    let project = changing_project();
    let refused = project.run(&["export", "sql", "--zero-copy", "gold.*"]).without_logs();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("which is on this machine"), "{}", refused.stderr);
    assert!(refused.stderr.contains("copy the tables: flowguard export run"), "{}", refused.stderr);
    let unsaid = project.run(&["export", "sql"]).without_logs();
    assert!(unsaid.stderr.contains("--zero-copy"), "{}", unsaid.stderr);
    assert_eq!(unsaid.code, Some(1));
}
