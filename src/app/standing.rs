//! Whether each table is ingested, for `/readyz` and the metrics. A worker whose brokers are gone says
//! nothing, because its client tries on; that they do not answer is seen by who asks for the lag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::server::health::{Health, Part};
use crate::server::metrics::IngestFigures;
use crate::table::TableName;

/// What is known of all tables. Cheap to clone; clones know the same.
#[derive(Clone)]
pub struct Standings {
    known: Arc<Mutex<BTreeMap<TableName, Standing>>>,
    figures: IngestFigures,
    health: Health,
}

#[derive(Debug, Default)]
struct Standing {
    /// It has taken its partitions over since it last failed.
    works: bool,
    /// Why its worker failed.
    worker: Option<String>,
    /// Why its positions cannot be told.
    positions: Option<String>,
}

impl Standings {
    /// Tells `figures` and `health` what changes.
    pub fn new(figures: IngestFigures, health: Health) -> Self {
        Self { known: Arc::default(), figures, health }
    }

    /// The table's worker works, or has failed for a reason.
    pub fn set_worker(&self, table: &TableName, failure: Option<String>) {
        self.set(table, |standing| {
            standing.works = failure.is_none();
            standing.worker = failure;
        });
    }

    /// The table's positions were told, or cannot be; whether that reason is news.
    pub fn set_positions(&self, table: &TableName, failure: Option<String>) -> bool {
        let mut is_news = false;
        self.set(table, |standing| {
            is_news = failure.is_some() && standing.positions != failure;
            standing.positions = failure;
        });
        is_news
    }

    /// The table is no longer ingested.
    pub fn forget(&self, table: &TableName) {
        self.lock().remove(table);
        self.health.mend(&Part::Ingestion(table.clone()));
        self.figures.forget(table);
    }

    fn set(&self, table: &TableName, change: impl FnOnce(&mut Standing)) {
        let mut known = self.lock();
        let standing = known.entry(table.clone()).or_default();
        change(standing);
        let problem = standing.worker.as_ref().or(standing.positions.as_ref());
        self.figures.set_up(table, problem.is_none() && standing.works);
        self.health.set(Part::Ingestion(table.clone()), problem.cloned());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<TableName, Standing>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ingestion_passed_for_healthy_while_its_brokers_were_gone() {
        let (figures, health) = (IngestFigures::default(), Health::default());
        let standings = Standings::new(figures, health.clone());
        let table: TableName = "bronze.visits".parse().unwrap();
        let said = || health.broken(BTreeMap::new()).into_values().collect::<Vec<_>>();
        standings.set_worker(&table, None);
        assert!(said().is_empty());
        assert!(standings.set_positions(&table, Some("refused".to_owned())));
        assert!(!standings.set_positions(&table, Some("refused".to_owned())), "it was said");
        assert_eq!(said(), ["refused"]);
        standings.set_worker(&table, Some("the disk is full".to_owned()));
        standings.set_positions(&table, None);
        assert_eq!(said(), ["the disk is full"], "the brokers' return does not mend the worker");
        standings.set_worker(&table, None);
        assert!(said().is_empty());
    }
}
