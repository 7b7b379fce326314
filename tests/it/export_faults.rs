//! Faults planted in the exporter itself: statements that it sends are left out, repeated, changed
//! or committed apart, by a script between it and its driver. What `export_deaths` asserts must
//! find every one of them, and `parity` must too.

use crate::export::parity;
use crate::export_deaths::{Growing, growing_project};
use crate::stand_in::StandIn;
use crate::warehouse::Warehouse;

struct Fault {
    name: &'static str,
    /// What is run in the place of which statements.
    rules: &'static [(&'static str, &'static [&'static str])],
    /// Of a table that grew by its second row, `e0002`, in one interval of three.
    wrong: &'static [&'static str],
}

const DELETE: &str = "^DELETE FROM \"?silver";
const INSERT: &str = "^INSERT INTO \"?silver";
const NOTE: &str = "^INSERT INTO \"?flowguard\"?.\"?history.* 'done'";
const CLAIM: &str = "^UPDATE \"?flowguard\"?.\"?exports";

const FAULTS: [Fault; 7] = [
    Fault {
        name: "the ledger moves without the data",
        rules: &[(DELETE, &[]), (INSERT, &[])],
        wrong: &["lost: e0002 5"],
    },
    Fault {
        name: "the ledger is committed before the data, and a death comes between",
        rules: &[(CLAIM, &["$0", "COMMIT", "die"])],
        wrong: &["not told: 2", "lost: e0002 5"],
    },
    Fault {
        name: "the data are committed before the ledger, and a death comes between",
        rules: &[(NOTE, &["UPDATE flowguard.exports SET version = version - 1", "COMMIT", "die"])],
        wrong: &["too many: e0002 5"],
    },
    Fault { name: "what is replaced is not deleted", rules: &[(DELETE, &[])], wrong: &["doubled"] },
    Fault {
        name: "more is deleted than is replaced",
        rules: &[(DELETE, &["DELETE FROM silver.clean WHERE \"at\" < '2026-01-07 00:00:00+00'"])],
        wrong: &["lost: a 1"],
    },
    Fault {
        name: "an interval is deleted and not written",
        rules: &[(INSERT, &[])],
        wrong: &["lost: b 2", "lost: e0001 5", "lost: e0002 5"],
    },
    Fault {
        name: "rows are written twice",
        rules: &[(INSERT, &["$0", "$0"])],
        wrong: &["doubled"],
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_of_the_exporter_is_found() {
    let project = growing_project().await;
    let stand_in = StandIn::new();
    for warehouse in Warehouse::all("export_faults::a_fault_of_the_exporter", &project) {
        for Fault { name, rules, wrong } in FAULTS {
            let mut table = Growing::new(&project, &warehouse);
            table.begins_anew().await;
            table.grow().await;
            table.goes_on(name);
            table.grow().await;
            stand_in.runs_instead(rules);
            let outcome = stand_in.run(&project, &["export", "run"]);
            assert_eq!(outcome.code, Some(2), "{name}: {}", outcome.stderr);
            assert_eq!(table.look().1, wrong, "{name}");
            let found = parity(&project);
            assert_eq!(found.code, Some(1), "{name}: {}", found.stdout);
        }
    }
}

/// Rows that are lost, changed or doubled on their way never get as far as the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_do_not_arrive_as_they_were_sent_are_not_published() {
    let project = growing_project().await;
    let stand_in = StandIn::new();
    let arrived = "^SELECT CAST\\(count.* FROM (\"flowguard\".\"stage_[^ ]*)";
    for warehouse in Warehouse::all("export_faults::rows_that_do_not_arrive", &project) {
        let mut table = Growing::new(&project, &warehouse);
        table.begins_anew().await;
        table.goes_on("at first");
        table.grow().await;
        for (fault, difference) in [
            ("DELETE FROM $1 WHERE id = 'b'", "rows: 2 in the lake, 1 in the target"),
            ("INSERT INTO $1 SELECT * FROM $1", "rows: 2 in the lake, 4 in the target"),
            ("UPDATE $1 SET n = n + 1", "values: as many rows, but other ones"),
            (
                "UPDATE $1 SET n = NULL WHERE id = 'b'",
                "nulls in `n`: 0 in the lake, 1 in the target",
            ),
        ] {
            stand_in.runs_instead(&[(arrived, &[fault])]);
            let outcome = stand_in.run(&project, &["export", "run"]);
            let said =
                format!("`silver.clean` did not arrive in `here` as it was sent: {difference}");
            assert!(outcome.stderr.contains(&said), "{}", outcome.stderr);
            assert_eq!(table.look(), (Some(0), Vec::new()), "{fault}");
        }
        table.goes_on("at last");
    }
}
