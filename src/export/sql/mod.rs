//! Targets that are asked by SQL, with a dialect per warehouse.

mod corpus;
pub mod destination;
pub mod dialect;
mod history;
mod load;
mod part_files;
pub mod script;
mod shape;
mod side;
mod trial;
pub mod wording;
pub mod zero_copy;
