//! Which plans are so small that they run on the threads that serve connections: handing them to
//! others takes longer than they do.

use std::sync::Arc;

use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::physical_plan::ExecutionPlan;

/// Of all files of the scan together.
const BYTES_MAX: u64 = 1 << 20;

/// Operators that make no more rows than they are given.
const NARROWING: [&str; 14] = [
    "AggregateExec",
    "CoalesceBatchesExec",
    "CoalescePartitionsExec",
    "CooperativeExec",
    "DeltaScan",
    "DeltaScanExec",
    "FilterExec",
    "GlobalLimitExec",
    "LocalLimitExec",
    "ProjectionExec",
    "RepartitionExec",
    "SortExec",
    "SortExec(TopK)",
    "SortPreservingMergeExec",
];

/// Whether the plan reads little, and makes no more of it.
pub(super) fn is_small(plan: &Arc<dyn ExecutionPlan>) -> bool {
    if plan.name() == "PlaceholderRowExec" {
        return true;
    }
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>() {
        return file_bytes(scan).is_some_and(|bytes| bytes <= BYTES_MAX);
    }
    let children = plan.children();
    NARROWING.contains(&plan.name()) && children.len() == 1 && is_small(children[0])
}

/// `None` if it reads something else than files.
fn file_bytes(scan: &DataSourceExec) -> Option<u64> {
    let files = scan.data_source().downcast_ref::<FileScanConfig>()?;
    Some(files.file_groups.iter().flat_map(|group| group.iter()).map(|f| f.object_meta.size).sum())
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{ParquetReadOptions, SessionContext};

    use super::*;

    async fn is_small_sql(session: &SessionContext, sql: &str) -> bool {
        is_small(&session.sql(sql).await.unwrap().create_physical_plan().await.unwrap())
    }

    #[tokio::test]
    async fn small_is_what_reads_little_and_makes_no_more_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let session = SessionContext::new();
        for (name, rows) in [("few", 10), ("many", 1_000_000)] {
            let file = folder.path().join(format!("{name}.parquet"));
            let file = file.to_str().unwrap();
            let write = format!(
                "COPY (SELECT value AS n, random() AS r FROM generate_series(1, {rows})) \
                 TO '{file}' STORED AS PARQUET"
            );
            session.sql(&write).await.unwrap().collect().await.unwrap();
            session.register_parquet(name, file, ParquetReadOptions::default()).await.unwrap();
        }
        for small in [
            "SELECT 1",
            "SELECT n % 2, sum(r) FROM few WHERE n > 3 GROUP BY 1 ORDER BY 2 LIMIT 5",
            "SELECT DISTINCT n FROM few",
        ] {
            assert!(is_small_sql(&session, small).await, "{small}");
        }
        for large in [
            "SELECT sum(r) FROM many",
            "SELECT a.n FROM few AS a CROSS JOIN few AS b",
            "SELECT value FROM generate_series(1, 1000000000)",
            "WITH RECURSIVE c AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM c WHERE n < 9) SELECT n FROM c",
            "SELECT unnest(range(1, 1000000)) FROM few",
            "SELECT n FROM few UNION ALL SELECT n FROM few",
        ] {
            assert!(!is_small_sql(&session, large).await, "{large}");
        }
    }
}
