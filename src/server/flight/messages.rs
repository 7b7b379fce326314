//! Messages of Flight that arrow-flight does not carry yet: sessions, as in the protocol's
//! `Flight.proto`. They travel bare in the body of an action, not inside of an `Any`.

use std::collections::BTreeMap;

use prost::{Message, Oneof};

pub const SET_SESSION_OPTIONS: &str = "SetSessionOptions";
pub const GET_SESSION_OPTIONS: &str = "GetSessionOptions";
pub const CLOSE_SESSION: &str = "CloseSession";

/// Without a value it unsets the option.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOption {
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub value: Option<OptionValue>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum OptionValue {
    #[prost(string, tag = "1")]
    String(String),
    #[prost(bool, tag = "2")]
    Bool(bool),
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    #[prost(double, tag = "4")]
    Double(f64),
    #[prost(message, tag = "5")]
    StringList(StringList),
}

#[derive(Clone, PartialEq, Message)]
pub struct StringList {
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// Also the result of asking for them.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOptions {
    #[prost(btree_map = "string, message", tag = "1")]
    pub session_options: BTreeMap<String, SessionOption>,
}

/// Options that were not set, and why; all others were.
#[derive(Clone, PartialEq, Message)]
pub struct SetSessionOptionsResult {
    #[prost(btree_map = "string, message", tag = "1")]
    pub errors: BTreeMap<String, OptionError>,
}

#[derive(Clone, PartialEq, Message)]
pub struct OptionError {
    #[prost(enumeration = "OptionErrorValue", tag = "1")]
    pub value: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum OptionErrorValue {
    Unspecified = 0,
    InvalidName = 1,
    InvalidValue = 2,
    Error = 3,
}

#[derive(Clone, PartialEq, Message)]
pub struct CloseSessionResult {
    #[prost(enumeration = "CloseStatus", tag = "1")]
    pub status: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum CloseStatus {
    Unspecified = 0,
    Closed = 1,
    Closing = 2,
    NotCloseable = 3,
}
