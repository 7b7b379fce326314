//! The users of `minio/policies`: each may do its part on the lake at the bucket's root, is denied
//! the rest in one clear message, and leaves nothing half done.

use flowguard::demo::events::{Event, Options, history};

use crate::expected::expected;
use crate::gold::assert_gold;
use crate::program::Project;
use crate::served::Served;
use crate::services::{Services, User, services};
use crate::traffic::produce_history;

const LAYERS: [&str; 3] = ["bronze", "silver", "gold"];

/// All objects of the lake, sorted.
async fn objects(services: &Services) -> Vec<String> {
    let mut objects = Vec::new();
    for layer in LAYERS {
        objects.extend(services.objects(layer).await);
    }
    objects
}

#[tokio::test]
async fn each_policy_suffices_and_denies() {
    let Some(services) = services("policies::each_policy_suffices_and_denies") else { return };
    // The policies speak of the layers at the bucket's root, so this test has the root to itself.
    for layer in LAYERS {
        services.remove_objects(layer).await;
    }
    let options = Options { days: 3, orders: 300, clicks: 2_000, ..Options::default() };
    let events: Vec<Event> = history(&options).collect();
    produce_history(&services, &events);
    let ingest = Project::on_services(&services, User::Ingest, "")
        .with("FLOWGUARD_ENGINE_PARALLEL_MODELS_MAX", "1");
    let transform = ingest.clone().with_user(User::Transform);
    let analyst = ingest.clone().with_user(User::Analyst);

    // Before there is a table, nobody but ingestion can make one in bronze.
    transform.run(&["ingest", "--once"]).failed(
        3,
        &[],
        "error: cannot create or change `bronze.clicks_raw`: access denied\n\
         cause: Access Denied.\n\
         hint: these keys lack the right; see the policies in `minio/`\n",
    );
    assert_eq!(objects(&services).await, [""; 0]);

    ingest.run(&["ingest", "--once"]).succeeded();
    ingest.run(&["audit"]).succeeded();
    let landed = objects(&services).await;
    assert!(landed.iter().all(|path| path.starts_with("bronze/")), "{landed:#?}");

    ingest.run(&["run"]).failed(
        3,
        &[],
        "silver.clicks_cleaned failed: cannot read `silver.clicks_cleaned`: access denied
  hint: these keys lack the right; see the policies in `minio/`
silver.user_sessions skipped: `silver.clicks_cleaned` was not built
gold.funnel_metrics skipped: `silver.clicks_cleaned` was not built
silver.orders_cleaned failed: cannot read `silver.orders_cleaned`: access denied
  hint: these keys lack the right; see the policies in `minio/`
gold.daily_metrics skipped: `silver.orders_cleaned` was not built
gold.food_item_performance skipped: `silver.orders_cleaned` was not built
gold.user_cohorts skipped: `silver.orders_cleaned` was not built
0 built, 2 failed, 5 skipped, 0 cancelled
error: 2 of 7 models failed
",
    );
    assert_eq!(objects(&services).await, landed);

    transform.run(&["run"]).succeeded();
    assert_gold(&transform, &expected(&events));
    let built = objects(&services).await;
    transform.run(&["ingest", "--once"]).without_logs().failed(
        3,
        &[],
        "error: cannot commit to `bronze.dead_letters`: access denied\n\
         cause: Access Denied.\n\
         hint: these keys lack the right; see the policies in `minio/`\n",
    );

    let totals = "SELECT sum(orders) AS orders FROM gold.daily_metrics";
    assert_eq!(analyst.query(totals), transform.query(totals));
    analyst.query("SELECT * FROM silver.user_sessions LIMIT 1");
    analyst.run(&["query", "SELECT * FROM bronze.orders_raw"]).failed(
        3,
        &[],
        "error: cannot read `bronze.orders_raw`: access denied\n\
         cause: Access Denied.\n\
         hint: these keys lack the right; see the policies in `minio/`\n",
    );
    let tables = analyst.run(&["query", "--output", "csv", "SHOW TABLES"]).succeeded().stdout;
    assert!(tables.contains("daily_metrics") && !tables.contains("orders_raw"), "{tables}");
    let described = analyst.run_with_input(&["sql"], "\\d\n");
    assert!(described.succeeded().stdout.contains("daily_metrics"));
    {
        let served = Served::start(&analyst, &["--only=flight,http"]);
        assert_eq!(served.get("/readyz").succeeded(), "ready\n");
        let total = served.get("/api/v1/query?sql=SELECT+count(*)+AS+n+FROM+gold.daily_metrics");
        assert_eq!(total.text(), "{\"n\":3}\n");
    }
    let denied = analyst.run(&["run", "silver.orders_cleaned"]);
    assert_eq!(denied.code, Some(3), "{}", denied.stderr);
    let denied = analyst.run(&["ingest", "--once"]);
    assert_eq!(denied.code, Some(3), "{}", denied.stderr);
    ingest.run(&["query", "SELECT * FROM silver.user_sessions"]).failed(
        3,
        &[],
        "error: cannot read `silver.user_sessions`: access denied\n\
         cause: Access Denied.\n\
         hint: these keys lack the right; see the policies in `minio/`\n",
    );
    assert_eq!(objects(&services).await, built);
    // Who is denied has moved nothing: the next batch continues where the last one ended.
    ingest.run(&["ingest", "--once"]).succeeded();
    ingest.run(&["audit"]).succeeded();
    // One pair of keys for a process that does all of it.
    let server = ingest.clone().with_user(User::Server);
    for command in [&["ingest", "--once"][..], &["run"], &["audit"], &["lake", "check"]] {
        server.run(command).succeeded();
    }
    server.query("SELECT max(user_id) FROM bronze.orders_raw");
}
