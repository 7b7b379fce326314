//! The program as its user meets it: help that teaches, completions, the effective configuration,
//! schemas and lineage. Runs the real binary; needs no broker and no store.

use std::path::Path;
use std::process::{Command, Output};

use flowguard::config::settings::SETTINGS;

const COMMANDS: [&str; 19] = [
    "audit",
    "check",
    "completions",
    "config",
    "demo",
    "dlq",
    "export",
    "ingest",
    "lake",
    "lineage",
    "parity",
    "query",
    "run",
    "schema",
    "serve",
    "sql",
    "statements",
    "target",
    "user",
];

/// Runs the program in `folder` with exactly the environment given.
fn flowguard(folder: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flowguard"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn stdout(arguments: &[&str]) -> String {
    let output = flowguard(project(), &[], arguments);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {talk}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_is_listed_and_its_help_has_an_example() {
    let help = stdout(&["--help"]);
    let listed: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    assert_eq!(listed, COMMANDS, "the list in this file is not the program's");
    for command in COMMANDS {
        let help = stdout(&[command, "--help"]);
        let (_, examples) =
            help.split_once("Example").unwrap_or_else(|| panic!("{command}: {help}"));
        assert!(examples.contains(&format!("flowguard {command}")), "{command}: {examples}");
        assert!(help.contains("Global options:"), "{command}");
    }
}

#[test]
fn the_whole_help_is_this() {
    insta::assert_snapshot!(stdout(&["--help"]));
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&["completions", shell]);
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}

#[test]
fn config_shows_origins_and_no_secret_anywhere() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("dags.yaml"), "version: 1\n").unwrap();
    let file = "lake = \"s3://lake\"\n[ingest]\nflush_rows_max = 7\n[kafka]\noptions.\"sasl.password\" = \"planted-3\"\n";
    std::fs::write(folder.path().join("flowguard.toml"), file).unwrap();
    let environment = [
        ("FLOWGUARD_S3_ACCESS_KEY_ID", "planted-1"),
        ("FLOWGUARD_S3_SECRET_ACCESS_KEY", "planted-2"),
        ("FLOWGUARD_LOG_LEVEL", "trace"),
    ];
    let run = |arguments: &[&str]| {
        let output = flowguard(folder.path(), &environment, arguments);
        let said = [output.stdout.as_slice(), &output.stderr].concat();
        let said = String::from_utf8(said).unwrap();
        assert!(!said.contains("planted"), "{arguments:?}: {said}");
        said
    };
    let text = run(&["config", "--set", "engine.threads=1"]);
    insta::assert_snapshot!(text);
    let json: serde_json::Value =
        serde_json::from_str(&run(&["config", "--output", "json"])).unwrap();
    let secret = json.as_array().unwrap().iter().find(|line| line["key"] == "s3.secret_access_key");
    assert_eq!(
        secret,
        Some(&serde_json::json!({
            "key": "s3.secret_access_key",
            "value": "********",
            "from": "env FLOWGUARD_S3_SECRET_ACCESS_KEY",
        }))
    );
    // What fails must not say them either.
    for arguments in [
        &["check"][..],
        &["config", "--set", "s3.region="],
        &["ingest", "--once", "--set", "s3.endpoint=nowhere"],
        &["query", "SELECT 1", "--lake", "s3://lake", "--set", "s3.endpoint=http://127.0.0.1:1"],
        &["audit", "--lake", "gs://lake"],
    ] {
        run(arguments);
    }
}

#[test]
fn a_folder_without_a_project_gets_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    for command in [&["config"][..], &["check"], &["run"], &["lineage"], &["query", "SELECT 1"]] {
        let output = flowguard(folder.path(), &[], command);
        let place = folder.path().canonicalize().unwrap();
        assert_eq!(
            String::from_utf8(output.stderr).unwrap(),
            format!(
                "error: no `dags.yaml` in `{}` or above it\n\
                 hint: change into a project's folder, or name it: --project PATH\n",
                place.display()
            )
        );
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    }
}

#[test]
fn schemas_and_lineage_parse() {
    for of in ["model", "dags"] {
        let schema: serde_json::Value = serde_json::from_str(&stdout(&["schema", of])).unwrap();
        assert!(schema["$schema"].as_str().unwrap().contains("json-schema.org"), "{of}");
        assert!(schema["properties"].as_object().unwrap().len() > 1, "{of}");
    }
    let lineage: serde_json::Value = serde_json::from_str(&stdout(&["lineage"])).unwrap();
    let edge = serde_json::json!({"from": "silver.orders_cleaned", "to": "gold.daily_metrics"});
    assert!(lineage["edges"].as_array().unwrap().contains(&edge));
    let dot = stdout(&["lineage", "--output", "dot"]);
    assert!(dot.starts_with("digraph") && dot.trim_end().ends_with('}'), "{dot}");
    assert!(dot.contains(r#""silver.orders_cleaned" -> "gold.daily_metrics""#), "{dot}");
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let page = std::fs::read_to_string(project().join("docs/configuration.md")).unwrap();
    for setting in &SETTINGS {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{}` |", setting.key)));
        let row =
            row.unwrap_or_else(|| panic!("`{}` is not in docs/configuration.md", setting.key));
        if let Some(default) = setting.default {
            assert!(row.contains(&format!("`{default}`")), "{row}: the default is `{default}`");
        }
    }
    let keys = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    for (key, _) in keys {
        assert!(SETTINGS.iter().any(|setting| setting.key == key), "`{key}` is no setting");
    }
}
