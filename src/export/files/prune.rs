//! Deletes what no reader can still want: manifests that were replaced a day ago, files that only
//! they name, and files of exports that never published. Files of somebody else are left alone.

use std::collections::HashSet;

use super::data_files;
use super::manifest::{DataFile, HISTORY, Manifest, json, number_of};
use crate::error::Result;
use crate::export::history::{DAYS_MAX, Entry};
use crate::interval::{Instant, MICROS_PER_DAY};
use crate::lake::objects::{Folder, Object};

/// A replaced manifest, and a file that no manifest names, is kept for so long.
const KEPT_MICROS: i64 = MICROS_PER_DAY;

/// Names of entries are in order of time.
pub fn entry_name(path: &str, entry: &Entry, suffix: &str) -> String {
    let at = entry.at.map_or(0, |at| at.0.max(0));
    format!("{path}/{HISTORY}/{at:020}-{suffix}.json")
}

/// Deletes what nobody has needed for a day: replaced manifests, their files, files of dead exports.
pub async fn prune(folder: &Folder, path: &str, now: Instant) -> Result<()> {
    let objects = folder.list(path).await?;
    let is_old = |object: &Object| object.modified.0 < now.0 - KEPT_MICROS;
    let manifests: Vec<&Object> =
        objects.iter().filter(|object| number_of(&object.name).is_some()).collect();
    let Some((newest, others)) = manifests.split_last() else {
        return prune_parts(folder, path, &objects, &[], is_old).await;
    };
    let followers = manifests.iter().skip(1);
    let (replaced, kept): (Vec<_>, Vec<_>) =
        others.iter().zip(followers).partition(|(_, follower)| is_old(follower));
    for (old, _) in replaced {
        if let Some(content) = folder.get(&old.name).await? {
            // Its entry of the history stays.
            let entry = Manifest::read(&content, &old.name)?.export;
            let number = number_of(&old.name).unwrap_or_default();
            let name = entry_name(path, &entry, &format!("{number:020}"));
            folder.put(&name, json(&entry)?).await?;
            folder.delete(&old.name).await?;
        }
    }
    let kept: Vec<&Object> = kept.into_iter().map(|(kept, _)| *kept).chain([*newest]).collect();
    prune_parts(folder, path, &objects, &kept, is_old).await?;
    let oldest = now.0 - DAYS_MAX * MICROS_PER_DAY;
    let entries = objects.iter().filter(|object| {
        let name = object.name.strip_prefix(&format!("{path}/{HISTORY}/"));
        let at = name.and_then(|name| name.split_once('-')?.0.parse::<i64>().ok());
        at.is_some_and(|at| at < oldest)
    });
    for entry in entries {
        folder.delete(&entry.name).await?;
    }
    Ok(())
}

async fn prune_parts(
    folder: &Folder,
    path: &str,
    objects: &[Object],
    manifests: &[&Object],
    is_old: impl Fn(&Object) -> bool,
) -> Result<()> {
    let mut candidates: HashSet<&str> = objects
        .iter()
        .filter(|object| is_old(object))
        .filter_map(|object| object.name.strip_prefix(path)?.strip_prefix('/'))
        .filter(|name| data_files::is_ours(name))
        .collect();
    // Mostly the newest manifest names them all.
    for manifest in manifests.iter().rev() {
        if candidates.is_empty() {
            return Ok(());
        }
        if let Some(content) = folder.get(&manifest.name).await? {
            let files = Manifest::read(&content, &manifest.name)?.files;
            for DataFile { path, .. } in &files {
                candidates.remove(path.as_str());
            }
        }
    }
    for name in candidates {
        folder.delete(&format!("{path}/{name}")).await?;
    }
    Ok(())
}
