//! Whether a target is fit for exports, before there is one: what this user may not do there, and
//! whether the driver brings hard values over unharmed. Some drivers change them and say nothing.

use std::str::FromStr;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};

use super::corpus::{POSITION, ROWS, corpus};
use super::destination::SqlDestination;
use super::dialect::quoted;
use super::shape;
use super::wording::{LEDGER, OWN_SCHEMA};
use crate::error::{Error, ErrorKind, Result};
use crate::export::compare::canonical::{is_float, write_value};
use crate::export::history::HISTORY;
use crate::export::side::MissingRight;
use crate::table::TableName;

impl SqlDestination {
    /// What is missing for exports of `tables`, as far as the warehouse can tell beforehand.
    pub async fn missing_rights(&mut self, tables: &[TableName]) -> Result<Vec<MissingRight>> {
        let name = |name: &str| self.statements.target.identifier(name);
        let mut wanted: Vec<(String, String)> =
            [LEDGER, HISTORY].iter().map(|table| (name(OWN_SCHEMA), name(table))).collect();
        let schema = |table: &TableName| self.statements.target.schema(table.layer);
        wanted.extend(tables.iter().map(|table| (schema(table), name(table.name()))));
        let Some(query) = self.statements.dialect.missing_rights(&wanted, &name(LEDGER)) else {
            return Ok(Vec::new());
        };
        let missing = self.texts(query).await?.into_iter();
        let missing = missing.filter_map(|row| match <[_; 2]>::try_from(row) {
            Ok([Some(right), Some(given_by)]) => Some(MissingRight { right, given_by }),
            _ => None,
        });
        Ok(missing.collect())
    }

    /// Does everything that an export does, to a table of its own; the warehouse's version.
    pub async fn test(&mut self) -> Result<String> {
        let version = self
            .texts(format!("SELECT CAST({} AS VARCHAR)", self.statements.dialect.version()))
            .await?;
        let stage = format!("stage_{}_test", self.statements.run.simple());
        let table = self.statements.own(&stage);
        let sent = corpus(|data_type| self.statements.dialect.column_type(data_type).is_some())?;
        self.warehouse
            .execute(shape::create_aside(self.statements.dialect, &table, &sent.schema())?)
            .await?;
        let arrived = self.there_and_back(&stage, &sent).await;
        self.warehouse.execute(format!("DROP TABLE {table}")).await?;
        let library = self.warehouse.library();
        let refused = |error: Error| {
            let hint =
                format!("a newer driver may be better: {}", self.statements.dialect.library().hint);
            let message = format!("the driver {} is not fit: {}", library.display(), error.message);
            Error { message, ..error }.hint(hint)
        };
        compare(&sent, &arrived.map_err(refused)?).map_err(refused)?;
        Ok(version.into_iter().flatten().flatten().next().unwrap_or_default())
    }

    /// Loads the rows as an export does; the texts of what the warehouse then has.
    async fn there_and_back(
        &mut self,
        stage: &str,
        sent: &RecordBatch,
    ) -> Result<Vec<Vec<Option<String>>>> {
        let halves = [sent.slice(0, ROWS / 2), sent.slice(ROWS / 2, ROWS - ROWS / 2)];
        let rows = futures::stream::iter(halves.map(Ok));
        self.load(stage, &sent.schema(), rows).await?;
        let text = |field: &arrow::datatypes::FieldRef| {
            let column = quoted(field.name());
            match is_float(field.data_type()) {
                // Some warehouses write fewer digits than they keep.
                true => column,
                false => self.statements.dialect.text(&column, field.data_type()),
            }
        };
        let texts: Vec<String> = sent.schema().fields().iter().map(text).collect();
        let table = self.statements.own(stage);
        let position = quoted(POSITION);
        self.texts(format!("SELECT {} FROM {table} ORDER BY {position}", texts.join(", "))).await
    }
}

/// The first value that came back as another one is an error.
fn compare(sent: &RecordBatch, arrived: &[Vec<Option<String>>]) -> Result<()> {
    if arrived.len() != sent.num_rows() {
        return Err(changed(format!("{} rows became {}", sent.num_rows(), arrived.len())));
    }
    let schema = sent.schema();
    for (row, texts) in arrived.iter().enumerate() {
        for ((field, column), text) in schema.fields().iter().zip(sent.columns()).zip(texts) {
            let own = text_of(column, row)?;
            let is_same = match (&own, text) {
                (Some(own), Some(text)) => match field.data_type() {
                    DataType::Float32 => is_same_float::<f32>(own, text),
                    DataType::Float64 => is_same_float::<f64>(own, text),
                    _ => own == text,
                },
                _ => own == *text,
            };
            if !is_same {
                let shown = |text: &Option<String>| text.clone().unwrap_or("null".to_owned());
                return Err(changed(format!(
                    "{} of type {} became {}",
                    shown(&own),
                    field.data_type(),
                    shown(text)
                )));
            }
        }
    }
    Ok(())
}

fn changed(how: String) -> Error {
    Error::new(ErrorKind::DataLoss, how)
}

fn text_of(column: &ArrayRef, row: usize) -> Result<Option<String>> {
    if column.is_null(row) {
        return Ok(None);
    }
    if let Some(floats) = column.as_primitive_opt::<Float32Type>() {
        return Ok(Some(floats.value(row).to_string()));
    }
    if let Some(floats) = column.as_primitive_opt::<Float64Type>() {
        return Ok(Some(floats.value(row).to_string()));
    }
    let mut text = Vec::new();
    write_value(column, row, &mut text)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

fn is_same_float<F: FromStr + Into<f64>>(one: &str, other: &str) -> bool {
    match (one.parse::<F>(), other.parse::<F>()) {
        (Ok(one), Ok(other)) => one.into().total_cmp(&other.into()).is_eq(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_came_back_as_another_one_is_named() {
        let sent = corpus(|data_type| !is_float(data_type)).unwrap();
        let texts = |row: usize| -> Vec<Option<String>> {
            sent.columns().iter().map(|column| text_of(column, row).unwrap()).collect()
        };
        let mut arrived: Vec<Vec<Option<String>>> = (0..ROWS).map(texts).collect();
        compare(&sent, &arrived).unwrap();
        let column = sent.schema().index_of("decimal_38_10").unwrap();
        assert_eq!(arrived[1][column].as_deref(), Some("10000.0000000001"));
        arrived[1][column] = Some("10000.0000000000".to_owned());
        let error = compare(&sent, &arrived).unwrap_err();
        let words = "10000.0000000001 of type Decimal128(38, 10) became 10000.0000000000";
        assert_eq!(error.message, words);
        arrived.pop();
        assert_eq!(compare(&sent, &arrived).unwrap_err().message, "6 rows became 5");
    }
}
