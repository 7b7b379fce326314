//! Random tables of few rows and small domains, so that they match each other, with the values that
//! go wrong: nulls, duplicates, extremes, texts that a collation would confuse.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
    RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::kinds::Kind;
use super::tree::Type;
use crate::topic_in_memory::Random;

/// Most rows of a table.
const ROWS_MAX: u64 = 12;
/// Tables of one world.
pub const TABLES: usize = 5;

#[derive(Debug, Clone)]
pub struct Column {
    pub name: String,
    pub of: Type,
}

#[derive(Debug, Clone)]
pub struct Table {
    /// Without its layer, which is `silver`.
    pub name: String,
    /// The first is a bigint that no two rows share.
    pub columns: Vec<Column>,
    /// Values as they are written in SQL, without a type; none is null.
    pub rows: Vec<Vec<Option<String>>>,
}

/// Columns that tables share by name.
fn pool(scale: u8) -> [(&'static str, Type); 12] {
    [
        ("k", Type::Int),
        ("n", Type::Bigint),
        ("s", Type::Text),
        ("b", Type::Boolean),
        ("p", Type::Decimal),
        ("x", Type::Double),
        ("d", Type::Date),
        ("ts", Type::Timestamp),
        ("big", Type::WildBigint),
        ("y", Type::WildDouble),
        ("h", Type::WildDecimal(scale)),
        ("s2", Type::Text),
    ]
}

pub fn random_tables(random: &mut Random) -> Vec<Table> {
    // With less, DuckDB drops places of a decimal(10,2) that meets it in a CASE.
    let scale = 2 + random.below(9) as u8;
    (0..TABLES).map(|at| random_table(random, at, scale)).collect()
}

fn random_table(random: &mut Random, at: usize, scale: u8) -> Table {
    let mut columns = vec![Column { name: format!("id{at}"), of: Type::Bigint }];
    for (place, (name, of)) in pool(scale).into_iter().enumerate() {
        // The first few are in nearly every table.
        if random.below(10) < if place < 3 { 9 } else { 5 } {
            columns.push(Column { name: name.to_owned(), of });
        }
    }
    let rows = match random.below(20) {
        0 => 0,
        1 => 1,
        _ => 2 + random.below(ROWS_MAX - 1),
    };
    let nulls = [0, 1, 1, 3][random.below(4) as usize];
    let mut found: Vec<Vec<Option<String>>> = Vec::new();
    for row in 0..rows {
        let mut values: Vec<Option<String>> =
            columns.iter().map(|column| random_value(random, column.of, nulls)).collect();
        // Some rows are the same but for their number.
        if row > 0 && random.below(5) == 0 {
            values.clone_from(&found[random.below(row) as usize]);
        }
        values[0] = Some(row.to_string());
        found.push(values);
    }
    Table { name: format!("t{at}"), columns, rows: found }
}

fn random_value(random: &mut Random, of: Type, nulls: u64) -> Option<String> {
    if random.below(10) < nulls {
        return None;
    }
    Some(random_constant(random, of))
}

/// A value of a type as a text that both engines cast to it.
pub fn random_constant(random: &mut Random, of: Type) -> String {
    let mut one_of =
        |values: &[&str]| values[random.below(values.len() as u64) as usize].to_owned();
    match of {
        Type::Int => one_of(&["0", "1", "1", "2", "3", "-1"]),
        Type::Bigint => one_of(&["0", "1", "2", "3", "5", "7", "-2", "10"]),
        Type::WildBigint => one_of(&[
            "0",
            "1",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "9007199254740993",
            "2147483648",
            "-2147483649",
        ]),
        Type::Double => one_of(&["0", "1", "-1.5", "0.25", "2", "0.5", "3.75", "-0.25"]),
        Type::WildDouble => {
            let mut values = vec!["0", "1", "0.1", "1e300", "-1e300", "5e-324", "inf", "-inf"];
            if Kind::NotANumber.is_on() {
                values.extend(["nan", "nan"]);
            }
            if Kind::NegativeZero.is_on() {
                values.extend(["-0.0", "-0.0"]);
            }
            one_of(&values)
        }
        Type::Decimal => {
            one_of(&["0.00", "0.01", "-0.01", "1.10", "1.25", "2.00", "-3.50", "100.00"])
        }
        Type::WildDecimal(scale) => {
            let whole = one_of(&["0", "1", "-1", "7", "9", "-9"]);
            if whole.len() == 1 && whole != "9" {
                return whole;
            }
            // As many digits as there are.
            match scale {
                0 => whole.replace('9', &"9".repeat(38)),
                _ => {
                    let (scale, before) = (usize::from(scale), 38 - usize::from(scale));
                    format!("{}.{}", whole.replace('9', &"9".repeat(before)), "9".repeat(scale))
                }
            }
            .replace("-1.9", "-1.0")
        }
        Type::Text => one_of(&[
            "", "a", "A", "b", "ab", "a ", " a", "á", "é", "z", "Z", "a%", "a_b", "%", "10", "9",
        ]),
        Type::Boolean => one_of(&["true", "false"]),
        Type::Date => {
            let mut values =
                vec!["2024-02-29", "2024-01-31", "1970-01-01", "1999-12-31", "2024-03-01"];
            if Kind::FarTimes.is_on() {
                // Python knows no year 0 and none after 9999, to which an interval may lead.
                values.extend(["0003-01-01", "9990-12-31"]);
            }
            one_of(&values)
        }
        Type::Timestamp => {
            let mut values = vec![
                "2024-02-29 00:00:00",
                "2024-02-29 23:59:59.999999",
                "1970-01-01 00:00:00",
                "1969-12-31 23:59:59.999999",
                "2024-01-31 12:30:00",
                "2024-03-01 00:00:00.000001",
            ];
            if Kind::FarTimes.is_on() {
                values.extend(["0003-01-01 00:00:00", "9990-12-31 23:59:59.999999"]);
            }
            one_of(&values)
        }
    }
}

impl Table {
    pub fn schema(&self) -> SchemaRef {
        let fields = self.columns.iter().map(|column| {
            let data_type = match column.of {
                Type::Int => DataType::Int32,
                Type::Bigint | Type::WildBigint => DataType::Int64,
                Type::Double | Type::WildDouble => DataType::Float64,
                Type::Decimal => DataType::Decimal128(10, 2),
                Type::WildDecimal(scale) => DataType::Decimal128(38, scale as i8),
                Type::Text => DataType::Utf8,
                Type::Boolean => DataType::Boolean,
                Type::Date => DataType::Date32,
                Type::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            };
            Field::new(&column.name, data_type, true)
        });
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The same rows with those columns that are wanted, or with the first.
    pub fn with_columns(&self, is_wanted: impl Fn(&str) -> bool) -> Self {
        let mut kept: Vec<usize> = (0..self.columns.len()).collect();
        kept.retain(|at| is_wanted(&self.columns[*at].name));
        if kept.is_empty() {
            kept.push(0);
        }
        let row = |row: &Vec<Option<String>>| kept.iter().map(|at| row[*at].clone()).collect();
        Self {
            name: self.name.clone(),
            columns: kept.iter().map(|at| self.columns[*at].clone()).collect(),
            rows: self.rows.iter().map(row).collect(),
        }
    }

    /// Rows `from..end` as they are stored.
    pub fn batch(&self, from: usize, end: usize) -> RecordBatch {
        let column = |at: usize| {
            let texts: Vec<Option<&str>> =
                self.rows[from..end].iter().map(|row| row[at].as_deref()).collect();
            array(self.columns[at].of, &texts)
        };
        let columns = (0..self.columns.len()).map(column).collect();
        RecordBatch::try_new(self.schema(), columns).expect("values of their types")
    }

    /// Statements that make the same table in DuckDB, as `schema`.
    pub fn created(&self, schema: &str) -> Vec<String> {
        let sql = |of: Type| match (schema, of) {
            // Where nothing overflows.
            ("exact", Type::Int | Type::Bigint | Type::WildBigint) => "HUGEINT".to_owned(),
            ("exact", Type::Decimal | Type::WildDecimal(_)) => "DOUBLE".to_owned(),
            _ => of.sql(),
        };
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} {}", column.name, sql(column.of)))
            .collect();
        let mut statements =
            vec![format!("CREATE TABLE {schema}.{} ({})", self.name, columns.join(", "))];
        if !self.rows.is_empty() {
            let rows: Vec<String> = self.rows.iter().map(|row| self.row(row, false)).collect();
            statements.push(format!(
                "INSERT INTO {schema}.{} VALUES {}",
                self.name,
                rows.join(", ")
            ));
        }
        statements
    }

    /// The table as a common table expression, to be pasted before a statement for FlowGuard.
    pub fn pasted(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        let names = names.join(", ");
        if self.rows.is_empty() {
            let row = self.row(&vec![None; self.columns.len()], true);
            return format!("{}({names}) AS (SELECT * FROM (VALUES {row}) WHERE 1 = 0)", self.name);
        }
        let rows: Vec<String> = self.rows.iter().map(|row| self.row(row, true)).collect();
        format!("{}({names}) AS (VALUES {})", self.name, rows.join(", "))
    }

    fn row(&self, row: &[Option<String>], with_zone: bool) -> String {
        let values = row.iter().zip(&self.columns).map(|(value, column)| {
            let value = value.as_ref().map_or("NULL".to_owned(), |value| format!("'{value}'"));
            match column.of {
                Type::Timestamp if with_zone => {
                    format!("arrow_cast({value}, 'Timestamp(Microsecond, Some(\"UTC\"))')")
                }
                of => format!("CAST({value} AS {})", of.sql()),
            }
        });
        format!("({})", values.collect::<Vec<_>>().join(", "))
    }
}

fn array(of: Type, texts: &[Option<&str>]) -> ArrayRef {
    fn parsed<T: std::str::FromStr>(texts: &[Option<&str>]) -> Vec<Option<T>> {
        let parse = |text: &str| text.parse().ok().expect("a value of its type");
        texts.iter().map(|text| text.map(parse)).collect()
    }
    match of {
        Type::Int => Arc::new(Int32Array::from(parsed::<i32>(texts))),
        Type::Bigint | Type::WildBigint => Arc::new(Int64Array::from(parsed::<i64>(texts))),
        Type::Double | Type::WildDouble => Arc::new(Float64Array::from(parsed::<f64>(texts))),
        Type::Boolean => Arc::new(BooleanArray::from(parsed::<bool>(texts))),
        Type::Text => Arc::new(StringArray::from(texts.to_vec())),
        Type::Decimal => Arc::new(decimals(texts, 10, 2)),
        Type::WildDecimal(scale) => Arc::new(decimals(texts, 38, scale)),
        Type::Date => {
            let days = texts.iter().map(|text| {
                let date: chrono::NaiveDate = (*text)?.parse().expect("a date");
                Some(date.to_epoch_days())
            });
            Arc::new(days.collect::<Date32Array>())
        }
        Type::Timestamp => {
            let micros = texts.iter().map(|text| {
                let at = chrono::NaiveDateTime::parse_from_str((*text)?, "%Y-%m-%d %H:%M:%S%.f");
                Some(at.expect("a time").and_utc().timestamp_micros())
            });
            Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
    }
}

fn decimals(texts: &[Option<&str>], precision: u8, scale: u8) -> Decimal128Array {
    let values = texts.iter().map(|text| {
        let (whole, fraction) = (*text)?.split_once('.').unwrap_or(((*text)?, ""));
        let digits = format!("{whole}{fraction:0<width$}", width = usize::from(scale));
        Some(digits.parse::<i128>().expect("digits"))
    });
    let values = values.collect::<Decimal128Array>();
    values.with_precision_and_scale(precision, scale as i8).expect("it fits")
}
