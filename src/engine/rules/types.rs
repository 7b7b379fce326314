//! SQL's TIMESTAMP counts microseconds, as everything in the lake does. DataFusion's counts
//! nanoseconds and ends in 2262.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::Result;
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::{DataType as SqlType, TimezoneInfo};

/// Names of types where they mean something else here.
#[derive(Debug)]
pub struct Microseconds;

impl TypePlanner for Microseconds {
    fn plan_type_field(&self, sql_type: &SqlType) -> Result<Option<FieldRef>> {
        let SqlType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) = sql_type
        else {
            return Ok(None);
        };
        let data_type = DataType::Timestamp(TimeUnit::Microsecond, None);
        Ok(Some(Arc::new(Field::new("", data_type, true))))
    }
}
