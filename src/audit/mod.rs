//! Proves from the tables alone that every offset is accounted for exactly once, in bronze or in
//! the dead letters; with a broker at hand, also that nothing below its watermarks is missing, that
//! its log is the one that was ingested, and that it has no message where the commits say so. With
//! payloads, also that rows and messages are those that were ingested. Changes nothing.
//!
//! `subject` is what is looked at, `recorded` is what the commits say, `offsets` what the tables hold, `values` their rows, `broker`
//! what the log has.

mod broker;
mod offsets;
mod recorded;
mod report;
mod subject;
mod values;

use std::collections::{BTreeMap, BTreeSet};

use self::broker::Log;
use self::offsets::{Offsets, foreign_rows, read_offsets};
use self::recorded::{Place, Recorded, recorded, subtract};
pub use self::report::PartitionAudit;
pub use self::subject::Auditor;
use self::subject::{Broker, Letters, Subject};
use crate::error::Result;
use crate::lake::Snapshot;
use crate::lake::commit::topic_id_key;
use crate::lake::logs::Logs;
use crate::model::{Model, dead_letters};

/// Ranges listed per partition; the counts cover all of them.
const RANGES_SHOWN_MAX: usize = 20;

/// Every partition of the model's topic that the lake or the broker knows, and of the topics that
/// were ingested into its table before.
pub async fn audit(auditor: &Auditor<'_>, model: &Model) -> Result<Vec<PartitionAudit>> {
    let Some(source) = model.topic() else { return Ok(Vec::new()) };
    // Letters are committed before the rows of their batch, and deleted after their own row: seen
    // before and after the table, none is missed whatever ends in between.
    let dead_before = auditor.lake.snapshot(&dead_letters()).await?;
    let bronze = auditor.lake.snapshot(&model.name).await?;
    let dead =
        Letters { before: dead_before, after: auditor.lake.snapshot(&dead_letters()).await? };
    // After the table: a log that goes on growing ends at least where the table does.
    let broker = match auditor.kafka {
        Some(kafka) => {
            let id = bronze.as_ref().and_then(|t| t.property(&topic_id_key(&source.topic)));
            Some(Broker::ask(kafka, &source.topic, id.is_some()).await?)
        }
        None => None,
    };
    let recorded = match &bronze {
        Some(bronze) => recorded(bronze, None).await?,
        None => BTreeMap::new(),
    };
    let mut topics: BTreeSet<String> = recorded.keys().cloned().collect();
    topics.extend(bronze.iter().flat_map(ingested_topics));
    topics.insert(source.topic.clone());
    let mut audits = Vec::new();
    for topic in &topics {
        let none = BTreeMap::new();
        let subject = Subject {
            auditor,
            model,
            topic,
            bronze: bronze.as_ref(),
            dead: &dead,
            broker: broker.as_ref().filter(|_| *topic == source.topic),
            logs: Logs::of(bronze.as_ref(), topic)?,
            recorded: recorded.get(topic).unwrap_or(&none),
        };
        audits.extend(subject.audit().await?);
    }
    if let Some(bronze) = &bronze {
        audits.extend(foreign_rows(auditor, model, bronze, &topics).await?);
    }
    Ok(audits)
}

/// Topics whose id is noted with the table.
fn ingested_topics(bronze: &Snapshot) -> Vec<String> {
    let prefix = topic_id_key("");
    let topics = bronze.properties().keys().filter_map(|key| key.strip_prefix(&prefix));
    topics.map(str::to_owned).collect()
}

impl Subject<'_> {
    async fn audit(&self) -> Result<Vec<PartitionAudit>> {
        let mut found = read_offsets(self).await?;
        let partitions = self.broker.iter().flat_map(|broker| broker.watermarks.keys());
        for partition in partitions {
            found.entry((*partition, self.logs.newest(*partition))).or_default();
        }
        // A partition of which nothing is left must not pass for one that was never read.
        for place in self.recorded.keys() {
            found.entry(*place).or_default();
        }
        let mut sums = match self.auditor.payloads {
            true => Some(values::read(self).await?),
            false => None,
        };
        let mut audits = Vec::new();
        for (place, offsets) in found {
            let mut audit = self.partition(place, offsets).await?;
            if let Some((altered, unchecked)) = sums.as_mut().and_then(|sums| sums.remove(&place)) {
                audit.altered_ranges.extend(altered);
                audit.unchecked_rows = unchecked;
            }
            for ranges in [&mut audit.unaccounted_ranges, &mut audit.altered_ranges] {
                ranges.sort_unstable();
                ranges.dedup();
                ranges.truncate(RANGES_SHOWN_MAX);
            }
            audits.push(audit);
        }
        Ok(audits)
    }

    async fn partition(&self, place: Place, offsets: Offsets) -> Result<PartitionAudit> {
        let (partition, log) = place;
        let is_newest = log == self.logs.newest(partition);
        let broker = self.broker.filter(|_| is_newest);
        let bounds = broker.and_then(|broker| broker.watermarks.get(&partition).copied());
        let mut audit = PartitionAudit {
            table: self.model.name.to_string(),
            topic: self.topic.to_owned(),
            partition,
            log,
            first: offsets.first,
            last: offsets.last,
            rows: offsets.rows,
            rejects: offsets.rejects,
            early: offsets.early,
            moving: offsets.moving,
            duplicates: offsets.duplicates,
            foreign: offsets.foreign,
            next: self.next(place).await?,
            low: bounds.map(|(low, _)| low),
            high: bounds.map(|(_, high)| high),
            ..PartitionAudit::default()
        };
        let (Some(broker), Some(bounds)) = (broker, bounds) else {
            account(&mut audit, offsets.gaps, self.recorded.get(&place), None).await?;
            return Ok(audit);
        };
        audit.other_log = self.other_log(broker, partition, audit.next, bounds).await?;
        // What another log has at these offsets says nothing about the one that was ingested.
        let log = Log { probe: &broker.probe, topic: self.topic, partition, bounds };
        let log = Some(log).filter(|_| audit.other_log.is_none());
        account(&mut audit, offsets.gaps, self.recorded.get(&place), log.as_ref()).await?;
        if let (Some(log), Some(recorded)) = (log, self.recorded.get(&place)) {
            log.compare(&mut audit, recorded, self.auditor.payloads).await?;
        }
        Ok(audit)
    }
}

/// Decides about every gap: inside, at the tail up to the recorded next offset, and before the
/// first offset down to where ingestion began and to the broker's low watermark.
async fn account(
    audit: &mut PartitionAudit,
    mut gaps: Vec<[i64; 2]>,
    recorded: Option<&Recorded>,
    log: Option<&Log<'_>>,
) -> Result<()> {
    let after_last = audit.last.map(|last| last + 1);
    match (after_last, audit.next) {
        (Some(after), Some(next)) if next > after => gaps.push([after, next]),
        // Rows beyond the recorded offset would be ingested again.
        (Some(after), next) if next.unwrap_or(0) < after => {
            audit.unaccounted_ranges.push([next.unwrap_or(0), after]);
            audit.unaccounted += (after - next.unwrap_or(0)).unsigned_abs();
        }
        _ => {}
    }
    let begin = recorded.and_then(|recorded| recorded.begin());
    // Of a log that was accepted, ingestion began where a person said.
    let low = audit.low.filter(|_| audit.log == 0);
    if let (Some(begin), Some(first)) =
        ([low, begin].into_iter().flatten().min(), audit.first.or(audit.next))
        && begin < first
    {
        gaps.push([begin, first]);
    }
    // What the broker deleted before it was ingested.
    if let (Some(low), Some(next)) = (audit.low, audit.next)
        && next < low
    {
        gaps.push([next, low]);
    }
    audit.gaps = gaps.iter().map(|[start, end]| (end - start).unsigned_abs()).sum();
    let holes = recorded.map_or(&[] as &[[i64; 2]], Recorded::holes);
    let mut unexplained = 0;
    for gap in gaps {
        for open in subtract(gap, holes) {
            let is_empty = match log {
                Some(log) => log.is_empty(open).await?,
                None => false,
            };
            if !is_empty {
                unexplained += (open[1] - open[0]).unsigned_abs();
                audit.unaccounted_ranges.push(open);
            }
        }
    }
    audit.unaccounted += unexplained;
    audit.explained = audit.gaps - unexplained;
    audit.lag = audit.high.map(|high| {
        let next = audit.next.or(audit.low).unwrap_or(0);
        (high - next).max(0)
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_deleted_before_they_were_ingested_passed_the_audit() {
        let mut audit = PartitionAudit {
            first: Some(0),
            last: Some(4),
            next: Some(5),
            low: Some(7),
            high: Some(8),
            ..PartitionAudit::default()
        };
        account(&mut audit, Vec::new(), None, None).await.unwrap();
        assert_eq!((audit.unaccounted_ranges, audit.unaccounted), (vec![[5, 7]], 2));
    }
}
