//! The manifest: one version of a table as a list of Parquet files. The one with the highest number
//! is what the table holds, and also the target's ledger; `docs/export.md` describes it for readers.

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::export::change::Held;
use crate::export::history::Entry;
use crate::interval::{Instant, Range};

/// Of the form that is written here.
pub const FORMAT: u32 = 1;
/// Folders of a table beside its data files.
pub const MANIFESTS: &str = "_manifest";
/// The folder of entries of the history, beside the manifests of all tables.
pub const HISTORY: &str = "_history";

/// What a table holds in one version: ledger and contents in one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// In the lake, with its id and version there.
    pub table: String,
    pub table_id: String,
    pub version: u64,
    pub rows: u64,
    /// Sum of the files' hashes.
    pub hash: String,
    pub columns: Vec<Column>,
    pub files: Vec<DataFile>,
    /// How it came to be.
    pub export: Entry,
}

/// As readers of the files see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type")]
    pub data_type: String,
}

/// A file of rows, and what proves that it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Below the table's folder.
    pub path: String,
    pub rows: u64,
    pub bytes: u64,
    /// Of the file.
    pub md5: String,
    /// Over the rows, as parity sums it.
    pub hash: String,
    /// The times of all its rows lie within; absent where rows are in no order of time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

impl Manifest {
    /// Refuses what is no manifest, or one of a newer form.
    pub fn read(content: &[u8], name: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let unread = |source: serde_json::Error| {
            Error::invalid(format!("`{name}` is not a manifest of FlowGuard")).source(source)
        };
        let Form { format } = serde_json::from_slice(content).map_err(unread)?;
        if format != FORMAT {
            return Err(Error::invalid(format!(
                "`{name}` has the form {format}, this program knows {FORMAT}"
            ))
            .hint("a newer FlowGuard exports to this target: use that one"));
        }
        serde_json::from_slice(content).map_err(unread)
    }

    /// The version that the files are of.
    pub fn held(&self) -> Held {
        Held { table_id: self.table_id.clone(), version: self.version }
    }
}

impl DataFile {
    /// `None` where nothing is known of its times.
    pub fn range(&self) -> Option<Range> {
        let at = |text: &Option<String>| Instant::parse(text.as_ref()?, chrono_tz::Tz::UTC).ok();
        Range::new(at(&self.start)?, at(&self.end)?).ok()
    }
}

/// In the order of `schema`; the type is empty where no export has it.
pub fn columns(schema: &SchemaRef) -> Vec<Column> {
    let fields = schema.fields().iter();
    let column = |field: &arrow::datatypes::FieldRef| Column {
        name: field.name().clone(),
        data_type: type_name(field.data_type()).unwrap_or_default(),
    };
    fields.map(column).collect()
}

/// As a manifest spells it; `None` for types that no export has.
pub fn type_name(data_type: &DataType) -> Option<String> {
    Some(match data_type {
        DataType::Boolean => "boolean".to_owned(),
        DataType::Int8 => "int8".to_owned(),
        DataType::Int16 => "int16".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::Float32 => "float".to_owned(),
        DataType::Float64 => "double".to_owned(),
        DataType::Utf8 => "string".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp".to_owned(),
        _ => return None,
    })
}

/// As manifests and entries are written.
pub fn json(value: &impl Serialize) -> Result<Bytes> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|source| Error::internal("cannot write JSON").source(source))?;
    Ok(text.into())
}

/// Of a manifest, by its name; `None` for other objects.
pub fn number_of(name: &str) -> Option<u64> {
    let (folder, file) = name.rsplit_once('/')?;
    let digits = file.strip_suffix(".json").filter(|digits| digits.len() == 20)?;
    folder.ends_with(MANIFESTS).then(|| digits.parse().ok())?
}
