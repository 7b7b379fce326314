//! The messages that bronze refused: what is in `bronze.dead_letters`, and the way back into
//! bronze. Ingestion fills the table; nothing here asks Kafka.

pub mod letters;
pub mod replay;
pub mod sift;
