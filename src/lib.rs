//! FlowGuard: Kafka to Delta exactly once, SQL models, queries and lineage in one program.
//! The rooms and the direction of their imports are described in `docs/ARCHITECTURE.md`.

pub mod app;
pub mod cli;
pub mod demo;
pub mod engine;
pub mod error;
pub mod ingest;
pub mod interval;
pub mod lake;
pub mod runner;
pub mod table;
pub mod typecheck;
