//! `flowguard lake check`: what is damaged in a table is found, named and given a cure; the commands
//! that read the table name it too, and the cure helps.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::program::{Project, SMALL_DEMO};

const TABLE: &str = "bronze.orders_raw";

struct Table(PathBuf);

impl Table {
    fn of(project: &Project) -> Self {
        Self(project.lake().join("bronze/orders_raw"))
    }

    fn entry(&self, version: u64) -> PathBuf {
        self.0.join(format!("_delta_log/{version:020}.json"))
    }

    fn newest(&self) -> u64 {
        (0..).take_while(|version| self.entry(*version).exists()).last().unwrap()
    }

    /// All data files, by their paths below the table's folder.
    fn data(&self) -> Vec<String> {
        let (mut found, mut folders) = (Vec::new(), vec![self.0.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.ends_with("_delta_log") {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "parquet") {
                    found.push(path.strip_prefix(&self.0).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }
}

/// Of the table, in JSON, and the exit code.
fn checked(project: &Project) -> (Option<i32>, Value) {
    let finished = project.run(&["lake", "check", TABLE, "--output", "json"]);
    let found: Value = serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", finished.stdout, finished.stderr));
    (finished.code, found["tables"][0].clone())
}

/// The problems that are found, and that reading the table then fails with `said`, if it fails.
#[track_caller]
fn damaged(project: &Project, problems: &[&str], said: Option<&str>) {
    let (code, found) = checked(project);
    let whats: Vec<&str> = found["problems"]
        .as_array()
        .unwrap()
        .iter()
        .map(|problem| problem["what"].as_str().unwrap())
        .collect();
    assert_eq!((code, whats.as_slice()), (Some(4), problems), "{found:#}");
    let cures = found["problems"].as_array().unwrap().iter().map(|problem| &problem["cure"]);
    assert!(cures.into_iter().all(|cure| cure.as_str().is_some_and(|cure| cure.len() > 10)));
    let text = project.run(&["lake", "check", TABLE]);
    assert_eq!(text.code, Some(4), "{}", text.stderr);
    let first = format!("error: 1 of 1 tables are damaged:\n  {TABLE}: {}\n", problems[0]);
    assert!(text.stderr.starts_with(&first), "{}", text.stderr);
    let read = project.run(&["query", &format!("SELECT max(user_id) FROM {TABLE}")]);
    match said {
        Some(said) => {
            assert_eq!(read.code, Some(4), "{}", read.stderr);
            assert!(read.stderr.contains(said), "{}", read.stderr);
        }
        None => drop(read.succeeded()),
    }
    // The others have nothing to do with it.
    project.run(&["query", "SELECT count(*) FROM gold.daily_metrics"]).succeeded();
    project.run(&["lake", "check", "gold.daily_metrics"]).succeeded();
}

#[test]
fn what_is_damaged_is_named_and_the_rest_is_not() {
    let project = Project::of_demo(&SMALL_DEMO);
    let table = Table::of(&project);
    let newest = table.newest();
    assert!(newest >= 2, "{newest}");
    let all = project.run(&["lake", "check"]).succeeded();
    assert!(all.stdout.contains(TABLE), "{}", all.stdout);
    assert_eq!(checked(&project).1["orphans"]["files"], 0);

    for version in [0, newest - 1] {
        let path = table.entry(version);
        let whole = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let missing = format!("entry `{version:020}.json` is missing");
        damaged(&project, &[&missing], Some(&missing));
        fs::write(&path, &whole).unwrap();
    }
    let path = table.entry(newest);
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    let cut = &lines[..lines.len() - 1];
    let torn = format!("line {} of entry `{newest:020}.json` is no action", lines.len());
    let halves = [cut.concat(), lines[cut.len()][..9].to_owned()].concat();
    let lost = format!(
        "entry `{newest:020}.json` was cut: {} of {} lines are left",
        cut.len(),
        lines.len()
    );
    let empty = format!("entry `{newest:020}.json` is empty");
    for (content, what) in [(halves, torn), (cut.concat(), lost), (String::new(), empty)] {
        fs::write(&path, content).unwrap();
        damaged(&project, &[&what], Some(&what));
    }
    // As the cure says: it is the newest one.
    fs::remove_file(&path).unwrap();
    assert_eq!(checked(&project).0, Some(0));
    fs::write(&path, whole).unwrap();

    let file = &table.data()[0];
    let bytes = fs::read(table.0.join(file)).unwrap();
    fs::write(table.0.join(file), &bytes[..bytes.len() / 2]).unwrap();
    let (half, full) = (bytes.len() / 2, bytes.len());
    let short = format!("data file `{file}` has {half} bytes and was written with {full}");
    damaged(&project, &[&short], Some("a data file of `bronze.orders_raw` has "));
    fs::remove_file(table.0.join(file)).unwrap();
    let missing = format!("data file `{file}` is missing");
    damaged(&project, &[&missing], Some("is missing"));
    fs::write(table.0.join(file), &bytes).unwrap();
    assert_eq!(checked(&project).0, Some(0));
}

#[test]
fn files_that_no_version_names_are_orphans_after_an_hour() {
    let project = Project::of_demo(&SMALL_DEMO);
    let table = Table::of(&project);
    let day = table.data()[0].split_once('/').unwrap().0.to_owned();
    let hours_ago = |hours: u64| SystemTime::now() - Duration::from_secs(3600 * hours);
    for (name, hours) in [("old.parquet", 2), ("young.parquet", 0), ("note.txt", 2)] {
        let file = fs::File::create_new(table.0.join(&day).join(name)).unwrap();
        file.set_len(100).unwrap();
        file.set_modified(hours_ago(hours)).unwrap();
    }
    let hidden = table.0.join("_intervals");
    fs::create_dir(&hidden).unwrap();
    let file = fs::File::create_new(hidden.join("map.parquet")).unwrap();
    file.set_modified(hours_ago(2)).unwrap();
    let (code, found) = checked(&project);
    let orphans = json!({"files": 1, "bytes": 100, "first": [format!("{day}/old.parquet")]});
    assert_eq!((code, &found["orphans"]), (Some(0), &orphans), "{found:#}");
    // What a version names is none, also when a later one has removed it.
    let files = |found: &Value| found["files"].as_u64().unwrap();
    let is_old = |path: &Path| fs::File::open(path).unwrap().set_modified(hours_ago(2)).unwrap();
    table.data().iter().for_each(|file| is_old(&table.0.join(file)));
    fs::remove_file(table.0.join(day).join("young.parquet")).unwrap();
    assert_eq!(checked(&project).1["orphans"], orphans);
    assert!(files(&found) > 0);
}

#[test]
fn a_checkpoint_that_cannot_be_read_is_named() {
    let project = Project::of_demo(&SMALL_DEMO);
    let table = Table::of(&project);
    let newest = table.newest();
    let checkpoint = table.0.join(format!("_delta_log/{newest:020}.checkpoint.parquet"));
    fs::write(&checkpoint, b"PAR1 and nothing more").unwrap();
    let (code, found) = checked(&project);
    let problem = &found["problems"][0];
    let what = format!("checkpoint `{newest:020}.checkpoint.parquet` cannot be read: ");
    assert!(problem["what"].as_str().unwrap().starts_with(&what), "{found:#}");
    let cure = "delete it and `_last_checkpoint`: the log is whole without them";
    assert_eq!((code, &problem["cure"]), (Some(4), &json!(cure)));
    fs::remove_file(checkpoint).unwrap();
    let hint = table.0.join("_delta_log/_last_checkpoint");
    fs::write(&hint, r#"{"version":7000,"size":1}"#).unwrap();
    let what = "`_last_checkpoint` names version 7000, which has no checkpoint";
    assert_eq!(checked(&project).1["problems"][0]["what"], json!(what));
    fs::remove_file(hint).unwrap();
    assert_eq!(checked(&project).0, Some(0));
}

#[test]
fn a_table_that_is_not_there_is_no_table() {
    let project = Project::of_demo(&SMALL_DEMO);
    let finished = project.run(&["lake", "check", "gold.absent", "gold.daily_metrics"]);
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(
        finished.stderr.contains("error: `gold.absent` is not in the lake"),
        "{}",
        finished.stderr
    );
    assert!(finished.stdout.contains("gold.daily_metrics"), "{}", finished.stdout);
}
