//! FlowGuard: Kafka to Delta exactly once, SQL models, queries and lineage in one program.
//! The rooms and the direction of their imports are described in `docs/ARCHITECTURE.md`.

#![cfg_attr(test, allow(clippy::too_many_lines))]

pub mod access;
pub mod app;
pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dag;
pub mod demo;
pub mod dlq;
pub mod engine;
pub mod error;
pub mod export;
pub mod ingest;
pub mod interval;
pub mod kafka;
pub mod lake;
pub mod lineage;
pub mod model;
pub mod remote;
pub mod retry;
pub mod runner;
pub mod server;
pub mod source;
pub mod statements;
pub mod table;
pub mod typecheck;
pub mod warehouse;
pub mod yaml;
