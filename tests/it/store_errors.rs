//! Stores that refuse: one clear error each, through the program, and no partial table.

use std::process::Command;

use flowguard::demo::events::{Event, Options, history};
use tempfile::TempDir;

use crate::program::{Project, finish};
use crate::services::{User, services, skipped};
use crate::traffic::produce_history;

/// Commands that only read, that write bronze, and that write silver.
const QUERY: [&str; 2] = ["query", "SELECT count(*) FROM bronze.orders_raw"];
const INGEST: [&str; 2] = ["ingest", "--once"];
const RUN: [&str; 2] = ["run", "silver.orders_cleaned"];

/// What all three say, with `bronze.clicks_raw` for `ingest` and the run's own lines for `run`.
#[track_caller]
fn check(project: &Project, codes: [i32; 3], message: &str, cause: &str, hint: &str) {
    let [query, ingest, run] = codes;
    let error = |table: &str| {
        format!("error: cannot read `{table}`: {message}\ncause: {cause}\nhint: {hint}\n")
    };
    project.run(&QUERY).failed(query, &[], &error("bronze.orders_raw"));
    project.run(&INGEST).failed(ingest, &[], &error("bronze.clicks_raw"));
    let finished = project.run(&RUN).without_logs();
    finished.failed(
        run,
        &[],
        &format!(
            "silver.orders_cleaned failed: cannot read `bronze.orders_raw`: {message}\n  \
             hint: {hint}\n0 built, 1 failed, 0 skipped, 0 cancelled\nerror: 1 of 1 models failed\n"
        ),
    );
}

#[tokio::test]
async fn s3_that_refuses_gives_one_clear_error() {
    let Some(services) = services("store_errors::s3_that_refuses_gives_one_clear_error") else {
        return;
    };
    let options = Options { days: 1, orders: 50, clicks: 100, ..Options::default() };
    let events: Vec<Event> = history(&options).collect();
    produce_history(&services, &events);
    let path = format!("errors-{}", services.nonce);
    let project = Project::on_services(&services, User::Root, &path);

    check(
        &project.clone().with("FLOWGUARD_LAKE", &format!("s3://no-such-{}", services.nonce)),
        [1, 1, 2],
        "there is no such bucket",
        "The specified bucket does not exist",
        "create the bucket, or correct `lake`",
    );
    check(
        &project.clone().with("FLOWGUARD_S3_ACCESS_KEY_ID", "nobody"),
        [3, 3, 3],
        "the access key is not known",
        "The Access Key Id you provided does not exist in our records.",
        "check `s3.access_key_id`",
    );
    check(
        &project.clone().with("FLOWGUARD_S3_SECRET_ACCESS_KEY", "wrong"),
        [3, 3, 3],
        "the secret key is wrong",
        "The request signature we calculated does not match the signature you provided. Check your \
         key and signing method.",
        "check `s3.secret_access_key`",
    );
    check(
        // Nothing listens on a reserved port.
        &project.clone().with("FLOWGUARD_S3_ENDPOINT", "http://127.0.0.1:1"),
        [3, 3, 3],
        "connection refused",
        "Connection refused (os error 111)",
        "check `s3.endpoint`; is the store running?",
    );
    check(
        &project.clone().with_user(User::Analyst),
        [3, 3, 3],
        "access denied",
        "Access Denied.",
        "these keys lack the right; see the policies in `minio/`",
    );
    assert_eq!(services.objects(&path).await, [""; 0], "nothing was written by any of them");
}

/// Fills bronze, silver and gold from a small history.
const DEMO: [&str; 6] = ["--days", "2", "--orders", "200", "--clicks", "1000"];

/// A file system of its own for one process: nothing is mounted for anyone else. Then the lake is
/// copied without silver onto it, and it is filled but for some kilobytes.
const FULL_DISK: &str = r#"
disk=$1 lake=$2 flowguard=$3
mount -t tmpfs -o size=8m tmpfs "$disk" || exit 77
cp -r "$lake"/. "$disk" && rm -r "$disk"/silver
free=$(df -k --output=avail "$disk" | tail -n 1)
head -c $(((free - 24) * 1024)) /dev/zero >"$disk"/filler
$flowguard run --lake "$disk" silver.clicks_cleaned; echo "exit code $?" >&2
rm "$disk"/filler
$flowguard query --lake "$disk" 'SELECT count(*) FROM silver.clicks_cleaned'; echo "exit code $?" >&2
$flowguard run --lake "$disk" silver.clicks_cleaned 2>/dev/null &&
    $flowguard query --lake "$disk" --output csv 'SELECT count(*) AS rows FROM silver.clicks_cleaned'
"#;

#[test]
fn a_full_disk_gives_one_clear_error_and_no_partial_table() {
    let folder = TempDir::new().unwrap();
    let project = Project::of_demo(&DEMO);
    let rows =
        project.query("SELECT count(*) AS rows FROM silver.clicks_cleaned").remove(0).remove(0);
    let arguments = [folder.path().to_str().unwrap(), project.lake().to_str().unwrap()];
    let wrapper = ["unshare", "-rm", "sh", "-c", FULL_DISK, "sh", arguments[0], arguments[1]];
    let finished = finish(&mut project.command_through(&wrapper, &[]));
    if finished.stdout.is_empty() && finished.code != Some(0) {
        let test = "store_errors::a_full_disk_gives_one_clear_error_and_no_partial_table";
        return skipped(test, "this system lets nobody mount a small disk of their own");
    }
    finished.failed(
        0,
        &[],
        "silver.clicks_cleaned failed: cannot write `silver.clicks_cleaned`: the disk is full
  hint: free some space; nothing of this was committed
0 built, 1 failed, 0 skipped, 0 cancelled
error: 1 of 1 models failed
exit code 3
error: there is no table `silver.clicks_cleaned` in the lake
hint: `flowguard run +silver.clicks_cleaned` builds it
exit code 1
",
    );
    assert_eq!(finished.stdout, format!("rows\n{rows}\n"));
}

#[test]
fn a_folder_without_rights_gives_one_clear_error() {
    let test = "store_errors::a_folder_without_rights_gives_one_clear_error";
    // Root may read everything, unless it gives that right up.
    let is_root = finish(Command::new("id").arg("-u")).stdout.trim() == "0";
    let wrapper: &[&str] = match is_root {
        true => &["setpriv", "--bounding-set=-dac_override,-dac_read_search"],
        false => &[],
    };
    if is_root && Command::new("setpriv").arg("--version").output().is_err() {
        return skipped(test, "root without `setpriv` can read everything");
    }
    let project = Project::of_demo(&DEMO);
    let table = project.lake().join("silver/orders_cleaned");
    let allow = |mode: &str| {
        let changed = Command::new("chmod").args(["-R", mode]).arg(&table).status();
        assert!(changed.unwrap().success());
    };
    allow("u-rwx");
    let unreadable = finish(
        &mut project.command_through(wrapper, &["query", "SELECT * FROM silver.orders_cleaned"]),
    );
    allow("u+rX");
    let unwritable = finish(&mut project.command_through(wrapper, &RUN));
    allow("u+rwX");
    unreadable.failed(
        3,
        &[],
        "error: cannot read `silver.orders_cleaned`: permission denied\n\
         cause: Permission denied (os error 13)\n\
         hint: check who owns the lake's folder\n",
    );
    unwritable.without_logs().failed(
        3,
        &[],
        "silver.orders_cleaned failed: cannot write `silver.orders_cleaned`: permission denied\n  \
         hint: check who owns the lake's folder\n\
         0 built, 1 failed, 0 skipped, 0 cancelled\nerror: 1 of 1 models failed\n",
    );
}
