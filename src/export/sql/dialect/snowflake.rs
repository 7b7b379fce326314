//! Snowflake, by Parquet files that are copied from a stage. Every statement that only Snowflake is
//! given stands here, below the page that documents it. They were run on an emulator and wait for a
//! real account, above all those marked **trap**, where the emulator does not behave alike.

use std::path::Path;

use arrow::datatypes::{DataType, TimeUnit};
use url::Url;
use uuid::Uuid;

use super::words::{Copying, Dialect};
use crate::config::Secret;
use crate::error::{Error, Result};
use crate::warehouse::libraries::{Library, SNOWFLAKE};

/// Text and binary data are declared as long as they may be; without a length they end at 16 and at
/// 8 MiB.
/// <https://docs.snowflake.com/en/sql-reference/data-types-text>
const TEXT: &str = "VARCHAR(134217728)";
const BINARY: &str = "BINARY(67108864)";
/// To the microsecond.
/// <https://docs.snowflake.com/en/sql-reference/data-types-datetime>
const INSTANT: &str = "TIMESTAMP_LTZ(6)";
/// <https://docs.snowflake.com/en/sql-reference/data-types-numeric>
const SCALE_MAX: i8 = 37;

/// Parameters of a target's address, and the driver's options.
/// <https://arrow.apache.org/adbc/current/driver/snowflake.html#client-options>
const PARAMETERS: [(&str, &str); 5] = [
    ("warehouse", "adbc.snowflake.sql.warehouse"),
    ("role", "adbc.snowflake.sql.role"),
    ("protocol", "adbc.snowflake.sql.uri.protocol"),
    ("host", "adbc.snowflake.sql.uri.host"),
    ("port", "adbc.snowflake.sql.uri.port"),
];
/// Parameters that are a login, with its name and option.
const LOGINS: [(&str, &str, &str); 2] = [
    ("private_key", "auth_jwt", "adbc.snowflake.sql.client_option.jwt_private_key"),
    ("token", "auth_oauth", "adbc.snowflake.sql.client_option.auth_token"),
];
/// How long the driver repeats what the server does not answer; its own are minutes and for ever.
const LOGIN_TIMEOUT: &str = "30s";
const REQUEST_TIMEOUT: &str = "120s";

pub struct Snowflake;

impl Dialect for Snowflake {
    fn library(&self) -> &'static Library {
        &SNOWFLAKE
    }

    fn entrypoint(&self) -> Option<&'static str> {
        None
    }

    fn options(&self, place: String) -> Result<Vec<(String, Secret)>> {
        // What cannot be read may hold a password, so it is not repeated.
        let unread = |what: &str| {
            Error::invalid(format!("the address of the Snowflake target {what}")).hint(
                "write uri: snowflake://user:${PASSWORD}@account/database?warehouse=name&role=name",
            )
        };
        let url = Url::parse(&place).map_err(|_| unread("cannot be read"))?;
        let plain = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
            decoded.map(|text| text.into_owned()).map_err(|_| unread("is no text"))
        };
        let account = url.host_str().filter(|_| url.scheme() == "snowflake");
        let account = account.ok_or_else(|| unread("names no account"))?;
        let database = plain(url.path().trim_matches('/'))?;
        if url.username().is_empty() || database.is_empty() || database.contains('/') {
            return Err(unread("names no user or not one database"));
        }
        let mut options = vec![
            ("adbc.snowflake.sql.account".to_owned(), Secret::new(account.to_owned())),
            ("username".to_owned(), Secret::new(plain(url.username())?)),
            ("adbc.snowflake.sql.db".to_owned(), Secret::new(database)),
            (
                "adbc.snowflake.sql.client_option.login_timeout".to_owned(),
                Secret::new(LOGIN_TIMEOUT.to_owned()),
            ),
            (
                "adbc.snowflake.sql.client_option.request_timeout".to_owned(),
                Secret::new(REQUEST_TIMEOUT.to_owned()),
            ),
        ];
        if let Some(password) = url.password() {
            options.push(("password".to_owned(), Secret::new(plain(password)?)));
        }
        for (name, value) in url.query_pairs() {
            let value = Secret::new(value.into_owned());
            if let Some((_, option)) = PARAMETERS.iter().find(|(known, _)| *known == name) {
                options.push(((*option).to_owned(), value));
            } else if let Some((_, login, option)) = LOGINS.iter().find(|l| l.0 == name) {
                let kind = "adbc.snowflake.sql.auth_type".to_owned();
                options.push((kind, Secret::new((*login).to_owned())));
                options.push(((*option).to_owned(), value));
            } else {
                let known = PARAMETERS.iter().map(|known| known.0);
                let known: Vec<&str> = known.chain(LOGINS.iter().map(|login| login.0)).collect();
                return Err(unread(&format!("has the unknown parameter `{name}`"))
                    .hint(format!("known are {}", known.join(", "))));
            }
        }
        Ok(options)
    }

    fn literal(&self, text: &str) -> String {
        literal(text)
    }

    /// Instants without a zone are read in the session's.
    /// <https://docs.snowflake.com/en/sql-reference/sql/alter-session>
    /// <https://docs.snowflake.com/en/sql-reference/parameters#query-tag>
    fn greetings(&self, run: Uuid) -> Vec<String> {
        vec![format!(
            "ALTER SESSION SET TIMEZONE = 'UTC', QUERY_TAG = {}",
            literal(&format!("flowguard {run}"))
        )]
    }

    /// <https://docs.snowflake.com/en/sql-reference/functions/current_version>
    fn version(&self) -> &'static str {
        "CURRENT_VERSION()"
    }

    /// <https://docs.snowflake.com/en/sql-reference/intro-summary-data-types>
    fn column_type(&self, data_type: &DataType) -> Option<String> {
        Some(match data_type {
            DataType::Boolean => "BOOLEAN".to_owned(),
            DataType::Int8 => "NUMBER(3,0)".to_owned(),
            DataType::Int16 => "NUMBER(5,0)".to_owned(),
            DataType::Int32 => "NUMBER(10,0)".to_owned(),
            DataType::Int64 => "NUMBER(19,0)".to_owned(),
            DataType::Float32 | DataType::Float64 => "FLOAT".to_owned(),
            DataType::Utf8 => "VARCHAR".to_owned(),
            DataType::Binary => "BINARY".to_owned(),
            DataType::Date32 => "DATE".to_owned(),
            DataType::Decimal128(precision, scale) if *scale <= SCALE_MAX => {
                format!("NUMBER({precision},{scale})")
            }
            DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "TIMESTAMP_LTZ".to_owned(),
            _ => return None,
        })
    }

    fn declared(&self, data_type: &DataType) -> Option<String> {
        match data_type {
            DataType::Utf8 => Some(TEXT.to_owned()),
            DataType::Binary => Some(BINARY.to_owned()),
            DataType::Timestamp(_, _) => Some(INSTANT.to_owned()),
            _ => self.column_type(data_type),
        }
    }

    /// <https://docs.snowflake.com/en/sql-reference/sql/alter-table-column>
    fn widens_scale(&self) -> bool {
        false
    }

    /// <https://docs.snowflake.com/en/sql-reference/info-schema/columns>
    fn columns_of(&self, schema: &str, table: &str) -> String {
        format!(
            "SELECT column_name, CASE data_type WHEN 'TEXT' THEN 'VARCHAR' \
             WHEN 'NUMBER' THEN 'NUMBER(' || numeric_precision || ',' || numeric_scale || ')' \
             ELSE data_type END AS spelled FROM information_schema.columns \
             WHERE table_schema = {} AND table_name = {} ORDER BY ordinal_position",
            literal(schema),
            literal(table)
        )
    }

    /// <https://docs.snowflake.com/en/sql-reference/functions/hex_encode>
    /// <https://docs.snowflake.com/en/sql-reference/functions/datediff>
    /// <https://docs.snowflake.com/en/sql-reference/functions/date_part>
    /// **trap**: a NUMBER's text has all digits of its scale, with a zero before the point.
    fn text(&self, column: &str, data_type: &DataType) -> String {
        match data_type {
            DataType::Utf8 => column.to_owned(),
            DataType::Binary => format!("HEX_ENCODE({column}, 0)"),
            DataType::Date32 => {
                format!("CAST(DATEDIFF('day', DATE '1970-01-01', {column}) AS VARCHAR)")
            }
            DataType::Timestamp(_, _) => {
                format!("CAST(DATE_PART(EPOCH_MICROSECOND, {column}) AS VARCHAR)")
            }
            // Right also where that zero is not written.
            DataType::Decimal128(precision, scale)
                if i16::from(*precision) == i16::from(*scale) =>
            {
                format!(
                    "CASE WHEN {column} < 0 THEN '-0.' ELSE '0.' END \
                     || SPLIT_PART(CAST({column} AS VARCHAR), '.', 2)"
                )
            }
            _ => format!("CAST({column} AS VARCHAR)"),
        }
    }

    /// Instants arrive as microseconds, because the driver makes 1970 of a null.
    fn fetched(&self, column: &str, data_type: &DataType) -> String {
        match data_type {
            DataType::Timestamp(_, _) => format!("DATE_PART(EPOCH_MICROSECOND, {column})"),
            _ => column.to_owned(),
        }
    }

    /// <https://docs.snowflake.com/en/sql-reference/functions/octet_length>
    fn octets(&self, text: &str) -> String {
        format!("OCTET_LENGTH({text})")
    }

    /// <https://docs.snowflake.com/en/sql-reference/functions/md5>
    /// <https://docs.snowflake.com/en/sql-reference/functions/to_decimal>
    fn hash(&self, text: &str) -> String {
        format!("TO_NUMBER(SUBSTR(MD5({text}), 1, 15), 'XXXXXXXXXXXXXXX')")
    }

    /// NaN is above all others.
    /// <https://docs.snowflake.com/en/sql-reference/data-types-numeric#special-values>
    fn is_finite(&self, column: &str) -> String {
        format!("({column} > CAST('-inf' AS FLOAT) AND {column} < CAST('inf' AS FLOAT))")
    }

    /// <https://docs.snowflake.com/en/sql-reference/functions/to_timestamp>
    fn instant(&self, micros: i64) -> String {
        format!("TO_TIMESTAMP_LTZ({micros}, 6)")
    }

    fn takes_zero_bytes(&self) -> bool {
        true
    }

    /// <https://docs.snowflake.com/en/sql-reference/identifiers-syntax>
    fn name_bytes_max(&self) -> Option<usize> {
        Some(255)
    }

    /// Which roles may do what is in no view that everybody sees; what a role cannot do without is.
    /// <https://docs.snowflake.com/en/sql-reference/functions/current_warehouse>
    fn missing_rights(&self, _tables: &[(String, String)], _updated: &str) -> Option<String> {
        let grant = |what: &str, function: &str| {
            format!(
                "SELECT 'USAGE on the {what} of the address', 'GRANT USAGE ON {what} <name> TO ROLE ' \
                 || CURRENT_ROLE() FROM (SELECT 1 AS one) AS o WHERE {function} IS NULL"
            )
        };
        Some(format!(
            "{} UNION ALL {}",
            grant("WAREHOUSE", "CURRENT_WAREHOUSE()"),
            grant("DATABASE", "CURRENT_DATABASE()")
        ))
    }

    fn copying(&self) -> Option<&dyn Copying> {
        Some(self)
    }
}

/// A text literal, in which a backslash begins an escape.
/// <https://docs.snowflake.com/en/sql-reference/data-types-text#escape-sequences-in-single-quoted-string-constants>
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

impl Copying for Snowflake {
    /// Without fail-safe storage, which rows on their way do not need.
    /// <https://docs.snowflake.com/en/user-guide/tables-temp-transient>
    fn create_table(&self) -> &'static str {
        "CREATE TRANSIENT TABLE"
    }

    /// Ends with the session, so that nobody's death leaves one.
    /// <https://docs.snowflake.com/en/sql-reference/sql/create-stage>
    fn create_stage(&self, stage: &str) -> String {
        format!("CREATE TEMPORARY STAGE {stage}")
    }

    /// <https://docs.snowflake.com/en/sql-reference/sql/put>
    fn put(&self, file: &Path, stage: &str) -> String {
        let file = literal(&format!("file://{}", file.display()));
        format!("PUT {file} @{stage} AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE")
    }

    /// **trap**: without USE_LOGICAL_TYPE instants are read as local times; without BINARY_AS_TEXT =
    /// FALSE bytes are read as text; without NULL_IF = () the text `\N` is read as null. A column
    /// whose name matches none is loaded as nulls, which the proof finds.
    /// <https://docs.snowflake.com/en/sql-reference/sql/copy-into-table>
    fn copy(&self, table: &str, stage: &str, files: &[&str]) -> String {
        let files: Vec<String> = files.iter().map(|file| literal(file)).collect();
        format!(
            "COPY INTO {table} FROM @{stage} FILES = ({}) FILE_FORMAT = (TYPE = PARQUET \
             USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE NULL_IF = ()) \
             MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE ON_ERROR = ABORT_STATEMENT",
            files.join(", ")
        )
    }

    /// <https://docs.snowflake.com/en/sql-reference/sql/drop-stage>
    fn drop_stage(&self, stage: &str) -> String {
        format!("DROP STAGE IF EXISTS {stage}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_in_a_literal_is_none_of_an_escape() {
        assert_eq!(literal(r"C:\new 'x'\"), r"'C:\\new ''x''\\'");
        let put = Snowflake.put(Path::new(r"/tmp/a\b.parquet"), "s");
        assert!(put.starts_with(r"PUT 'file:///tmp/a\\b.parquet' @s "), "{put}");
    }

    fn options(place: &str) -> Result<Vec<(String, String)>> {
        let options = Snowflake.options(place.to_owned())?.into_iter();
        Ok(options.map(|(key, value)| (key, value.expose().to_owned())).collect())
    }

    #[test]
    fn an_address_names_the_login() {
        let place = "snowflake://me:ge%2Fheim@org-acc_1/LAKE?warehouse=LOAD_WH&role=LOADER";
        let found = options(place).unwrap();
        for (key, value) in [
            ("adbc.snowflake.sql.account", "org-acc_1"),
            ("username", "me"),
            ("password", "ge/heim"),
            ("adbc.snowflake.sql.db", "LAKE"),
            ("adbc.snowflake.sql.warehouse", "LOAD_WH"),
            ("adbc.snowflake.sql.role", "LOADER"),
        ] {
            assert!(found.contains(&(key.to_owned(), value.to_owned())), "{key}: {found:?}");
        }
        let found = options("snowflake://me@acc/LAKE?private_key=/keys/me.p8").unwrap();
        assert!(found.contains(&("adbc.snowflake.sql.auth_type".into(), "auth_jwt".into())));
        assert!(
            found
                .iter()
                .any(|(key, value)| key.ends_with("jwt_private_key") && value == "/keys/me.p8")
        );
        let found = options("snowflake://me@acc/LAKE?token=abc").unwrap();
        assert!(found.contains(&("adbc.snowflake.sql.auth_type".into(), "auth_oauth".into())));
    }

    #[test]
    fn an_address_that_cannot_be_read_is_not_repeated() {
        for place in [
            "snowflake://me:geheim@/LAKE",
            "snowflake://me:geheim@acc",
            "snowflake://me:geheim@acc/LAKE/x",
            "postgresql://me:geheim@acc/LAKE",
            "geheim",
        ] {
            let error = options(place).unwrap_err();
            assert!(error.message.starts_with("the address of the Snowflake target"), "{error}");
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
        let error = options("snowflake://me:geheim@acc/LAKE?rolle=X").unwrap_err();
        assert!(error.message.ends_with("has the unknown parameter `rolle`"), "{}", error.message);
    }
}
