//! Rows as sqllogictest files write them, and whether an answer is the expected one.

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, DurationFormat, FormatOptions};
use md5::{Digest, Md5};

use super::Flavour;
use super::records::{Query, Sort};

/// How far two numbers may be apart: of the last of three places, or of a double's digits.
const ROUNDING: f64 = 0.001_001;
const TOLERANCE: f64 = 1e-9;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    Right,
    /// The right rows in another order than the statement's ORDER BY may mean.
    OtherOrder,
    Wrong,
}

/// The answer in the words of the file: a list of values for each row.
pub fn texts(batches: &[RecordBatch], types: &str, flavour: Flavour) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<Vec<String>> = batch
            .columns()
            .iter()
            .zip(types.chars().chain(std::iter::repeat('?')))
            .map(|(column, of)| match flavour {
                Flavour::Sqlite => of_sqlite(column, of),
                Flavour::Datafusion => of_datafusion(column),
            })
            .collect();
        rows.extend(
            (0..batch.num_rows()).map(|row| {
                columns.iter().map(|column| column[row].clone()).collect::<Vec<String>>()
            }),
        );
    }
    rows
}

/// What SQLite's own runner prints: numbers with no or three places, whatever they are.
fn of_sqlite(column: &ArrayRef, of: char) -> Vec<String> {
    let is_text = matches!(column.data_type(), DataType::Utf8 | DataType::Utf8View);
    if of == 'T' || is_text {
        let printable = |text: String| match text.as_str() {
            "" => "(empty)".to_owned(),
            text if of == 'I' => text.parse::<i64>().unwrap_or(0).to_string(),
            text => text.replace(|letter: char| !(' '..='~').contains(&letter), "@"),
        };
        return displayed(column).into_iter().map(|text| null_or(text, printable)).collect();
    }
    let is_whole = column.data_type().is_integer() || *column.data_type() == DataType::Boolean;
    if of == 'I' && is_whole {
        let whole = cast(column, &DataType::Int64).expect("it is an integer");
        return displayed(&whole).into_iter().map(|text| null_or(text, |text| text)).collect();
    }
    let Ok(floats) = cast(column, &DataType::Float64) else {
        return displayed(column).into_iter().map(|text| null_or(text, |text| text)).collect();
    };
    let number = |number: f64| match of {
        'I' => format!("{}", number as i64),
        _ => format!("{number:.3}"),
    };
    let floats = floats.as_primitive::<Float64Type>();
    floats.iter().map(|value| value.map_or("NULL".to_owned(), number)).collect()
}

/// What DataFusion's runner prints. Its times have no zone where those of a lake are UTC.
fn of_datafusion(column: &ArrayRef) -> Vec<String> {
    let column = match column.data_type() {
        DataType::Timestamp(unit, Some(zone)) if &**zone == "UTC" => {
            cast(column, &DataType::Timestamp(*unit, None)).expect("the same instants")
        }
        _ => column.clone(),
    };
    let is_binary = matches!(column.data_type(), DataType::Binary | DataType::BinaryView);
    let value = |text: String| match text.trim_end_matches('\n') {
        "" if !is_binary => "(empty)".to_owned(),
        text => text.to_owned(),
    };
    displayed(&column).into_iter().map(|text| null_or(text, value)).collect()
}

fn null_or(text: Option<String>, value: impl Fn(String) -> String) -> String {
    text.map_or("NULL".to_owned(), value)
}

fn displayed(column: &ArrayRef) -> Vec<Option<String>> {
    let options = FormatOptions::default()
        .with_null("NULL")
        .with_display_error(true)
        .with_duration_format(DurationFormat::Pretty);
    let formatter = ArrayFormatter::try_new(column, &options).expect("its type has a text");
    (0..column.len())
        .map(|row| column.is_valid(row).then(|| formatter.value(row).to_string()))
        .collect()
}

/// Compares `rows` with what the file expects.
pub fn verdict(query: &Query, mut rows: Vec<Vec<String>>, flavour: Flavour) -> Verdict {
    let width = query.types.chars().count();
    if rows.iter().any(|row| row.len() != width) {
        return Verdict::Wrong;
    }
    if query.sort == Sort::Rows {
        rows.sort();
    }
    match flavour {
        Flavour::Sqlite => {
            let mut values: Vec<String> = rows.into_iter().flatten().collect();
            if query.sort == Sort::Values {
                values.sort();
            }
            if let [line] = query.expected.as_slice()
                && let Some((count, digest)) = line.split_once(" values hashing to ")
            {
                let is_same = count == values.len().to_string() && digest == hash(&values);
                return if is_same { Verdict::Right } else { Verdict::Wrong };
            }
            let rows = |values: &[String]| -> Vec<Vec<String>> {
                let width = if query.sort == Sort::Values { 1 } else { width };
                values.chunks(width).map(<[String]>::to_vec).collect()
            };
            compared(query, rows(&query.expected), rows(&values))
        }
        Flavour::Datafusion => {
            let words =
                |line: &str| -> Vec<String> { line.split_whitespace().map(plain_time).collect() };
            let expected = query.expected.iter().map(|line| words(line)).collect();
            let found = rows.iter().map(|row| words(&row.join(" "))).collect();
            compared(query, expected, found)
        }
    }
}

fn compared(query: &Query, expected: Vec<Vec<String>>, found: Vec<Vec<String>>) -> Verdict {
    if expected.len() != found.len() {
        return Verdict::Wrong;
    }
    if expected.iter().zip(&found).all(|(one, other)| is_same(one, other)) {
        return Verdict::Right;
    }
    let mut rest = found;
    let are_there = expected.iter().all(|row| {
        let at = rest.iter().position(|other| is_same(row, other));
        at.map(|at| rest.swap_remove(at)).is_some()
    });
    let is_ordered = query.sort == Sort::No && is_ordered(&query.sql.to_lowercase());
    match (are_there, is_ordered) {
        (false, _) => Verdict::Wrong,
        (true, true) => Verdict::OtherOrder,
        (true, false) => Verdict::Right,
    }
}

/// Whether the last ORDER BY is the statement's, and not one of an aggregate or a subquery.
fn is_ordered(sql: &str) -> bool {
    let Some(at) = sql.rfind("order by") else { return false };
    let count = |letter| sql[at..].matches(letter).count();
    count(')') <= count('(')
}

fn is_same(one: &[String], other: &[String]) -> bool {
    if one.iter().any(|word| word.contains("<slt:ignore>")) {
        return true;
    }
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| {
            if one == other {
                return true;
            }
            let (Ok(a), Ok(b)) = (one.parse::<f64>(), other.parse::<f64>()) else { return false };
            let near = TOLERANCE * a.abs().max(b.abs()).max(1e-3);
            let is_rounded = one.split_once('.').is_some_and(|(_, places)| places.len() == 3);
            a == b
                || a.is_nan() && b.is_nan()
                || (a - b).abs() <= if is_rounded { ROUNDING } else { near }
        })
}

/// A time without its zone and what is less than a microsecond, as a lake has it.
fn plain_time(word: &str) -> String {
    if word.as_bytes().get(10) != Some(&b'T') {
        return word.to_owned();
    }
    let word = word.trim_end_matches('Z');
    let fraction = word.split_once('.').map_or("", |(_, fraction)| fraction);
    let is_nanosecond = fraction.len() == 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let word = if is_nanosecond { &word[..word.len() - 3] } else { word };
    word.trim_end_matches(".000000").to_owned()
}

fn hash(values: &[String]) -> String {
    let mut digest = Md5::new();
    for value in values {
        digest.update(value);
        digest.update("\n");
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
