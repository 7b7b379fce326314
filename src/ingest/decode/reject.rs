//! Why a message is no row: the reasons, and the words for people. Looks at bytes, fills no column.

use jiter::{Jiter, JiterError, JiterErrorType, JsonErrorType, Peek};

use super::columns::{self, Fault};
use crate::table::Column;

/// How much of an offending value or field name an error quotes, in characters.
pub const QUOTED_CHARS_MAX: usize = 64;

/// Why a message is no row. The names are stored in `bronze.dead_letters` and never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectReason {
    Tombstone,
    Empty,
    Oversized,
    Malformed,
    WrongType,
    MissingRequired,
    UnknownField,
}

impl RejectReason {
    pub const ALL: [RejectReason; 7] = [
        RejectReason::Tombstone,
        RejectReason::Empty,
        RejectReason::Oversized,
        RejectReason::Malformed,
        RejectReason::WrongType,
        RejectReason::MissingRequired,
        RejectReason::UnknownField,
    ];

    /// As the dead letters store it.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::Tombstone => "tombstone",
            RejectReason::Empty => "empty",
            RejectReason::Oversized => "oversized",
            RejectReason::Malformed => "malformed",
            RejectReason::WrongType => "wrong_type",
            RejectReason::MissingRequired => "missing_required",
            RejectReason::UnknownField => "unknown_field",
        }
    }
}

/// A message that is no row: data for the dead letters, not an error of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub reason: RejectReason,
    /// For people: the field in backticks, what was expected and what was found; for malformed
    /// bytes where. Behind an escape in the same string, invalid UTF-8 is a few bytes further on
    /// than the position says, because the parser counts unescaped text there.
    pub error: String,
}

impl Reject {
    pub(super) fn new(reason: RejectReason, error: impl Into<String>) -> Self {
        Self { reason, error: error.into() }
    }
}

impl From<JiterError> for Reject {
    fn from(error: JiterError) -> Self {
        let problem = match &error.error_type {
            JiterErrorType::JsonError(JsonErrorType::InvalidUnicodeCodePoint) => {
                "invalid UTF-8".to_owned()
            }
            other => other.to_string(),
        };
        Reject::new(RejectReason::Malformed, format!("{problem} at byte {}", error.index))
    }
}

/// The payload to decode, or the reject if there is none, it is empty, or longer than `bytes_max`.
pub(super) fn bounded_payload(payload: Option<&[u8]>, bytes_max: usize) -> Result<&[u8], Reject> {
    match payload {
        None => Err(Reject::new(RejectReason::Tombstone, "the message has no payload")),
        Some([]) => Err(Reject::new(RejectReason::Empty, "the payload has no bytes")),
        Some(payload) if payload.len() > bytes_max => {
            let error = format!("{} bytes are more than the limit of {bytes_max}", payload.len());
            Err(Reject::new(RejectReason::Oversized, error))
        }
        Some(payload) => Ok(payload),
    }
}

/// The first place where `payload` is not JSON. Reading stops at the first broken rule, so this
/// looks at the rest: whether bytes are JSON must not depend on the columns.
#[cold]
pub(super) fn syntax_error(payload: &[u8]) -> Option<Reject> {
    fn walk(jiter: &mut Jiter<'_>) -> Result<(), JiterError> {
        if jiter.peek()? == Peek::Object {
            // Field by field, so that nesting is counted from the field as it is in a row.
            let mut key = jiter.known_object()?;
            while key.is_some() {
                jiter.next_skip()?;
                key = jiter.next_key()?;
            }
        } else {
            jiter.next_skip()?;
        }
        jiter.finish()
    }
    if let Err(error) = walk(&mut Jiter::new(payload)) {
        return Some(error.into());
    }
    let index = std::str::from_utf8(payload).err()?.valid_up_to();
    Some(malformed(Fault::Utf8 { index }))
}

/// The field's value begins at `start` of `payload`.
#[cold]
pub(super) fn field_reject(column: &Column, fault: Fault, payload: &[u8], start: usize) -> Reject {
    let name = &column.name;
    match fault {
        Fault::Type(detail) => {
            let expected = columns::expectation(column.column_type);
            let found = quote(&payload[start..]);
            let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
            let error = format!("`{name}`: expected {expected}, found {found}{detail}");
            Reject::new(RejectReason::WrongType, error)
        }
        Fault::Null => {
            let error = format!("`{name}`: a value is required, but the field is null");
            Reject::new(RejectReason::MissingRequired, error)
        }
        fault => malformed(fault),
    }
}

/// For faults of bytes that were read as they are, for no column.
pub(super) fn malformed(fault: Fault) -> Reject {
    match fault {
        Fault::Syntax(error) => error.into(),
        Fault::Utf8 { index } => {
            Reject::new(RejectReason::Malformed, format!("invalid UTF-8 at byte {index}"))
        }
        Fault::Type(_) | Fault::Null => unreachable!("raw text is of every type"),
    }
}

pub(super) fn duplicate(name: &str) -> Reject {
    let error = format!("`{}`: the field is there twice", truncated(name));
    Reject::new(RejectReason::Malformed, error)
}

/// The JSON value at the start of `bytes`, shortened.
pub(super) fn quote(bytes: &[u8]) -> String {
    let mut jiter = Jiter::new(bytes);
    let length = match jiter.next_skip() {
        Ok(()) => jiter.current_index(),
        Err(_) => bytes.len(),
    };
    // A character has at most four bytes; no more are looked at, whatever the value's length.
    let head = &bytes[..length.min(4 * (QUOTED_CHARS_MAX + 1))];
    truncated(&String::from_utf8_lossy(head))
}

/// Cut after `QUOTED_CHARS_MAX` characters, which `…` then follows.
pub(super) fn truncated(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
