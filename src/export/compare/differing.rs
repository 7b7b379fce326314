//! Which rows two sides do not share, side by side. First only hashes are compared, then the few
//! rows that differ are fetched.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::keys::{Key, Row, Values, Wanted, keyed_digests};
use crate::error::Result;
use crate::export::pair::{Pair, Source};
use crate::export::rows::RowSource;
use crate::export::side::Destination;
use crate::interval::RangeSet;

/// Rows of one side that are compared one by one: some 100 MB of hashes.
pub const ROWS_COMPARED_MAX: u64 = 2_000_000;
/// Keys that are shown.
pub const ROWS_SHOWN_MAX: usize = 10;

/// Rows that are not the same on both sides.
#[derive(Debug, Clone, Default)]
pub struct DifferingRows {
    /// Keys that differ, or rows of a table without a key.
    pub count: u64,
    /// At most as many as are shown, in the order of their keys.
    pub shown: Vec<DifferingRow>,
}

/// Rows of one key, or of a table without one; those that both sides share are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct DifferingRow {
    /// Empty without a key.
    pub key: Values,
    pub lake: Vec<Values>,
    pub target: Vec<Values>,
}

/// Compares the rows within `ranges`, or all.
pub async fn differing_rows(
    source: &Source,
    to: &mut Destination,
    pair: &Pair<'_>,
    ranges: Option<&RangeSet>,
) -> Result<DifferingRows> {
    let key = Key::of(pair);
    let mut tallies: HashMap<u64, Tally> = HashMap::new();
    let mut lake = RowSource::open(source, pair, ranges).await?;
    for (key, digest) in keyed_digests(&key, lake.batches()).await? {
        tallies.entry(key).or_default().add(digest);
    }
    for (key, digest) in to.digests(pair, ranges, &key).await? {
        tallies.entry(key).or_default().subtract(digest);
    }
    tallies.retain(|_, tally| *tally != Tally::default());
    let differing: BTreeSet<u64> = tallies.into_keys().collect();
    let count = differing.len() as u64;
    let shown: BTreeSet<u64> = differing.into_iter().take(ROWS_SHOWN_MAX).collect();
    if shown.is_empty() {
        return Ok(DifferingRows::default());
    }
    let mut sides: BTreeMap<u64, [Vec<Row>; 2]> = BTreeMap::new();
    let wanted = Wanted { key: &key, hashes: &shown };
    let mut lake = RowSource::open(source, pair, ranges).await?;
    for row in wanted.fetch(lake.batches()).await? {
        sides.entry(row.key).or_default()[0].push(row);
    }
    for row in to.rows(pair, ranges, &wanted).await? {
        sides.entry(row.key).or_default()[1].push(row);
    }
    let mut shown: Vec<DifferingRow> =
        sides.into_values().filter_map(|[lake, target]| side_by_side(&key, lake, target)).collect();
    shown.sort_by(|one, other| one.order().cmp(&other.order()));
    Ok(DifferingRows { count, shown })
}

/// The rows of one key: how many more the lake has, and the sum of their digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tally {
    rows: i64,
    digests: u64,
}

impl Tally {
    fn add(&mut self, digest: u64) {
        self.rows += 1;
        self.digests = self.digests.wrapping_add(digest);
    }

    fn subtract(&mut self, digest: u64) {
        self.rows -= 1;
        self.digests = self.digests.wrapping_sub(digest);
    }
}

/// What one side has and the other has not; `None` if that is nothing.
fn side_by_side(key: &Key, mut lake: Vec<Row>, mut target: Vec<Row>) -> Option<DifferingRow> {
    lake.retain(|own| {
        let same = target.iter().position(|theirs| own.is(theirs));
        same.map(|at| target.swap_remove(at)).is_none()
    });
    let first = lake.first().or(target.first())?;
    let key = key.columns.iter().map(|at| first.values[*at].clone()).collect();
    let values = |rows: Vec<Row>| rows.into_iter().map(|row| row.values).collect();
    Some(DifferingRow { key, lake: values(lake), target: values(target) })
}

impl DifferingRow {
    fn order(&self) -> (&Values, Option<&Values>) {
        (&self.key, self.lake.first().or(self.target.first()))
    }
}
