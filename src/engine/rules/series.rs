//! `generate_series` and `range` over SQL's TIMESTAMP, which counts microseconds here. Those of
//! DataFusion 55.2 take nanoseconds alone.

use std::sync::Arc;

use datafusion::catalog::{TableFunction, TableFunctionArgs, TableFunctionImpl, TableProvider};
use datafusion::common::{Result, ScalarValue};
use datafusion::execution::SessionState;
use datafusion::logical_expr::Expr;

use super::refusal::refused;

const NAMES: [&str; 2] = ["generate_series", "range"];
const NANOSECONDS: i64 = 1_000;

/// Puts functions that take microseconds too into the place of DataFusion's.
pub fn register(state: &mut SessionState) {
    for name in NAMES {
        if let Some(function) = state.table_functions().get(name).cloned() {
            state.register_udtf(name, Arc::new(Series(function)));
        }
    }
}

#[derive(Debug)]
struct Series(Arc<TableFunction>);

impl TableFunctionImpl for Series {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        let exprs = args.exprs().iter().map(in_nanoseconds).collect::<Result<Vec<Expr>>>()?;
        self.0.create_table_provider_with_args(TableFunctionArgs::new(&exprs, args.session()))
    }
}

fn in_nanoseconds(arg: &Expr) -> Result<Expr> {
    let Expr::Literal(ScalarValue::TimestampMicrosecond(at, zone), metadata) = arg else {
        return Ok(arg.clone());
    };
    let at = at.map(|at| match at.checked_mul(NANOSECONDS) {
        Some(at) => Ok(at),
        None => Err(refused(
            "a series of times lies between 1677 and 2262",
            None,
            "for days, make a series of DATEs, or of numbers that are added to one",
        )),
    });
    let at = ScalarValue::TimestampNanosecond(at.transpose()?, zone.clone());
    Ok(Expr::Literal(at, metadata.clone()))
}
