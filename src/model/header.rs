//! The fenced `--` header of a model file: finds it, hands its YAML to the strict reader, and
//! checks what a header can say by itself. Knows nothing of the SQL below it.

use std::collections::BTreeSet;

use chrono_tz::Tz;

use crate::error::Error;
use crate::interval::Every;
use crate::model::{Kind, MessageFormat, SourceTopic, UnknownFields};
use crate::source::{Position, Problems, Spanned, choice_hint};
use crate::table::{Column, ColumnType, Layer, TableName, is_identifier};
use crate::yaml::{self, Embedded, Mapping, Value};

const OPENING: &str = "-- /// flowguard";
const CLOSING: &str = "-- ///";
/// Columns a table can declare; Delta and Parquet stay comfortable well beyond it.
const COLUMNS_MAX: usize = 2_000;

/// A file cut at its fences.
pub struct Fenced<'a> {
    yaml: String,
    /// Line of the opening fence.
    line: usize,
    pub sql: &'a str,
    /// Lines of the file above `sql`.
    pub sql_lines_before: usize,
}

/// What a header says. `kind` is `None` when it could not be read; the rest may then be partial.
pub struct Header {
    pub kind: Option<Kind>,
    pub doc: Option<String>,
    pub owner: Option<String>,
    pub tags: Vec<String>,
    pub time: Option<Spanned<String>>,
    pub timezone: Tz,
    pub partition_by_day: bool,
    pub key: Vec<Spanned<String>>,
    pub columns: Vec<(Column, Position)>,
}

#[derive(Clone, Copy, PartialEq)]
enum KindWord {
    Append,
    Interval,
    Full,
    View,
}

/// Cuts a file into header and SQL. A byte order mark, blank lines above the header, and Windows
/// line ends are fine.
pub fn split<'a>(text: &'a str, problems: &Problems<'_>) -> Option<Fenced<'a>> {
    let text_start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut offset = text_start;
    let mut opened: Option<usize> = None;
    let mut yaml = String::new();
    for (index, raw) in text[text_start..].split_inclusive('\n').enumerate() {
        let line = index + 1;
        let content = raw.trim_end();
        offset += raw.len();
        let place = Position { line, column: 1, width: content.chars().count().max(1) };
        match opened {
            None if content.is_empty() => {}
            None if content == OPENING => opened = Some(line),
            None => {
                let hint = format!("the first line must be `{OPENING}`");
                problems.report_hint(place, "the file has no header", hint);
                return None;
            }
            Some(opening) if content == CLOSING => {
                let sql = &text[offset..];
                return Some(Fenced { yaml, line: opening, sql, sql_lines_before: line });
            }
            Some(_) if content == "--" => yaml.push('\n'),
            Some(opening) => match content.strip_prefix("-- ") {
                Some(content) => {
                    yaml.push_str(content);
                    yaml.push('\n');
                }
                None if content.starts_with("--") => {
                    problems.report(place, "a header line starts with `-- `, with a space");
                    return None;
                }
                None => return unterminated(opening, problems),
            },
        }
    }
    match opened {
        Some(opening) => unterminated(opening, problems),
        None => {
            let hint = format!("start it with a header: `{OPENING}`");
            problems.report_hint(Position::FILE, "the file is empty", hint);
            None
        }
    }
}

fn unterminated<T>(opening: usize, problems: &Problems<'_>) -> Option<T> {
    let place = Position { line: opening, column: 1, width: OPENING.len() };
    let hint = format!("end it with a line `{CLOSING}`");
    problems.report_hint(place, "the header is not closed", hint);
    None
}

/// Reads the header of `table`.
pub fn read(fenced: &Fenced<'_>, table: &TableName, problems: &Problems<'_>) -> Option<Header> {
    let embedded = Embedded { text: &fenced.yaml, lines_before: fenced.line, columns_before: 3 };
    let node = yaml::parse(embedded, problems)?;
    let map = node.mapping("the header", problems)?;
    let (header, _) = read_mapping(map, table, problems);
    Some(header)
}

/// Also returns the keys that were asked for.
fn read_mapping(
    map: Mapping<'_>,
    table: &TableName,
    problems: &Problems<'_>,
) -> (Header, BTreeSet<&'static str>) {
    let word = map.required("kind").and_then(|value| read_kind_word(value, table));
    let kind = read_kind(&map, word);
    let time = map.optional("time").and_then(|value| column_name(value, problems));
    let partition_by = map.optional("partition_by");
    if let Some(value) = &partition_by {
        let is_day = value.one_of(&[("day", ())]).is_some();
        if is_day && map.optional("time").is_none() {
            value.report(
                "`partition_by: day` needs the key `time`",
                "name the column of the event's time",
            );
        }
        if word == Some(KindWord::View) {
            value.report("a view stores nothing to partition", "remove `partition_by`");
        }
    }
    let key = map.optional("key").and_then(|value| value.list()).unwrap_or_default();
    let key: Vec<_> = key.into_iter().filter_map(|value| column_name(value, problems)).collect();
    let declared = if word == Some(KindWord::Append) {
        map.required("columns")
    } else {
        map.optional("columns")
    };
    let columns = declared.map(|value| read_columns(value, problems)).unwrap_or_default();
    if word != Some(KindWord::Append)
        && let Some((column, position)) = columns.iter().find(|(column, _)| column.was.is_some())
    {
        let message = format!("column `{}` says what it was, which is for bronze", column.name);
        let hint =
            "remove `was`: `flowguard run --full-refresh` makes this table anew by its query";
        problems.report_hint(*position, message, hint);
    }
    if declared.is_some() && !columns.is_empty() {
        check_declared(&time, &key, &columns, word, problems);
    }
    let text = |key| map.optional(key).and_then(|value| value.string()).map(|text| text.value);
    let tags = map.optional("tags").and_then(|value| value.strings()).unwrap_or_default();
    let header = Header {
        kind,
        doc: text("doc"),
        owner: text("owner"),
        tags: tags.into_iter().map(|tag| tag.value).collect(),
        time,
        timezone: map.optional("timezone").and_then(|value| value.timezone()).unwrap_or(Tz::UTC),
        partition_by_day: partition_by.is_some(),
        key,
        columns,
    };
    map.refuse("checks", "`checks` are not in this version", "remove the key");
    (header, map.finish())
}

fn read_kind_word(value: Value<'_>, table: &TableName) -> Option<KindWord> {
    let text = value.string()?;
    if matches!(text.value.as_str(), "merge" | "snapshot") {
        let message = format!("kind `{}` is not in this version", text.value);
        value.report(message, "kinds are `append`, `interval`, `full`, `view`");
        return None;
    }
    let kinds = [
        ("append", KindWord::Append),
        ("interval", KindWord::Interval),
        ("full", KindWord::Full),
        ("view", KindWord::View),
    ];
    let word = value.one_of(&kinds)?;
    let is_bronze = table.layer == Layer::Bronze;
    if word == KindWord::Append && !is_bronze {
        value.report(
            format!("kind `append` reads a topic, which only bronze does, not {}", table.layer),
            "move the file to `sql/bronze/`, or use `interval`, `full` or `view`",
        );
    } else if word != KindWord::Append && is_bronze {
        value.report(
            format!(
                "bronze holds what topics delivered, so kind `{}` has no place in it",
                text.value
            ),
            "move the file to `sql/silver/` or `sql/gold/`, or use `kind: append`",
        );
    }
    Some(word)
}

/// Reads the keys that belong to one kind and refuses them under the others.
fn read_kind(map: &Mapping<'_>, word: Option<KindWord>) -> Option<Kind> {
    let (source, every) = match word {
        Some(KindWord::Append) => (map.required("source"), map.optional("every")),
        Some(KindWord::Interval) => {
            map.required("time");
            (map.optional("source"), map.required("every"))
        }
        _ => (map.optional("source"), map.optional("every")),
    };
    if let (Some(value), Some(KindWord::Interval | KindWord::Full | KindWord::View)) =
        (&source, word)
    {
        value.report(
            "only `kind: append` has a source",
            "remove `source`: inputs come from the SQL",
        );
    }
    if let (Some(value), Some(KindWord::Append | KindWord::Full | KindWord::View)) = (&every, word)
    {
        value.report("only `kind: interval` has an interval length", "remove `every`");
    }
    let topic = source.and_then(read_source);
    let every = every.and_then(|value| value.parse::<Every>());
    Some(match word? {
        KindWord::Append => Kind::Append(topic?),
        KindWord::Interval => Kind::Interval { every: every?.value },
        KindWord::Full => Kind::Full,
        KindWord::View => Kind::View,
    })
}

fn read_source(value: Value<'_>) -> Option<SourceTopic> {
    let map = value.mapping("`source`")?;
    let topic = map.required("topic").and_then(|value| {
        let topic = value.string()?;
        // The rule of Kafka itself: org.apache.kafka.common.internals.Topic.
        let is_name = (1..=249).contains(&topic.value.len())
            && topic.value.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
            && topic.value != "."
            && topic.value != "..";
        if !is_name {
            let message = format!("`{}` is not a topic name", topic.value);
            value.report(message, "use letters, digits, `.`, `_` and `-`, at most 249");
        }
        is_name.then_some(topic)
    });
    let format =
        map.required("format").and_then(|value| value.one_of(&[("json", MessageFormat::Json)]));
    let policies = [
        ("rescue", UnknownFields::Rescue),
        ("ignore", UnknownFields::Ignore),
        ("fail", UnknownFields::Fail),
    ];
    let unknown_fields = match map.optional("unknown_fields") {
        Some(value) => value.one_of(&policies),
        None => Some(UnknownFields::Rescue),
    };
    map.finish();
    Some(SourceTopic { topic: topic?.value, format: format?, unknown_fields: unknown_fields? })
}

fn column_name(value: Value<'_>, problems: &Problems<'_>) -> Option<Spanned<String>> {
    let text = value.string()?;
    match check_identifier(&text.value) {
        Ok(()) => Some(text),
        Err(error) => {
            problems.report_error(text.position, error);
            None
        }
    }
}

fn check_identifier(name: &str) -> Result<(), Error> {
    if is_identifier(name.strip_prefix('_').unwrap_or(name)) {
        return Ok(());
    }
    Err(Error::invalid(format!("`{name}` is not a column name"))
        .hint("use lowercase letters, digits and underscores, starting with a letter"))
}

fn read_columns(value: Value<'_>, problems: &Problems<'_>) -> Vec<(Column, Position)> {
    let Some(map) = value.mapping("`columns`") else { return Vec::new() };
    let mut columns = Vec::new();
    for entry in map.entries() {
        let Spanned { value: name, position } = entry.key;
        if let Err(error) = check_identifier(name) {
            problems.report_error(*position, error);
        } else if name.starts_with('_') {
            let message =
                format!("column `{name}` is reserved: names with `_` first belong to FlowGuard");
            problems.report_hint(*position, message, "remove the underscore");
        }
        let what = format!("column `{name}`");
        let Some(inner) = entry.mapping(&what) else { continue };
        let column_type = inner.required("type").and_then(|value| read_type(value, problems));
        let not_null = inner.optional("not_null").and_then(|value| value.bool()).unwrap_or(false);
        let doc = inner.optional("doc").and_then(|value| value.string()).map(|text| text.value);
        let was = inner.optional("was").and_then(|value| column_name(value, problems));
        let is_kept = |was: &&Spanned<String>| map.entries().any(|e| e.key.value == was.value);
        if let Some(was) = was.as_ref().filter(is_kept) {
            problems.report_hint(
                was.position,
                format!("`{}` is a column of this model", was.value),
                "`was` names the column as it is in the table, which no other column may keep",
            );
        }
        let was = was.map(|was| was.value);
        inner.finish();
        if let Some(column_type) = column_type {
            let column =
                Column { name: name.clone(), column_type: column_type.value, not_null, doc, was };
            columns.push((column, *position));
        }
    }
    if columns.len() > COLUMNS_MAX {
        problems.report(value.position(), format!("more than {COLUMNS_MAX} columns"));
    }
    if map.entries().next().is_none() {
        value.report("`columns` names no column", "write `name: {type: string}`");
    }
    columns
}

fn read_type(value: Value<'_>, problems: &Problems<'_>) -> Option<Spanned<ColumnType>> {
    let text = value.string()?;
    if text.value.starts_with("decimal(") && !text.value.contains(',') {
        // Inside braces the comma of `decimal(10,2)` ends the value.
        let hint = "quote it: \"decimal(10,2)\"";
        let message = format!("`{}` is half of a type", text.value);
        problems.report_hint(text.position, message, hint);
        return None;
    }
    value.parse()
}

/// Metadata columns that can place a message in time.
const TIMES: [&str; 2] = ["_timestamp", "_ingested_at"];

/// `time` and `key` must be among declared columns.
fn check_declared(
    time: &Option<Spanned<String>>,
    key: &[Spanned<String>],
    columns: &[(Column, Position)],
    word: Option<KindWord>,
    problems: &Problems<'_>,
) {
    for named in time.iter().chain(key) {
        let is_metadata = word == Some(KindWord::Append) && named.value.starts_with('_');
        if !is_metadata && !columns.iter().any(|(column, _)| column.name == named.value) {
            let names = columns.iter().map(|(column, _)| column.name.as_str());
            let hint = choice_hint(&named.value, names, "columns are");
            problems.report_hint(named.position, format!("unknown column `{}`", named.value), hint);
        }
    }
    let Some(time) = time else { return };
    let is_append = word == Some(KindWord::Append);
    if let Some((column, _)) = columns.iter().find(|(column, _)| column.name == time.value) {
        let is_time = match column.column_type {
            ColumnType::Timestamp => true,
            ColumnType::Date => !is_append,
            _ => false,
        };
        if !is_time {
            let message = format!("time column `{}` is a {}", column.name, column.column_type);
            let hint = match is_append {
                true => "a message is placed in time by a timestamp, `_timestamp` for instance",
                false => "it must be a timestamp or a date",
            };
            problems.report_hint(time.position, message, hint);
        }
    } else if is_append && time.value.starts_with('_') && !TIMES.contains(&time.value.as_str()) {
        let hint = choice_hint(&time.value, TIMES, "times of a message are");
        problems.report_hint(time.position, format!("`{}` is no time", time.value), hint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Source, printed};

    fn check(file: &str, text: &str, expect: &str) {
        let table: TableName = file.parse().unwrap();
        let source = Source::new(format!("sql/{}/{}.sql", table.layer, table.name()), text);
        let problems = Problems::new(&source);
        if let Some(fenced) = split(&source.text, &problems) {
            read(&fenced, &table, &problems);
        }
        assert_eq!(printed(&problems.into_diagnostics()), expect.trim_matches('\n'));
    }

    #[test]
    fn a_message_is_placed_in_time_by_a_timestamp() {
        let header = |time: &str| {
            format!(
                "-- /// flowguard\n-- kind: append\n-- source: {{topic: t, format: json}}\n\
                 -- time: {time}\n-- columns: {{day: {{type: date}}, b: {{type: int, was: day}}}}\n-- ///\n"
            )
        };
        let was = "\nsql/bronze/a.sql:5:53: `day` is a column of this model";
        for (time, expected) in [
            ("day", "sql/bronze/a.sql:4:10: time column `day` is a date"),
            ("_key", "sql/bronze/a.sql:4:10: `_key` is no time"),
            ("_timestamp", ""),
            ("_ingested_at", ""),
        ] {
            let table: TableName = "bronze.a".parse().unwrap();
            let source = Source::new("sql/bronze/a.sql".to_owned(), header(time));
            let problems = Problems::new(&source);
            if let Some(fenced) = split(&source.text, &problems) {
                read(&fenced, &table, &problems);
            }
            let found = printed(&problems.into_diagnostics());
            let lines = found.lines().filter(|line| line.starts_with("sql/"));
            let lines: Vec<&str> = lines.collect();
            assert!(lines.join("\n").starts_with(expected), "{time}: {found}");
            assert_eq!(lines.len(), if expected.is_empty() { 1 } else { 2 }, "{found}");
            assert!(found.contains(was.trim()), "{found}");
        }
    }

    #[test]
    fn fences_are_needed() {
        check(
            "gold.a",
            "SELECT 1\n",
            "sql/gold/a.sql:1:1: the file has no header\n    SELECT 1\n    ^^^^^^^^\n    hint: the first line must be `-- /// flowguard`",
        );
        check(
            "gold.a",
            "-- /// flowguard\n-- kind: full\nSELECT 1\n",
            "sql/gold/a.sql:1:1: the header is not closed\n    -- /// flowguard\n    ^^^^^^^^^^^^^^^^\n    hint: end it with a line `-- ///`",
        );
        check(
            "gold.a",
            "\n",
            "sql/gold/a.sql: the file is empty\n    hint: start it with a header: `-- /// flowguard`",
        );
    }

    #[test]
    fn a_byte_order_mark_blank_lines_and_windows_line_ends_are_fine() {
        check(
            "gold.a",
            "\u{feff}\r\n-- /// flowguard\r\n-- kind: full\r\n--\r\n-- ///\r\nSELECT 1\r\n",
            "",
        );
    }

    #[test]
    fn every_problem_of_a_header_is_reported() {
        check(
            "bronze.orders",
            "-- /// flowguard
-- kind: append
-- source: {topic: raw orders, format: avro, unknown_fields: keep}
-- time: event_tme
-- every: 1d
-- partition_by: month
-- key: [order_id]
-- timezone: Europe/Rme
-- checks: []
-- colour: red
-- columns:
--   orderId: {type: string}
--   _offset: {type: bigint}
--   price: {type: 'decimal(40,2)', not_nul: true}
--   event_time: {type: timestamp, not_null: yes}
-- ///
",
            r#"
sql/bronze/orders.sql:3:20: `raw orders` is not a topic name
    -- source: {topic: raw orders, format: avro, unknown_fields: keep}
                       ^^^^^^^^^^
    hint: use letters, digits, `.`, `_` and `-`, at most 249
sql/bronze/orders.sql:3:40: unknown format `avro`
    -- source: {topic: raw orders, format: avro, unknown_fields: keep}
                                           ^^^^
    hint: choices are: `json`
sql/bronze/orders.sql:3:62: unknown unknown_fields `keep`
    -- source: {topic: raw orders, format: avro, unknown_fields: keep}
                                                                 ^^^^
    hint: choices are: `rescue`, `ignore`, `fail`
sql/bronze/orders.sql:4:10: unknown column `event_tme`
    -- time: event_tme
             ^^^^^^^^^
    hint: did you mean `event_time`?
sql/bronze/orders.sql:5:11: only `kind: interval` has an interval length
    -- every: 1d
              ^^
    hint: remove `every`
sql/bronze/orders.sql:6:18: unknown partition_by `month`
    -- partition_by: month
                     ^^^^^
    hint: choices are: `day`
sql/bronze/orders.sql:7:10: unknown column `order_id`
    -- key: [order_id]
             ^^^^^^^^
    hint: did you mean `orderId`?
sql/bronze/orders.sql:8:14: unknown time zone `Europe/Rme`
    -- timezone: Europe/Rme
                 ^^^^^^^^^^
    hint: did you mean `Europe/Rome`?
sql/bronze/orders.sql:9:4: `checks` are not in this version
    -- checks: []
       ^^^^^^
    hint: remove the key
sql/bronze/orders.sql:10:4: unknown key `colour` in the header
    -- colour: red
       ^^^^^^
    hint: keys are: `columns`, `doc`, `every`, `key`, `kind`, `owner`, `partition_by`, `source`, `tags`, `time`, `timezone`
sql/bronze/orders.sql:12:6: `orderId` is not a column name
    --   orderId: {type: string}
         ^^^^^^^
    hint: use lowercase letters, digits and underscores, starting with a letter
sql/bronze/orders.sql:13:6: column `_offset` is reserved: names with `_` first belong to FlowGuard
    --   _offset: {type: bigint}
         ^^^^^^^
    hint: remove the underscore
sql/bronze/orders.sql:14:20: unknown column type `decimal(40,2)`
    --   price: {type: 'decimal(40,2)', not_nul: true}
                       ^^^^^^^^^^^^^^^
    hint: write `decimal(precision,scale)` with 1 ≤ precision ≤ 38 and 0 ≤ scale ≤ precision
sql/bronze/orders.sql:14:37: unknown key `not_nul` in column `price`
    --   price: {type: 'decimal(40,2)', not_nul: true}
                                        ^^^^^^^
    hint: did you mean `not_null`?
sql/bronze/orders.sql:15:46: `not_null` must be true or false, found the text `yes`
    --   event_time: {type: timestamp, not_null: yes}
                                                 ^^^
    hint: write `true` or `false`, without quotes"#,
        );
    }

    #[test]
    fn an_unquoted_decimal_in_braces_says_what_to_do() {
        check(
            "gold.a",
            "-- /// flowguard\n-- kind: full\n-- columns: {price: {type: decimal(10,2)}}\n-- ///\n",
            r#"
sql/gold/a.sql:3:28: `decimal(10` is half of a type
    -- columns: {price: {type: decimal(10,2)}}
                               ^^^^^^^^^^
    hint: quote it: "decimal(10,2)"
sql/gold/a.sql:3:39: unknown key `2)` in column `price`
    -- columns: {price: {type: decimal(10,2)}}
                                          ^^
    hint: keys are: `doc`, `not_null`, `type`, `was`"#,
        );
    }

    #[test]
    fn keys_of_another_kind_are_refused() {
        check(
            "silver.a",
            "-- /// flowguard\n-- kind: append\n-- ///\n",
            r#"
sql/silver/a.sql:2:4: the header needs the key `source`
    -- kind: append
       ^
sql/silver/a.sql:2:4: the header needs the key `columns`
    -- kind: append
       ^
sql/silver/a.sql:2:10: kind `append` reads a topic, which only bronze does, not silver
    -- kind: append
             ^^^^^^
    hint: move the file to `sql/bronze/`, or use `interval`, `full` or `view`"#,
        );
        check(
            "gold.a",
            "-- /// flowguard\n-- kind: view\n-- partition_by: day\n-- ///\n",
            r#"
sql/gold/a.sql:3:18: `partition_by: day` needs the key `time`
    -- partition_by: day
                     ^^^
    hint: name the column of the event's time
sql/gold/a.sql:3:18: a view stores nothing to partition
    -- partition_by: day
                     ^^^
    hint: remove `partition_by`"#,
        );
        check(
            "gold.a",
            "-- /// flowguard\n-- kind: merge\n-- ///\n",
            "sql/gold/a.sql:2:10: kind `merge` is not in this version\n    -- kind: merge\n             ^^^^^\n    hint: kinds are `append`, `interval`, `full`, `view`",
        );
        check(
            "gold.a",
            "-- /// flowguard\n-- kind: interval\n-- every: 1d\n-- ///\n",
            "sql/gold/a.sql:2:4: the header needs the key `time`\n    -- kind: interval\n       ^",
        );
    }

    #[test]
    fn the_published_schema_lists_exactly_the_keys_that_are_read() {
        let schema: serde_json::Value = serde_json::from_str(crate::model::HEADER_SCHEMA).unwrap();
        let source = Source::new("sql/gold/a.sql", "kind: full");
        let problems = Problems::new(&source);
        let embedded = Embedded { text: "kind: full", lines_before: 0, columns_before: 0 };
        let node = yaml::parse(embedded, &problems).unwrap();
        let map = node.mapping("the header", &problems).unwrap();
        let (_, asked) = read_mapping(map, &"gold.a".parse().unwrap(), &problems);
        let listed: BTreeSet<&str> =
            schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(listed, asked);
    }
}
