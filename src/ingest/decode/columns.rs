//! Columns of a batch under construction. Unlike Arrow's own builders they can take back the last
//! row, which is what a reject needs; they become Arrow arrays without copying the values.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, BooleanBufferBuilder, Date32Array, Decimal128Array,
    Float64Array, Int32Array, Int64Array, NullBufferBuilder, PrimitiveArray, StringArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{ArrowPrimitiveType, DataType, TimeUnit};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use jiter::{Jiter, JiterError, Peek};

use super::value::{self, DecimalFault};
use crate::error::{Error, ErrorKind, Result};
use crate::table::ColumnType;

/// Why a value does not enter its column.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes are not JSON.
    Syntax(JiterError),
    /// The bytes of a string at this position are not UTF-8.
    Utf8 { index: usize },
    /// JSON of another type or range; the text adds what the value alone does not show.
    Type(&'static str),
    /// `null` where the column has none.
    Null,
}

impl From<JiterError> for Fault {
    fn from(error: JiterError) -> Self {
        Fault::Syntax(error)
    }
}

/// Where values of one declared type accumulate.
enum Values {
    Boolean(BooleanBufferBuilder),
    Int(Vec<i32>),
    Bigint(Vec<i64>),
    Double(Vec<f64>),
    Decimal { unscaled: Vec<i128>, precision: u8, scale: i8 },
    String(Spans),
    Binary(Spans),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    Json(Spans),
}

/// One column of the open batch. Every row appends to every column, a null if nothing else.
pub(super) struct ColumnBuffer {
    values: Values,
    nulls: NullBufferBuilder,
    not_null: bool,
}

impl ColumnBuffer {
    /// With `not_null`, [`Self::read`] faults at a `null`; the other methods append what they are
    /// given.
    pub(super) fn new(column_type: ColumnType, not_null: bool) -> Self {
        let values = match column_type {
            ColumnType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            ColumnType::Int => Values::Int(Vec::new()),
            ColumnType::Bigint => Values::Bigint(Vec::new()),
            ColumnType::Double => Values::Double(Vec::new()),
            ColumnType::Decimal { precision, scale } => {
                Values::Decimal { unscaled: Vec::new(), precision, scale }
            }
            ColumnType::String => Values::String(Spans::default()),
            ColumnType::Binary => Values::Binary(Spans::default()),
            ColumnType::Date => Values::Date(Vec::new()),
            ColumnType::Timestamp => Values::Timestamp(Vec::new()),
            ColumnType::Json => Values::Json(Spans::default()),
        };
        Self { values, nulls: NullBufferBuilder::new(0), not_null }
    }

    /// Reads the JSON value that starts with `peek` and appends it.
    pub(super) fn read(&mut self, peek: Peek, jiter: &mut Jiter<'_>) -> Result<(), Fault> {
        if peek == Peek::Null {
            jiter.known_null()?;
            if self.not_null {
                return Err(Fault::Null);
            }
            self.push_null();
            return Ok(());
        }
        match &mut self.values {
            Values::Boolean(values) => match peek {
                Peek::True | Peek::False => values.append(jiter.known_bool(peek)?),
                _ => return Err(Fault::Type("")),
            },
            Values::Int(values) => {
                let value = value::integer(number(peek, jiter)?).map(i32::try_from);
                values.push(value.and_then(|value| value.ok()).ok_or(Fault::Type(""))?);
            }
            Values::Bigint(values) => {
                values.push(value::integer(number(peek, jiter)?).ok_or(Fault::Type(""))?);
            }
            Values::Double(values) => values.push(double(number(peek, jiter)?)?),
            Values::Decimal { unscaled, precision, scale } => {
                let token = match peek {
                    Peek::String => jiter.known_str()?.as_bytes(),
                    _ => number(peek, jiter)?,
                };
                unscaled.push(value::decimal(token, *precision, *scale)?);
            }
            Values::String(spans) => spans.push(text(peek, jiter)?),
            Values::Binary(spans) => {
                let encoded = text(peek, jiter)?;
                spans.push_with(|data| {
                    BASE64_STANDARD
                        .decode_vec(encoded, data)
                        .map_err(|_| Fault::Type("base64 with padding is wanted"))
                })?;
            }
            Values::Date(values) => {
                values.push(value::date(text(peek, jiter)?).ok_or(Fault::Type(""))?);
            }
            Values::Timestamp(values) => {
                values.push(value::timestamp(text(peek, jiter)?).ok_or(Fault::Type(""))?);
            }
            Values::Json(spans) => spans.push(raw(peek, jiter)?),
        }
        self.nulls.append_non_null();
        Ok(())
    }

    /// Appends `bytes` to a string, binary or JSON column, which must hold what the type promises.
    pub(super) fn push_bytes(&mut self, bytes: &[u8]) {
        match &mut self.values {
            Values::String(spans) | Values::Binary(spans) | Values::Json(spans) => {
                spans.push(bytes)
            }
            _ => unreachable!("only columns of bytes are filled from bytes"),
        }
        self.nulls.append_non_null();
    }

    pub(super) fn push_bytes_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.push_bytes(bytes),
            None => self.push_null(),
        }
    }

    /// Appends a null, also to a column that is required: that is the caller's to check.
    pub(super) fn push_null(&mut self) {
        match &mut self.values {
            Values::Boolean(values) => values.append(false),
            Values::Int(values) | Values::Date(values) => values.push(0),
            Values::Bigint(values) | Values::Timestamp(values) => values.push(0),
            Values::Double(values) => values.push(0.0),
            Values::Decimal { unscaled, .. } => unscaled.push(0),
            Values::String(spans) | Values::Binary(spans) | Values::Json(spans) => spans.push(b""),
        }
        self.nulls.append_null();
    }

    /// Whether a message without the field is a reject.
    pub(super) fn is_required(&self) -> bool {
        self.not_null
    }

    /// The last value of a timestamp column, unless it is null.
    pub(super) fn last_micros(&self) -> Option<i64> {
        match &self.values {
            Values::Timestamp(values) if self.nulls.is_valid(self.nulls.len() - 1) => {
                values.last().copied()
            }
            _ => None,
        }
    }

    /// Forgets the row after the first `rows` ones, if it has been appended.
    pub(super) fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Boolean(values) => values.truncate(rows),
            Values::Int(values) | Values::Date(values) => values.truncate(rows),
            Values::Bigint(values) | Values::Timestamp(values) => values.truncate(rows),
            Values::Double(values) => values.truncate(rows),
            Values::Decimal { unscaled, .. } => unscaled.truncate(rows),
            Values::String(spans) | Values::Binary(spans) | Values::Json(spans) => {
                spans.truncate(rows);
            }
        }
        self.nulls.truncate(rows);
    }

    /// Bytes of the values so far; the buffers' capacity may be larger.
    pub(super) fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Boolean(values) => values.len() / 8,
            Values::Int(values) | Values::Date(values) => size_of_val(values.as_slice()),
            Values::Bigint(values) | Values::Timestamp(values) => size_of_val(values.as_slice()),
            Values::Double(values) => size_of_val(values.as_slice()),
            Values::Decimal { unscaled, .. } => size_of_val(unscaled.as_slice()),
            Values::String(spans) | Values::Binary(spans) | Values::Json(spans) => spans.bytes(),
        };
        values + self.nulls.len() / 8
    }

    /// The rows so far as an Arrow array; the column is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<ArrayRef> {
        let nulls = self.nulls.finish();
        Ok(match &mut self.values {
            Values::Boolean(values) => Arc::new(BooleanArray::new(values.finish(), nulls)),
            Values::Int(values) => Arc::new(Int32Array::new(drain(values), nulls)),
            Values::Bigint(values) => Arc::new(Int64Array::new(drain(values), nulls)),
            Values::Double(values) => Arc::new(Float64Array::new(drain(values), nulls)),
            Values::Decimal { unscaled, precision, scale } => Arc::new(
                Decimal128Array::new(drain(unscaled), nulls)
                    .with_precision_and_scale(*precision, *scale)
                    .map_err(internal)?,
            ),
            Values::String(spans) | Values::Json(spans) => Arc::new(spans.finish_text(nulls)?),
            Values::Binary(spans) => Arc::new(spans.finish_binary(nulls)?),
            Values::Date(values) => Arc::new(Date32Array::new(drain(values), nulls)),
            Values::Timestamp(values) => Arc::new(instants(values, nulls)),
        })
    }
}

/// The Arrow type that a declared column has in every batch.
pub fn arrow_type(column_type: ColumnType) -> DataType {
    match column_type {
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Int => DataType::Int32,
        ColumnType::Bigint => DataType::Int64,
        ColumnType::Double => DataType::Float64,
        ColumnType::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
        ColumnType::String | ColumnType::Json => DataType::Utf8,
        ColumnType::Binary => DataType::Binary,
        ColumnType::Date => DataType::Date32,
        ColumnType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    }
}

/// What a header says a value should look like.
pub(super) fn expectation(column_type: ColumnType) -> String {
    match column_type {
        ColumnType::Date => "date (`YYYY-MM-DD`)".to_owned(),
        ColumnType::Timestamp => "timestamp (RFC 3339 text)".to_owned(),
        ColumnType::Binary => "binary (base64 text)".to_owned(),
        other => other.to_string(),
    }
}

impl From<DecimalFault> for Fault {
    fn from(fault: DecimalFault) -> Self {
        Fault::Type(match fault {
            DecimalFault::NotANumber => "",
            DecimalFault::TooManyFractionDigits => {
                "too many fraction digits, and none is rounded away"
            }
            DecimalFault::OutOfRange => "out of range",
        })
    }
}

fn number<'a>(peek: Peek, jiter: &'a mut Jiter<'_>) -> Result<&'a [u8], Fault> {
    if !peek.is_num() {
        return Err(Fault::Type(""));
    }
    Ok(jiter.known_number_bytes(peek)?)
}

fn text<'a>(peek: Peek, jiter: &'a mut Jiter<'_>) -> Result<&'a [u8], Fault> {
    if peek != Peek::String {
        return Err(Fault::Type(""));
    }
    Ok(jiter.known_str()?.as_bytes())
}

/// The text of any value as it stands in the message, syntax and UTF-8 checked.
pub(super) fn raw<'j>(peek: Peek, jiter: &mut Jiter<'j>) -> Result<&'j [u8], Fault> {
    let start = jiter.current_index();
    jiter.known_skip(peek)?;
    let bytes = jiter.slice_to_current(start);
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Fault::Utf8 { index: start + error.valid_up_to() }),
    }
}

fn double(token: &[u8]) -> Result<f64, Fault> {
    let token = std::str::from_utf8(token).expect("a number token is ASCII");
    match token.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(Fault::Type("out of range")),
    }
}

/// Values of varying length: all bytes in one run, and where each value ends.
pub(super) struct Spans {
    data: Vec<u8>,
    offsets: Vec<i32>,
    last_start: usize,
}

impl Default for Spans {
    fn default() -> Self {
        Self { data: Vec::new(), offsets: vec![0], last_start: 0 }
    }
}

impl Spans {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.last_start = self.data.len();
        self.data.extend_from_slice(bytes);
        self.close();
    }

    fn push_with(
        &mut self,
        append: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        self.last_start = self.data.len();
        let appended = append(&mut self.data);
        match appended {
            Ok(()) => self.close(),
            Err(_) => self.data.truncate(self.last_start),
        }
        appended
    }

    /// An end beyond 32 bits is saturated here and refused by [`Spans::drain`].
    fn close(&mut self) {
        self.offsets.push(i32::try_from(self.data.len()).unwrap_or(i32::MAX));
    }

    fn truncate(&mut self, len: usize) {
        if self.offsets.len() > len + 1 {
            self.offsets.truncate(len + 1);
            self.data.truncate(self.last_start);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.len() + size_of_val(self.offsets.as_slice())
    }

    /// The values as an array, leaving none. Fails past 32 bits of bytes, or if they are not UTF-8.
    pub(super) fn finish_text(&mut self, nulls: Option<NullBuffer>) -> Result<StringArray> {
        let (offsets, data) = self.drain()?;
        StringArray::try_new(offsets, data, nulls).map_err(internal)
    }

    /// The same without a look at UTF-8.
    pub(super) fn finish_binary(&mut self, nulls: Option<NullBuffer>) -> Result<BinaryArray> {
        let (offsets, data) = self.drain()?;
        BinaryArray::try_new(offsets, data, nulls).map_err(internal)
    }

    fn drain(&mut self) -> Result<(OffsetBuffer<i32>, Buffer)> {
        let spans = std::mem::take(self);
        check_32_bits(spans.data.len())?;
        Ok((OffsetBuffer::new(spans.offsets.into()), Buffer::from_vec(spans.data)))
    }
}

/// Arrow's offsets of strings, binaries and lists have 32 bits: one column of a batch ends there.
pub(super) fn check_32_bits(len: usize) -> Result<()> {
    if len <= i32::MAX as usize {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Exhausted, "a column of one batch holds more than 2 GiB")
        .hint("flush smaller batches"))
}

/// Takes the values out as an Arrow buffer, without a copy.
pub(super) fn drain<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    std::mem::take(values).into()
}

/// Without nulls; `values` is empty afterwards.
pub(super) fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(drain(values), None))
}

/// `micros` since 1970 become instants in UTC; it is empty afterwards.
pub(super) fn instants(
    micros: &mut Vec<i64>,
    nulls: Option<NullBuffer>,
) -> TimestampMicrosecondArray {
    TimestampMicrosecondArray::new(drain(micros), nulls).with_timezone("UTC")
}

/// What Arrow refuses is our mistake: no message may cause it.
pub(super) fn internal(error: arrow::error::ArrowError) -> Error {
    Error::internal("decoded columns do not form a batch").source(error)
}
