//! The one integration-test binary: every test of the built program is a module here.

mod expected;
mod faulty_store;
mod ingest_faults;
mod support;
mod topic_in_memory;
