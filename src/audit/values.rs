//! Whether rows and letters are still those that were written: their sums against those of the
//! commits.

use std::collections::BTreeMap;

use datafusion::prelude::{DataFrame, col, lit};
use futures::StreamExt;

use super::offsets::rows_of;
use super::recorded::{OffsetSpan, Place, Recorded, recorded};
use super::subject::Subject;
use crate::engine::fault::engine_error;
use crate::error::Result;
use crate::ingest::values::{HashedRow, hashed_rows};
use crate::lake::Snapshot;
use crate::lake::ledger::Sum;
use crate::lake::spec::DAY_COLUMN;

/// Of one log of a partition: ranges whose rows are others, and how many rows no sum covers.
pub type Verdict = (Vec<OffsetSpan>, u64);

/// Reads all rows and letters of the topic.
pub async fn read(subject: &Subject<'_>) -> Result<BTreeMap<Place, Verdict>> {
    let doing = format!("cannot audit `{}`", subject.model.name);
    let failed = |error| engine_error(&doing, error);
    let session = subject.auditor.engine.session();
    let mut verdicts = BTreeMap::new();
    if let Some(bronze) = subject.bronze {
        let rows = rows_of(&session, bronze, subject.topic).await.map_err(failed)?;
        compare(subject, bronze, rows, subject.recorded, &mut verdicts).await?;
    }
    if let Some(dead) = &subject.dead.after {
        let name = subject.model.name.to_string();
        let mut letters =
            recorded(dead, Some(&name)).await?.remove(subject.topic).unwrap_or_default();
        letters.values_mut().for_each(Recorded::forget_replayed);
        let rows = rows_of(&session, dead, subject.topic).await.map_err(failed)?;
        let rows = rows.filter(col("pipeline").eq(lit(name))).map_err(failed)?;
        compare(subject, dead, rows, &letters, &mut verdicts).await?;
    }
    Ok(verdicts)
}

async fn compare(
    subject: &Subject<'_>,
    table: &Snapshot,
    rows: DataFrame,
    recorded: &BTreeMap<Place, Recorded>,
    verdicts: &mut BTreeMap<Place, Verdict>,
) -> Result<()> {
    let doing = format!("cannot audit `{}`", table.name());
    let failed = |error| engine_error(&doing, error);
    let expected: BTreeMap<Place, Vec<(OffsetSpan, Option<Sum>)>> =
        recorded.iter().map(|(place, recorded)| (*place, recorded.sums())).collect();
    let mut found: BTreeMap<Place, Vec<Sum>> =
        expected.iter().map(|(place, spans)| (*place, vec![Sum::default(); spans.len()])).collect();
    let schema = table.schema();
    let names = schema.fields().iter().map(|field| field.name().as_str());
    let columns: Vec<_> = names
        .filter(|name| *name != DAY_COLUMN)
        .map(|name| col(datafusion::common::Column::from_name(name)))
        .collect();
    let mut rows = rows.select(columns).map_err(failed)?.execute_stream().await.map_err(failed)?;
    while let Some(batch) = rows.next().await {
        let batch = batch.map_err(failed)?;
        for HashedRow { partition, offset, ingested_at, hash } in hashed_rows(&batch)? {
            let place = (partition, subject.logs.number(partition, ingested_at));
            let spans = expected.get(&place).map_or(&[] as &[_], Vec::as_slice);
            let at = spans.partition_point(|(span, _)| span[0] <= offset);
            match at.checked_sub(1).filter(|at| offset < spans[*at].0[1]) {
                Some(at) if spans[at].1.is_some() => {
                    if let Some(sums) = found.get_mut(&place) {
                        sums[at].add(hash);
                    }
                }
                _ => verdicts.entry(place).or_default().1 += 1,
            }
        }
    }
    for (place, spans) in expected {
        let differs = |((span, sum), found): ((OffsetSpan, Option<Sum>), &Sum)| {
            sum.is_some_and(|sum| sum != *found).then_some(span)
        };
        let altered = spans.into_iter().zip(&found[&place]).filter_map(differs);
        verdicts.entry(place).or_default().0.extend(altered);
    }
    Ok(())
}
