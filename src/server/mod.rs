//! The ways in for people and their tools: Flight SQL and HTTP. Each is a function over connections
//! that somebody else accepts, and asks `statements` and `access` for everything; nothing is planned,
//! run or decided here.

pub mod flight;
mod gathering;
pub mod health;
pub mod http;
pub mod listen;
pub mod metrics;
pub mod strangers;
pub mod tls;
