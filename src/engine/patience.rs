//! Planning that nobody waits for any more. It does not give way by itself, so the rules that it goes
//! through ask here, on the thread that plans.

use std::cell::RefCell;

use datafusion::common::{DataFusionError, Result};
use tokio_util::sync::CancellationToken;

thread_local! {
    static STOP: RefCell<Option<CancellationToken>> = const { RefCell::new(None) };
}

/// What this thread plans is ended by `stop` from now on.
pub fn plan_until(stop: CancellationToken) {
    STOP.set(Some(stop));
}

/// Fails once nobody waits.
pub fn check() -> Result<()> {
    let is_stopped = STOP.with_borrow(|stop| stop.as_ref().is_some_and(|stop| stop.is_cancelled()));
    match is_stopped {
        true => Err(DataFusionError::Execution("nobody waits for the plan any more".to_owned())),
        false => Ok(()),
    }
}
