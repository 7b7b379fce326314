//! Where a right answer is another one than a file expects: by the end of the file's name, a part of
//! the statement in lower case, and why. All else that differs is wrong.

/// Settings of a session that decide values. Here they are the server's, and a file that sets them is
/// followed no further than its other answers are right.
const SETTINGS: [&str; 6] =
    ["time_zone", "time zone", "timezone", "dialect", "default_null_ordering", "enable_ident"];

const DIFFERENCES: [(&str, &str, &str); 31] = [
    ("aggregates_topk.slt", "order by max_trace desc", "a top-k of DataFusion's forgets NULL"),
    (
        "null_aware_anti_join.slt",
        " or id not in",
        "DataFusion's mark join knows no NULL, as it says",
    ),
    ("pwmj.slt", "order by 1,2", "a join of DataFusion's forgets the second term"),
    ("group_by.slt", "order by a, b", "rows that are equal in what orders them"),
    ("group_by.slt", "'2024-01-01t00:00:00z'", "DataFusion forgets the zone that is written"),
    ("array_append.slt", "2.0", "decimals have their own places"),
    ("array_to_string.slt", ".0", "decimals keep their zeros as texts"),
    ("scalar.slt", "2.0/3", "a quotient of decimals has six places"),
    ("arith_time_interval.slt", "interval", "a time, since DataFusion 55"),
    ("regexp_count.slt", "regexp_count", "NULL of NULL, since DataFusion 55"),
    ("array_range.slt", "nanoseconds", "a TIMESTAMP counts microseconds"),
    ("arith_timestamp_duration.slt", "nanosecond", "a TIMESTAMP counts microseconds"),
    ("date_part.slt", "nanosecond", "a TIMESTAMP counts microseconds"),
    ("timestamps.slt", "to_time(", "a TIMESTAMP counts microseconds"),
    ("joins.slt", "timestamp", "a TIMESTAMP counts microseconds, and so does its cast to BIGINT"),
    ("window.slt", " over (order by ts range", "inserted numbers, which count microseconds there"),
    ("window.slt", " value(time", "a TIMESTAMP counts microseconds"),
    ("timestamps.slt", "as timestamp", "a number counts seconds, whatever the TIMESTAMP counts"),
    ("timestamps.slt", "::timestamp", "a number counts seconds, whatever the TIMESTAMP counts"),
    ("timestamps.slt", "to_unixtime", "what has no zone is UTC"),
    ("expr.slt", "struct(time", "times of a lake are UTC"),
    ("expr.slt", "chr(cast(0", "an unprintable letter, as DataFusion's runner prints it"),
    ("insert.slt", "test_column_defaults", "a table has no defaults"),
    ("insert_to_external.slt", "test_column_defaults", "a table has no defaults"),
    ("random/expr", "coalesce", "SQLite's COALESCE is an integer or a double, as it comes"),
    ("random/aggregates", "coalesce", "SQLite's COALESCE is an integer or a double, as it comes"),
    ("random/groupby", "coalesce", "SQLite's COALESCE is an integer or a double, as it comes"),
    ("slt_lang_aggfunc.test", "select sum(", "SQLite adds texts, as numbers or as 0"),
    ("timestamps.slt", "date_trunc", "times of a lake are UTC"),
    ("timestamps.slt", "date_bin", "times of a lake are UTC"),
    ("date_part.slt", "extract(year from c1_ts_tz", "times of a lake are UTC"),
];

/// Whether a statement changes how those after it are meant.
pub fn decides(statement: &str) -> bool {
    let text = statement.to_lowercase();
    text.trim_start().starts_with("set ") && SETTINGS.iter().any(|name| text.contains(name))
}

/// Why the query at `place` has another right answer.
pub fn known(place: &str, sql: &str) -> Option<&'static str> {
    let (file, _) = place.rsplit_once(':')?;
    let text = sql.to_lowercase();
    let known = DIFFERENCES.iter().find(|(end, part, _)| {
        (file.ends_with(end) || file.contains(&format!("/{end}/"))) && text.contains(part)
    });
    known.map(|(_, _, why)| *why)
}
