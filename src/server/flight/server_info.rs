//! What the server tells about itself: SqlInfo, which drivers ask for what SQL may hold, and the
//! list of types.

use std::collections::HashMap;

use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{
    Nullable, Searchable, SqlInfo, SqlNullOrdering, SqlOuterJoinsSupportLevel,
    SqlSupportedCaseSensitivity, SqlSupportedGroupBy, SqlSupportedResultSetConcurrency,
    SqlSupportedResultSetType, SqlSupportedSubqueries, SqlSupportedTransaction, SqlSupportedUnions,
    SqlSupportsConvert, SqlTransactionIsolationLevel, SupportedSqlGrammar, XdbcDataType,
    XdbcDatetimeSubcode,
};

use super::prepared;
use crate::error::{Error, Result};
use crate::statements::SQL_BYTES_MAX;
use crate::table::NAME_BYTES_MAX;

/// Of the columnar format, as drivers show it.
const ARROW_VERSION: &str = "59";
/// ANSI SQL-92 at entry level.
const ANSI92_ENTRY: i32 = 1;

/// The same for every caller.
pub fn sql_info() -> Result<SqlInfoData> {
    let mut info = SqlInfoDataBuilder::new();
    about_the_server(&mut info);
    about_names(&mut info);
    about_statements(&mut info);
    about_limits(&mut info);
    about_transactions(&mut info);
    info.build().map_err(|source| Error::internal("SqlInfo cannot be built").source(source))
}

fn about_the_server(info: &mut SqlInfoDataBuilder) {
    info.append(SqlInfo::FlightSqlServerName, "FlowGuard");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, ARROW_VERSION);
    info.append(SqlInfo::FlightSqlServerReadOnly, true);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    info.append(SqlInfo::FlightSqlServerTransaction, SqlSupportedTransaction::None as i32);
    info.append(SqlInfo::FlightSqlServerCancel, true);
    info.append(SqlInfo::FlightSqlServerBulkIngestion, false);
    info.append(SqlInfo::FlightSqlServerIngestTransactionsSupported, false);
    let statement_ms = i32::try_from(prepared::LIFE_MICROS / 1_000).unwrap_or(i32::MAX);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, statement_ms);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0);
}

fn about_names(info: &mut SqlInfoDataBuilder) {
    info.append(SqlInfo::SqlDdlCatalog, false);
    info.append(SqlInfo::SqlDdlSchema, false);
    info.append(SqlInfo::SqlDdlTable, false);
    let lowercase = SqlSupportedCaseSensitivity::SqlCaseSensitivityLowercase as i32;
    info.append(SqlInfo::SqlIdentifierCase, lowercase);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    // Quoted names are taken as they are written, for which the protocol has no word.
    let unknown = SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32;
    info.append(SqlInfo::SqlQuotedIdentifierCase, unknown);
    info.append(SqlInfo::SqlAllTablesAreSelectable, true);
    info.append(SqlInfo::SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32);
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlExtraNameCharacters, "");
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlCatalogAtStart, true);
    info.append(SqlInfo::SqlSchemasSupportedActions, 0);
    info.append(SqlInfo::SqlCatalogsSupportedActions, 0);
    let functions: [(SqlInfo, &[&str]); 5] = [
        (SqlInfo::SqlKeywords, &["QUALIFY", "ANTI", "SEMI", "EXCLUDE", "REPLACE", "UNNEST"]),
        (
            SqlInfo::SqlNumericFunctions,
            &["ABS", "CEIL", "EXP", "FLOOR", "LN", "LOG10", "POWER", "ROUND", "SIGN", "SQRT"],
        ),
        (
            SqlInfo::SqlStringFunctions,
            &["CONCAT", "LENGTH", "LOWER", "LTRIM", "REPLACE", "RTRIM", "SUBSTRING", "UPPER"],
        ),
        (SqlInfo::SqlSystemFunctions, &["COALESCE", "NULLIF"]),
        (
            SqlInfo::SqlDatetimeFunctions,
            &["CURRENT_DATE", "DATE_BIN", "DATE_PART", "DATE_TRUNC", "NOW", "TO_TIMESTAMP"],
        ),
    ];
    for (name, words) in functions {
        info.append(name, words);
    }
}

fn about_statements(info: &mut SqlInfoDataBuilder) {
    for yes in [
        SqlInfo::SqlSupportsColumnAliasing,
        SqlInfo::SqlNullPlusNullIsNull,
        SqlInfo::SqlSupportsTableCorrelationNames,
        SqlInfo::SqlSupportsExpressionsInOrderBy,
        SqlInfo::SqlSupportsOrderByUnrelated,
        SqlInfo::SqlSupportsLikeEscapeClause,
        SqlInfo::SqlSupportsNonNullableColumns,
        SqlInfo::SqlCorrelatedSubqueriesSupported,
        SqlInfo::SqlNamedParametersSupported,
    ] {
        info.append(yes, true);
    }
    for no in [
        SqlInfo::SqlSupportsDifferentTableCorrelationNames,
        SqlInfo::SqlSupportsIntegrityEnhancementFacility,
        SqlInfo::SqlSelectForUpdateSupported,
        SqlInfo::SqlStoredProceduresSupported,
        SqlInfo::SqlBatchUpdatesSupported,
        SqlInfo::SqlSavepointsSupported,
        SqlInfo::SqlLocatorsUpdateCopy,
        SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported,
    ] {
        info.append(no, false);
    }
    info.append(
        SqlInfo::SqlSupportedGroupBy,
        bits(&[
            SqlSupportedGroupBy::SqlGroupByUnrelated as i32,
            SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32,
        ]),
    );
    let minimum = SupportedSqlGrammar::SqlMinimumGrammar as i32;
    let core = SupportedSqlGrammar::SqlCoreGrammar as i32;
    info.append(SqlInfo::SqlSupportedGrammar, bits(&[minimum, core]));
    info.append(SqlInfo::SqlAnsi92SupportedLevel, ANSI92_ENTRY);
    info.append(
        SqlInfo::SqlOuterJoinsSupportLevel,
        bits(&[
            SqlOuterJoinsSupportLevel::SqlLimitedOuterJoins as i32,
            SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32,
        ]),
    );
    info.append(SqlInfo::SqlSupportedPositionedCommands, 0);
    info.append(
        SqlInfo::SqlSupportedSubqueries,
        bits(&[
            SqlSupportedSubqueries::SqlSubqueriesInComparisons as i32,
            SqlSupportedSubqueries::SqlSubqueriesInExists as i32,
            SqlSupportedSubqueries::SqlSubqueriesInIns as i32,
        ]),
    );
    info.append(
        SqlInfo::SqlSupportedUnions,
        bits(&[SqlSupportedUnions::SqlUnion as i32, SqlSupportedUnions::SqlUnionAll as i32]),
    );
    info.append(SqlInfo::SqlSupportsConvert, conversions());
}

/// From and to which types CAST goes.
fn conversions() -> HashMap<i32, Vec<i32>> {
    let numbers = [
        SqlSupportsConvert::SqlConvertBigint,
        SqlSupportsConvert::SqlConvertDecimal,
        SqlSupportsConvert::SqlConvertFloat,
        SqlSupportsConvert::SqlConvertInteger,
        SqlSupportsConvert::SqlConvertReal,
        SqlSupportsConvert::SqlConvertSmallint,
        SqlSupportsConvert::SqlConvertTinyint,
    ]
    .map(|number| number as i32);
    let text = SqlSupportsConvert::SqlConvertVarchar as i32;
    let date = SqlSupportsConvert::SqlConvertDate as i32;
    let timestamp = SqlSupportsConvert::SqlConvertTimestamp as i32;
    let mut conversions = HashMap::new();
    for number in numbers {
        conversions.insert(number, [numbers.as_slice(), &[text]].concat());
    }
    conversions.insert(text, [numbers.as_slice(), &[text, date, timestamp]].concat());
    conversions.insert(date, vec![text, date, timestamp]);
    conversions.insert(timestamp, vec![text, date, timestamp]);
    conversions
}

/// 0 is no limit, or none that is known.
fn about_limits(info: &mut SqlInfoDataBuilder) {
    for unlimited in [
        SqlInfo::SqlMaxBinaryLiteralLength,
        SqlInfo::SqlMaxCharLiteralLength,
        SqlInfo::SqlMaxColumnsInGroupBy,
        SqlInfo::SqlMaxColumnsInIndex,
        SqlInfo::SqlMaxColumnsInOrderBy,
        SqlInfo::SqlMaxColumnsInSelect,
        SqlInfo::SqlMaxColumnsInTable,
        SqlInfo::SqlMaxConnections,
        SqlInfo::SqlMaxCursorNameLength,
        SqlInfo::SqlMaxIndexLength,
        SqlInfo::SqlMaxProcedureNameLength,
        SqlInfo::SqlMaxCatalogNameLength,
        SqlInfo::SqlMaxRowSize,
        SqlInfo::SqlMaxStatements,
        SqlInfo::SqlMaxTablesInSelect,
        SqlInfo::SqlMaxUsernameLength,
    ] {
        info.append(unlimited, 0_i64);
    }
    let name_max = i64::try_from(NAME_BYTES_MAX).unwrap_or(0);
    info.append(SqlInfo::SqlMaxColumnNameLength, name_max);
    info.append(SqlInfo::SqlDbSchemaNameLength, name_max);
    info.append(SqlInfo::SqlMaxTableNameLength, name_max);
    info.append(SqlInfo::SqlMaxRowSizeIncludesBlobs, true);
    info.append(SqlInfo::SqlMaxStatementLength, i64::try_from(SQL_BYTES_MAX).unwrap_or(0));
}

fn about_transactions(info: &mut SqlInfoDataBuilder) {
    let none = SqlTransactionIsolationLevel::SqlTransactionNone as i32;
    // The JDBC driver reads this one as a long.
    info.append(SqlInfo::SqlDefaultTransactionIsolation, i64::from(none));
    info.append(SqlInfo::SqlTransactionsSupported, false);
    info.append(SqlInfo::SqlSupportedTransactionsIsolationLevels, bits(&[none]));
    info.append(SqlInfo::SqlDataDefinitionCausesTransactionCommit, false);
    info.append(SqlInfo::SqlDataDefinitionsInTransactionsIgnored, false);
    let forward = SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32;
    info.append(SqlInfo::SqlSupportedResultSetTypes, bits(&[forward]));
    let read_only = SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32;
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetUnspecified, 0);
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetForwardOnly, bits(&[read_only]));
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollSensitive, 0);
    info.append(SqlInfo::SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0);
}

fn bits(numbers: &[i32]) -> i32 {
    numbers.iter().fold(0, |mask, number| mask | 1 << number)
}

pub fn types() -> Result<XdbcTypeInfoData> {
    let mut types = XdbcTypeInfoDataBuilder::new();
    for (name, kind, digits) in [
        ("TINYINT", XdbcDataType::XdbcTinyint, 3),
        ("SMALLINT", XdbcDataType::XdbcSmallint, 5),
        ("INTEGER", XdbcDataType::XdbcInteger, 10),
        ("BIGINT", XdbcDataType::XdbcBigint, 19),
        ("REAL", XdbcDataType::XdbcReal, 7),
        ("DOUBLE", XdbcDataType::XdbcDouble, 15),
    ] {
        types.append(number(name, kind, digits));
    }
    types.append(XdbcTypeInfo {
        create_params: Some(vec!["precision".to_owned(), "scale".to_owned()]),
        minimum_scale: Some(0),
        maximum_scale: Some(38),
        ..number("DECIMAL", XdbcDataType::XdbcDecimal, 38)
    });
    types.append(plain("BOOLEAN", XdbcDataType::XdbcBit, 1));
    types.append(XdbcTypeInfo {
        case_sensitive: true,
        ..quoted("VARCHAR", XdbcDataType::XdbcVarchar, i32::MAX)
    });
    types.append(XdbcTypeInfo {
        literal_prefix: Some("X'".to_owned()),
        literal_suffix: Some("'".to_owned()),
        ..plain("VARBINARY", XdbcDataType::XdbcVarbinary, i32::MAX)
    });
    types.append(quoted("DATE", XdbcDataType::XdbcDate, 10));
    types.append(quoted("TIME", XdbcDataType::XdbcTime, 15));
    let timestamp = quoted("TIMESTAMP", XdbcDataType::XdbcTimestamp, 26);
    types.append(XdbcTypeInfo {
        datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeTimestamp),
        sql_data_type: XdbcDataType::XdbcDatetime,
        ..timestamp.clone()
    });
    types.append(XdbcTypeInfo {
        type_name: "TIMESTAMP WITH TIME ZONE".to_owned(),
        local_type_name: Some("TIMESTAMP WITH TIME ZONE".to_owned()),
        datetime_subcode: Some(XdbcDatetimeSubcode::XdbcSubcodeTimestampWithTimezone),
        sql_data_type: XdbcDataType::XdbcDatetime,
        ..timestamp
    });
    types.build().map_err(|source| Error::internal("the types cannot be listed").source(source))
}

fn plain(name: &str, data_type: XdbcDataType, size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        type_name: name.to_owned(),
        local_type_name: Some(name.to_owned()),
        data_type,
        sql_data_type: data_type,
        column_size: Some(size),
        nullable: Nullable::NullabilityNullable,
        searchable: Searchable::Full,
        ..XdbcTypeInfo::default()
    }
}

fn quoted(name: &str, data_type: XdbcDataType, size: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        literal_prefix: Some("'".to_owned()),
        literal_suffix: Some("'".to_owned()),
        ..plain(name, data_type, size)
    }
}

fn number(name: &str, data_type: XdbcDataType, digits: i32) -> XdbcTypeInfo {
    XdbcTypeInfo {
        unsigned_attribute: Some(false),
        auto_increment: Some(false),
        num_prec_radix: Some(10),
        ..plain(name, data_type, digits)
    }
}
