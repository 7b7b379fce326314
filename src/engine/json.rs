//! Rows as JSON, one object per line: the one form of it, over HTTP and on the command line. What
//! JSON has no word for is kept as text, and columns of one name are kept apart.

use std::collections::HashSet;
use std::io::Write;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray, Float64Array, RecordBatch, RecordBatchOptions};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::json::writer::{LineDelimited, NullableEncoder, Writer, make_encoder};
use arrow::json::{Encoder, EncoderFactory, EncoderOptions, WriterBuilder};

/// A writer of rows: NaN and the infinities are `"NaN"`, `"Infinity"` and `"-Infinity"`, keys of
/// maps are text whatever their type, and doubled names have the ones of [`distinct_names`], in
/// structs too. Nulls are written.
pub fn json_rows<W: Write>(out: W) -> Writer<W, LineDelimited> {
    WriterBuilder::new()
        .with_explicit_nulls(true)
        .with_encoder_factory(Arc::new(WholeValues))
        .build(out)
}

/// The names in which the first of each stays as it is, and a later one gets `_2`, or the next
/// number with which it is like no other: `a`, `a`, `a_2` become `a`, `a_3`, `a_2`.
pub fn distinct_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let names: Vec<&str> = names.into_iter().collect();
    let there: HashSet<&str> = names.iter().copied().collect();
    let mut given: HashSet<String> = HashSet::new();
    let distinct = names.iter().map(|name| {
        let mut distinct = (*name).to_owned();
        let mut number = 2;
        while !given.insert(distinct.clone()) {
            distinct = format!("{name}_{number}");
            number += 1;
            while there.contains(distinct.as_str()) {
                distinct = format!("{name}_{number}");
                number += 1;
            }
        }
        distinct
    });
    distinct.collect()
}

/// The same columns under distinct names, for forms in which a name finds one column.
pub fn with_distinct_names(schema: &SchemaRef) -> SchemaRef {
    let names = distinct_names(schema.fields().iter().map(|field| field.name().as_str()));
    let fields = schema.fields().iter().zip(names);
    let named = fields.map(|(field, name)| field.as_ref().clone().with_name(name));
    Arc::new(Schema::new(named.collect::<Vec<Field>>()))
}

/// `batch` with the columns of `schema`, which differ in names only.
pub fn renamed(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)
}

#[derive(Debug)]
struct WholeValues;

impl EncoderFactory for WholeValues {
    fn make_default_encoder<'a>(
        &self,
        field: &'a FieldRef,
        array: &'a dyn Array,
        options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                let wide = cast(array, &DataType::Float64)?;
                let wide = wide.as_primitive::<Float64Type>().clone();
                if wide.iter().flatten().all(f64::is_finite) {
                    return Ok(None);
                }
                Box::new(Floats { plain: make_encoder(field, array, &PLAIN)?, wide })
            }
            DataType::Struct(fields) => {
                let names = distinct_names(fields.iter().map(|field| field.name().as_str()));
                if names.iter().zip(fields).all(|(name, field)| name == field.name()) {
                    return Ok(None);
                }
                let columns = fields.iter().zip(array.as_struct().columns());
                let encoders = columns.map(|(field, array)| make_encoder(field, array, options));
                let encoders = encoders.collect::<Result<Vec<_>, _>>()?;
                let names = names.iter().map(|name| quoted(name)).collect();
                Box::new(Named { names, encoders })
            }
            DataType::Map(entries, _) => {
                let map = array.as_map();
                if map.keys().null_count() > 0 {
                    return Err(ArrowError::JsonError("a key of a map is NULL".to_owned()));
                }
                let DataType::Struct(fields) = entries.data_type() else { return Ok(None) };
                let [key, value] = fields.as_ref() else { return Ok(None) };
                Box::new(Entries {
                    offsets: map.offsets().clone(),
                    keys: make_encoder(key, map.keys(), options)?,
                    values: make_encoder(value, map.values(), options)?,
                })
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, array.nulls().cloned())))
    }
}

/// Those of the writer without [`WholeValues`], for the values that it takes.
static PLAIN: LazyLock<EncoderOptions> = LazyLock::new(EncoderOptions::default);

/// Without the numbers that JSON has not.
struct Floats<'a> {
    plain: NullableEncoder<'a>,
    wide: Float64Array,
}

impl Encoder for Floats<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let value = self.wide.value(row);
        match value.is_finite() {
            true => self.plain.encode(row, out),
            false if value.is_nan() => out.extend_from_slice(br#""NaN""#),
            false if value > 0.0 => out.extend_from_slice(br#""Infinity""#),
            false => out.extend_from_slice(br#""-Infinity""#),
        }
    }
}

/// An object of these columns.
struct Named<'a> {
    /// In JSON.
    names: Vec<String>,
    encoders: Vec<NullableEncoder<'a>>,
}

impl Encoder for Named<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        for (at, (name, encoder)) in self.names.iter().zip(&mut self.encoders).enumerate() {
            out.push(if at == 0 { b'{' } else { b',' });
            out.extend_from_slice(name.as_bytes());
            out.push(b':');
            encode_or_null(encoder, row, out);
        }
        out.push(b'}');
    }
}

/// A map as an object.
struct Entries<'a> {
    offsets: OffsetBuffer<i32>,
    keys: NullableEncoder<'a>,
    values: NullableEncoder<'a>,
}

impl Encoder for Entries<'_> {
    fn encode(&mut self, row: usize, out: &mut Vec<u8>) {
        let offset = |at: usize| usize::try_from(self.offsets[at]).unwrap_or_default();
        out.push(b'{');
        for (at, entry) in (offset(row)..offset(row + 1)).enumerate() {
            if at > 0 {
                out.push(b',');
            }
            let begin = out.len();
            self.keys.encode(entry, out);
            if out.get(begin) != Some(&b'"') {
                let key = quoted(&String::from_utf8_lossy(&out[begin..]));
                out.truncate(begin);
                out.extend_from_slice(key.as_bytes());
            }
            out.push(b':');
            encode_or_null(&mut self.values, entry, out);
        }
        out.push(b'}');
    }
}

fn encode_or_null(encoder: &mut NullableEncoder<'_>, row: usize, out: &mut Vec<u8>) {
    match encoder.is_null(row) {
        true => out.extend_from_slice(b"null"),
        false => encoder.encode(row, out),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    use arrow::array::{ArrayRef, Int64Array, ListArray, MapArray, StringArray, StructArray};
    use arrow::datatypes::{Float32Type, Int32Type};

    #[track_caller]
    fn check(columns: &[(&str, ArrayRef)], expect: &str) {
        let fields =
            columns.iter().map(|(name, of)| Field::new(*name, of.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let columns = columns.iter().map(|(_, column)| Arc::clone(column)).collect();
        let mut writer = json_rows(Vec::new());
        writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
        assert_eq!(String::from_utf8(writer.into_inner()).unwrap(), expect);
    }

    fn doubles(values: &[Option<f64>]) -> ArrayRef {
        Arc::new(Float64Array::from(values.to_vec()))
    }

    #[test]
    fn numbers_that_json_has_not_are_text_however_deep() {
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        check(
            &[("x", doubles(&[Some(nan), Some(inf), Some(-inf), Some(1.5), None]))],
            "{\"x\":\"NaN\"}\n{\"x\":\"Infinity\"}\n{\"x\":\"-Infinity\"}\n{\"x\":1.5}\n{\"x\":null}\n",
        );
        let list = ListArray::from_iter_primitive::<Float32Type, _, _>([Some(vec![
            Some(f32::NAN),
            None,
            Some(0.25),
        ])]);
        check(&[("l", Arc::new(list))], "{\"l\":[\"NaN\",null,0.25]}\n");
        let field = |name: &str| Arc::new(Field::new(name, DataType::Float64, true));
        let whole = StructArray::from(vec![(field("a"), doubles(&[Some(-inf)]))]);
        check(&[("s", Arc::new(whole))], "{\"s\":{\"a\":\"-Infinity\"}}\n");
    }

    #[test]
    fn keys_of_maps_are_text_and_their_values_whole() {
        let map = |keys: ArrayRef, values: ArrayRef| {
            let entries = StructArray::from(vec![
                (Arc::new(Field::new("key", keys.data_type().clone(), false)), keys),
                (Arc::new(Field::new("value", values.data_type().clone(), true)), values),
            ]);
            let field = Arc::new(Field::new("entries", entries.data_type().clone(), false));
            let length = i32::try_from(entries.len()).unwrap();
            let offsets = OffsetBuffer::new(vec![0, length].into());
            Arc::new(MapArray::new(field, offsets, entries, None, false)) as ArrayRef
        };
        let keys = Arc::new(StringArray::from(vec!["a\"b", "c"]));
        check(
            &[("m", map(keys, doubles(&[Some(f64::NAN), None])))],
            "{\"m\":{\"a\\\"b\":\"NaN\",\"c\":null}}\n",
        );
        let values = || Arc::new(Int64Array::from(vec![1, 2]));
        let keys = doubles(&[Some(f64::INFINITY), Some(2.5)]);
        check(&[("m", map(keys, values()))], "{\"m\":{\"Infinity\":1,\"2.5\":2}}\n");
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), Some(2)]),
            Some(vec![]),
        ]);
        check(&[("m", map(Arc::new(lists), values()))], "{\"m\":{\"[1,2]\":1,\"[]\":2}}\n");
    }

    #[test]
    fn columns_of_one_name_are_kept_apart() {
        for (names, expect) in [
            (&["a", "b"][..], &["a", "b"][..]),
            (&["a", "a", "a"], &["a", "a_2", "a_3"]),
            (&["a", "a", "a_2"], &["a", "a_3", "a_2"]),
            (&["a_2", "a", "a"], &["a_2", "a", "a_3"]),
            (&["a", "a_2", "a", "a_2"], &["a", "a_2", "a_3", "a_2_2"]),
            (&["", ""], &["", "_2"]),
        ] {
            assert_eq!(distinct_names(names.iter().copied()), expect, "{names:?}");
        }
        let int = |value: i64| Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        check(&[("a", int(1)), ("a", int(2))], "{\"a\":1,\"a_2\":2}\n");
        let field = |name: &str| Arc::new(Field::new(name, DataType::Int64, true));
        let whole = StructArray::from(vec![(field("k"), int(1)), (field("k"), int(2))]);
        check(&[("s", Arc::new(whole))], "{\"s\":{\"k\":1,\"k_2\":2}}\n");
    }
}
