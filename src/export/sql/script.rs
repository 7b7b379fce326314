//! An export as text, for whoever may not let FlowGuard connect: rows as Parquet files beside, and
//! the statements that a connection would run. Everything is replaced, since what the target holds
//! is not known.

use std::path::Path;
use std::time::Instant as Clock;

use futures::StreamExt;

use super::dialect::{Copying, exact_proof_query};
use super::load::FILES_MAX;
use super::part_files::{PartFile, PartWriter};
use super::shape;
use super::wording::{Claim, OWN_SCHEMA, Statements};
use crate::error::{Error, ErrorKind, Result};
use crate::export::change::{Change, Reason};
use crate::export::compare::canonical::Proof;
use crate::export::history::{DONE, EXPORT, Entry};
use crate::export::pair::{Pair, Source};
use crate::export::rows::RowSource;
use crate::table::TableName;

/// What the statements of every table need.
pub fn preamble(statements: &Statements) -> String {
    let mut lines = vec![
        format!(
            "-- Run {} of flowguard export sql, for `{}`.",
            statements.run, statements.target.name
        ),
        "-- Whoever runs this must stop at the first error: snowsql -o exit_on_error=true -f FILE"
            .into(),
    ];
    let own = statements.create_schema(&statements.target.identifier(OWN_SCHEMA));
    let others = std::iter::once(own).chain(statements.create_own());
    lines.extend(statements.dialect.greetings(statements.run).into_iter().chain(others).map(ended));
    lines.join("\n") + "\n"
}

/// One table's statements; its rows go into files of `folder`, which is made.
pub async fn table(
    source: &Source,
    statements: &Statements,
    name: &TableName,
    folder: &Path,
) -> Result<String> {
    let began = Clock::now();
    let copying = statements.dialect.copying().ok_or_else(|| {
        let message = format!("`{}` copies no files", statements.target.name);
        Error::invalid(message).hint("scripts are for Snowflake; others: flowguard export run")
    })?;
    let pair = source.pair(statements, name, None).await?;
    let (parts, sent) = write(source, &pair, folder).await?;
    let stage = statements.own(&shape::stage_name(statements.run, name));
    let mut lines = vec![
        format!("\n-- {name}: version {}, {} rows", pair.snapshot.version(), sent.rows),
        ended(statements.create_schema(&pair.schema)),
        ended(shape::create_if_absent(statements.dialect, &statements.live(&pair), &pair.stored)?),
        ended(shape::create_aside(statements.dialect, &stage, &pair.stored)?),
    ];
    lines.extend(loading(copying, &stage, &parts));
    lines.push(
        "-- Divides by zero, which ends the script, if other rows arrived than were sent.".into(),
    );
    lines.push(ended(format!(
        "SELECT 1 / CASE WHEN ({}) = {} THEN 1 ELSE 0 END AS arrived",
        exact_proof_query(statements.dialect, &stage, &pair.stored),
        statements.dialect.literal(&exact(&sent))
    )));
    let entry = Entry {
        at: None,
        what: EXPORT.to_owned(),
        table: name.to_string(),
        version: Some(pair.snapshot.version()),
        run: statements.run.to_string(),
        rows: sent.rows,
        seconds: began.elapsed().as_secs_f64(),
        outcome: DONE.to_owned(),
        details: format!("{}, by a script", Change::Whole(Reason::Asked)),
    };
    let [delete, insert] = statements.replace(&pair, &stage, None)?;
    lines.extend(
        [
            statements.seed(&pair),
            "BEGIN TRANSACTION".to_owned(),
            statements.claim(&pair, &Claim::Any, Some(sent.rows)),
            delete,
            insert,
            statements.note(&entry),
            "COMMIT".to_owned(),
            format!("DROP TABLE {stage}"),
        ]
        .map(ended),
    );
    Ok(lines.join("\n") + "\n")
}

fn ended(statement: String) -> String {
    statement + ";"
}

fn loading(copying: &dyn Copying, stage: &str, parts: &[PartFile]) -> Vec<String> {
    if parts.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![copying.create_stage(stage)];
    lines.extend(parts.iter().map(|part| copying.put(&part.path, stage)));
    for parts in parts.chunks(FILES_MAX) {
        let files: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        lines.push(copying.copy(stage, stage, &files));
    }
    lines.push(copying.drop_stage(stage));
    lines.into_iter().map(ended).collect()
}

async fn write(source: &Source, pair: &Pair<'_>, folder: &Path) -> Result<(Vec<PartFile>, Proof)> {
    std::fs::create_dir_all(folder).map_err(|source| {
        let message = format!("cannot make the folder {}", folder.display());
        Error::new(ErrorKind::Denied, message).source(source)
    })?;
    let mut rows = RowSource::open(source, pair, None).await?;
    let mut writer = PartWriter::new(folder, &pair.stored);
    let mut parts = Vec::new();
    let mut batches = std::pin::pin!(rows.stream());
    while let Some(batch) = batches.next().await {
        parts.extend(writer.write(&pair.renamed(&batch?)?)?);
    }
    parts.extend(writer.finish()?);
    Ok((parts, rows.proof()))
}

/// As [`exact_proof_query`] gives it.
fn exact(proof: &Proof) -> String {
    let nulls = proof.nulls.iter().map(u64::to_string);
    let parts: Vec<String> =
        [proof.rows.to_string(), proof.hash.to_string()].into_iter().chain(nulls).collect();
    parts.join(" ")
}
