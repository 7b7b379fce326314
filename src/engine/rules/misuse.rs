//! What DataFusion 55 ends in a panic or an error about its own inside for, said in words of SQL.

use arrow::array::timezone::Tz;
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::AnalyzerRule;

use super::refusal::refused;
use crate::error::did_you_mean;

/// Refuses window functions in WHERE and time zones that there are not.
#[derive(Debug)]
pub struct Refused;

impl AnalyzerRule for Refused {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::Filter(filter) = node
                && filter.predicate.exists(|part| Ok(matches!(part, Expr::WindowFunction(_))))?
            {
                let message = "window functions cannot stand in WHERE";
                return Err(refused(message, None, "filter their values with QUALIFY"));
            }
            for field in node.schema().fields() {
                refuse_unknown_zone(field.data_type())?;
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(plan)
    }

    fn name(&self) -> &str {
        "refuse_misuse"
    }
}

fn refuse_unknown_zone(of: &DataType) -> Result<()> {
    match of {
        DataType::Timestamp(_, Some(zone)) if zone.parse::<Tz>().is_err() => {
            let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
            let hint = match did_you_mean(zone, names) {
                Some(name) => format!("did you mean `{name}`?"),
                None => "use a name of the IANA database, such as Europe/Rome".to_owned(),
            };
            Err(refused(format!("unknown time zone `{zone}`"), None, &hint))
        }
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            refuse_unknown_zone(item.data_type())
        }
        DataType::Struct(fields) => {
            fields.iter().try_for_each(|field| refuse_unknown_zone(field.data_type()))
        }
        DataType::Map(entries, _) => refuse_unknown_zone(entries.data_type()),
        _ => Ok(()),
    }
}
