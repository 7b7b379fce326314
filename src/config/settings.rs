//! The one table of settings. Parsing, environment names, `flowguard config` and the
//! documentation all read it; nothing else lists settings.

/// How a setting's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number of at least this.
    Count(u64),
    /// `1048576`, `64KiB`, `128MiB`, `1GiB`; at least 1.
    Bytes,
    /// `300000` or `500ms`, `30s`, `5m`, `1h`; at least 1.
    Millis,
    Choice(&'static [&'static str]),
    /// A free table of texts, one level below this key.
    Options,
}

/// One setting, and what people are told of it.
#[derive(Debug)]
pub struct Setting {
    pub key: &'static str,
    pub form: Form,
    /// `None`: unset unless somebody sets it.
    pub default: Option<&'static str>,
    pub is_secret: bool,
    pub doc: &'static str,
}

impl Setting {
    /// `ingest.flush_rows_max` is `FLOWGUARD_INGEST_FLUSH_ROWS_MAX`.
    pub fn variable(&self) -> String {
        format!("{VARIABLE_PREFIX}{}", self.key.to_uppercase().replace('.', "_"))
    }
}

/// Of the variables that hold settings; one that begins so and names none is an error.
pub const VARIABLE_PREFIX: &str = "FLOWGUARD_";
/// Variables of the project's own tests and scripts; the program does not read them.
pub const FOREIGN_PREFIXES: [&str; 2] = ["FLOWGUARD_TEST_", "FLOWGUARD_SERVICES_"];
/// Key of the table of the Kafka client's options, whose own names follow a dot.
pub const OPTIONS_KEY: &str = "kafka.options";
/// Client options on which exactly-once delivery depends; FlowGuard sets them itself.
pub const OWNED_OPTIONS: [&str; 6] = [
    "bootstrap.servers",
    "group.id",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "isolation.level",
    "auto.offset.reset",
];

/// `None` for what is no setting, as are the names below [`OPTIONS_KEY`].
pub fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

const fn setting(
    key: &'static str,
    form: Form,
    default: Option<&'static str>,
    doc: &'static str,
) -> Setting {
    Setting { key, form, default, is_secret: false, doc }
}

const fn secret(key: &'static str, doc: &'static str) -> Setting {
    Setting { key, form: Form::Text, default: None, is_secret: true, doc }
}

/// In the order in which they are shown.
pub static SETTINGS: [Setting; 47] = [
    setting(
        "lake",
        Form::Text,
        Some(".flowguard"),
        "where tables live: a folder (relative to the project), file:// or s3://bucket/prefix",
    ),
    setting(
        "s3.endpoint",
        Form::Text,
        None,
        "URL of a server that speaks S3, such as MinIO; unset means AWS",
    ),
    setting("s3.region", Form::Text, Some("us-east-1"), "region of the bucket"),
    secret("s3.access_key_id", "access key; set together with s3.secret_access_key"),
    secret("s3.secret_access_key", "secret key; set together with s3.access_key_id"),
    secret("s3.session_token", "token of temporary credentials"),
    setting(
        "s3.path_style",
        Form::Flag,
        None,
        "put the bucket into the path, not the host name; unset means true when s3.endpoint is set",
    ),
    setting("s3.allow_http", Form::Flag, Some("false"), "allow an endpoint without TLS"),
    setting(
        "kafka.bootstrap_servers",
        Form::Text,
        None,
        "host:port of brokers, separated by commas",
    ),
    setting(
        "kafka.group_prefix",
        Form::Text,
        Some("flowguard"),
        "consumer groups are named <prefix>-<pipeline>-<table>",
    ),
    setting(
        OPTIONS_KEY,
        Form::Options,
        None,
        "options for the Kafka client, passed through; as a variable, lines or `;`-separated k=v",
    ),
    setting(
        "ingest.pipeline",
        Form::Text,
        Some("default"),
        "name under which offsets are kept; a new name reads every topic again",
    ),
    setting(
        "ingest.flush_rows_max",
        Form::Count(1),
        Some("500000"),
        "rows after which a batch is committed",
    ),
    setting(
        "ingest.flush_bytes_max",
        Form::Bytes,
        Some("128MiB"),
        "bytes of messages after which a batch is committed",
    ),
    setting(
        "ingest.flush_age_ms_max",
        Form::Millis,
        Some("300000"),
        "age of its first row after which a batch is committed",
    ),
    setting(
        "ingest.memory_bytes_max",
        Form::Bytes,
        Some("512MiB"),
        "bytes held in memory before partitions are paused",
    ),
    setting(
        "ingest.message_bytes_max",
        Form::Bytes,
        Some("1MiB"),
        "larger messages go to bronze.dead_letters",
    ),
    setting(
        "ingest.dead_letter_topic",
        Form::Flag,
        Some("false"),
        "also produce rejected messages to <topic>.dlq",
    ),
    setting(
        "engine.memory_bytes_max",
        Form::Bytes,
        Some("1GiB"),
        "memory of all queries together; beyond it they spill to disk",
    ),
    setting(
        "engine.spill_dir",
        Form::Text,
        None,
        "folder for spilled data; unset means the system's temporary folder",
    ),
    setting("engine.threads", Form::Count(0), Some("0"), "threads per query; 0 means all cores"),
    setting(
        "engine.parallel_models_max",
        Form::Count(1),
        Some("2"),
        "models built at the same time",
    ),
    setting(
        "server.flight_address",
        Form::Text,
        Some("127.0.0.1:31337"),
        "host:port for Flight SQL; other than loopback needs TLS and users",
    ),
    setting(
        "server.http_address",
        Form::Text,
        Some("127.0.0.1:8080"),
        "host:port for HTTP; other than loopback needs TLS and users",
    ),
    setting(
        "server.tls_certificate",
        Form::Text,
        None,
        "file of the server's certificate chain, PEM; set together with server.tls_key",
    ),
    setting(
        "server.tls_key",
        Form::Text,
        None,
        "file of the certificate's private key, PEM; set together with server.tls_certificate",
    ),
    setting(
        "server.tls_client_ca",
        Form::Text,
        None,
        "file of authorities, PEM; clients must then show a certificate signed by one of them",
    ),
    setting(
        "server.users_file",
        Form::Text,
        Some("users.yaml"),
        "file of users, relative to the project; without the file nobody is asked who they are",
    ),
    secret("server.users", "the users themselves, as the text of such a file; instead of the file"),
    setting(
        "server.statement_log",
        Form::Text,
        Some(".flowguard/log/statements.jsonl"),
        "file that notes who ran what, relative to the project; empty means none",
    ),
    setting(
        "server.running_statements_max",
        Form::Count(1),
        Some("8"),
        "statements that run at the same time",
    ),
    setting(
        "server.running_statements_per_user_max",
        Form::Count(1),
        Some("4"),
        "statements of one user that run at the same time",
    ),
    setting(
        "server.waiting_statements_max",
        Form::Count(0),
        Some("256"),
        "statements that wait for others; more are refused",
    ),
    setting(
        "server.statement_wait_ms_max",
        Form::Millis,
        Some("30s"),
        "wait after which a statement is refused",
    ),
    setting(
        "server.statement_run_ms_max",
        Form::Millis,
        Some("10m"),
        "time after which a running statement is stopped",
    ),
    setting(
        "server.statement_unread_ms_max",
        Form::Millis,
        Some("2m"),
        "time after which a statement ends whose result nobody reads on",
    ),
    setting(
        "server.statement_memory_bytes_max",
        Form::Bytes,
        Some("512MiB"),
        "memory of one statement; beyond it, it spills to disk",
    ),
    setting(
        "server.statement_spill_bytes_max",
        Form::Bytes,
        Some("16GiB"),
        "disk that one statement may spill to",
    ),
    setting(
        "server.statement_rows_max",
        Form::Count(1),
        Some("1000000000"),
        "rows of one statement's result",
    ),
    setting("remote.user", Form::Text, None, "who asks the server that --remote names"),
    secret("remote.password", "password of remote.user; give it as FLOWGUARD_REMOTE_PASSWORD"),
    secret("remote.token", "token for the server, instead of user and password"),
    setting(
        "remote.tls_ca",
        Form::Text,
        None,
        "file of authorities, PEM, that sign servers; unset means those of the system",
    ),
    setting(
        "remote.tls_certificate",
        Form::Text,
        None,
        "file of an own certificate for servers that want one, PEM; set together with remote.tls_key",
    ),
    setting(
        "remote.tls_key",
        Form::Text,
        None,
        "file of that certificate's private key, PEM; set together with remote.tls_certificate",
    ),
    setting(
        "log.level",
        Form::Text,
        Some("info"),
        "error, warn, info, debug or trace; demo and run begin at warn unless it is set",
    ),
    setting(
        "log.format",
        Form::Choice(&["text", "json"]),
        Some("text"),
        "how log lines are written",
    ),
];
