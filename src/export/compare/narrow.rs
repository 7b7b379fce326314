//! In which intervals two sides differ: one pass over the lake, one grouped statement of the target.

use std::collections::BTreeSet;

use super::calendar::Calendar;
use super::canonical::Proof;
use crate::error::Result;
use crate::export::pair::{Pair, Source};
use crate::export::rows::RowSource;
use crate::export::side::Destination;
use crate::interval::{MICROS_PER_DAY, Range};

/// One interval whose rows are not the same on both sides.
#[derive(Debug, Clone)]
pub struct DifferingInterval {
    /// `None` holds the rows without a time, which no interval has.
    pub range: Option<Range>,
    /// The larger number of both sides.
    pub rows: u64,
    /// In words.
    pub differences: Vec<String>,
}

/// In order of time; `None` if the table has no intervals, or too many.
pub async fn differing_intervals(
    source: &Source,
    to: &mut Destination,
    pair: &Pair<'_>,
) -> Result<Option<Vec<DifferingInterval>>> {
    let Some(calendar) = Calendar::of(pair) else { return Ok(None) };
    let mut rows = RowSource::open(source, pair, None).await?;
    let Some(lake) = calendar.prove(pair, rows.batches()).await? else { return Ok(None) };
    let width = width_of(lake.keys().flatten());
    let Some(target) = to.interval_proofs(pair, &calendar, width).await? else { return Ok(None) };
    let empty = Proof::new(&pair.columns);
    let ranges: BTreeSet<&Option<Range>> = lake.keys().chain(target.keys()).collect();
    let differing = ranges.into_iter().filter_map(|range| {
        let own = lake.get(range).unwrap_or(&empty);
        let theirs = target.get(range).unwrap_or(&empty);
        let differences = own.differences(theirs, &pair.columns);
        let rows = own.rows.max(theirs.rows);
        (!differences.is_empty()).then_some(DifferingInterval { range: *range, rows, differences })
    });
    Ok(Some(differing.collect()))
}

/// The widest step that every bound of the lake's intervals is a multiple of: the target groups by
/// it and needs no calendar, and none of its groups straddles an interval of the lake.
fn width_of<'a>(ranges: impl Iterator<Item = &'a Range>) -> i64 {
    let bounds = ranges.flat_map(|range| [range.start.0, range.end.0]);
    bounds.fold(MICROS_PER_DAY, |width, bound| {
        let (mut one, mut other) = (width, bound.abs());
        while other != 0 {
            (one, other) = (other, one % other);
        }
        one
    })
}

#[cfg(test)]
mod tests {
    use chrono_tz::Tz;

    use super::*;
    use crate::interval::{Every, Instant};

    #[test]
    fn no_step_of_the_target_straddles_an_interval_of_the_lake() {
        let width = |every: Every, timezone: Tz, times: &[&str]| {
            let at = |text: &&str| Instant::parse(text, Tz::UTC).unwrap();
            let ranges: Vec<Range> =
                times.iter().map(|time| every.interval_of(at(time), timezone)).collect();
            width_of(ranges.iter()) / 60_000_000
        };
        let times = ["2026-01-05", "2026-07-05", "1969-06-01"];
        assert_eq!(width(Every::Day, Tz::UTC, &times), 24 * 60);
        assert_eq!(width(Every::Month, Tz::UTC, &times), 24 * 60);
        assert_eq!(width(Every::Hours(6), Tz::UTC, &times), 6 * 60);
        assert_eq!(width(Every::Day, Tz::Europe__Rome, &times), 60);
        assert_eq!(width(Every::Day, Tz::Asia__Kathmandu, &times), 15);
    }
}
