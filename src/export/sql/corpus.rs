//! Values that drivers have been seen to change, and the edges of every type. One table of them
//! tells whether a driver brings rows over as they are; `trial` asks it.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;

use crate::error::{Error, Result};

/// The column that tells the rows apart.
pub const POSITION: &str = "position";
/// Five values of every type, and a row of nulls.
pub const ROWS: usize = 6;

/// Precision, scale, and values without their point. PostgreSQL's driver below 1.12 changes numbers
/// with digits after the point and more than four before it: see the second of each.
const DECIMALS: [(u8, i8, [i128; ROWS - 1]); 7] = [
    (38, 0, [0, 1_000_000_000, -2_000_000_000_000_000_000, DIGITS_38, -DIGITS_38]),
    (38, 10, [1, 100_000_000_000_001, 20_000_000_000_000_000_000, DIGITS_38, -DIGITS_38]),
    (38, 37, [1, -1, 10_i128.pow(37), DIGITS_38, -DIGITS_38]),
    (20, 5, [15_000, 1_000_000_001, -1, 100_000_000_000_000, 99_999_999_999_999_999_999]),
    (12, 2, [1, 1_000_001, -999_999_999_999, 100_000_000_000, 50]),
    (5, 5, [1, -1, 10_000, 99_999, -99_999]),
    (9, 3, [1, 10_000_001, -100, 999_999_999, 1_000]),
];
const DIGITS_38: i128 = 10_i128.pow(38) - 1;

const DATES: [i32; ROWS - 1] = [0, -1, -719_162, 2_932_896, 20_000];
/// The first and the last microsecond that a calendar of four digits has, among others.
const INSTANTS: [i64; ROWS - 1] =
    [0, -1, -62_135_596_800_000_000, 253_402_300_799_999_999, 9_223_286_400_000_001];

/// One row has nulls alone. Columns of types that the warehouse has not are left out.
pub fn corpus(is_known: impl Fn(&DataType) -> bool) -> Result<RecordBatch> {
    let mut columns = vec![
        ("boolean".to_owned(), nullable::<BooleanArray, _>([true, false, true, false, true])),
        ("int8".to_owned(), nullable::<Int8Array, _>([0, 1, -1, i8::MIN, i8::MAX])),
        ("int16".to_owned(), nullable::<Int16Array, _>([0, 1, -1, i16::MIN, i16::MAX])),
        ("int32".to_owned(), nullable::<Int32Array, _>([0, 1, -1, i32::MIN, i32::MAX])),
        ("int64".to_owned(), nullable::<Int64Array, _>([0, 1_000_000_000, -1, i64::MIN, i64::MAX])),
        (
            "float32".to_owned(),
            nullable::<Float32Array, _>([0.1, f32::MIN, f32::MAX, f32::NAN, f32::NEG_INFINITY]),
        ),
        (
            "float64".to_owned(),
            nullable::<Float64Array, _>([0.1, f64::MIN, f64::MAX, f64::NAN, f64::INFINITY]),
        ),
        (
            "text".to_owned(),
            nullable::<StringArray, _>(["", "a'\"\\", "two\nlines", "ü日本𝄞", " "]),
        ),
        (
            "binary".to_owned(),
            nullable::<BinaryArray, _>([&b""[..], b"\0", b"\0\xff\\x", b"''", b"\n"]),
        ),
        ("date".to_owned(), nullable::<Date32Array, _>(DATES)),
    ];
    let instants =
        TimestampMicrosecondArray::from_iter(INSTANTS.map(Some).into_iter().chain([None]));
    columns.push(("instant".to_owned(), Arc::new(instants.with_timezone("UTC"))));
    for (precision, scale, values) in DECIMALS {
        let values = Decimal128Array::from_iter(values.map(Some).into_iter().chain([None]));
        let column = values.with_precision_and_scale(precision, scale).map_err(unmade)?;
        columns.push((format!("decimal_{precision}_{scale}"), Arc::new(column)));
    }
    columns.retain(|(_, column)| is_known(column.data_type()));
    let positions: ArrayRef = Arc::new(Int32Array::from_iter_values(0..ROWS as i32));
    columns.insert(0, (POSITION.to_owned(), positions));
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).map_err(unmade)
}

fn unmade(source: arrow::error::ArrowError) -> Error {
    Error::internal("the values to try cannot be made").source(source)
}

/// The values and, at the end, a null.
fn nullable<A, T>(values: [T; ROWS - 1]) -> ArrayRef
where
    A: arrow::array::Array + FromIterator<Option<T>> + 'static,
{
    Arc::new(A::from_iter(values.into_iter().map(Some).chain([None])))
}
