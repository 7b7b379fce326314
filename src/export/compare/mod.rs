//! Whether a target holds what the lake holds, and where it does not. Knows no kinds of targets.

pub mod calendar;
pub mod canonical;
pub mod differing;
pub mod keys;
pub mod narrow;
pub mod parity;
