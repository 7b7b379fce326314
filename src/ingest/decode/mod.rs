//! Kafka message bytes to Arrow rows, or to a reject that says why. Pure: no broker, no lake, no
//! clock. One pass over the bytes, straight into the columns; nothing is allocated per row.
//!
//! A payload is one JSON object (RFC 8259, UTF-8, no byte order mark), whose fields are matched to
//! the declared columns by exact name. A row is accepted whole or rejected whole:
//!
//! * `tombstone`, `empty`, `oversized`: no payload, none of its bytes, more than the limit.
//! * `malformed`: not JSON, bytes after the object, invalid UTF-8 anywhere, a lone surrogate, a
//!   field twice in the top-level object, arrays and objects nested deeper than 200 levels in a
//!   field, or a number whose integer part has more than 4,300 digits (both limits are the
//!   parser's). `NaN` and `Infinity` are not JSON.
//! * `wrong_type`: JSON, but not an object, or a field that its column does not take.
//! * `missing_required`: a `not_null` column whose field is `null` or absent.
//! * `unknown_field`: an undeclared field under the policy `fail`.
//!
//! Bytes that are not JSON are `malformed` whatever else is wrong with them; otherwise the first
//! broken rule in the order of the document counts, absent fields last.
//!
//! | column | takes |
//! | --- | --- |
//! | boolean | `true`, `false` |
//! | int, bigint | integer tokens in range; never `1.0`, `1e3` or a string |
//! | double | any number that is finite in 64 bits, to the nearest double |
//! | decimal(p,s) | a number, or a string in the grammar of a number; exact or refused, so a non-zero digit beyond the scale is `wrong_type` |
//! | string | strings, NUL included |
//! | binary | strings of padded standard base64 |
//! | date | strings `YYYY-MM-DD`, years 0000 to 9999 |
//! | timestamp | strings in RFC 3339; UTC where the offset is left out; digits beyond microseconds are cut off; second 60 is the next minute's first; numbers are refused, for their unit would be a guess |
//! | json | any value, kept as its text; `null` is a null |

mod columns;
mod dead_letters;
mod envelope;
mod fields;
mod reject;
#[cfg(test)]
mod tests;
mod value;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use jiter::{Jiter, Peek};

use crate::error::{Error, Result};
use crate::interval::{RangeSet, TouchedHours};
use crate::table::{Column, ColumnType};

pub use self::columns::arrow_type;
pub use self::dead_letters::DeadLetters;
pub use self::envelope::{METADATA_COLUMNS, Message, timestamp_of};
pub use self::reject::{QUOTED_CHARS_MAX, Reject, RejectReason};
pub use crate::model::UnknownFields;

use self::columns::ColumnBuffer;
use self::envelope::Envelope;
use self::fields::{FieldIndex, Unknown};
use self::reject::{bounded_payload, duplicate, field_reject, quote, syntax_error};

/// The column of undeclared fields under [`UnknownFields::Rescue`]; reserved under every policy.
pub const RESCUED_COLUMN: &str = "_rescued";

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The schema of a table with these columns: declared, rescued, metadata.
pub fn schema_of(columns: &[Column], unknown: UnknownFields) -> SchemaRef {
    let mut fields: Vec<FieldRef> = columns
        .iter()
        .map(|column| {
            let data_type = columns::arrow_type(column.column_type);
            Arc::new(Field::new(&column.name, data_type, !column.not_null))
        })
        .collect();
    if unknown == UnknownFields::Rescue {
        fields.push(Arc::new(Field::new(RESCUED_COLUMN, DataType::Utf8, true)));
    }
    fields.extend(envelope::fields());
    Arc::new(Schema::new(fields))
}

/// Collects the rows of one topic into batches.
pub struct Decoder {
    schema: SchemaRef,
    declared: Vec<Column>,
    buffers: Vec<ColumnBuffer>,
    fields: FieldIndex,
    unknown: Unknown,
    rescued: Option<ColumnBuffer>,
    envelope: Envelope,
    /// Position of the event-time column.
    time: Option<Time>,
    touched: TouchedHours,
    message_bytes_max: usize,
    /// The message that last filled each column, so that nothing is cleared between messages.
    filled_by: Vec<u64>,
    messages: u64,
    /// Room for unescaped strings, kept between messages.
    tape: Vec<u8>,
}

impl Decoder {
    /// `time` names the event-time column, whose hours are tracked. Fails with `Invalid` on a
    /// reserved or repeated column name, and if `time` is not a declared timestamp.
    pub fn new(
        topic: &str,
        columns: &[Column],
        time: Option<&str>,
        unknown: UnknownFields,
        message_bytes_max: usize,
    ) -> Result<Self> {
        check_names(columns)?;
        let buffer = |column: &Column| ColumnBuffer::new(column.column_type, column.not_null);
        let is_rescuing = unknown == UnknownFields::Rescue;
        Ok(Self {
            schema: schema_of(columns, unknown),
            declared: columns.to_vec(),
            buffers: columns.iter().map(buffer).collect(),
            fields: FieldIndex::new(columns),
            unknown: Unknown::new(unknown),
            rescued: is_rescuing.then(|| ColumnBuffer::new(ColumnType::Json, false)),
            envelope: Envelope::new(topic),
            time: time.map(|name| time_column(columns, name)).transpose()?,
            touched: TouchedHours::default(),
            message_bytes_max,
            filled_by: vec![0; columns.len()],
            messages: 0,
            tape: Vec::new(),
        })
    }

    /// The declared columns, the rescued fields if they are kept, then the metadata.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Appends one row; after a reject the batch is what it was before.
    pub fn push(&mut self, message: &Message<'_>, ingested_at_micros: i64) -> Result<(), Reject> {
        let payload = bounded_payload(message.payload, self.message_bytes_max)?;
        let mut jiter = Jiter::with_tape(payload, std::mem::take(&mut self.tape));
        let read = self.read_row(&mut jiter, payload);
        self.tape = jiter.into_tape();
        if let Err(reject) = read {
            self.take_back_row();
            let is_final = reject.reason == RejectReason::Malformed;
            return Err(if is_final { reject } else { syntax_error(payload).unwrap_or(reject) });
        }
        self.envelope.push(message, ingested_at_micros);
        let micros = self.time.and_then(|time| match time {
            Time::Declared(at) => self.buffers[at].last_micros(),
            Time::Produced => message.timestamp_ms.and_then(timestamp_of).map(|at| at.0),
            Time::Ingested => Some(ingested_at_micros),
        });
        if let Some(micros) = micros {
            self.touched.touch(micros);
        }
        Ok(())
    }

    /// Rows since the last [`Self::finish`].
    pub fn rows(&self) -> usize {
        self.envelope.rows()
    }

    /// Bytes in use; the buffers' capacity may be up to twice that.
    pub fn buffered_bytes(&self) -> usize {
        let columns = self.buffers.iter().chain(&self.rescued);
        columns.map(ColumnBuffer::bytes).sum::<usize>() + self.envelope.bytes()
    }

    /// The UTC hours that accepted rows fall into since the last `finish`; a row without an event
    /// time falls into none.
    pub fn touched(&self) -> RangeSet {
        self.touched.ranges()
    }

    /// How many hours those are.
    pub fn touched_hours(&self) -> usize {
        self.touched.count()
    }

    /// All rows since the last call; empty afterwards, touched hours included. Fails with
    /// `Exhausted` when one column holds more than 2 GiB; the rows are gone then.
    pub fn finish(&mut self) -> Result<RecordBatch> {
        self.touched = TouchedHours::default();
        let columns = self.buffers.iter_mut().chain(&mut self.rescued);
        let mut arrays = columns.map(ColumnBuffer::finish).collect::<Result<Vec<_>>>()?;
        arrays.extend(self.envelope.finish()?);
        RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(columns::internal)
    }

    fn read_row(&mut self, jiter: &mut Jiter<'_>, payload: &[u8]) -> Result<(), Reject> {
        self.messages += 1;
        self.unknown.clear();
        self.fields.restart();
        if payload.starts_with(BYTE_ORDER_MARK) {
            return Err(Reject::new(RejectReason::Malformed, "byte order mark at byte 0"));
        }
        if jiter.peek()? != Peek::Object {
            let start = jiter.current_index();
            let found = quote(&payload[start..]);
            let error = format!("expected one JSON object, found {found}");
            return Err(Reject::new(RejectReason::WrongType, error));
        }
        let mut filled = 0;
        let mut key = jiter.known_object()?;
        while let Some(name) = key {
            match self.fields.find(name) {
                Some(column) => {
                    self.read_field(column, jiter, payload)?;
                    filled += 1;
                }
                None => {
                    self.unknown.note(name)?;
                    self.unknown.read(jiter)?;
                }
            }
            key = jiter.next_key()?;
        }
        jiter.finish()?;
        self.unknown.check_duplicates()?;
        if let Some(rescued) = &mut self.rescued {
            rescued.push_bytes_or_null(self.unknown.object());
        }
        if filled < self.buffers.len() {
            self.fill_absent()?;
        }
        Ok(())
    }

    fn read_field(
        &mut self,
        column: usize,
        jiter: &mut Jiter<'_>,
        payload: &[u8],
    ) -> Result<(), Reject> {
        let peek = jiter.peek()?;
        if self.filled_by[column] == self.messages {
            return Err(duplicate(&self.declared[column].name));
        }
        self.filled_by[column] = self.messages;
        let start = jiter.current_index();
        self.buffers[column]
            .read(peek, jiter)
            .map_err(|fault| field_reject(&self.declared[column], fault, payload, start))
    }

    fn fill_absent(&mut self) -> Result<(), Reject> {
        for (column, buffer) in self.buffers.iter_mut().enumerate() {
            if self.filled_by[column] == self.messages {
                continue;
            }
            if buffer.is_required() {
                let name = &self.declared[column].name;
                let error = format!("`{name}`: a value is required, but the field is absent");
                return Err(Reject::new(RejectReason::MissingRequired, error));
            }
            buffer.push_null();
        }
        Ok(())
    }

    #[cold]
    fn take_back_row(&mut self) {
        let rows = self.rows();
        for buffer in self.buffers.iter_mut().chain(&mut self.rescued) {
            buffer.truncate(rows);
        }
    }
}

fn check_names(columns: &[Column]) -> Result<()> {
    for (position, column) in columns.iter().enumerate() {
        let name = column.name.as_str();
        if name == RESCUED_COLUMN || METADATA_COLUMNS.contains(&name) {
            return Err(Error::invalid(format!("column name `{name}` is reserved"))
                .hint("FlowGuard fills this column itself; choose another name"));
        }
        if columns[..position].iter().any(|earlier| earlier.name == name) {
            return Err(Error::invalid(format!("column `{name}` is declared twice")));
        }
    }
    Ok(())
}

/// What places a row in time.
#[derive(Debug, Clone, Copy)]
enum Time {
    /// The position of a declared timestamp.
    Declared(usize),
    /// `_timestamp`.
    Produced,
    /// `_ingested_at`.
    Ingested,
}

fn time_column(columns: &[Column], name: &str) -> Result<Time> {
    match name {
        "_timestamp" => return Ok(Time::Produced),
        "_ingested_at" => return Ok(Time::Ingested),
        _ => {}
    }
    let position = columns.iter().position(|column| column.name == name).ok_or_else(|| {
        Error::invalid(format!("time column `{name}` is not declared"))
            .hint("add it to `columns` with type `timestamp`")
    })?;
    match columns[position].column_type {
        ColumnType::Timestamp => Ok(Time::Declared(position)),
        other => Err(Error::invalid(format!("time column `{name}` is {other}, not timestamp"))),
    }
}
