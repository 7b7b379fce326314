//! Options of a session: the two messages of `Flight.proto` that arrow-flight does not carry, as
//! far as this client needs them. They travel bare in an action's body.

use std::collections::BTreeMap;

use prost::Message;

use crate::error::{Error, Result};
use crate::interval::Instant;

pub const SET_OPTIONS: &str = "SetSessionOptions";

#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(btree_map = "string, message", tag = "1")]
    session_options: BTreeMap<String, TextOption>,
}

/// One of several types that an option may have.
#[derive(Clone, PartialEq, Message)]
struct TextOption {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Outcome {
    #[prost(btree_map = "string, message", tag = "1")]
    errors: BTreeMap<String, OptionError>,
}

#[derive(Clone, PartialEq, Message)]
struct OptionError {
    #[prost(int32, tag = "1")]
    value: i32,
}

/// The body that sets them.
pub fn options(instants: [(&str, Instant); 2]) -> Vec<u8> {
    let option = |(name, instant): (&str, Instant)| {
        (name.to_owned(), TextOption { text: Some(instant.to_string()) })
    };
    Options { session_options: instants.into_iter().map(option).collect() }.encode_to_vec()
}

/// Fails if the server did not take one of them.
pub fn refused(body: &[u8]) -> Result<()> {
    let outcome = Outcome::decode(body)
        .map_err(|source| Error::invalid("the server knows no sessions").source(source))?;
    match outcome.errors.keys().next() {
        Some(name) => Err(Error::invalid(format!("the server takes no `{name}`"))
            .hint("write the instants into the statement")),
        None => Ok(()),
    }
}
