//! Folders whose names mean something to URLs, paths or patterns: a project and its lake work in each
//! as in any other.

use std::path::Path;

use crate::program::{Project, model};

const NAMES: [&str; 10] = [
    "with space",
    "per%20cent",
    "100%",
    "back\\slash",
    "ünï cødé",
    "hash#and?query",
    "plus+and&equals=",
    "colon:and;semi",
    "[brackets]{braces}*",
    "~tilde'quote\"",
];
const EVENTS: &str = "SELECT id, CAST(at AS TIMESTAMPTZ) AS at FROM (VALUES
  ('5', '2026-01-05T10:00:00Z'), ('6', '2026-01-06T10:00:00Z'), ('7', '2026-01-07T10:00:00Z')
) AS t(id, at)";
const DAILY: &str = "kind: interval\nevery: 1d\ntime: at\npartition_by: day";
const DAGS: &str = "version: 1
targets:
  here: {driver: files, path: ../out of it}
exports:
  nightly: {target: here, select: [silver.*]}
";

fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// What is wrong with a project in `folder` whose lake is `lake`.
fn judged(outer: &Project, folder: &Path, lake: &str) -> Option<String> {
    let range = "FROM silver.events WHERE at >= $start AND at < $end";
    write(folder, "dags.yaml", DAGS);
    write(folder, "sql/silver/events.sql", &model("kind: full", EVENTS));
    write(folder, "sql/silver/daily.sql", &model(DAILY, &format!("SELECT id, at {range}")));
    let count = "SELECT count(*) AS n, max(id) AS last FROM silver.daily";
    let project = folder.to_str().unwrap();
    for (command, said) in [
        (&["check"][..], ""),
        (&["run"], "silver.daily"),
        (&["run", "--full-refresh"], "silver.daily"),
        (&["query", "--output", "csv", count], "n,last\n3,7\n"),
        (
            &["query", "--output", "csv", "SELECT id FROM silver.daily WHERE at > '2026-01-07'"],
            "id\n7\n",
        ),
        (&["export", "run"], "silver.daily"),
        (&["parity"], "equal"),
        (&["lake", "check"], "silver.daily"),
    ] {
        let global = ["--project", project, "--lake", lake];
        let found = outer.run(&[&global[..], command].concat());
        if found.code != Some(0) || !(found.stdout + &found.stderr).contains(said) {
            let said = outer.run(&[&global[..], command].concat());
            return Some(format!("{project}, {lake}: {command:?}: {}{}", said.stdout, said.stderr));
        }
    }
    None
}

#[test]
fn a_project_works_in_any_folder() {
    let outer = Project::of_models(&[]);
    let mut wrong = Vec::new();
    for (at, name) in NAMES.iter().enumerate() {
        let folder = outer.folder().join(format!("place {at}")).join(name);
        wrong.extend(judged(&outer, &folder, ".flowguard"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Steps up end where the file system says, also behind a link.
#[test]
fn a_lake_may_lie_above_its_project() {
    let outer = Project::of_models(&[]);
    let real = outer.folder().join("real/deep");
    std::fs::create_dir_all(&real).unwrap();
    std::os::unix::fs::symlink(&real, outer.folder().join("link")).unwrap();
    let wrong = judged(&outer, &real.join("project"), "../x");
    assert_eq!(wrong, None);
    assert!(real.join("x/silver/daily").is_dir());
    std::fs::remove_dir_all(real.join("x")).unwrap();
    let project = outer.folder().join("link");
    assert_eq!(judged(&outer, &project, "./a/../../y"), None);
    assert!(outer.folder().join("real/y/silver/daily").is_dir());
}
