//! Entry point of the `flowguard` program.

fn main() {}
