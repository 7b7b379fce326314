//! How far an export or a comparison has come, on a terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::task::AbortOnDropHandle;

use super::{Output, output};
use crate::table::TableName;

const LOOK_EVERY: Duration = Duration::from_millis(200);

/// One line: which table of how many, and its rows.
pub struct TableProgress {
    bar: ProgressBar,
    tables: usize,
    begun: usize,
    look: Option<AbortOnDropHandle<()>>,
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
        Self { bar: bar.with_style(style), tables, begun: 0, look: None }
    }

    /// From now on `rows` is shown, the number of rows read of one table.
    pub fn begin(&mut self, name: &TableName, rows: &Arc<AtomicU64>) {
        self.begun += 1;
        self.bar.reset();
        self.bar.set_message(format!("table {} of {}: {name}", self.begun, self.tables));
        let (bar, rows) = (self.bar.clone(), Arc::clone(rows));
        self.look = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            loop {
                looks.tick().await;
                bar.set_position(rows.load(Ordering::Relaxed));
                bar.tick();
            }
        })));
    }

    /// A line for people, above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| output::say(line));
    }

    pub fn end(&mut self) {
        self.look = None;
        self.bar.finish_and_clear();
    }
}
