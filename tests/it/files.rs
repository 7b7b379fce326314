//! A target of files: death and lost answers at every request, a killed program, what is kept for
//! readers and what is deleted, and damaged files. What its tables hold after changes and planted
//! faults is tested with the other targets, in `export` and `parity`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use flowguard::app::App;
use flowguard::clock::Clock;
use flowguard::config::Config;
use flowguard::error::Result;
use flowguard::export::{Destination, Files};
use flowguard::interval::Instant;
use flowguard::lake::objects::Folder;
use flowguard::table::TableName;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use crate::export::{THREE, changing_project, export, parity};
use crate::faulty_store::{Fault, FaultyStore, Reply};
use crate::program::Project;
use crate::runs::add;
use crate::services::{User, services};
use crate::terminal::Terminal;

const HOUR: i64 = 3_600_000_000;

fn configure(project: &Project) {
    project.write(
        "dags.yaml",
        "version: 1\ntargets:\n  here: {driver: files, path: exports}\n\
         exports:\n  nightly: {target: here, select: [silver.clean]}\n",
    );
}

fn open(project: &Project) -> App {
    App::open(Config::load(project.folder(), &BTreeMap::new(), &[]).unwrap()).unwrap()
}

fn files(app: &App, store: Arc<dyn ObjectStore>) -> Destination {
    let folder = Folder::with_store(&Url::parse("s3://bucket/exports").unwrap(), store).unwrap();
    let target = app.dags().unwrap().target("here").unwrap().clone();
    Box::new(Files::open(target, folder, Uuid::now_v7(), app.clock.clone()))
}

/// What a run with a clock of its own leaves.
async fn export_at(project: &Project, clock: Clock) {
    let app = open(project);
    let root = Url::from_directory_path(project.folder().join("exports")).unwrap();
    let folder = Folder::open(&root, &Default::default()).unwrap();
    let target = app.dags().unwrap().target("here").unwrap().clone();
    let mut to: Destination = Box::new(Files::open(target, folder, Uuid::now_v7(), clock));
    let name: TableName = "silver.clean".parse().unwrap();
    app.export_source().export(&mut to, &name, false).await.unwrap();
}

async fn another_event(project: &Project) {
    add(project, &[("e", "2026-01-06T12:00:00Z", "5")]).await;
    let day = ["run", "silver.clean", "--start", "2026-01-06", "--end", "2026-01-07"];
    project.run(&day).succeeded();
}

/// At each request to the store the process dies, or the request or its answer is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_at_any_request_doubles_and_loses_nothing() {
    let project = changing_project();
    configure(&project);
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    let app = open(&project);
    let source = app.export_source();
    let name: TableName = "silver.clean".parse().unwrap();
    let inner: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let mut added = 0;
    for fault in [
        Fault::Death,
        Fault::Before(Reply::ConnectionReset),
        Fault::After(Reply::ConnectionReset),
        Fault::After(Reply::AlreadyExists),
    ] {
        let mut failed = 0;
        for step in 0.. {
            another_event(&project).await;
            added += 1;
            let plan = move |operation: &crate::faulty_store::Operation<'_>| {
                if operation.index == step { fault } else { Fault::None }
            };
            let store = FaultyStore::new(Arc::clone(&inner), plan);
            let mut to = files(&app, Arc::new(store.clone()));
            let outcome = source.export(&mut to, &name, false).await;
            if store.operations() <= step {
                outcome.unwrap();
                break;
            }
            failed += usize::from(outcome.is_err());
            let mut to = files(&app, Arc::clone(&inner));
            let found: Result<_> = source.export(&mut to, &name, false).await;
            found.unwrap();
            let found = source.parity(&mut to, &name).await.unwrap();
            assert_eq!(found.differences, Vec::<String>::new(), "{fault:?} {step} {}", store.log());
            assert_eq!(found.rows, 3 + added, "{fault:?} {step}");
            let told = to.history(std::slice::from_ref(&name), 1_000).await.unwrap();
            let done = told.iter().filter(|e| e.what == "export" && e.outcome == "done");
            let mut versions: Vec<_> = done.map(|entry| entry.version).collect();
            let count = versions.len();
            versions.sort();
            versions.dedup();
            assert_eq!(versions.len(), count, "{fault:?} {step}: a version was published twice");
            assert!(versions.contains(&Some(found.version)), "{fault:?} {step}");
        }
        let least = if fault == Fault::After(Reply::AlreadyExists) { 3 } else { 4 };
        assert!(failed >= least, "{fault:?}: only {failed} exports failed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_program_leaves_what_was_there_or_what_comes() {
    let project = changing_project();
    configure(&project);
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    export(&project, &[]);
    for round in 0..12 {
        another_event(&project).await;
        let mut running = project.command(&["export", "run"]);
        let mut running = running.stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(10 + 15 * round)).await;
        running.kill().unwrap();
        running.wait().unwrap();
        let before = 3 + round;
        let rows = manifests(&project).last().unwrap()["rows"].as_u64().unwrap();
        assert!(rows == before || rows == before + 1, "round {round}: {rows} rows");
        // At the version that the manifest names, whichever it is.
        parity(&project).succeeded();
        export(&project, &[]);
        assert_eq!(manifests(&project).last().unwrap()["rows"], before + 1, "round {round}");
        parity(&project).succeeded();
    }
}

fn folder(project: &Project) -> PathBuf {
    project.folder().join("exports/silver/clean")
}

fn names(folder: PathBuf, ending: &str) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = found.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names
}

/// As if all had been written two days ago.
fn backdate(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            backdate(&path);
        } else {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(48 * 3_600)).unwrap();
        }
    }
}

/// In order of their numbers.
fn manifests(project: &Project) -> Vec<Value> {
    let folder = folder(project).join("_manifest");
    let read = |name: String| std::fs::read(folder.join(name)).unwrap();
    let contents = names(folder.clone(), ".json").into_iter().map(read);
    contents.map(|content| serde_json::from_slice(&content).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interval_is_replaced_and_earlier_readers_keep_their_files_for_a_day() {
    let project = changing_project();
    configure(&project);
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    export(&project, &[]);
    another_event(&project).await;
    export(&project, &[]);
    let versions = manifests(&project);
    let paths = |manifest: &Value| -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let files = manifest["files"].as_array().unwrap().iter();
        let mut files: Vec<_> =
            files.map(|file| (text(&file["start"]), text(&file["path"]))).collect();
        files.sort();
        files
    };
    let (first, second) = (paths(&versions[0]), paths(&versions[1]));
    assert_eq!((first.len(), second.len()), (3, 3));
    assert_eq!((&first[0], &first[2]), (&second[0], &second[2]));
    assert_eq!(first[1].0, second[1].0);
    assert_ne!(first[1].1, second[1].1, "a name is never used again");
    assert_eq!(versions[1]["rows"], 4);
    assert_eq!(versions[1]["export"]["details"], "2026-01-06T00:00:00Z/2026-01-07T00:00:00Z");

    // What killed exports left, and what somebody else put there.
    let stray = || format!("part-{}.parquet", Uuid::now_v7());
    let (old, young) = (stray(), stray());
    for name in [&old, "theirs.parquet"] {
        std::fs::write(folder(&project).join(name), "rows").unwrap();
    }
    backdate(&folder(&project));
    std::fs::write(folder(&project).join(&young), "rows").unwrap();
    let others = [young, "theirs.parquet".to_owned()];
    let stored = |manifests: &[&[(String, String)]]| -> Vec<String> {
        let named = manifests.concat().into_iter().map(|(_, path)| path);
        let names: BTreeSet<String> = named.chain(others.clone()).collect();
        names.into_iter().collect()
    };
    // The first was replaced more than a day ago.
    export(&project, &[]);
    assert_eq!(manifests(&project), versions[1..]);
    assert_eq!(names(folder(&project), ".parquet"), stored(&[&second]));
    // The second has just been replaced: its files stay, though they are old.
    another_event(&project).await;
    export(&project, &[]);
    export(&project, &[]);
    let third = paths(manifests(&project).last().unwrap());
    assert_ne!(second, third);
    assert_eq!(manifests(&project).len(), 2);
    assert_eq!(names(folder(&project), ".parquet"), stored(&[&second, &third]));
    parity(&project).succeeded();
    let told = project.run(&["export", "history"]).succeeded().stdout;
    assert_eq!(told.lines().filter(|line| line.contains("  export  ")).count(), 3, "{told}");
    // One to move the entry of the second, one to forget it.
    for _ in 0..2 {
        let later = Clock::of_machine().micros() + 401 * 24 * HOUR;
        export_at(&project, Clock::at(Instant(later))).await;
    }
    assert_eq!(names(folder(&project).join("_history"), ".json"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_named_and_only_its_interval_repaired() {
    let project = changing_project();
    configure(&project);
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    export(&project, &[]);
    for (damage, word) in [(None, "is gone"), (Some("no Parquet"), "cannot be read as Parquet")] {
        let files = manifests(&project).pop().unwrap()["files"].clone();
        let start = "2026-01-06T00:00:00Z";
        let file = files.as_array().unwrap().iter().find(|file| file["start"] == start).unwrap();
        let name = file["path"].as_str().unwrap();
        let path = folder(&project).join(name);
        match damage {
            None => std::fs::remove_file(path).unwrap(),
            Some(content) => std::fs::write(path, content).unwrap(),
        }
        let found = parity(&project);
        assert_eq!(found.code, Some(1));
        let verdict = found.stdout.lines().nth(1).unwrap();
        assert!(verdict.contains(name) && verdict.contains(word), "{verdict}");
        assert!(found.stdout.contains("id=b"), "{}", found.stdout);
        let repairing = project.run(&["parity", "--repair"]).without_logs().succeeded();
        let line = "silver.clean was repaired in here with 1 rows: \
                    2026-01-06T00:00:00Z/2026-01-07T00:00:00Z\n";
        assert_eq!(repairing.stderr, line);
        parity(&project).succeeded();
    }
    // A manifest of a form to come is not read as one of this form.
    let mut newest = manifests(&project).pop().unwrap();
    newest["format"] = 2.into();
    let path = folder(&project).join("_manifest/00000000000000000009.json");
    std::fs::write(path, newest.to_string()).unwrap();
    let refused = project.run(&["export", "run"]).without_logs();
    assert!(refused.stderr.contains("has the form 2"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_is_a_target_as_well() {
    let Some(services) = services("files::a_bucket_is_a_target_as_well") else { return };
    let project = changing_project()
        .with("FLOWGUARD_S3_ENDPOINT", &services.s3_endpoint)
        .with("FLOWGUARD_S3_REGION", &services.s3_region)
        .with("FLOWGUARD_S3_ALLOW_HTTP", "true")
        .with_user(User::Root);
    let (bucket, nonce) = (&services.s3_bucket, &services.nonce);
    project.write(
        "dags.yaml",
        &format!(
            "version: 1\ntargets:\n  here: {{driver: files, uri: \"s3://{bucket}/export-{nonce}\"}}\n\
             exports:\n  nightly: {{target: here, select: [silver.clean, gold.by_day]}}\n"
        ),
    );
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    let tested = project.run(&["target", "test", "here"]).succeeded().stdout;
    assert!(tested.starts_with(&format!("here: Parquet files in s3://{bucket}/export-{nonce}")));
    export(&project, &[]);
    another_event(&project).await;
    let moved = export(&project, &[]);
    assert_eq!(moved["silver.clean"], "2 rows: 2026-01-06T00:00:00Z/2026-01-07T00:00:00Z");
    parity(&project).succeeded();
    services.remove_objects(&format!("export-{nonce}")).await;
}

/// What a run with a comparison leaves for Prometheus.
pub async fn metrics_of_an_export() -> String {
    let project = changing_project();
    configure(&project);
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    project.run(&["export", "run", "--metrics-file", "flowguard.prom"]).succeeded();
    project.run(&["parity", "--metrics-file", "flowguard.prom"]).succeeded();
    std::fs::read_to_string(project.folder().join("flowguard.prom")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_are_noted_for_prometheus() {
    let project = changing_project();
    configure(&project);
    let dags = std::fs::read_to_string(project.folder().join("dags.yaml")).unwrap();
    project.write("dags.yaml", &dags.replace("[silver.clean]", "[silver.clean, gold.by_day]"));
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    let noted = |arguments: &[&str]| {
        let file = ["--metrics-file", "flowguard.prom"];
        let code = project.run(&[arguments, &file].concat()).code;
        let text = std::fs::read_to_string(project.folder().join("flowguard.prom")).unwrap();
        let values = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_time_"));
        let values: Vec<String> = values.map(|line| line.replace("target=\"here\",", "")).collect();
        (code, values)
    };
    let exported = [
        "flowguard_export_success{table=\"gold.by_day\"} 1",
        "flowguard_export_success{table=\"silver.clean\"} 1",
    ];
    let expected = |lines: &[&[&str]]| lines.concat().iter().map(|l| (*l).to_owned()).collect();
    assert_eq!(noted(&["export", "run"]), (Some(0), expected(&[&exported])));
    let parts = names(folder(&project), ".parquet");
    std::fs::remove_file(folder(&project).join(&parts[0])).unwrap();
    // What is known of the other table stays.
    let differs = ["flowguard_export_parity{table=\"silver.clean\"} 0"];
    let found = noted(&["parity", "silver.clean"]);
    assert_eq!(found, (Some(1), expected(&[&exported, &differs])));
    let both = [
        "flowguard_export_parity{table=\"gold.by_day\"} 1",
        "flowguard_export_parity{table=\"silver.clean\"} 1",
    ];
    let found = noted(&["parity", "--repair"]);
    assert_eq!(found, (Some(0), expected(&[&exported, &both])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_shown_on_a_terminal_and_nowhere_else() {
    let project = changing_project();
    configure(&project);
    add(&project, &THREE).await;
    project.run(&["run"]).succeeded();
    for arguments in [&["export", "run", "--full"][..], &["parity"]] {
        let piped = project.run(arguments).succeeded();
        assert!(!piped.stderr.contains("table 1 of 1"), "{}", piped.stderr);
        let mut terminal = Terminal::start(&project, arguments);
        terminal.shows("table 1 of 1: silver.clean  ");
        assert_eq!(terminal.ended(), Some(0));
    }
}
