//! Who may do what: users, their roles, and what is granted beside them. Proves who somebody is;
//! opens no table and no socket.

mod door;
pub mod edit;
mod failures;
pub mod password;
mod principal;
mod roster;
mod seal;
pub mod token;
mod turns;
pub mod users;

pub use door::Access;
pub use principal::{Grant, Principal, Role};
