//! The one integration-test binary: every test of the built program is a module here.

mod checker;
mod dlq;
mod expected;
mod gold;
mod kill9;
mod planted;
mod policies;
mod program;
mod services;
mod spark;
mod store_errors;
mod traffic;
