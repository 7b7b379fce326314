//! File, environment and flags in; the whole effective configuration or every problem out.

use super::*;
use crate::source::printed;

fn load(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config> {
    let folder = tempfile::tempdir().unwrap();
    if !file.is_empty() {
        std::fs::write(folder.path().join(FILE_NAME), file).unwrap();
    }
    let owned = |(key, value): &(&str, &str)| (key.to_string(), value.to_string());
    let flags: Vec<(String, String)> = flags.iter().map(owned).collect();
    Config::load(folder.path(), &variables.iter().map(owned).collect(), &flags)
}

fn check(file: &str, variables: &[(&str, &str)], flags: &[(&str, &str)], expect: &str) {
    let error = load(file, variables, flags).unwrap_err();
    assert_eq!(printed(&error.diagnostics), expect.trim_matches('\n'));
}

/// What differs from the defaults, one line each.
fn changed(config: &Config) -> String {
    let lines = config.effective().iter().filter(|line| line.origin != "default");
    lines.map(|line| format!("{} = {} ({})\n", line.key, line.value, line.origin)).collect()
}

#[test]
fn nothing_is_needed() {
    let config = load("", &[("HOME", "/root"), ("FLOWGUARD_TEST_SEED", "1")], &[]).unwrap();
    assert!(config.lake.as_str().ends_with("/.flowguard/"), "{}", config.lake);
    assert_eq!(changed(&config), "");
    assert_eq!(config.ingest.flush_rows_max, 500_000);
    assert_eq!(config.ingest.flush_bytes_max, 128 << 20);
    assert_eq!(config.ingest.flush_age_ms_max, 300_000);
    assert_eq!(config.engine.memory_bytes_max, 1 << 30);
    assert!(!config.s3.path_style);
    assert_eq!(config.log.format, LogFormat::Text);
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = r#"
lake = "s3://${BUCKET:-lake}/food"
[s3]
endpoint = "http://${MINIO_HOST}:9000"
allow_http = true
access_key_id = "${MINIO_USER}"
secret_access_key = "hunter2"
[kafka]
bootstrap_servers = "localhost:9092"
options."security.protocol" = "SASL_SSL"
options.sasl.password = "$${hunter3"
options.linger.ms = 5
[ingest]
flush_rows_max = 1000
flush_age_ms_max = "5m"
[log]
level = "debug"
"#;
    let variables = [
        ("MINIO_HOST", "127.0.0.1"),
        ("MINIO_USER", "admin"),
        ("FLOWGUARD_INGEST_FLUSH_ROWS_MAX", "2000"),
        ("FLOWGUARD_KAFKA_OPTIONS", "linger.ms=7; client.id = a"),
        ("FLOWGUARD_LOG_LEVEL", "warn"),
    ];
    let config = load(file, &variables, &[("log.level", "trace")]).unwrap();
    assert_eq!(
        changed(&config),
        "lake = s3://lake/food/ (flowguard.toml:2)
s3.endpoint = http://127.0.0.1:9000 (flowguard.toml:4)
s3.access_key_id = ******** (flowguard.toml:6)
s3.secret_access_key = ******** (flowguard.toml:7)
s3.allow_http = true (flowguard.toml:5)
kafka.bootstrap_servers = localhost:9092 (flowguard.toml:9)
kafka.options.client.id = a (env FLOWGUARD_KAFKA_OPTIONS)
kafka.options.linger.ms = 7 (env FLOWGUARD_KAFKA_OPTIONS)
kafka.options.sasl.password = ******** (flowguard.toml:11)
kafka.options.security.protocol = SASL_SSL (flowguard.toml:10)
ingest.flush_rows_max = 2000 (env FLOWGUARD_INGEST_FLUSH_ROWS_MAX)
ingest.flush_age_ms_max = 5m (flowguard.toml:15)
log.level = trace (flag)
"
    );
    assert!(config.s3.path_style, "an endpoint of one's own rarely has a host name per bucket");
    assert_eq!(config.s3.secret_access_key.as_ref().unwrap().expose(), "hunter2");
    assert_eq!(config.kafka.options["sasl.password"].expose(), "${hunter3");
    let debugged = format!("{config:?}");
    assert!(!debugged.contains("hunter"), "{debugged}");
}

#[test]
fn every_problem_is_reported_and_no_secret_is_shown() {
    let file = r#"lak = "a"
lake = "gs://bucket"
[s3]
secret_acess_key = "hunter2"
secret_access_key = 5
endpoint = "http://x:9000"
path_style = "maybe"
[kafka]
group_prefix = "${PREFIX}"
options = {"sasl.password" = "hunter2", "group.id" = "mine"}
[ingest]
flush_rows_max = 0
flush_bytes_max = "12 parsecs"
dead_letter_topic = 1
memory_bytes_max = {}
[engin]
threads = 1
[log]
format = "jsn"
"#;
    check(
        file,
        &[
            ("FLOWGUARD_LOG_LEVLE", "info"),
            ("FLOWGUARD_ENGINE_THREADS", "many"),
            ("FLOWGUARD_S3_ACCESS_KEY_ID", "admin"),
        ],
        &[("log.colour", "on")],
        r#"
flowguard.toml:1:1: unknown key `lak`
    lak
    ^^^
    hint: did you mean `lake`?
flowguard.toml:2:8: `lake` cannot be on `gs://`
    lake = "gs://bucket"
           ^^^^^^^^^^^^^
    hint: write a folder, file:///folder or s3://bucket/prefix
flowguard.toml:4:1: unknown key `s3.secret_acess_key`
    secret_acess_key
    ^^^^^^^^^^^^^^^^
    hint: did you mean `s3.secret_access_key`?
flowguard.toml:5:21: `s3.secret_access_key` must be text, found an integer
flowguard.toml:6:12: `s3.endpoint` is without TLS
    endpoint = "http://x:9000"
               ^^^^^^^^^^^^^^^
    hint: use https://, or set s3.allow_http to true for a test server
flowguard.toml:7:14: `s3.path_style` must be true or false, found `maybe`
    path_style = "maybe"
                 ^^^^^^^
flowguard.toml:9:17: variable `PREFIX` is not set
    group_prefix = "${PREFIX}
                    ^^^^^^^^^
    hint: set it, or give a default: `${PREFIX:-default}`
flowguard.toml:10:54: client option `group.id` belongs to FlowGuard
    hint: set kafka.group_prefix or ingest.pipeline
flowguard.toml:12:18: `ingest.flush_rows_max` is 0, but must be at least 1
    flush_rows_max = 0
                     ^
flowguard.toml:13:19: `ingest.flush_bytes_max` cannot be `12 parsecs`
    flush_bytes_max = "12 parsecs"
                      ^^^^^^^^^^^^
    hint: write a number of bytes, or 64KiB, 128MiB, 1GiB
flowguard.toml:14:21: `ingest.dead_letter_topic` must be true or false, found an integer
    dead_letter_topic = 1
                        ^
flowguard.toml:15:20: `ingest.memory_bytes_max` must be a size such as "64MiB", found a table
    memory_bytes_max = {}
                       ^^
flowguard.toml:16:2: unknown key `engin`
    [engin
     ^^^^^
    hint: did you mean `engine`?
flowguard.toml:19:10: unknown format `jsn`
    format = "jsn"
             ^^^^^
    hint: did you mean `json`?
environment: unknown variable `FLOWGUARD_LOG_LEVLE`
    hint: did you mean `FLOWGUARD_LOG_LEVEL`?
command line: unknown setting `log.colour`
    hint: keys are: `log.level`, `log.format`
environment: `FLOWGUARD_S3_ACCESS_KEY_ID`: `s3.access_key_id` is set without `s3.secret_access_key`
    hint: set both or neither
environment: `FLOWGUARD_ENGINE_THREADS`: `engine.threads` cannot be `many`
    hint: write a whole number"#,
    );
}

#[test]
fn a_server_is_described_whole() {
    let file = r#"[server]
flight_address = "0.0.0.0:443"
tls_certificate = "tls/cert.pem"
tls_key = "/etc/tls/key.pem"
tls_client_ca = "tls/ca.pem"
users = "hunter2"
statement_log = ""
waiting_statements_max = 0
statement_run_ms_max = "90s"
statement_spill_bytes_max = "1GiB"
"#;
    let config = load(file, &[("FLOWGUARD_SERVER_USERS_FILE", "/run/users.yaml")], &[]).unwrap();
    assert_eq!(
        changed(&config),
        "server.flight_address = 0.0.0.0:443 (flowguard.toml:2)
server.tls_certificate = tls/cert.pem (flowguard.toml:3)
server.tls_key = /etc/tls/key.pem (flowguard.toml:4)
server.tls_client_ca = tls/ca.pem (flowguard.toml:5)
server.users_file = /run/users.yaml (env FLOWGUARD_SERVER_USERS_FILE)
server.users = ******** (flowguard.toml:6)
server.statement_log =  (flowguard.toml:7)
server.waiting_statements_max = 0 (flowguard.toml:8)
server.statement_run_ms_max = 90s (flowguard.toml:9)
server.statement_spill_bytes_max = 1GiB (flowguard.toml:10)
"
    );
    let server = &config.server;
    assert_eq!(server.tls_certificate, Some(config.project.join("tls/cert.pem")));
    assert_eq!(server.tls_key, Some(PathBuf::from("/etc/tls/key.pem")));
    assert_eq!(server.users_file, PathBuf::from("/run/users.yaml"));
    assert_eq!(server.statement_log, None);
    assert_eq!((server.statement_wait_ms_max, server.statement_run_ms_max), (30_000, 90_000));
    assert_eq!(server.statement_spill_bytes_max, 1 << 30);
    assert!(!format!("{config:?}").contains("hunter"));
    assert!(config.is_given("server.users") && !config.is_given("server.http_address"));
}

#[test]
fn a_server_that_cannot_listen_is_refused() {
    check(
        r#"[server]
flight_address = "localhost"
http_address = "http://a:80"
tls_key = "key.pem"
tls_client_ca = "ca.pem"
users_file = ""
running_statements_max = 0
"#,
        &[],
        &[],
        r#"
flowguard.toml:2:18: `server.flight_address` cannot be `localhost`
    flight_address = "localhost"
                     ^^^^^^^^^^^
    hint: write host:port, such as 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080
flowguard.toml:3:16: `server.http_address` cannot be `http://a:80`
    http_address = "http://a:80"
                   ^^^^^^^^^^^^^
    hint: write host:port, such as 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080
flowguard.toml:4:11: `server.tls_key` is set without `server.tls_certificate`
    tls_key = "key.pem"
              ^^^^^^^^^
    hint: set both or neither
flowguard.toml:5:17: `server.tls_client_ca` is set without `server.tls_certificate`
    tls_client_ca = "ca.pem"
                    ^^^^^^^^
    hint: clients show certificates over TLS only: set server.tls_certificate and server.tls_key
flowguard.toml:6:14: `server.users_file` is empty
    users_file = ""
                 ^^
flowguard.toml:7:26: `server.running_statements_max` is 0, but must be at least 1
    running_statements_max = 0
                             ^"#,
    );
}

#[test]
fn bad_toml_is_reported_without_its_line() {
    let error =
        load("[s3]\nsecret_access_key = \"hunter2\nregion = \"a\"\n", &[], &[]).unwrap_err();
    let text = printed(&error.diagnostics);
    assert!(text.starts_with("flowguard.toml:2:"), "{text}");
    assert!(!text.contains("hunter2"), "{text}");
}

const ENTRIES_HINT: &str =
    "\n    hint: entries are separated by line breaks or `;`; a `;` within a value is written `;;`";

#[test]
fn the_tail_of_a_password_with_a_semicolon_was_shown() {
    let options = |text: &str, problem: &str| {
        check(
            "",
            &[("FLOWGUARD_KAFKA_OPTIONS", text)],
            &[],
            &format!("environment: entry 2 of `kafka.options` {problem}{ENTRIES_HINT}"),
        );
    };
    options("sasl.password=hun;ter2", "is not `name=value`");
    options("sasl.password=hun;ter=2", "names no option of librdkafka");
    options("sasl.password=hun;=2", "names no option of librdkafka");
    options("sasl.password=hun;group.idd=2", "names no option of librdkafka");
}

#[test]
fn a_semicolon_within_an_option_is_doubled() {
    let text = "sasl.password=;;hun;;ter=2;;;\n;sasl.username = a;";
    let config = load("", &[("FLOWGUARD_KAFKA_OPTIONS", text)], &[]).unwrap();
    let options = &config.kafka.options;
    assert_eq!(options["sasl.password"].expose(), ";hun;ter=2;");
    assert_eq!(options["sasl.username"].expose(), "a");
}

#[test]
fn an_option_that_there_is_not_is_refused_where_it_stands() {
    check(
        "kafka.options.\"sasl.pasword\" = \"hunter2\"\n",
        &[],
        &[],
        "flowguard.toml:1:32: there is no client option `sasl.pasword`\n    hint: did you mean `sasl.password`?",
    );
}

#[test]
fn settings_that_can_lose_commits_are_refused() {
    for name in ["AWS_S3_ALLOW_UNSAFE_RENAME", "AWS_S3_LOCKING_PROVIDER"] {
        let error = load("", &[(name, "true")], &[]).unwrap_err();
        assert_eq!(error.message, format!("`{name}` is set, which can lose commits"));
    }
}

#[test]
fn a_project_is_found_from_a_folder_below_it() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("sql/gold");
    std::fs::create_dir_all(&below).unwrap();
    assert_eq!(find_project(&below).unwrap_err().kind, ErrorKind::NotFound);
    std::fs::write(folder.path().join(PROJECT_MARK), "version: 1\n").unwrap();
    assert_eq!(find_project(&below).unwrap(), folder.path());
}

#[test]
fn every_default_is_valid_and_every_setting_is_described() {
    for setting in &SETTINGS {
        assert!(!setting.doc.is_empty(), "{}", setting.key);
        if let Some(default) = setting.default {
            let config = load("", &[(&setting.variable(), default)], &[]);
            assert!(config.is_ok(), "{}: {config:?}", setting.key);
        }
    }
}
