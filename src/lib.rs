//! FlowGuard: Kafka to Delta exactly once, SQL models, queries and lineage in one program.
//! The rooms and the direction of their imports are described in `docs/ARCHITECTURE.md`.

pub mod config;
pub mod dag;
pub mod error;
pub mod interval;
pub mod lineage;
pub mod model;
pub mod source;
pub mod table;
pub mod yaml;
