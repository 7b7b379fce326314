//! From field names to columns, and what becomes of names that no column has.

use std::ops::Range;

use jiter::Jiter;

use super::columns;
use super::reject::{Reject, RejectReason, duplicate, malformed, truncated};
use crate::error::Result;
use crate::model::UnknownFields;
use crate::table::Column;

/// Finds columns by field name, trying first the one that followed the previous field last time.
pub(super) struct FieldIndex {
    names: Vec<Box<str>>,
    /// Positions in `names`, sorted by name.
    sorted: Vec<usize>,
    /// The column last seen after each column; one more entry stands for the row's beginning.
    following: Vec<usize>,
    previous: usize,
}

impl FieldIndex {
    /// At first, fields are expected in the order of `columns`.
    pub(super) fn new(columns: &[Column]) -> Self {
        let names: Vec<Box<str>> =
            columns.iter().map(|column| column.name.as_str().into()).collect();
        let mut sorted: Vec<usize> = (0..names.len()).collect();
        sorted.sort_unstable_by(|a, b| names[*a].cmp(&names[*b]));
        let following = (1..names.len()).chain([0, 0]).take(names.len() + 1).collect();
        Self { previous: names.len(), names, sorted, following }
    }

    /// Begins a message, whose first field is expected to be that of the message before.
    pub(super) fn restart(&mut self) {
        self.previous = self.names.len();
    }

    /// The position of the column that is called exactly that, if there is one.
    pub(super) fn find(&mut self, name: &str) -> Option<usize> {
        let predicted = self.following[self.previous];
        let column = match self.names.get(predicted) {
            Some(candidate) if **candidate == *name => predicted,
            _ => {
                let found = self.sorted.binary_search_by(|column| (*self.names[*column]).cmp(name));
                self.sorted[found.ok()?]
            }
        };
        self.following[self.previous] = column;
        self.previous = column;
        Some(column)
    }
}

/// The undeclared fields of one message.
pub(super) struct Unknown {
    policy: UnknownFields,
    /// Names one after the other, and where each is.
    names: String,
    spans: Vec<Range<usize>>,
    /// Under `Rescue`, the object so far, without its closing brace.
    rescued: Vec<u8>,
}

impl Unknown {
    pub(super) fn new(policy: UnknownFields) -> Self {
        Self { policy, names: String::new(), spans: Vec::new(), rescued: Vec::new() }
    }

    /// Forgets the message before; the room is kept.
    pub(super) fn clear(&mut self) {
        self.names.clear();
        self.spans.clear();
        self.rescued.clear();
    }

    /// Takes the name of a field, whose value [`Self::read`] must take next; a reject if none is
    /// allowed.
    pub(super) fn note(&mut self, name: &str) -> Result<(), Reject> {
        if self.policy == UnknownFields::Fail {
            let error = format!("`{}`: no column of that name is declared", truncated(name));
            return Err(Reject::new(RejectReason::UnknownField, error));
        }
        let start = self.names.len();
        self.names.push_str(name);
        self.spans.push(start..self.names.len());
        if self.policy == UnknownFields::Rescue {
            self.rescued.push(if self.rescued.is_empty() { b'{' } else { b',' });
            serde_json::to_writer(&mut self.rescued, name).expect("a vector takes every string");
            self.rescued.push(b':');
        }
        Ok(())
    }

    /// Reads past a value of any type, and keeps its text where unknown fields are rescued.
    pub(super) fn read(&mut self, jiter: &mut Jiter<'_>) -> Result<(), Reject> {
        let peek = jiter.peek()?;
        let value = columns::raw(peek, jiter).map_err(malformed)?;
        if self.policy == UnknownFields::Rescue {
            self.rescued.extend_from_slice(value);
        }
        Ok(())
    }

    /// Sorts, because comparing each name with each would let one message cost minutes.
    pub(super) fn check_duplicates(&mut self) -> Result<(), Reject> {
        let name = |span: &Range<usize>| &self.names[span.clone()];
        self.spans.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        match self.spans.windows(2).find(|pair| name(&pair[0]) == name(&pair[1])) {
            Some(pair) => Err(duplicate(name(&pair[0]))),
            None => Ok(()),
        }
    }

    /// The fields as one JSON object; `None` when there are none.
    pub(super) fn object(&mut self) -> Option<&[u8]> {
        if self.rescued.is_empty() {
            return None;
        }
        self.rescued.push(b'}');
        Some(&self.rescued)
    }
}
