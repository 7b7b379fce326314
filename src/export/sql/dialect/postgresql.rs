//! PostgreSQL, by binary COPY.

use arrow::datatypes::{DataType, TimeUnit};

use super::words::{Dialect, literal};
use crate::config::Secret;
use crate::error::Result;
use crate::warehouse::libraries::{Library, POSTGRESQL};

pub struct Postgresql;

impl Dialect for Postgresql {
    fn library(&self) -> &'static Library {
        &POSTGRESQL
    }

    fn entrypoint(&self) -> Option<&'static str> {
        None
    }

    fn options(&self, place: String) -> Result<Vec<(String, Secret)>> {
        Ok(vec![("uri".to_owned(), Secret::new(place))])
    }

    fn column_type(&self, data_type: &DataType) -> Option<String> {
        Some(match data_type {
            DataType::Boolean => "boolean".to_owned(),
            DataType::Int8 | DataType::Int16 => "smallint".to_owned(),
            DataType::Int32 => "integer".to_owned(),
            DataType::Int64 => "bigint".to_owned(),
            DataType::Float32 => "real".to_owned(),
            DataType::Float64 => "double precision".to_owned(),
            DataType::Utf8 => "text".to_owned(),
            DataType::Binary => "bytea".to_owned(),
            DataType::Date32 => "date".to_owned(),
            DataType::Decimal128(precision, scale) => format!("numeric({precision},{scale})"),
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => {
                "timestamp with time zone".to_owned()
            }
            _ => return None,
        })
    }

    fn columns_of(&self, schema: &str, table: &str) -> String {
        format!(
            "SELECT a.attname::text, format_type(a.atttypid, a.atttypmod) \
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {} AND c.relname = {} AND a.attnum > 0 AND NOT a.attisdropped \
             ORDER BY a.attnum",
            literal(schema),
            literal(table)
        )
    }

    /// If no index begins with the column, and the table is the user's.
    fn index_of(&self, schema: &str, table: &str, column: &str) -> Option<String> {
        Some(format!(
            "SELECT format('CREATE INDEX ON %I.%I (%I)', n.nspname, c.relname, a.attname) \
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = {} AND c.relname = {} AND a.attname = {} \
             AND pg_has_role(c.relowner, 'USAGE') AND NOT EXISTS \
             (SELECT 1 FROM pg_index i WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum)",
            literal(schema),
            literal(table),
            literal(column)
        ))
    }

    fn text(&self, column: &str, data_type: &DataType) -> String {
        match data_type {
            DataType::Utf8 => column.to_owned(),
            DataType::Binary => format!("encode({column}, 'hex')"),
            DataType::Date32 => format!("CAST({column} - DATE '1970-01-01' AS text)"),
            DataType::Timestamp(_, _) => {
                format!("CAST(CAST(extract(epoch FROM {column}) * 1000000 AS bigint) AS text)")
            }
            _ => format!("CAST({column} AS text)"),
        }
    }

    fn octets(&self, text: &str) -> String {
        format!("octet_length({text})")
    }

    fn hash(&self, text: &str) -> String {
        format!("CAST(CAST('x' || substr(md5({text}), 1, 15) AS bit(60)) AS bigint)")
    }

    fn is_finite(&self, column: &str) -> String {
        format!("({column} > '-Infinity' AND {column} < 'Infinity')")
    }

    fn instant(&self, micros: i64) -> String {
        let (seconds, rest) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        format!("(to_timestamp({seconds}) + INTERVAL '{rest} microseconds')")
    }

    fn takes_zero_bytes(&self) -> bool {
        false
    }

    /// A schema that is missing will be this user's own, with all rights.
    fn missing_rights(&self, tables: &[(String, String)], updated: &str) -> Option<String> {
        let wanted: Vec<String> = tables
            .iter()
            .map(|(schema, table)| format!("({}, {})", literal(schema), literal(table)))
            .collect();
        Some(format!(
            "WITH wanted(schema_name, table_name) AS (VALUES {}), \
             missing(position, privilege, place) AS ( \
             SELECT 1, 'CREATE', format('DATABASE %I', current_database()) \
             WHERE NOT has_database_privilege(current_database(), 'CREATE') \
             AND EXISTS (SELECT FROM wanted WHERE to_regnamespace(quote_ident(schema_name)) IS NULL) \
             UNION SELECT 2, p.name, format('SCHEMA %I', n.nspname) \
             FROM wanted w JOIN pg_namespace n ON n.nspname = w.schema_name \
             CROSS JOIN (VALUES ('USAGE'), ('CREATE')) AS p(name) \
             WHERE NOT has_schema_privilege(n.oid, p.name) \
             UNION SELECT 3, p.name, format('TABLE %I.%I', n.nspname, c.relname) \
             FROM wanted w JOIN pg_namespace n ON n.nspname = w.schema_name \
             JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.table_name \
             CROSS JOIN (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE')) AS p(name) \
             WHERE NOT has_table_privilege(c.oid, p.name) \
             AND (p.name <> 'UPDATE' OR c.relname = {})) \
             SELECT privilege || ' on ' || place, \
             format('GRANT %s ON %s TO %I', privilege, place, current_user) \
             FROM missing ORDER BY position, place, privilege",
            wanted.join(", "),
            literal(updated)
        ))
    }

    fn name_bytes_max(&self) -> Option<usize> {
        Some(63)
    }
}
