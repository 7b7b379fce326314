//! Keeps tables of a warehouse equal to tables of the lake, and proves it. What a target holds is
//! decided from the target's own ledger alone, which moves in the same transaction as the rows.

pub mod canonical;
pub mod change;
mod corpus;
mod destination;
pub mod dialect;
pub mod differing;
pub mod history;
pub mod narrow;
mod pair;
pub mod parity;
mod publish;
mod rows;
mod shape;
mod trial;

pub use destination::Destination;
pub use pair::Source;
pub use publish::Exported;
pub use trial::MissingRight;
