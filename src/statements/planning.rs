//! Threads that plan. Planning computes without giving way, so that a statement of a kilobyte may take
//! seconds; on a thread of its own it keeps nobody waiting but its user. It has places, as execution
//! has, and ends soon after nobody waits for it.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, AdmissionLimits};
use crate::engine::patience::plan_until;
use crate::error::{Error, ErrorKind, Result};
use crate::model::depth::STACK_BYTES;

/// Statements that are planned at once, in all and of one user. More would only share the processor.
const PLACES: usize = 8;
const PLACES_PER_USER: usize = 4;

/// Where statements are planned.
pub struct Planning {
    admission: Admission,
}

impl Planning {
    /// As many may wait, and as long, as for a place to run.
    pub fn new(running: &AdmissionLimits) -> Self {
        let admission = Admission::new(AdmissionLimits {
            running_max: PLACES,
            running_per_user_max: PLACES_PER_USER,
            ..running.clone()
        });
        Self { admission }
    }

    /// Does `work` on a thread of its own, for `run_max` at most.
    pub async fn run<T: Send + 'static>(
        &self,
        user: &str,
        run_max: Duration,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let permit = self.admission.enter(user).await?;
        let stop = CancellationToken::new();
        let nobody_waits = stop.clone().drop_guard();
        let (sender, receiver) = oneshot::channel();
        // What planning reads is read by the threads of this one.
        let reading = Handle::current();
        let thread = std::thread::Builder::new().name("plan".to_owned()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || {
            let _permit = permit;
            plan_until(stop);
            let _ = sender.send(reading.block_on(work));
        });
        started.map_err(|source| {
            Error::new(ErrorKind::Exhausted, "cannot start a thread that plans").source(source)
        })?;
        let planned = tokio::time::timeout(run_max, receiver).await;
        drop(nobody_waits);
        match planned {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::internal("planning ended abnormally")),
            Err(_) => Err(Error::new(
                ErrorKind::Exhausted,
                format!("planning the statement took longer than {} ms", run_max.as_millis()),
            )
            .hint("make it smaller, or raise `server.statement_run_ms_max`")),
        }
    }
}
