//! The one integration-test binary: every test of the built program is a module here.

// The house rules are for the program; a test may panic, print, wait and read its environment.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used
)]

mod cli;
mod expected;
mod licences;
mod tidy;
