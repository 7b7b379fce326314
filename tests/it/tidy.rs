//! The house rules that no compiler checks: which room may import which, no cycles between files,
//! a `//!` header in every file, outside libraries in one room each, files of a readable length.
//! Reads sources as text, comments cut off; every rule is shown to fail on a planted file below.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Rooms by rank; imports point to lower ranks. `docs/ARCHITECTURE.md` says what lives in each.
const RANKS: [(&str, u8); 30] = [
    ("clock", 0),
    ("error", 0),
    ("interval", 0),
    ("retry", 0),
    ("source", 0),
    ("table", 0),
    ("yaml", 0),
    ("config", 1),
    ("model", 1),
    ("access", 2),
    ("dag", 2),
    ("kafka", 2),
    ("lake", 2),
    ("lineage", 2),
    ("remote", 2),
    ("engine", 3),
    ("ingest", 3),
    ("warehouse", 3),
    ("audit", 4),
    ("dlq", 4),
    ("export", 4),
    ("statements", 4),
    ("typecheck", 4),
    ("runner", 5),
    ("server", 6),
    ("app", 7),
    ("demo", 8),
    ("cli", 9),
    ("main", 9),
    ("lib", 9),
];

/// Imports within one rank that are meant, from and to.
const SIDEWAYS: [(&str, &str); 11] = [
    ("clock", "interval"),
    ("interval", "error"),
    ("retry", "error"),
    ("source", "error"),
    ("table", "error"),
    ("yaml", "error"),
    ("yaml", "interval"),
    ("yaml", "source"),
    ("dag", "lineage"),
    ("ingest", "engine"),
    ("main", "cli"),
];

/// Outside libraries and the one place that names each.
const OWNERS: [(&str, &str); 11] = [
    ("adbc_core", "src/warehouse/"),
    ("adbc_driver_manager", "src/warehouse/"),
    ("argon2", "src/access/"),
    ("buoyant_kernel", "src/lake/"),
    ("deltalake", "src/lake/"),
    ("hmac", "src/access/"),
    ("nix", "src/warehouse/"),
    ("object_store", "src/lake/"),
    ("rdkafka", "src/kafka/"),
    ("rustyline", "src/cli/sql/"),
    ("sha2", "src/access/"),
];

/// Before the file's own tests.
const LINES_MAX: usize = 600;

/// Sources by path from the project's folder.
type Files = BTreeMap<String, String>;
/// A module as its path below the crate: `lake::commit`; the crate's root is empty.
type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Files::new();
    for folder in ["src", "tests", "benches"] {
        collect(root, &root.join(folder), &mut files);
    }
    assert!(files.contains_key("src/lake/commit.rs"), "the sources were not found");
    assert_eq!(problems(&files), Vec::<String>::new());
}

fn collect(root: &Path, folder: &Path, files: &mut Files) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

fn problems(files: &Files) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in files {
        if !text.starts_with("//! ") {
            found.push(format!("{path}: no `//!` header"));
        }
        let lines = before_tests(text).lines().count();
        if lines > LINES_MAX && path.starts_with("src/") && !path.ends_with("/tests.rs") {
            found.push(format!("{path}: {lines} lines before its tests, at most {LINES_MAX}"));
        }
        let code = without_comments(text);
        for (library, owner) in OWNERS {
            if path.starts_with("src/") && !path.starts_with(owner) && names(&code, library) {
                found.push(format!("{path}: names `{library}`, which only `{owner}` may"));
            }
        }
    }
    let modules: BTreeMap<String, &String> = files
        .iter()
        .filter(|(path, _)| path.starts_with("src/"))
        .map(|(path, text)| (module_of(path), text))
        .collect();
    // The files of each room, and under the empty name the rooms.
    let mut graphs: BTreeMap<&str, Graph> = BTreeMap::new();
    for (module, text) in &modules {
        for target in imports(module, &without_comments(text), &modules) {
            let (from, to) = (room_of(module), room_of(&target));
            if from != to {
                found.extend(check_rank(from, to).map(|why| format!("{module}: {why}")));
                graphs
                    .entry("")
                    .or_default()
                    .entry(from.to_owned())
                    .or_default()
                    .insert(to.to_owned());
            } else if !module.ends_with("::tests") {
                graphs.entry(from).or_default().entry(module.clone()).or_default().insert(target);
            }
        }
    }
    for graph in graphs.values() {
        found.extend(cycle(graph).map(|path| format!("import cycle: {}", path.join(" -> "))));
    }
    found
}

fn check_rank(from: &str, to: &str) -> Option<String> {
    let rank = |room: &str| RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank);
    let (Some(own), Some(other)) = (rank(from), rank(to)) else {
        return Some(format!("`{from}` or `{to}` is not in the table of ranks"));
    };
    let is_fine = other < own || SIDEWAYS.contains(&(from, to));
    (!is_fine).then(|| format!("rank {own} imports `{to}` of rank {other}"))
}

fn module_of(path: &str) -> String {
    let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
    let inner = inner.strip_suffix("/mod").unwrap_or(inner);
    inner.replace('/', "::")
}

fn room_of(module: &str) -> &str {
    module.split("::").next().unwrap_or_default()
}

/// The text up to an inline module of tests.
fn before_tests(text: &str) -> &str {
    let inline = text.match_indices("#[cfg(test)]\nmod ").find(|(at, found)| {
        text[at + found.len()..].lines().next().is_some_and(|line| line.ends_with('{'))
    });
    inline.map_or(text, |(at, _)| &text[..at])
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code)).fold(
        String::new(),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    )
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Ends of `word::` wherever a path begins with it.
fn path_starts<'a>(code: &'a str, word: &str) -> impl Iterator<Item = usize> + 'a {
    let wanted = format!("{word}::");
    let length = wanted.len();
    let starts: Vec<usize> = code.match_indices(&wanted).map(|(at, _)| at).collect();
    starts
        .into_iter()
        .filter(|at| !code[..*at].ends_with(|c: char| is_word(c) || c == ':'))
        .map(move |at| at + length)
}

fn names(code: &str, library: &str) -> bool {
    let alone = [format!("use {library};"), format!("use {library} as")];
    path_starts(code, library).next().is_some() || alone.iter().any(|form| code.contains(form))
}

/// Modules that the code of `module` names, by absolute, relative or child paths.
fn imports(module: &str, code: &str, modules: &BTreeMap<String, &String>) -> BTreeSet<String> {
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let below = |base: &str, path: &str| {
        let mut segments: Vec<&str> = base.split("::").collect();
        for segment in path.split("::") {
            match segment {
                "super" => drop(segments.pop()),
                _ => segments.push(segment),
            }
        }
        segments.retain(|segment| !segment.is_empty() && *segment != "self");
        segments.join("::")
    };
    let mut found = BTreeSet::new();
    // Inside an inline module of tests `super` is the file itself; what a room hands out of its own
    // files is its door, not an import.
    let is_door = |statement: &&str| {
        let path = statement.trim_start().strip_prefix("pub use ");
        path.is_some_and(|path| !path.starts_with("crate::") && !path.starts_with("super::"))
    };
    let statements = before_tests(code).split_inclusive(';');
    let outer = &statements.filter(|statement| !is_door(statement)).collect::<String>();
    for (word, base, text) in [
        ("crate", "", code),
        ("flowguard", "", code),
        ("super", parent, outer),
        ("self", module, outer),
    ] {
        for at in path_starts(text, word) {
            found.extend(tree(&text[at..]).iter().map(|path| below(base, path)));
        }
    }
    for child in modules.keys() {
        if child.rsplit_once("::").is_some_and(|(of, _)| of == module) {
            let name = child.rsplit("::").next().unwrap_or_default();
            found.extend(path_starts(outer, name).map(|_| child.clone()));
        }
    }
    let known = |path: String| {
        let mut path = path.as_str();
        while !modules.contains_key(path) {
            path = path.rsplit_once("::")?.0;
        }
        Some(path.to_owned())
    };
    found.into_iter().filter_map(known).filter(|target| target != module).collect()
}

/// Every path of a use tree, or the one path of an expression, that starts at `text`; a `*` is an
/// empty segment.
fn tree(text: &str) -> Vec<String> {
    if let Some(list) = text.strip_prefix('{') {
        let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    paths.extend(tree(list[start..at].trim_start()));
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return paths;
    }
    let word = &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())];
    match text[word.len()..].strip_prefix("::") {
        Some(rest) => tree(rest).iter().map(|path| format!("{word}::{path}")).collect(),
        None => vec![word.to_owned()],
    }
}

/// One cycle of the graph, if there is any.
fn cycle(graph: &Graph) -> Option<Vec<String>> {
    fn visit(
        node: &str,
        graph: &Graph,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(at) = path.iter().position(|on_path| on_path == node) {
            path.drain(..at);
            path.push(node.to_owned());
            return true;
        }
        if done.contains(node) {
            return false;
        }
        path.push(node.to_owned());
        if graph.get(node).into_iter().flatten().any(|next| visit(next, graph, path, done)) {
            return true;
        }
        path.pop();
        done.insert(node.to_owned());
        false
    }
    let (mut path, mut done) = (Vec::new(), BTreeSet::new());
    graph.keys().any(|node| visit(node, graph, &mut path, &mut done)).then_some(path)
}

/// A tidy house with `planted` in it has exactly the problem `expect`.
#[track_caller]
fn check(planted: &[(&str, &str)], expect: &str) {
    let mut files: Files =
        ["error", "source", "table", "app", "lake/mod", "lake/commit", "engine/mod"]
            .iter()
            .map(|path| (format!("src/{path}.rs"), "//! About this.\n".to_owned()))
            .collect();
    assert_eq!(problems(&files), Vec::<String>::new());
    for (path, text) in planted {
        files.insert((*path).to_owned(), (*text).to_owned());
    }
    assert_eq!(problems(&files).join("\n"), expect);
}

#[test]
fn an_upward_import_is_found_in_every_form() {
    let expect = "lake::commit: rank 2 imports `engine` of rank 3";
    for code in [
        "use crate::engine::Engine;",
        "use crate::{\n    error::{Error, Result},\n    engine::{self},\n};",
        "fn f() { crate::engine::session() }",
        "use super::super::engine;",
        "#[cfg(test)]\nmod tests {\n    use crate::engine::Engine;\n}",
    ] {
        check(&[("src/lake/commit.rs", &format!("//! A.\n{code}\n"))], expect);
    }
    check(&[("src/lake/commit.rs", "//! A.\n// use crate::engine::Engine;\n")], "");
}

#[test]
fn a_sideways_import_needs_to_be_listed() {
    check(&[("src/source.rs", "//! A.\nuse crate::error::Error;\n")], "");
    check(
        &[("src/table.rs", "//! A.\nuse crate::source::Source;\n")],
        "table: rank 0 imports `source` of rank 0",
    );
}

#[test]
fn a_room_without_a_rank_is_found() {
    check(
        &[("src/attic.rs", "//! A.\nuse crate::error::Error;\n")],
        "attic: `attic` or `error` is not in the table of ranks",
    );
}

#[test]
fn cycles_between_rooms_and_between_files_are_found() {
    check(
        &[
            ("src/app.rs", "//! A.\nuse crate::lake::Lake;\n"),
            ("src/lake/mod.rs", "//! A.\nuse crate::app::App;\n"),
        ],
        "lake: rank 2 imports `app` of rank 7\nimport cycle: app -> lake -> app",
    );
    for back in ["use super::Lake;", "use super::*;", "fn f() { super::open() }"] {
        check(
            &[
                ("src/lake/mod.rs", "//! A.\nmod commit;\nfn f() { commit::run() }\n"),
                ("src/lake/commit.rs", &format!("//! A.\n{back}\n")),
            ],
            "import cycle: lake -> lake::commit -> lake",
        );
    }
}

#[test]
fn a_missing_header_and_a_long_file_are_found() {
    check(&[("src/app.rs", "use std::fmt;\n")], "src/app.rs: no `//!` header");
    check(&[("tests/it/app.rs", "")], "tests/it/app.rs: no `//!` header");
    let long = format!("//! A.\n{}", "fn f() {}\n".repeat(LINES_MAX));
    check(&[("src/app.rs", &long)], "src/app.rs: 601 lines before its tests, at most 600");
    let tested = format!("//! A.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "// A.\n".repeat(LINES_MAX));
    check(&[("src/app.rs", &tested)], "");
}

#[test]
fn a_library_outside_its_room_is_found() {
    check(
        &[("src/app.rs", "//! A.\nuse deltalake::DeltaTable;\n")],
        "src/app.rs: names `deltalake`, which only `src/lake/` may",
    );
    check(
        &[("src/app.rs", "//! A.\nfn f(store: &object_store::path::Path) {}\n")],
        "src/app.rs: names `object_store`, which only `src/lake/` may",
    );
    check(
        &[("src/lake/commit.rs", "//! A.\nuse rdkafka;\n")],
        "src/lake/commit.rs: names `rdkafka`, which only `src/kafka/` may",
    );
}
