//! The way from a Kafka topic into bronze.

pub mod decode;
