//! The one integration-test binary: every test of the built program is a module here.

mod expected;
mod tidy;
