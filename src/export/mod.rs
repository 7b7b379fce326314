//! Keeps tables of a warehouse equal to tables of the lake, and proves it. What a target holds is
//! decided from the target's own ledger alone, which moves in the same transaction as the rows.

pub mod calendar;
pub mod canonical;
pub mod change;
mod corpus;
mod destination;
pub mod dialect;
pub mod differing;
mod files;
pub mod history;
pub mod keys;
mod load;
pub mod narrow;
mod pair;
pub mod parity;
mod parts;
mod publish;
mod rows;
pub mod script;
mod shape;
mod side;
mod sql;
pub mod statements;
mod trial;
pub mod zero_copy;

pub use destination::SqlDestination;
pub use files::Files;
pub use pair::Source;
pub use publish::Exported;
pub use side::{Destination, MissingRight};
