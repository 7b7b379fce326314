//! What is known to be wrong, and so is not asked while it is. The one place: a kind is switched on
//! by taking its line out of [`OFF`].

/// A kind of statement or of value that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `RIGHT` and `FULL JOIN … USING`, and `NATURAL` ones.
    OuterUsing,
    /// A column that `USING` merges, by the name of its table.
    NamedByTable,
    /// `NOT IN (subquery)`.
    NotIn,
    /// A subquery in the place of a value that is true, false or null: `(x IN (…)) IS NULL`.
    InAsValue,
    /// `EXISTS` and `IN` over an aggregate that the row outside decides on.
    ExistsOverAggregate,
    /// `HAVING` of a subquery that names the row outside.
    CorrelatedHaving,
    /// `EXCEPT ALL` and `INTERSECT ALL`.
    SetOperationsAll,
    /// `LIMIT … OFFSET` below another query.
    OffsetBelow,
    /// `lag` and `lead` of `IGNORE NULLS`.
    IgnoreNulls,
    /// `= ANY`, `>= ALL`.
    Quantified,
    /// `IS NOT DISTINCT FROM` in `ON`.
    NullSafeJoin,
    /// `IS TRUE` and its like.
    IsTrue,
    /// `DISTINCT ON`.
    DistinctOn,
    /// Aggregates without groups below another query, or below a `HAVING`.
    GlobalAggregateBelow,
    /// `GROUPING SETS`, `ROLLUP` and `CUBE` in a subquery or below another query.
    GroupingSetsBelow,
    /// Columns that are constant, of a query below another.
    ConstantBelow,
    /// A window in a subquery that names the row outside.
    CorrelatedWindow,
    /// A join in a subquery that names the row outside.
    CorrelatedJoin,
    /// The same column twice in `GROUP BY`.
    RepeatedGroup,
    /// `USING` and `NATURAL` in a subquery.
    UsingInSubquery,
    /// `DISTINCT` in a subquery that names the row outside.
    CorrelatedDistinct,
    /// A scalar subquery that may have no row.
    EmptyScalar,
    /// `- x` of a decimal.
    NegatedDecimal,
    /// `SELECT DISTINCT … ORDER BY … LIMIT`.
    LimitedDistinct,
    /// NaN in tables.
    NotANumber,
    /// −0.0 in tables.
    NegativeZero,
    /// Sums and products that leave their type.
    Overflow,
    /// `1.25` is a decimal.
    DecimalLiterals,
    /// Times outside of 1677 to 2262.
    FarTimes,
    /// Subqueries in arguments of aggregates and windows, keys of groups and `ON`.
    SubqueryAnywhere,
    /// A column of `USING` that is one of `USING` already.
    ChainedUsing,
    /// Subqueries that name rows of more than one level outside.
    DeepCorrelation,
}

/// Why each is off stands beside it.
const OFF: &[Kind] = &[
    // DuckDB joins 0.0 with −0.0 and groups them apart, so it does not know either.
    Kind::NegativeZero,
    // Refused with a hint: it is one column.
    Kind::NamedByTable,
];

impl Kind {
    pub fn is_on(self) -> bool {
        static ON: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
        let on = ON.get_or_init(|| {
            let names = std::env::var("FLOWGUARD_TEST_KINDS").unwrap_or_default();
            names.split(',').map(str::to_owned).collect()
        });
        let name = format!("{self:?}");
        let is_listed = |name: &str| on.iter().any(|other| other == name);
        is_listed(&name) || (!OFF.contains(&self) && !is_listed(&format!("-{name}")))
    }
}
