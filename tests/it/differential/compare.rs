//! Answers as both engines give them, and when two are the same: as multisets of rows, whose cells
//! are equal in value and not in the letter of their types.

use std::cmp::Ordering;
use std::fmt;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, DecimalType, DurationMicrosecondType, Float32Type,
    Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

/// How far two floats may be apart, as a part of the larger one.
const TOLERANCE: f64 = 1e-9;

/// A value without its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Null,
    Boolean(bool),
    /// An integer or decimal: the digits of both, without zeros at the end of the fraction.
    Number(String),
    Float(f64),
    Text(String),
    /// Since 1970.
    Day(i64),
    Microsecond(i64),
    /// What neither engine should give.
    Other(String),
}

pub type Rows = Vec<Vec<Cell>>;

impl Cell {
    /// One of the oracle's texts.
    pub fn of_oracle(cell: Option<&str>) -> Self {
        let Some(text) = cell else { return Cell::Null };
        let (kind, rest) = text.split_at(1);
        match kind {
            "b" => Cell::Boolean(rest == "true"),
            "i" | "d" => number(rest),
            "f" => Cell::Float(rest.parse().expect("Python writes what Rust reads")),
            "s" => Cell::Text(rest.to_owned()),
            "D" => Cell::Day(rest.parse().expect("a number of days")),
            "t" => Cell::Microsecond(rest.parse().expect("a number of microseconds")),
            _ => Cell::Other(text.to_owned()),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Cell::Float(one), Cell::Float(other)) => is_near(*one, *other),
            // An average of decimals is a double for one and a decimal for the other.
            (Cell::Float(float), Cell::Number(text)) | (Cell::Number(text), Cell::Float(float)) => {
                is_near(*float, text.parse().expect("digits"))
            }
            // A date plus an interval is a date for one and a timestamp for the other.
            (Cell::Day(day), Cell::Microsecond(at)) | (Cell::Microsecond(at), Cell::Day(day)) => {
                day * 86_400_000_000 == *at
            }
            _ => self == other,
        }
    }

    /// For an order in which equal rows of both stand at the same place, if floats differ by little.
    fn key(&self) -> String {
        match self {
            Cell::Float(float) if *float == 0.0 => "0".to_owned(),
            Cell::Float(float) => format!("{float:.5e}"),
            Cell::Number(text) => {
                let float: f64 = text.parse().expect("digits");
                if float == 0.0 { "0".to_owned() } else { format!("{float:.5e}{text}") }
            }
            Cell::Day(day) => format!("{}", day * 86_400_000_000),
            Cell::Microsecond(at) => format!("{at}"),
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Null => f.write_str("NULL"),
            Cell::Boolean(value) => write!(f, "{value}"),
            Cell::Number(text) => f.write_str(text),
            Cell::Float(value) => write!(f, "{value:?}"),
            Cell::Text(text) => write!(f, "'{text}'"),
            Cell::Day(day) => match chrono::NaiveDate::from_epoch_days(*day as i32) {
                Some(date) => write!(f, "{date}"),
                None => write!(f, "day {day}"),
            },
            Cell::Microsecond(at) => match chrono::DateTime::from_timestamp_micros(*at) {
                Some(at) => write!(f, "{}", at.naive_utc()),
                None => write!(f, "microsecond {at}"),
            },
            Cell::Other(text) => write!(f, "?{text}"),
        }
    }
}

fn is_near(one: f64, other: f64) -> bool {
    one == other
        || one.is_nan() && other.is_nan()
        || (one - other).abs() <= TOLERANCE * one.abs().max(other.abs())
}

/// A number by its digits alone: `1.50` is `1.5`, `2.00` is `2`, `-0` is `0`.
fn number(digits: &str) -> Cell {
    let plain = match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    };
    Cell::Number(if plain == "-0" { "0" } else { plain }.to_owned())
}

/// Whether both hold the same rows, as often each, in any order.
pub fn is_same(one: &Rows, other: &Rows) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let same = |one: &Vec<Cell>, other: &Vec<Cell>| {
        one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.is_same(other))
    };
    let sorted = |rows: &Rows| {
        let mut rows: Vec<(Vec<String>, Vec<Cell>)> =
            rows.iter().map(|row| (row.iter().map(Cell::key).collect(), row.clone())).collect();
        rows.sort_by(|one, other| one.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal));
        rows.into_iter().map(|(_, row)| row).collect::<Rows>()
    };
    let (one, mut other) = (sorted(one), sorted(other));
    if one.iter().zip(&other).all(|(one, other)| same(one, other)) {
        return true;
    }
    // Floats at the border of a key.
    one.iter().all(|row| {
        let at = other.iter().position(|candidate| same(row, candidate));
        at.map(|at| other.swap_remove(at)).is_some()
    })
}

/// The rows of a batch.
pub fn rows_of(batch: &RecordBatch) -> Rows {
    let columns: Vec<Vec<Cell>> = batch.columns().iter().map(|column| cells(column)).collect();
    (0..batch.num_rows())
        .map(|row| columns.iter().map(|column| column[row].clone()).collect())
        .collect()
}

fn cells(column: &dyn Array) -> Vec<Cell> {
    macro_rules! primitives {
        ($type:ty, $cell:expr) => {
            (0..column.len())
                .map(|row| match column.is_null(row) {
                    true => Cell::Null,
                    false => $cell(column.as_primitive::<$type>().value(row)),
                })
                .collect()
        };
    }
    let text = |value: Option<&str>| value.map_or(Cell::Null, |value| Cell::Text(value.to_owned()));
    match column.data_type() {
        DataType::Null => vec![Cell::Null; column.len()],
        DataType::Boolean => {
            let values = column.as_boolean().iter();
            values.map(|value| value.map_or(Cell::Null, Cell::Boolean)).collect()
        }
        DataType::Int8 => primitives!(Int8Type, |value: i8| number(&value.to_string())),
        DataType::Int16 => primitives!(Int16Type, |value: i16| number(&value.to_string())),
        DataType::Int32 => primitives!(Int32Type, |value: i32| number(&value.to_string())),
        DataType::Int64 => primitives!(Int64Type, |value: i64| number(&value.to_string())),
        DataType::UInt8 => primitives!(UInt8Type, |value: u8| number(&value.to_string())),
        DataType::UInt16 => primitives!(UInt16Type, |value: u16| number(&value.to_string())),
        DataType::UInt32 => primitives!(UInt32Type, |value: u32| number(&value.to_string())),
        DataType::UInt64 => primitives!(UInt64Type, |value: u64| number(&value.to_string())),
        DataType::Float32 => primitives!(Float32Type, |value: f32| Cell::Float(f64::from(value))),
        DataType::Float64 => primitives!(Float64Type, Cell::Float),
        DataType::Decimal128(precision, scale) => {
            primitives!(Decimal128Type, |value: i128| number(&Decimal128Type::format_decimal(
                value, *precision, *scale
            )))
        }
        DataType::Utf8 => column.as_string::<i32>().iter().map(text).collect(),
        DataType::LargeUtf8 => column.as_string::<i64>().iter().map(text).collect(),
        DataType::Utf8View => column.as_string_view().iter().map(text).collect(),
        DataType::Date32 => primitives!(Date32Type, |value: i32| Cell::Day(i64::from(value))),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            primitives!(TimestampMicrosecondType, Cell::Microsecond)
        }
        DataType::Duration(TimeUnit::Microsecond) => {
            primitives!(DurationMicrosecondType, |value: i64| Cell::Other(format!("v{value}")))
        }
        DataType::Timestamp(..) => {
            let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
            cells(&arrow::compute::cast(column, &micros).expect("times are times"))
        }
        _ => {
            let text = |row| {
                arrow::util::display::array_value_to_string(column, row).expect("it has a text")
            };
            (0..column.len()).map(|row| Cell::Other(text(row))).collect()
        }
    }
}
