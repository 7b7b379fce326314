//! The one integration-test binary: every test of the built program is a module here.

// The house rules are for the program; a test may panic, print, wait and read its environment.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::unwrap_used
)]

mod access;
mod answers;
mod bad_arguments;
mod blast_radius;
mod certificates;
mod check;
mod checker;
mod cli;
mod clients;
mod clients_in_rust;
mod damaged_files;
mod differential;
mod dlq;
mod expected;
mod export;
mod export_changes;
mod export_deaths;
mod export_faults;
mod export_shapes;
mod export_trial;
mod faulty_store;
mod files;
mod flight;
mod flight_limits;
mod forms;
mod gold;
mod headers;
mod histories;
mod hostile;
mod hostile_corpus;
mod ingest_faults;
mod intervals;
mod kill9;
mod lake;
mod lake_check;
mod leaks;
mod licences;
mod load;
mod memory;
mod parity;
mod partitions;
mod places;
mod planted;
mod policies;
mod program;
mod query;
mod rebalances;
mod refused;
mod remote;
mod rewrites;
mod right_answers;
mod runs;
mod secrets;
mod serve;
mod served;
mod services;
mod shell;
mod spark;
mod sqllogic;
mod stand_in;
mod statistics;
mod store_errors;
mod strangers;
mod terminal;
mod three_roles;
mod tidy;
mod topic_in_memory;
mod topics;
mod traffic;
mod warehouse;
mod workers;
mod zero_copy;
