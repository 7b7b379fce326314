//! The SQL of a model file: parses it, lists the tables it reads, and refuses what a model must
//! not contain. Plans nothing and knows no schema.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement as ParsedStatement};
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{
    DataType, Expr, ObjectName, Query, Select, SetExpr, Spanned as _, Statement, TableFactor,
    TimezoneInfo, Value, ValueWithSpan, Visit, Visitor,
};
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use super::depth::{DIALECT, TOO_DEEP, is_too_deep};
use crate::error::did_you_mean;
use crate::model::Kind;
use crate::source::{Position, Problems};
use crate::table::{Layer, TableName};

/// Schema under which an append model's topic appears.
const TOPIC_SCHEMA: &str = "kafka";
/// Table functions whose result depends on nothing but their arguments.
const TABLE_FUNCTIONS: [&str; 2] = ["generate_series", "range"];
const CLOCKS: [&str; 7] = [
    "now",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "today",
];
const INTERVAL_PLACEHOLDERS: [&str; 2] = ["$start", "$end"];

/// What the checks need to know about the file around the SQL.
pub struct Context<'a> {
    pub table: &'a TableName,
    /// `None` when the header could not be read: checks that depend on it are then left out.
    pub kind: Option<&'a Kind>,
    /// Every table a model may read.
    pub known: &'a BTreeSet<TableName>,
    pub lines_before: usize,
    pub problems: &'a Problems<'a>,
}

/// Tables that the SQL reads, each with the place of its first mention. What is wrong is reported
/// to the context's problems.
pub fn read(sql: &str, context: &Context<'_>) -> Vec<(TableName, Position)> {
    if is_too_deep(sql) {
        let (message, hint) = TOO_DEEP;
        context.problems.report_hint(context.beginning(sql), message, hint);
        return Vec::new();
    }
    let parsed = DFParserBuilder::new(sql).with_dialect(&DIALECT).build();
    let statements = match parsed.and_then(|mut parser| parser.parse_statements()) {
        Ok(statements) => statements,
        Err(error) => {
            context.report_syntax(&error);
            return Vec::new();
        }
    };
    let mut statements = statements.into_iter();
    let Some(parsed) = statements.next() else {
        let hint = "write one SELECT below the header";
        context.problems.report_hint(Position::FILE, "the file has no SQL", hint);
        return Vec::new();
    };
    let beginning = context.beginning(sql);
    if let Some(second) = statements.next() {
        let span = match &second {
            ParsedStatement::Statement(statement) => statement.span(),
            _ => Span::empty(),
        };
        let place = context.position(span).unwrap_or(beginning);
        let hint = "a model is one SELECT; put the other in a file of its own";
        context.problems.report_hint(place, "a second statement", hint);
    }
    let query = match &parsed {
        ParsedStatement::Statement(statement) => match statement.as_ref() {
            Statement::Query(query) => Some(query.as_ref()),
            _ => None,
        },
        _ => None,
    };
    let Some(query) = query else {
        let hint = "a model is one SELECT";
        context.problems.report_hint(beginning, "the statement is not a query", hint);
        return Vec::new();
    };
    let mut survey = Survey::new(context);
    let ControlFlow::Continue(()) = query.visit(&mut survey);
    survey.check_placeholders(beginning);
    let (functions, relations) = (survey.table_functions, survey.relations);
    if let Some(Kind::Append(_)) = context.kind {
        check_append(query, context, beginning);
        return Vec::new();
    }
    let references = match resolve_table_references(&parsed, true) {
        Ok((references, _)) => references,
        Err(error) => {
            context.problems.report(beginning, error.strip_backtrace());
            return Vec::new();
        }
    };
    let mut inputs = Vec::new();
    for reference in references {
        if functions.contains(&reference) {
            continue;
        }
        let mention = relations.iter().find(|(relation, _)| *relation == reference);
        let place = mention.and_then(|(_, place)| *place).unwrap_or(beginning);
        if let Some(table) = resolve(&reference, place, context) {
            inputs.push((table, place));
        }
    }
    inputs
}

/// An append model stores every message; a query that filtered or computed would be a promise
/// that nobody keeps.
fn check_append(query: &Query, context: &Context<'_>, beginning: Position) {
    let expected = format!("SELECT * FROM {TOPIC_SCHEMA}.{}", context.table.name());
    if query.to_string() != expected {
        let message = "an append model reads its own topic, whole";
        context.problems.report_hint(beginning, message, format!("write `{expected}`"));
    }
}

fn resolve(
    reference: &TableReference,
    place: Position,
    context: &Context<'_>,
) -> Option<TableName> {
    let problems = context.problems;
    let name = reference.table();
    let Some(schema) = reference.schema() else {
        let message = format!("table `{name}` is named without its layer");
        let same_name = context.known.iter().find(|table| table.name() == name);
        let hint = match same_name {
            Some(table) => format!("write `{table}`"),
            None => unknown_hint(&format!("{}.{name}", context.table.layer), context.known),
        };
        problems.report_hint(place, message, hint);
        return None;
    };
    if reference.catalog().is_some() {
        let message = format!("table `{reference}` has more than two parts");
        problems.report_hint(place, message, "write it as `layer.table`");
        return None;
    }
    if schema == TOPIC_SCHEMA {
        let message = format!("`{reference}` is a topic, which only its append model reads");
        let hint = match "bronze".parse().and_then(|layer| TableName::new(layer, name)) {
            Ok(table) if context.known.contains(&table) => format!("read `{table}`"),
            _ => "read the table in bronze that stores it".into(),
        };
        problems.report_hint(place, message, hint);
        return None;
    }
    let text = format!("{schema}.{name}");
    let table = schema.parse::<Layer>().and_then(|layer| TableName::new(layer, name));
    match table {
        Ok(table) if context.known.contains(&table) => Some(table),
        _ => {
            let hint = unknown_hint(&text, context.known);
            problems.report_hint(place, format!("unknown table `{text}`"), hint);
            None
        }
    }
}

/// For a name that is no table: the nearest one, by the whole name or by the part after the layer.
pub fn unknown_hint(text: &str, known: &BTreeSet<TableName>) -> String {
    let names: Vec<String> = known.iter().map(ToString::to_string).collect();
    if let Some(name) = did_you_mean(text, names.iter().map(String::as_str)) {
        return format!("did you mean `{name}`?");
    }
    let bare = text.split_once('.').map_or(text, |(_, bare)| bare);
    match known.iter().find(|table| table.name() == bare) {
        Some(table) => format!("did you mean `{table}`?"),
        None => "every table is a file `sql/<layer>/<table>.sql`".into(),
    }
}

impl Context<'_> {
    /// `None` where the parser kept no location.
    fn position(&self, span: Span) -> Option<Position> {
        let (start, end) = (span.start, span.end);
        if start.line == 0 {
            return None;
        }
        let width =
            if start.line == end.line { end.column.saturating_sub(start.column) } else { 1 };
        Some(Position { width: (width as usize).max(1), ..self.place(start) })
    }

    fn place(&self, location: Location) -> Position {
        let line = location.line as usize + self.lines_before;
        Position { line, column: location.column as usize, width: 1 }
    }

    /// The first word that is not a comment.
    fn beginning(&self, sql: &str) -> Position {
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("--");
        let found = sql.lines().enumerate().find(|(_, line)| is_code(line));
        let (index, line) = found.unwrap_or((0, ""));
        let indent = line.chars().take_while(|c| c.is_whitespace()).count();
        let word = line.trim_start().chars().take_while(|c| c.is_alphanumeric()).count();
        Position { line: index + 1 + self.lines_before, column: indent + 1, width: word.max(1) }
    }

    fn report_syntax(&self, error: &DataFusionError) {
        let (message, location) = syntax_problem(error);
        let Some(location) = location else {
            // Only the end of the text has no location.
            let lines = self.problems.source.text.lines().enumerate();
            let last = lines.filter(|(_, line)| !line.trim().is_empty()).last();
            let (index, line) = last.unwrap_or((self.lines_before, ""));
            let column = line.trim_end().chars().count() + 1;
            let end = Position { line: index + 1, column, width: 1 };
            self.problems.report(end, message);
            return;
        };
        let mut place = self.place(location);
        let rest = self.problems.source.line(place.line).chars().skip(place.column - 1);
        place.width = rest.take_while(|c| c.is_alphanumeric() || *c == '_').count().max(1);
        self.problems.report(place, message);
    }
}

/// What the parser says, and where, if it knows: only the end of the text has no location.
pub fn syntax_problem(error: &DataFusionError) -> (String, Option<Location>) {
    let message = match error.find_root() {
        DataFusionError::SQL(parser_error, _) => match parser_error.as_ref() {
            ParserError::ParserError(message) | ParserError::TokenizerError(message) => {
                message.clone()
            }
            ParserError::RecursionLimitExceeded => "the SQL is nested too deeply".into(),
        },
        other => other.strip_backtrace(),
    };
    // The parser gives its location only in words, at the end of the message.
    let located = message.rsplit_once(" at Line: ").and_then(|(message, rest)| {
        let (line, column) = rest.split_once(", Column: ")?;
        Some((message, Location::new(line.trim().parse().ok()?, column.trim().parse().ok()?)))
    });
    let (message, location) = match located {
        Some((message, location)) => (message, Some(location).filter(|at| at.line > 0)),
        None => (message.as_str(), None),
    };
    (format!("SQL syntax: {}", lowercase_first(message)), location)
}

fn lowercase_first(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// Walks the syntax tree once: notes where tables are mentioned and reports what must not be there.
struct Survey<'a> {
    context: &'a Context<'a>,
    relations: Vec<(TableReference, Option<Position>)>,
    table_functions: Vec<TableReference>,
    placeholders: Vec<(String, Option<Position>)>,
}

impl<'a> Survey<'a> {
    fn new(context: &'a Context<'a>) -> Self {
        Self {
            context,
            relations: Vec::new(),
            table_functions: Vec::new(),
            placeholders: Vec::new(),
        }
    }

    fn report(&self, span: Span, message: String, hint: impl Into<String>) {
        let fallback = Position { line: self.context.lines_before + 1, column: 1, width: 1 };
        let place = self.context.position(span).unwrap_or(fallback);
        self.context.problems.report_hint(place, message, hint);
    }

    fn check_placeholders(&self, beginning: Position) {
        let problems = self.context.problems;
        let Some(kind) = self.context.kind else { return };
        let is_interval = matches!(kind, Kind::Interval { .. });
        for (name, place) in &self.placeholders {
            let place = place.unwrap_or(beginning);
            if !INTERVAL_PLACEHOLDERS.contains(&name.as_str()) {
                let hint = "only `$start` and `$end` are bound, in models of `kind: interval`";
                problems.report_hint(place, format!("unknown placeholder `{name}`"), hint);
            } else if !is_interval {
                let hint = "only models of `kind: interval` have a start and an end";
                problems.report_hint(
                    place,
                    format!("placeholder `{name}` has no value here"),
                    hint,
                );
            }
        }
        for needed in INTERVAL_PLACEHOLDERS {
            if is_interval && !self.placeholders.iter().any(|(name, _)| name == needed) {
                let hint = "filter the input: WHERE time >= $start AND time < $end";
                problems.report_hint(
                    beginning,
                    format!("an interval model needs `{needed}`"),
                    hint,
                );
            }
        }
    }

    fn check_naive(&self, data_type: &DataType, literal: &ValueWithSpan) {
        let text = literal.value.clone().into_string().unwrap_or_default();
        let message = format!("the literal of type {data_type} loses its time zone");
        let hint = format!(
            "write arrow_cast('{}', 'Timestamp(Microsecond, Some(\"UTC\"))'), or use $start and $end",
            with_zone(&text)
        );
        self.report(literal.span, message, hint);
    }
}

impl Visitor for Survey<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Self::Break> {
        let body = query.body.as_ref();
        if matches!(
            body,
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
        ) {
            self.report(body.span(), "the statement writes".into(), "a model is one SELECT");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        if let Some(into) = &select.into {
            self.report(into.span(), "SELECT INTO writes".into(), "remove INTO");
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor
            && let Ok(reference) = object_name_to_table_reference(name.clone(), true)
        {
            if !TABLE_FUNCTIONS.contains(&reference.to_string().as_str()) {
                let message = format!("table function `{reference}` cannot be used in a model");
                let hint = "a model reads tables by name, so that its inputs are known";
                self.report(name.span(), message, hint);
            }
            self.table_functions.push(reference);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<Self::Break> {
        if let Ok(reference) = object_name_to_table_reference(relation.clone(), true) {
            self.relations.push((reference, self.context.position(relation.span())));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_value(&mut self, value: &ValueWithSpan) -> ControlFlow<Self::Break> {
        if let Value::Placeholder(name) = &value.value {
            self.placeholders.push((name.clone(), self.context.position(value.span)));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::TypedString(typed) if is_timestamp(&typed.data_type) => {
                self.check_naive(&typed.data_type, &typed.value);
            }
            Expr::Cast { expr, data_type, .. } if is_naive_timestamp(data_type) => {
                if let Some(literal) = string_literal(expr) {
                    self.check_naive(data_type, literal);
                }
            }
            Expr::Function(function) => {
                let name = function.name.to_string().to_lowercase();
                if CLOCKS.contains(&name.as_str()) {
                    let message = format!("`{name}` makes the result depend on when it runs");
                    let hint = "use `$start` and `$end` in a model of `kind: interval`";
                    self.report(function.name.span(), message, hint);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// The text of a literal as an instant: a time where there is none, `Z` unless it has an offset.
fn with_zone(text: &str) -> String {
    let mut instant = text.replacen(' ', "T", 1);
    if !instant.contains('T') {
        instant.push_str("T00:00:00");
    }
    let time = instant.split_once('T').map_or("", |(_, time)| time);
    if !time.contains(['Z', 'z', '+', '-']) {
        instant.push('Z');
    }
    instant
}

fn is_timestamp(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(..) | DataType::TimestampNtz(..) | DataType::Datetime(_)
    )
}

fn is_naive_timestamp(data_type: &DataType) -> bool {
    let has_zone =
        matches!(data_type, DataType::Timestamp(_, TimezoneInfo::WithTimeZone | TimezoneInfo::Tz));
    is_timestamp(data_type) && !has_zone
}

fn string_literal(expr: &Expr) -> Option<&ValueWithSpan> {
    match expr {
        Expr::Nested(inner) => string_literal(inner),
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(_)
            | Value::DoubleQuotedString(_)
            | Value::EscapedStringLiteral(_)
            | Value::NationalStringLiteral(_) => Some(value),
            _ => None,
        },
        _ => None,
    }
}
