//! How far an export or a comparison has come, on a terminal.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::{Output, output};
use crate::table::TableName;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One line: which table of how many, and its rows.
pub struct TableProgress {
    bar: ProgressBar,
    tables: usize,
    begun: usize,
}

impl TableProgress {
    /// Hidden where nobody looks.
    pub fn new(tables: usize, form: Output) -> Self {
        let bar = match output::is_terminal() && form == Output::Text {
            true => ProgressBar::no_length(),
            false => ProgressBar::hidden(),
        };
        let style =
            ProgressStyle::with_template("{spinner} {msg}  {human_pos} rows  {per_sec}  {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
        Self { bar: bar.with_style(style), tables, begun: 0 }
    }

    /// Does the work at one table, which counts the rows it reads.
    pub async fn watch<T>(
        &mut self,
        name: &TableName,
        rows: &Arc<AtomicU64>,
        work: impl Future<Output = T>,
    ) -> T {
        self.begun += 1;
        self.bar.reset();
        self.bar.set_message(format!("table {} of {}: {name}", self.begun, self.tables));
        let mut work = pin!(work);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = looks.tick() => {
                    self.bar.set_position(rows.load(Ordering::Relaxed));
                    self.bar.tick();
                }
            }
        }
    }

    /// A line for people, above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| output::say(line));
    }

    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
