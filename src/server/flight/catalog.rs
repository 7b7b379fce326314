//! Commands that list the lake: catalogs, schemas, tables, keys, types, and the server itself. Each
//! is a batch in memory, of the schema that the protocol gives it; what its caller may not read is
//! not in it.

use std::sync::{Arc, LazyLock};

use arrow::array::{AsArray, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{SqlInfoData, XdbcTypeInfoData};
use arrow_flight::sql::{Command, CommandGetPrimaryKeys, CommandGetTables};

use super::columns::table_schema;
use super::server_info;
use crate::access::Principal;
use crate::engine::CATALOG;
use crate::error::{Error, ErrorKind, Result};
use crate::statements::{Statements, TableEntry};
use crate::table::Layer;

const TABLE: &str = "TABLE";
const VIEW: &str = "VIEW";
/// Items of a list that a listing is narrowed by.
const ITEMS_MAX: usize = 1_000;
/// Bytes of a pattern; names are much shorter.
const PATTERN_BYTES_MAX: usize = 1_000;

/// Answers to commands that list things: to each caller only what it may read.
pub struct Catalog {
    statements: Statements,
    info: SqlInfoData,
    types: XdbcTypeInfoData,
}

impl Catalog {
    pub fn new(statements: Statements) -> Result<Self> {
        Ok(Self { statements, info: server_info::sql_info()?, types: server_info::types()? })
    }

    /// The schema of a listing, or `None` if `command` is not one.
    pub fn schema_of(&self, command: &Command) -> Option<SchemaRef> {
        Some(match command.clone() {
            Command::CommandGetCatalogs(command) => command.into_builder().schema(),
            Command::CommandGetDbSchemas(command) => command.into_builder().schema(),
            Command::CommandGetTables(command) => command.into_builder().schema(),
            Command::CommandGetTableTypes(command) => command.into_builder().schema(),
            Command::CommandGetSqlInfo(_) => self.info.schema(),
            Command::CommandGetXdbcTypeInfo(_) => self.types.schema(),
            Command::CommandGetPrimaryKeys(_) => Arc::clone(&PRIMARY_KEYS),
            Command::CommandGetExportedKeys(_)
            | Command::CommandGetImportedKeys(_)
            | Command::CommandGetCrossReference(_) => Arc::clone(&FOREIGN_KEYS),
            _ => return None,
        })
    }

    /// The rows of a listing, or `None` if `command` is not one.
    pub async fn rows_of(
        &self,
        caller: &Arc<Principal>,
        command: Command,
    ) -> Result<Option<RecordBatch>> {
        check(&command)?;
        let rows = match command {
            Command::CommandGetCatalogs(command) => {
                let mut builder = command.into_builder();
                builder.append(CATALOG);
                builder.build()
            }
            Command::CommandGetDbSchemas(command) => {
                let tables = self.statements.tables(caller).await?;
                let mut builder = command.into_builder();
                for layer in Layer::ALL {
                    if tables.iter().any(|table| table.name.layer == layer) {
                        builder.append(CATALOG, layer.as_str());
                    }
                }
                builder.build()
            }
            Command::CommandGetTables(command) => {
                return self.tables(caller, command).await.map(Some);
            }
            Command::CommandGetTableTypes(command) => {
                let mut builder = command.into_builder();
                builder.append(TABLE);
                builder.append(VIEW);
                builder.build()
            }
            Command::CommandGetSqlInfo(command) => self.info.record_batch(command.info),
            Command::CommandGetXdbcTypeInfo(command) => self.types.record_batch(command.data_type),
            Command::CommandGetPrimaryKeys(command) => {
                return self.primary_keys(caller, &command).await.map(Some);
            }
            // No model names a key of another table.
            Command::CommandGetExportedKeys(_)
            | Command::CommandGetImportedKeys(_)
            | Command::CommandGetCrossReference(_) => {
                Ok(RecordBatch::new_empty(Arc::clone(&FOREIGN_KEYS)))
            }
            _ => return Ok(None),
        };
        rows.map(Some).map_err(unlisted)
    }

    async fn tables(
        &self,
        caller: &Arc<Principal>,
        command: CommandGetTables,
    ) -> Result<RecordBatch> {
        let tables = self.statements.tables(caller).await?;
        let names = CommandGetTables { include_schema: false, ..command.clone() };
        let found = listing(names, tables.iter().map(|table| (table, Schema::empty())))?;
        if !command.include_schema {
            return Ok(found);
        }
        // Only the tables asked for are planned.
        let mut with_schemas = Vec::with_capacity(found.num_rows());
        let (layers, names) =
            (found.column(1).as_string::<i32>(), found.column(2).as_string::<i32>());
        for table in &tables {
            let is_found = (0..found.num_rows()).any(|row| {
                layers.value(row) == table.name.layer.as_str()
                    && names.value(row) == table.name.name()
            });
            if !is_found {
                continue;
            }
            match self.statements.schema(caller, &table.name).await {
                Ok(schema) => with_schemas.push((table, table_schema(table, &schema))),
                // Removed since it was listed.
                Err(error) if error.kind == ErrorKind::NotFound => {}
                // One that cannot be read must not hide all others.
                Err(error) => {
                    tracing::warn!(table = %table.name, %error, "a table cannot be described");
                    with_schemas.push((table, Schema::empty()));
                }
            }
        }
        listing(command, with_schemas.into_iter())
    }

    async fn primary_keys(
        &self,
        caller: &Principal,
        command: &CommandGetPrimaryKeys,
    ) -> Result<RecordBatch> {
        let is_asked = |table: &&TableEntry| {
            let is_here = |asked: &Option<String>, name: &str| {
                asked.as_ref().is_none_or(|asked| asked == name)
            };
            table.name.name() == command.table
                && is_here(&command.db_schema, table.name.layer.as_str())
                && is_here(&command.catalog, CATALOG)
        };
        let tables = self.statements.tables(caller).await?;
        let keys: Vec<(&TableEntry, &str, i32)> = tables
            .iter()
            .filter(is_asked)
            .flat_map(|table| {
                (1..).zip(&table.key).map(move |(place, column)| (table, column.as_str(), place))
            })
            .collect();
        let text = |value: fn(&(&TableEntry, &str, i32)) -> String| {
            Arc::new(StringArray::from_iter_values(keys.iter().map(value)))
        };
        let columns: Vec<arrow::array::ArrayRef> = vec![
            text(|_| CATALOG.to_owned()),
            text(|(table, ..)| table.name.layer.to_string()),
            text(|(table, ..)| table.name.name().to_owned()),
            text(|(_, column, _)| (*column).to_owned()),
            text(|(table, ..)| format!("{}_key", table.name.name())),
            Arc::new(Int32Array::from_iter_values(keys.iter().map(|(.., place)| *place))),
        ];
        RecordBatch::try_new(Arc::clone(&PRIMARY_KEYS), columns)
            .map_err(|source| Error::internal("keys cannot be listed").source(source))
    }
}

/// Patterns become regular expressions, and every item of a list is compared with every row.
fn check(command: &Command) -> Result<()> {
    let (items, patterns) = match command {
        Command::CommandGetDbSchemas(command) => (0, vec![&command.db_schema_filter_pattern]),
        Command::CommandGetTables(command) => (
            command.table_types.len(),
            vec![&command.db_schema_filter_pattern, &command.table_name_filter_pattern],
        ),
        Command::CommandGetSqlInfo(command) => (command.info.len(), Vec::new()),
        _ => return Ok(()),
    };
    if items > ITEMS_MAX {
        return Err(Error::invalid(format!("a listing is narrowed by at most {ITEMS_MAX} items")));
    }
    if patterns.into_iter().flatten().any(|pattern| pattern.len() > PATTERN_BYTES_MAX) {
        return Err(Error::invalid(format!("a pattern has at most {PATTERN_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn listing<'a>(
    command: CommandGetTables,
    tables: impl Iterator<Item = (&'a TableEntry, Schema)>,
) -> Result<RecordBatch> {
    let mut builder = command.into_builder();
    for (table, schema) in tables {
        let kind = if table.is_view { VIEW } else { TABLE };
        let (layer, name) = (table.name.layer.as_str(), table.name.name());
        builder.append(CATALOG, layer, name, kind, &schema).map_err(unlisted)?;
    }
    builder.build().map_err(unlisted)
}

fn unlisted(source: FlightError) -> Error {
    Error::internal("a listing cannot be built").source(source)
}

static PRIMARY_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
});

static FOREIGN_KEYS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
});
