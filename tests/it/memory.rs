//! What the process takes of the machine's memory, as the machine sees it, within the limit that it was
//! given: 1.2 times that and what the program itself needs, whatever the history.

use std::process::Stdio;

use crate::program::{Project, model};

/// Of the program, without plans, in MiB.
const PROGRAM_MIB: f64 = 100.0;

/// Builds a model, and how many MiB the process had at most.
fn peak_mib(project: &Project, name: &str) -> f64 {
    let mut command = project.command(&["run", name]);
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let status = format!("/proc/{}/status", run.id());
    let mut peak = 0.0;
    while run.try_wait().expect("it is ours").is_none() {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
        let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
        peak = f64::max(peak, kib.unwrap_or_default() / 1024.0);
        std::thread::yield_now();
    }
    assert!(run.wait().expect("it has ended").success());
    peak
}

#[test]
fn files_of_many_days_stay_within_the_memory_of_the_engine() {
    // Every day at once, in columns that no dictionary makes small.
    let texts: Vec<String> =
        (0..10).map(|at| format!("md5(CAST(value * 10 + {at} AS VARCHAR)) AS text_{at}")).collect();
    let sql = format!(
        "SELECT value AS id, to_timestamp_micros(1767225600000000 + value % 90 * 86400000000) AS at, \
         {} FROM generate_series(1, 400000)",
        texts.join(", ")
    );
    let header = "kind: full\ntime: at\npartition_by: day";
    let limit_mib = 200.0;
    let project = Project::of_models(&[("silver/days", &model(header, &sql))])
        .with("FLOWGUARD_ENGINE_MEMORY_BYTES_MAX", "209715200");
    let peak = peak_mib(&project, "silver.days");
    assert!(peak < limit_mib * 1.2 + PROGRAM_MIB, "{peak} MiB");
    let counted = "SELECT count(*) AS n, count(DISTINCT _day) AS days FROM silver.days";
    assert_eq!(project.query(counted), [["400000", "90"]]);
}
