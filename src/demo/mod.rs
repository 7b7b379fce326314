//! What the demonstration and the tests feed through the program. Made-up data only: producing it
//! to a broker and running the pipeline over it belong to the rooms that do that for real data.

pub mod events;
mod menu;
