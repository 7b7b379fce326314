//! What the plan of an interval model does with `$start` and `$end`: which intervals its inputs
//! reach, and whether several intervals can be built by one execution of it. Reads plans; of data,
//! no more than the ends of what is compared.

mod reach;
mod separate;
mod unbound;

pub use self::reach::{is_bound, reached, reached_days};
pub use self::separate::separates;
pub use self::unbound::unbound;
