//! Statements by which Snowflake reads tables of the lake where they are ("Delta Direct"), and why
//! it cannot read some. Connects to nothing. What is known of Snowflake is from its documentation,
//! and a real account must still confirm every statement and every reason here:
//! - <https://docs.snowflake.com/en/user-guide/tables-iceberg-delta-direct>
//! - <https://docs.snowflake.com/en/sql-reference/sql/create-iceberg-table-delta> (usage notes)
//! - <https://docs.snowflake.com/en/sql-reference/sql/create-external-volume>
//! - <https://docs.snowflake.com/en/user-guide/tables-iceberg-s3-compatible>
//! - <https://docs.snowflake.com/en/user-guide/tables-iceberg-configure-catalog-integration-object-storage>

use arrow::datatypes::{DataType, Field};
use url::{Host, Url};

use super::dialect::{quoted, snowflake_literal as literal};
use crate::error::{Error, Result};
use crate::export::pair::newest;
use crate::lake::details::LogDetails;
use crate::lake::spec::DAY_COLUMN;
use crate::lake::{Lake, Snapshot};
use crate::table::TableName;

const READER_VERSION_MAX: i32 = 3;
/// Of the reader features of Delta Lake 4.0, up to which Snowflake reads, those that it names or
/// that change nothing about data files.
const FEATURES_READ: [&str; 12] = [
    "appendOnly",
    "checkConstraints",
    "clustering",
    "deletionVectors",
    "domainMetadata",
    "generatedColumns",
    "identityColumns",
    "inCommitTimestamp",
    "invariants",
    "timestampNtz",
    "v2Checkpoint",
    "vacuumProtocolCheck",
];
/// A refresh goes through so many commits after the newest checkpoint.
const COMMITS_MAX: u64 = 1_000;
const DECIMAL_PRECISION_MAX: u8 = 38;

/// Names that the script gives; both may be changed in it.
const VOLUME: &str = "flowguard_lake";
const INTEGRATION: &str = "flowguard_delta";

/// Statements by which a warehouse reads the tables where they are.
pub struct Script {
    pub text: String,
    /// How many tables cannot be read in place.
    pub refused: usize,
}

/// Of tables, and their schemas and names in Snowflake. `endpoint` is the store's, if it isn't AWS.
pub async fn script(
    lake: &Lake,
    endpoint: Option<&Url>,
    tables: &[(TableName, [String; 2])],
) -> Result<Script> {
    check_reachable(lake.root(), endpoint)?;
    let mut text = preamble(lake.root(), endpoint);
    let mut refused = 0;
    for (name, place) in tables {
        let snapshot = newest(lake, name).await?;
        let details = snapshot.log_details().await?;
        let reasons = reasons(&details, snapshot.schema().fields().iter().map(AsRef::as_ref));
        if reasons.is_empty() {
            text.push_str(&statements(&snapshot, &details, place));
        } else {
            refused += 1;
            text.push_str(&format!("\n-- {name} cannot be read in place:\n"));
            reasons.iter().for_each(|reason| text.push_str(&format!("--   {reason}\n")));
        }
    }
    Ok(Script { text, refused })
}

fn check_reachable(root: &Url, endpoint: Option<&Url>) -> Result<()> {
    let copying = "put the lake into a bucket, or copy the tables: flowguard export run";
    if root.scheme() != "s3" {
        let message = format!("Snowflake cannot reach the lake `{root}`, which is on this machine");
        return Err(Error::invalid(message).hint(copying));
    }
    let Some(endpoint) = endpoint else { return Ok(()) };
    let is_loopback = match endpoint.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => true,
    };
    if is_loopback || endpoint.scheme() != "https" {
        let message = format!("Snowflake cannot reach the store at `{endpoint}`");
        return Err(Error::invalid(message)
            .hint("it needs a public address with TLS; or copy the tables: flowguard export run"));
    }
    Ok(())
}

fn preamble(root: &Url, endpoint: Option<&Url>) -> String {
    let place = root.as_str().trim_start_matches("s3://");
    let location = match endpoint.and_then(Url::host_str) {
        None => format!(
            "    STORAGE_PROVIDER = 'S3'\n    STORAGE_BASE_URL = {}\n    \
             STORAGE_AWS_ROLE_ARN = '<a role that may read the bucket>'\n",
            literal(root.as_str())
        ),
        Some(host) => format!(
            "    STORAGE_PROVIDER = 'S3COMPAT'\n    STORAGE_BASE_URL = {}\n    \
             CREDENTIALS = (AWS_KEY_ID = '<key>' AWS_SECRET_KEY = '<secret>')\n    \
             STORAGE_ENDPOINT = {}\n",
            literal(&format!("s3compat://{place}")),
            literal(host)
        ),
    };
    format!(
        "-- Tables that Snowflake reads where they are. What stands in <> is to be filled in, and the\n\
         -- two names of the first statements may be others. A real account has not confirmed this yet.\n\
         -- https://docs.snowflake.com/en/user-guide/tables-iceberg-delta-direct\n\n\
         -- Once: the lake, read only, so that nothing but FlowGuard writes into it.\n\
         CREATE EXTERNAL VOLUME IF NOT EXISTS {VOLUME}\n  STORAGE_LOCATIONS = ((\n    \
         NAME = 'lake'\n{location}  ))\n  ALLOW_WRITES = FALSE;\n\
         CREATE CATALOG INTEGRATION IF NOT EXISTS {INTEGRATION}\n  CATALOG_SOURCE = OBJECT_STORE\n  \
         TABLE_FORMAT = DELTA\n  ENABLED = TRUE;\n"
    )
}

fn statements(snapshot: &Snapshot, details: &LogDetails, [schema, table]: &[String; 2]) -> String {
    let name = snapshot.name();
    let (files, bytes) = snapshot.size();
    let table = format!("{}.{}", quoted(schema), quoted(table));
    let mut text =
        format!("\n-- {name}: version {}, {files} files, {bytes} bytes", snapshot.version());
    match details.checkpoint {
        Some(version) => text.push_str(&format!(", checkpoint at version {version}\n")),
        None => text.push_str(", no checkpoint\n"),
    }
    if snapshot.schema().column_with_name(DAY_COLUMN).is_some() {
        text.push_str(&format!(
            "-- It is partitioned: Snowflake shows the column {DAY_COLUMN}, and has no streams on it.\n"
        ));
    }
    text.push_str(&format!(
        "CREATE SCHEMA IF NOT EXISTS {};\nCREATE ICEBERG TABLE IF NOT EXISTS {table}\n  \
         EXTERNAL_VOLUME = {}\n  CATALOG = {}\n  BASE_LOCATION = {}\n  AUTO_REFRESH = TRUE;\n",
        quoted(schema),
        literal(VOLUME),
        literal(INTEGRATION),
        literal(&format!("{}/{}/", name.layer, name.name()))
    ));
    let unread = snapshot.version() - details.checkpoint.unwrap_or(0);
    if unread > COMMITS_MAX {
        text.push_str(&format!(
            "-- {unread} commits follow the checkpoint, and {COMMITS_MAX} are read at a time: repeat\n\
             ALTER ICEBERG TABLE {table} REFRESH;\n"
        ));
    }
    text
}

/// Why Snowflake cannot read the table; empty if nothing is known against it.
fn reasons<'a>(details: &LogDetails, fields: impl Iterator<Item = &'a Field>) -> Vec<String> {
    let mut found = Vec::new();
    if details.reader_version > READER_VERSION_MAX {
        found.push(format!(
            "readers must know version {}, Snowflake knows {READER_VERSION_MAX}",
            details.reader_version
        ));
    }
    // Files with field ids are not read, and a mapping of columns is made of them.
    if let Some(mode) = details.column_mapping.as_deref().filter(|mode| *mode != "none") {
        found.push(format!("its columns are mapped by {mode} (delta.columnMapping.mode)"));
    }
    if details.enabled.contains("delta.enableChangeDataFeed") {
        found.push("it writes change data (delta.enableChangeDataFeed)".to_owned());
    }
    if details.enabled.contains("delta.enableRowTracking") {
        found.push("it tracks rows (delta.enableRowTracking)".to_owned());
    }
    // Said above, if they are in use.
    let named = ["columnMapping", "changeDataFeed", "rowTracking"];
    for feature in &details.features {
        if !FEATURES_READ.contains(&feature.as_str()) && !named.contains(&feature.as_str()) {
            found.push(format!(
                "it has the feature {feature}, which Snowflake is not known to read"
            ));
        }
    }
    for field in fields {
        if let Some(data_type) = unread_type(field.data_type()) {
            found.push(format!("column `{}` has the type {data_type}", field.name()));
        }
    }
    found
}

/// The part of a type that Snowflake does not read from Parquet.
fn unread_type(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float16
        | DataType::Interval(_)
        | DataType::Duration(_)
        | DataType::Decimal256(_, _) => Some(data_type),
        DataType::Decimal128(precision, _) if *precision > DECIMAL_PRECISION_MAX => Some(data_type),
        DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => {
            unread_type(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().find_map(|field| unread_type(field.data_type())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{IntervalUnit, TimeUnit};

    use super::*;

    fn found(details: &LogDetails, data_type: DataType) -> Vec<String> {
        reasons(details, [Field::new("c", data_type, true)].iter())
    }

    #[test]
    fn what_snowflake_documents_as_unsupported_is_a_reason() {
        let plain = LogDetails { reader_version: 1, ..LogDetails::default() };
        let time = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(found(&plain, time), Vec::<String>::new());
        let read = LogDetails {
            reader_version: 3,
            features: ["deletionVectors", "clustering", "rowTracking"].map(str::to_owned).into(),
            enabled: ["delta.enableDeletionVectors".to_owned()].into(),
            column_mapping: Some("none".to_owned()),
            checkpoint: None,
        };
        assert_eq!(found(&read, DataType::Utf8), Vec::<String>::new());
        let unread = LogDetails {
            reader_version: 4,
            features: ["columnMapping", "typeWidening"].map(str::to_owned).into(),
            enabled: SWITCHES.map(str::to_owned).into(),
            column_mapping: Some("name".to_owned()),
            checkpoint: Some(20),
        };
        let expected = [
            "readers must know version 4, Snowflake knows 3",
            "its columns are mapped by name (delta.columnMapping.mode)",
            "it writes change data (delta.enableChangeDataFeed)",
            "it tracks rows (delta.enableRowTracking)",
            "it has the feature typeWidening, which Snowflake is not known to read",
            "column `c` has the type Interval(MonthDayNano)",
        ];
        let nested = Field::new("item", DataType::Interval(IntervalUnit::MonthDayNano), true);
        assert_eq!(found(&unread, DataType::List(nested.into())), expected);
    }

    const SWITCHES: [&str; 2] = ["delta.enableChangeDataFeed", "delta.enableRowTracking"];

    #[test]
    fn a_store_that_only_this_machine_reaches_is_refused() {
        let url = |text: &str| Url::parse(text).unwrap();
        let bucket = url("s3://lake/prod/");
        assert!(check_reachable(&bucket, None).is_ok());
        assert!(check_reachable(&bucket, Some(&url("https://s3.example.org"))).is_ok());
        for endpoint in ["http://s3.example.org", "https://127.0.0.1:9000", "https://localhost"] {
            assert!(check_reachable(&bucket, Some(&url(endpoint))).is_err(), "{endpoint}");
        }
        let error = check_reachable(&url("file:///lake/"), None).unwrap_err();
        assert!(error.hint.unwrap().ends_with("flowguard export run"));
    }
}
