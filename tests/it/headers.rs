//! Headers that change after there is data: every change of every key is carried out whole by the next
//! run, or refused before anything moves, with the command that carries it out. What is then in the
//! table is what a new table would hold.

use flowguard::export::change::{Change, Held, change_since};
use flowguard::lake::Snapshot;
use flowguard::lake::commit::ensure_table;
use flowguard::lake::ledger::Ledger;
use uuid::Uuid;

use crate::intervals::World;
use crate::program::model;
use crate::runs::add;

const BEFORE: [(&str, &str, &str); 5] = [
    ("a", "2026-03-01T09:00:00Z", "1"),
    ("b", "2026-03-01T23:30:00Z", "2"),
    ("c", "2026-03-02T00:30:00Z", "3"),
    ("d", "2026-03-02T22:30:00Z", "4"),
    ("e", "2026-03-03T23:59:59Z", "5"),
];
const AFTER: [(&str, &str, &str); 3] = [
    ("f", "2026-03-01T23:10:00Z", "6"),
    ("g", "2026-03-02T23:10:00Z", "7"),
    ("h", "2026-03-05T12:00:00Z", "8"),
];

const ALL_NOT_NULL: &str = "id: {type: string}\n  at: {type: timestamp}\n  seen: {type: timestamp}
  day: {type: date}\n  n: {type: string, not_null: true}";

/// A model, of which each key can be changed by itself.
#[derive(Clone, Debug, PartialEq)]
struct Header {
    kind: &'static str,
    every: &'static str,
    time: &'static str,
    timezone: &'static str,
    is_partitioned: bool,
    key: &'static str,
    columns: &'static str,
    select: &'static str,
}

impl Header {
    fn new(kind: &'static str, is_partitioned: bool) -> Self {
        Self {
            kind,
            every: "1d",
            time: "at",
            timezone: "UTC",
            is_partitioned,
            key: "",
            columns: "",
            select: "id, at, at AS seen, CAST(at AS DATE) AS day, n",
        }
    }

    fn text(&self) -> String {
        let mut header = format!("kind: {}\ntimezone: {}", self.kind, self.timezone);
        let mut more = |text: &str| header.push_str(&format!("\n{text}"));
        if self.kind != "view" {
            more(&format!("time: {}", self.time));
            if self.is_partitioned {
                more("partition_by: day");
            }
        }
        if self.kind == "interval" {
            more(&format!("every: {}", self.every));
        }
        if !self.key.is_empty() {
            more(&format!("key: [{}]", self.key));
        }
        if !self.columns.is_empty() {
            more(&format!("columns:\n  {}", self.columns));
        }
        let condition = if self.kind == "interval" { "at >= $start AND at < $end" } else { "true" };
        model(&header, &format!("SELECT {} FROM bronze.events WHERE {condition}", self.select))
    }

    /// Every key, changed.
    fn changes(&self) -> Vec<(&'static str, Header)> {
        let with = |change: fn(&mut Header)| {
            let mut changed = self.clone();
            change(&mut changed);
            changed
        };
        let all = vec![
            ("nothing", self.clone()),
            ("timezone", with(|h| h.timezone = "Europe/Rome")),
            ("time of another type", with(|h| h.time = "day")),
            ("time of the same type", with(|h| h.time = "seen")),
            ("every, shorter", with(|h| h.every = "6h")),
            ("every, longer", with(|h| h.every = "1w")),
            ("partition_by", with(|h| h.is_partitioned = !h.is_partitioned)),
            ("kind: full", with(|h| h.kind = "full")),
            ("kind: interval", with(|h| h.kind = "interval")),
            ("key", with(|h| h.key = "id")),
            ("not_null", with(|h| h.columns = ALL_NOT_NULL)),
            (
                "a type",
                with(|h| {
                    h.select = "id, at, at AS seen, CAST(at AS DATE) AS day, CAST(n AS BIGINT) AS n"
                }),
            ),
            ("an order", with(|h| h.select = "n, CAST(at AS DATE) AS day, at AS seen, id, at")),
            ("a name", with(|h| h.select = "id, at, at AS seen, CAST(at AS DATE) AS day, n AS m")),
            ("a column less", with(|h| h.select = "id, at, at AS seen, CAST(at AS DATE) AS day")),
            (
                "a column more",
                with(|h| {
                    h.select = "id, at, at AS seen, CAST(at AS DATE) AS day, n, upper(id) AS u"
                }),
            ),
            (
                "a value",
                with(|h| {
                    h.select =
                        "lower(id) AS id, at, at AS seen, CAST(at AS DATE) AS day, n || '0' AS n"
                }),
            ),
        ];
        // What leaves the file as it is changes nothing.
        let is_change =
            |(name, changed): &(&str, Header)| *name == "nothing" || changed.text() != self.text();
        all.into_iter().filter(is_change).collect()
    }
}

async fn world(header: &Header, events: &[&[(&str, &str, &str)]]) -> World {
    let world = World::new(&[("silver/m".to_owned(), header.text())]).await;
    let world = world.unwrap_or_else(|error| panic!("{header:?}: {}", error.report()));
    for events in events.iter().filter(|events| !events.is_empty()) {
        add(&world.project, events).await;
    }
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_header_is_carried_out_whole_or_refused_with_the_command_that_does_it() {
    let (mut wrong, mut refused, mut carried) = (Vec::new(), 0, 0);
    for kind in ["interval", "full"] {
        for is_partitioned in [false, true] {
            let old = Header::new(kind, is_partitioned);
            for (change, new) in old.changes() {
                // Data that came before the change, and after it.
                for events in [&[] as &[_], &AFTER] {
                    let told = format!("{kind}, partitioned: {is_partitioned}, {change}");
                    match check(&old, &new, events).await {
                        Ok(true) => refused += 1,
                        Ok(false) => carried += 1,
                        Err(error) => wrong.push(format!("{told}: {error}")),
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused > 20 && carried > 20, "{refused} refused, {carried} carried out");
}

/// Whether the change was refused before it was carried out.
async fn check(old: &Header, new: &Header, events: &[(&str, &str, &str)]) -> Result<bool, String> {
    let name = "silver.m";
    let mut all = world(old, &[&BEFORE]).await;
    all.run(name, None).await?;
    let held = all.table(name).await;
    all = match all.with(&[("silver/m", &new.text())]).await {
        Ok(all) => all,
        Err(error) => return Err(error.report()),
    };
    if !events.is_empty() {
        add(&all.project, events).await;
    }
    let before = all.rows(name).await;
    let refusal = all.run(name, None).await.err();
    if let Some(error) = &refusal {
        if all.table(name).await.version() != held.version() || all.rows(name).await != before {
            return Err(format!("something moved before `{error}`"));
        }
        if !error.contains("`flowguard run silver.m --full-refresh`") {
            return Err(format!("no command in `{error}`"));
        }
        all.refresh(name).await?;
    }
    let expected = world(new, &[&BEFORE, events]).await;
    expected.run(name, None).await?;
    let (found, wanted) = (all.rows(name).await, expected.rows(name).await);
    if found != wanted {
        return Err(format!("{found:#?} instead of {wanted:#?}"));
    }
    let (made, like) = (all.table(name).await, expected.table(name).await);
    let laid_out =
        |table: &Snapshot| (table.shape(), table.schema().field_with_name("_day").is_ok());
    if laid_out(&made) != laid_out(&like) {
        return Err(format!("laid out by {:?}, not {:?}", laid_out(&made), laid_out(&like)));
    }
    // A target that holds the table as it was before learns of the change.
    let newest = all.table(name).await;
    let model = all.context.models.get(&name.parse().unwrap()).unwrap();
    let was = Held { table_id: newest.id().to_owned(), version: held.version() };
    let moved = change_since(Some(&was), &newest, model).await.unwrap();
    if before != found && moved == Change::None {
        return Err("an export would move nothing".to_owned());
    }
    if refusal.is_some() && !matches!(moved, Change::Whole(_)) {
        return Err(format!("an export would move {moved}"));
    }
    // A later run, of some of it, goes on from there.
    all.run(name, None).await?;
    let again = all.rows(name).await;
    if again != wanted {
        return Err(format!("the next run left {again:#?}"));
    }
    Ok(refusal.is_some())
}

/// What it takes then is in `rewrites`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_header_of_a_bronze_table_is_refused_where_its_rows_are_laid_out_by_it() {
    let bronze = |more: &str, columns: &str| {
        let header = format!(
            "kind: append\nsource: {{topic: raw.events.v1, format: json, unknown_fields: ignore}}\n\
             {more}\ncolumns:\n  id: {{type: string, not_null: true}}\n  at: {{type: timestamp, not_null: true}}\n  \
             seen: {{type: timestamp}}{columns}"
        );
        model(&header, "SELECT * FROM kafka.letters")
    };
    let same = "\n  n: {type: string}";
    let by_day = "time: at\npartition_by: day\ntimezone: UTC";
    let cases = [
        (by_day, same, by_day, same, ""),
        (by_day, same, "time: at\ntimezone: UTC", same, "--full-refresh"),
        (
            by_day,
            same,
            "time: at\npartition_by: day\ntimezone: Europe/Rome",
            same,
            "--full-refresh",
        ),
        (by_day, same, "time: seen\npartition_by: day\ntimezone: UTC", same, "--full-refresh"),
        ("time: at", same, by_day, same, "--full-refresh"),
        ("time: at", same, "time: seen\ntimezone: Europe/Rome\nkey: [id]", same, ""),
        ("time: at", same, "time: at", "\n  n: {type: bigint}", "--full-refresh"),
        ("time: at", same, "time: at", "", "--full-refresh"),
        ("time: at", same, "time: at", "\n  n: {type: string}\n  more: {type: string}", ""),
    ];
    for (old, old_columns, new, new_columns, hint) in cases {
        let told = format!("{old:?} {old_columns:?} -> {new:?} {new_columns:?}");
        let world = World::new(&[("bronze/letters".to_owned(), bronze(old, old_columns))]).await;
        let world = world.unwrap_or_else(|error| panic!("{told}: {}", error.report()));
        let ensured = |world: World| async move {
            let name = "bronze.letters".parse().unwrap();
            let ledger = Ledger::new("test", Uuid::nil());
            let spec = &world.typed().get(&name).unwrap().spec;
            let ensured = ensure_table(&world.context.lake, spec, &ledger).await;
            (ensured.map(|table| table.version()).map_err(|error| error.report()), world)
        };
        let (made, world) = ensured(world).await;
        assert_eq!(made, Ok(0), "{told}");
        let world = world.with(&[("bronze/letters", &bronze(new, new_columns))]).await;
        let world = world.unwrap_or_else(|error| panic!("{told}: {}", error.report()));
        let (changed, world) = ensured(world).await;
        match changed {
            Ok(_) => assert_eq!(hint, "", "{told}"),
            Err(error) => {
                assert!(!hint.is_empty() && error.contains(hint), "{told}: {error}");
                assert_eq!(world.table("bronze.letters").await.version(), 0, "{told}");
            }
        }
    }
}
