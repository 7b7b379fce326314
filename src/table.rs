//! Names of tables and types of columns: plain values that every room shares. No Arrow, no lake.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result, did_you_mean};

/// The three layers of the lake; each is a folder of tables and a schema in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    Bronze,
    Silver,
    Gold,
}

impl Layer {
    /// In the order in which rows go through them.
    pub const ALL: [Layer; 3] = [Layer::Bronze, Layer::Silver, Layer::Gold];

    pub fn as_str(self) -> &'static str {
        match self {
            Layer::Bronze => "bronze",
            Layer::Silver => "silver",
            Layer::Gold => "gold",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Layer {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Layer::ALL.into_iter().find(|layer| layer.as_str() == text).ok_or_else(|| {
            let error = Error::invalid(format!("unknown layer `{text}`"));
            match did_you_mean(text, Layer::ALL.map(Layer::as_str)) {
                Some(layer) => error.hint(format!("did you mean `{layer}`?")),
                None => error.hint("layers are `bronze`, `silver` and `gold`"),
            }
        })
    }
}

/// Longest table or column name accepted, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// `layer.name`: lowercase letters, digits and underscores, starting with a letter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    pub layer: Layer,
    name: String,
}

impl TableName {
    /// Fails with a hint when `name` is not a lowercase identifier.
    pub fn new(layer: Layer, name: &str) -> Result<Self> {
        if !is_identifier(name) {
            return Err(Error::invalid(format!("`{name}` is not a table name"))
                .hint("use lowercase letters, digits and underscores, starting with a letter"));
        }
        Ok(Self { layer, name: name.to_owned() })
    }

    /// The part after the layer.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.layer, self.name)
    }
}

impl FromStr for TableName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('.') {
            Some((layer, name)) => Self::new(layer.parse()?, name),
            None => Err(Error::invalid(format!("`{text}` is not a table name"))
                .hint("write it as `layer.table`, such as `gold.daily_metrics`")),
        }
    }
}

/// Lowercase ASCII identifier, at most [`NAME_BYTES_MAX`] long.
pub fn is_identifier(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Type of a declared column, as written in a model header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ColumnType {
    Boolean,
    /// 32-bit signed.
    Int,
    /// 64-bit signed.
    Bigint,
    Double,
    /// Exact; precision 1 to 38, scale 0 to precision.
    Decimal {
        precision: u8,
        scale: i8,
    },
    String,
    Binary,
    Date,
    /// An instant in UTC, to the microsecond.
    Timestamp,
    /// Any JSON value, kept as its text.
    Json,
}

impl ColumnType {
    const SIMPLE: [(&'static str, ColumnType); 9] = [
        ("boolean", ColumnType::Boolean),
        ("int", ColumnType::Int),
        ("bigint", ColumnType::Bigint),
        ("double", ColumnType::Double),
        ("string", ColumnType::String),
        ("binary", ColumnType::Binary),
        ("date", ColumnType::Date),
        ("timestamp", ColumnType::Timestamp),
        ("json", ColumnType::Json),
    ];
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let ColumnType::Decimal { precision, scale } = self {
            return write!(f, "decimal({precision},{scale})");
        }
        let (name, _) = Self::SIMPLE
            .iter()
            .find(|(_, column_type)| column_type == self)
            .expect("every type but decimal is listed");
        f.write_str(name)
    }
}

impl FromStr for ColumnType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Some((_, found)) = Self::SIMPLE.iter().find(|(name, _)| *name == text) {
            return Ok(*found);
        }
        if let Some(arguments) =
            text.strip_prefix("decimal(").and_then(|rest| rest.strip_suffix(')'))
            && let Some((precision, scale)) = arguments.split_once(',')
            && let (Ok(precision), Ok(scale)) =
                (precision.trim().parse::<u8>(), scale.trim().parse::<i8>())
            && (1..=38).contains(&precision)
            && (0..=precision as i8).contains(&scale)
        {
            return Ok(ColumnType::Decimal { precision, scale });
        }
        let error = Error::invalid(format!("unknown column type `{text}`"));
        Err(if text.starts_with("decimal") {
            error.hint("write `decimal(precision,scale)` with 1 ≤ precision ≤ 38 and 0 ≤ scale ≤ precision")
        } else if let Some(name) = did_you_mean(text, Self::SIMPLE.map(|(name, _)| name)) {
            error.hint(format!("did you mean `{name}`?"))
        } else {
            error.hint("types are boolean, int, bigint, double, decimal(p,s), string, binary, date, timestamp, json")
        })
    }
}

/// A declared column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub column_type: ColumnType,
    pub not_null: bool,
    pub doc: Option<String>,
    /// The name that the column had before.
    pub was: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_print_as_they_are_written() {
        for text in ["bronze.orders_raw", "gold.daily_metrics"] {
            assert_eq!(text.parse::<TableName>().unwrap().to_string(), text);
        }
        for text in ["decimal(10,2)", "timestamp", "string", "json"] {
            assert_eq!(text.parse::<ColumnType>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_names_and_types_carry_a_hint() {
        let hint = |error: Error| error.hint.unwrap();
        assert_eq!(hint("glod.a".parse::<TableName>().unwrap_err()), "did you mean `gold`?");
        assert_eq!(
            hint("timestmap".parse::<ColumnType>().unwrap_err()),
            "did you mean `timestamp`?"
        );
        assert!("decimal(39,2)".parse::<ColumnType>().is_err());
        assert!("decimal(4,5)".parse::<ColumnType>().is_err());
        assert!("gold.Daily".parse::<TableName>().is_err());
        assert!("gold./../x".parse::<TableName>().is_err());
    }
}
