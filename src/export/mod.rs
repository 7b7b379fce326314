//! Keeps tables of a warehouse equal to tables of the lake, and proves it. What a target holds is
//! decided from the target's own ledger alone, which moves in the same transaction as the rows.

pub mod change;
pub mod compare;
mod files;
pub mod history;
pub mod open;
mod pair;
mod publish;
mod rows;
pub mod run;
pub mod selection;
mod side;
pub mod sql;

pub use files::Files;
pub use pair::Source;
pub use publish::Exported;
pub use side::{Destination, MissingRight};
