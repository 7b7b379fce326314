//! A text that cannot be printed or serialised by accident.

use std::fmt;

/// What stands for a secret wherever it is shown.
pub const MASK: &str = "********";

/// No `Display`, no `Serialize`; `Debug` prints [`MASK`]. Reading it takes [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for nobody but whom it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}
