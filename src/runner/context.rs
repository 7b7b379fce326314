//! What every task of a run shares.

use std::sync::Arc;

use uuid::Uuid;

use crate::engine::Engine;
use crate::lake::Lake;
use crate::model::ModelSet;
use crate::typecheck::Typed;

/// The lake, the checked models, and the limits of one run.
pub struct RunContext {
    pub lake: Lake,
    pub engine: Engine,
    pub models: Arc<ModelSet>,
    pub typed: Arc<Typed>,
    pub run: Uuid,
    pub parallel_models_max: usize,
}
