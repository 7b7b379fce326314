//! The tables of a file: what its statements make, fill and change is kept here, and stored in a lake
//! before a query reads it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono_tz::Tz;
use datafusion::sql::sqlparser::ast::{
    AssignmentTarget, CreateTable, Delete, FromTable, Ident, Insert, ObjectName, ObjectType,
    SetExpr, Statement, TableFactor, TableObject, Update,
};
use datafusion::sql::sqlparser::dialect::{GenericDialect, SQLiteDialect};
use datafusion::sql::sqlparser::parser::Parser;
use flowguard::engine::storable::storable_type;
use flowguard::lake::spec::TableSpec;
use flowguard::table::TableName;

use super::Flavour;
use crate::differential::lakehouse::{Lakehouse, Refusal};

/// Rows of one VALUES.
const ROWS_AT_ONCE: usize = 200;

/// What became of a statement.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    Done,
    /// It changes no rows, such as an index, or is not known here.
    Ignored,
    Failed(String),
}

pub struct Tables {
    lakehouse: Lakehouse,
    flavour: Flavour,
    tables: BTreeMap<String, Table>,
    /// In the order in which they were made.
    views: Vec<(String, String)>,
    /// Tables whose columns hold other values here than in their file.
    others: BTreeSet<String>,
}

struct Table {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    /// Rows of VALUES as SQL, later than the batches.
    pending: Vec<String>,
    is_stored: bool,
}

type Outcome<T = ()> = Result<T, String>;

impl Tables {
    pub fn new(lakehouse: Lakehouse, flavour: Flavour) -> Self {
        let (tables, views, others) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { lakehouse, flavour, tables, views, others }
    }

    pub fn apply(&mut self, sql: &str) -> Applied {
        let parsed = match self.flavour {
            Flavour::Sqlite => Parser::parse_sql(&SQLiteDialect {}, sql)
                .or_else(|_| Parser::parse_sql(&GenericDialect {}, sql)),
            Flavour::Datafusion => Parser::parse_sql(&GenericDialect {}, sql),
        };
        let statements = match parsed {
            Ok(statements) => statements,
            Err(error) => return Applied::Failed(error.to_string()),
        };
        let mut applied = Applied::Ignored;
        for statement in &statements {
            applied = self.statement(statement);
        }
        applied
    }

    fn statement(&mut self, statement: &Statement) -> Applied {
        let outcome = match statement {
            Statement::CreateTable(create) => self.create(create),
            Statement::CreateView(view) => {
                let name = name_of(&view.name);
                self.views.retain(|(other, _)| *other != name);
                self.views.push((name, view.query.to_string()));
                Ok(())
            }
            Statement::Insert(insert) => {
                let inserted = self.insert(insert);
                if let (Err(_), TableObject::TableName(name)) = (&inserted, &insert.table) {
                    // Nothing can be said of what it would hold.
                    self.drop(&name_of(name));
                }
                inserted
            }
            Statement::Delete(delete) => self.delete(delete),
            Statement::Update(update) => self.update(update),
            Statement::Drop {
                object_type: ObjectType::Table | ObjectType::View, names, ..
            } => {
                names.iter().for_each(|name| self.drop(&name_of(name)));
                Ok(())
            }
            _ => return Applied::Ignored,
        };
        outcome.map_or_else(Applied::Failed, |()| Applied::Done)
    }

    /// What FlowGuard answers over the tables as they are now.
    pub fn ask(&mut self, sql: &str) -> Result<Vec<RecordBatch>, Refusal> {
        let names: Vec<String> = self.tables.keys().cloned().collect();
        for name in names {
            if self.store(&name).is_err() {
                self.drop(&name);
            }
        }
        self.lakehouse.ask(&self.with_views(sql), true)
    }

    /// Whether `sql` may read a table that had to be stored otherwise than its file says.
    pub fn are_other(&self, sql: &str) -> bool {
        let text = sql.to_lowercase();
        self.others.iter().any(|name| text.contains(name.as_str()))
    }

    /// `sql` with those views that it may name as common table expressions before it.
    fn with_views(&self, sql: &str) -> String {
        let text = sql.to_lowercase();
        let mut texts = Vec::new();
        let mut named = text.clone();
        for (name, query) in self.views.iter().rev() {
            if named.contains(name.as_str()) {
                named.push_str(&query.to_lowercase());
                texts.push(format!("{name} AS ({query})"));
            }
        }
        if texts.is_empty() {
            return sql.to_owned();
        }
        texts.reverse();
        let views = texts.join(", ");
        match text.trim_start().strip_prefix("with ") {
            Some(rest) => format!("WITH {views}, {}", &sql[sql.len() - rest.len()..]),
            None => format!("WITH {views} {sql}"),
        }
    }

    fn create(&mut self, create: &CreateTable) -> Outcome {
        let name = name_of(&create.name);
        if create.external {
            return Err("a table of files".to_owned());
        }
        if create.or_replace {
            self.drop(&name);
        }
        if self.tables.contains_key(&name) {
            return Err(format!("there is a table `{name}`"));
        }
        format!("silver.{name}").parse::<TableName>().map_err(|error| error.message)?;
        let columns: Vec<String> = create
            .columns
            .iter()
            .map(|column| {
                let of = self.flavour.type_of(&column.data_type.to_string());
                format!("CAST(NULL AS {of}) AS {}", column.name)
            })
            .collect();
        let declared = match columns.is_empty() {
            true => None,
            false => Some(self.rows(&format!("SELECT {}", columns.join(", ")))?.schema()),
        };
        let found = match &create.query {
            Some(query) => Some(self.rows(&query.to_string())?),
            None => None,
        };
        let Some(schema) = declared.or(found.as_ref().map(RecordBatch::schema)) else {
            return Err("a table without columns".to_owned());
        };
        if schema.fields().iter().any(|field| is_changed(field.data_type())) {
            self.others.insert(name.clone());
        }
        let schema = stored(&schema)?;
        let batches = found.map(|found| conformed(found.columns(), &schema)).transpose()?;
        let batches = batches.into_iter().collect();
        let table = Table { schema, batches, pending: Vec::new(), is_stored: false };
        self.tables.insert(name, table);
        Ok(())
    }

    fn insert(&mut self, insert: &Insert) -> Outcome {
        let TableObject::TableName(name) = &insert.table else {
            return Err("a table that is no name".to_owned());
        };
        let name = name_of(name);
        if insert.or.is_some() || insert.replace_into || insert.overwrite || insert.on.is_some() {
            return Err("a row that replaces another".to_owned());
        }
        let source = insert.source.as_ref().ok_or("nothing to insert")?;
        let schema = Arc::clone(&self.table(&name)?.schema);
        let places = places(&schema, &insert.columns)?;
        if let SetExpr::Values(values) = &*source.body {
            for row in &values.rows {
                let value = |place: &Option<usize>| {
                    place.and_then(|at| row.get(at)).map_or("NULL".to_owned(), ToString::to_string)
                };
                let row = places.iter().map(value).collect::<Vec<String>>().join(", ");
                self.table(&name)?.pending.push(format!("({row})"));
            }
            return Ok(());
        }
        self.fill(&name)?;
        let found = self.rows(&source.to_string())?;
        let columns: Vec<ArrayRef> = places
            .iter()
            .zip(schema.fields())
            .map(|(place, field)| match place.and_then(|at| found.columns().get(at)) {
                Some(column) => Arc::clone(column),
                None => arrow::array::new_null_array(field.data_type(), found.num_rows()),
            })
            .collect();
        let rows = conformed(&columns, &schema)?;
        let table = self.table(&name)?;
        table.batches.push(rows);
        self.changed(&name);
        Ok(())
    }

    fn delete(&mut self, delete: &Delete) -> Outcome {
        let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
        let [from] = from.as_slice() else { return Err("several tables".to_owned()) };
        let name = factor_name(&from.relation)?;
        let rest = match &delete.selection {
            Some(condition) => format!("SELECT * FROM {name} WHERE ({condition}) IS NOT TRUE"),
            None => format!("SELECT * FROM {name} WHERE false"),
        };
        self.replace(&name, &rest)
    }

    fn update(&mut self, update: &Update) -> Outcome {
        let name = factor_name(&update.table.relation)?;
        let schema = Arc::clone(&self.table(&name)?.schema);
        let condition = update.selection.as_ref().map_or("true".to_owned(), ToString::to_string);
        let columns = schema.fields().iter().map(|field| {
            let assigned = update.assignments.iter().rfind(|assignment| match &assignment.target {
                AssignmentTarget::ColumnName(column) => name_of(column) == *field.name(),
                AssignmentTarget::Tuple(_) => false,
            });
            let old = format!("\"{}\"", field.name());
            match assigned {
                Some(new) => format!("CASE WHEN {condition} THEN {} ELSE {old} END", new.value),
                None => old,
            }
        });
        let columns: Vec<String> = columns.collect();
        self.replace(&name, &format!("SELECT {} FROM {name}", columns.join(", ")))
    }

    /// Makes the rows of a query those of a table.
    fn replace(&mut self, name: &str, sql: &str) -> Outcome {
        let schema = Arc::clone(&self.table(name)?.schema);
        self.fill(name)?;
        let rows = conformed(self.rows(sql)?.columns(), &schema)?;
        self.table(name)?.batches = vec![rows];
        self.changed(name);
        Ok(())
    }

    fn table(&mut self, name: &str) -> Outcome<&mut Table> {
        self.tables.get_mut(name).ok_or_else(|| format!("there is no table `{name}` here"))
    }

    fn rows(&mut self, sql: &str) -> Outcome<RecordBatch> {
        let batches = self.ask(sql).map_err(|refusal| format!("{refusal:?}"))?;
        concat_batches(&batches[0].schema(), &batches).map_err(|error| error.to_string())
    }

    /// Makes batches of the rows that wait.
    fn fill(&mut self, name: &str) -> Outcome {
        let table = self.table(name)?;
        let (schema, pending) = (Arc::clone(&table.schema), std::mem::take(&mut table.pending));
        for rows in pending.chunks(ROWS_AT_ONCE) {
            let sql = format!("SELECT * FROM (VALUES {})", rows.join(", "));
            let found = self.lakehouse.ask(&sql, true).map_err(|refusal| format!("{refusal:?}"))?;
            for batch in &found {
                let batch = conformed(batch.columns(), &schema)?;
                self.table(name)?.batches.push(batch);
            }
            self.changed(name);
        }
        Ok(())
    }

    fn changed(&mut self, name: &str) {
        if let Some(table) = self.tables.get_mut(name)
            && std::mem::take(&mut table.is_stored)
        {
            self.lakehouse.remove(&layered(name));
        }
    }

    fn drop(&mut self, name: &str) {
        self.changed(name);
        self.tables.remove(name);
        self.views.retain(|(other, _)| other != name);
    }

    /// Puts the table into the lake, if it is not there as it is.
    fn store(&mut self, name: &str) -> Outcome {
        self.fill(name)?;
        let table = self.tables.get_mut(name).expect("it was looked up");
        if !std::mem::replace(&mut table.is_stored, true) {
            let spec = TableSpec {
                name: layered(name),
                columns: Arc::clone(&table.schema),
                time: None,
                partition_by_day: false,
                timezone: Tz::UTC,
                key: Vec::new(),
                doc: None,
                shape: "`kind: full`".to_owned(),
            };
            let mut files: Vec<Option<RecordBatch>> =
                table.batches.iter().cloned().map(Some).collect();
            if files.is_empty() {
                files.push(None);
            }
            self.lakehouse.store(&spec, &files);
        }
        Ok(())
    }
}

/// Its name was read as one when it was made.
fn layered(name: &str) -> TableName {
    format!("silver.{name}").parse().expect("a name")
}

/// The last part of a name, as the planner reads it.
fn name_of(name: &ObjectName) -> String {
    name.0.last().and_then(|part| part.as_ident()).map(text_of).unwrap_or_default()
}

fn text_of(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

fn factor_name(factor: &TableFactor) -> Outcome<String> {
    match factor {
        TableFactor::Table { name, .. } => Ok(name_of(name)),
        _ => Err("no table".to_owned()),
    }
}

/// Which of the inserted values goes into each column.
fn places(schema: &Schema, columns: &[ObjectName]) -> Outcome<Vec<Option<usize>>> {
    if columns.is_empty() {
        return Ok((0..schema.fields().len()).map(Some).collect());
    }
    let columns: Vec<String> = columns.iter().map(name_of).collect();
    match columns.iter().find(|column| schema.field_with_name(column).is_err()) {
        Some(column) => Err(format!("there is no column `{column}`")),
        None => Ok(schema
            .fields()
            .iter()
            .map(|field| columns.iter().position(|column| column == field.name()))
            .collect()),
    }
}

/// The columns as a lake has them: its times are instants in UTC.
fn stored(schema: &Schema) -> Outcome<SchemaRef> {
    let fields = schema.fields().iter().map(|field| {
        let of = match field.data_type() {
            DataType::Timestamp(_, None) => {
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
            }
            other => storable_type(other).map_err(|why| format!("a column {why}"))?,
        };
        Ok(Field::new(field.name(), of, true))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Outcome<Vec<Field>>>()?)))
}

/// Whether values of a type are others in a lake: less than microseconds, zones, times of days.
fn is_changed(of: &DataType) -> bool {
    match of {
        DataType::Timestamp(_, Some(zone)) if !matches!(&**zone, "UTC" | "+00:00") => true,
        DataType::Timestamp(unit, _) => *unit == TimeUnit::Nanosecond,
        DataType::Date64 => true,
        _ => false,
    }
}

fn conformed(columns: &[ArrayRef], schema: &SchemaRef) -> Outcome<RecordBatch> {
    if columns.len() != schema.fields().len() {
        return Err("another number of columns".to_owned());
    }
    let options = CastOptions { safe: false, ..CastOptions::default() };
    let columns = columns
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| cast_with_options(column, field.data_type(), &options));
    let columns = columns.collect::<Result<Vec<ArrayRef>, _>>();
    let columns = columns.map_err(|error| error.to_string())?;
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| error.to_string())
}
