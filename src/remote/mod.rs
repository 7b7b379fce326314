//! A server of somebody else, asked over Flight SQL: where it is, who asks, and a statement's rows
//! as they arrive. Serves nothing and knows no lake.

mod address;
mod client;
mod session;
mod status;

pub use client::{Client, Reply, Running};
