//! Secrets are planted wherever one can be given, into a server that runs and into commands that
//! fail, with every log at its most talkative; none may stand in anything that was written.

use std::path::Path;

use arrow_flight::sql::client::FlightSqlServiceClient;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::certificates::Certificates;
use crate::program::{Project, SMALL_DEMO};
use crate::served::{Request, Served};
use crate::services::{User, services};

const USER_PASSWORD: &str = "planted-user-password";
/// What somebody types who mixes passwords up: it is one, of something else.
const WRONG_PASSWORD: &str = "planted-other-password";
const WRONG_TOKEN: &str = "fg_0123456789abcdef_planted-token";
const S3_SECRET: &str = "planted-s3-secret-key";
const S3_SESSION: &str = "planted-s3-session-token";
const SASL_PASSWORD: &str = "planted-sasl-password";
const SSL_PASSWORD: &str = "planted-ssl-key-password";
/// Inside the text of a statement. It is its writer's own, so it goes back to them and into the
/// statement log, which keeps statements as they were written, and nowhere else.
const LITERAL: &str = "planted-literal";

/// What must not be seen, and everything that was written.
pub struct Search {
    secrets: Vec<String>,
    written: Vec<(String, Vec<u8>)>,
}

impl Search {
    pub fn of(secrets: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let secrets: Vec<String> = secrets.into_iter().map(Into::into).collect();
        assert!(secrets.iter().all(|secret| secret.len() > 7), "too short to be found for sure");
        Self { secrets, written: Vec::new() }
    }

    pub fn add(&mut self, place: impl Into<String>, content: impl Into<Vec<u8>>) {
        self.written.push((place.into(), content.into()));
    }

    /// Every file under a folder, but for those of these names.
    fn add_files(&mut self, folder: &Path, but: &[&str]) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                self.add_files(&path, but);
            } else if !but.contains(&name.as_str()) {
                self.add(path.display().to_string(), std::fs::read(&path).expect("a file"));
            }
        }
    }

    /// A command's both outputs, which must be of a failure with `code`.
    fn add_failure(&mut self, project: &Project, arguments: &[&str], code: i32) {
        let finished = project.run(arguments);
        let said = format!("{}\n{}", finished.stdout, finished.stderr);
        assert_eq!(finished.code, Some(code), "{arguments:?}: {said}");
        self.add(format!("{arguments:?}"), said);
    }

    /// Fails where a secret was found, and where nothing was written at all.
    #[track_caller]
    pub fn finds_nothing(&self) {
        let mut found = Vec::new();
        for (place, content) in &self.written {
            for secret in &self.secrets {
                let mut windows = content.windows(secret.len());
                if windows.any(|window| window == secret.as_bytes()) {
                    found.push(format!("`{secret}` in {place}"));
                }
            }
        }
        assert_eq!(found, Vec::<String>::new());
    }

    fn holds(&self, place: &str, text: &str) -> bool {
        let mut places = self.written.iter().filter(|(found, _)| found.contains(place));
        places.any(|(_, content)| String::from_utf8_lossy(content).contains(text))
    }
}

#[test]
#[should_panic(expected = "`planted-secret` in a log")]
fn a_leak_is_found() {
    let mut search = Search::of(["planted-secret"]);
    search.add("a log", *b"\xFFlogged in with planted-secret\n");
    search.finds_nothing();
}

/// A line in the middle of a key's file.
fn key_line(certificates: &Certificates) -> String {
    let key = std::fs::read_to_string(certificates.path("server.key")).expect("a key");
    key.lines().nth(1).expect("a line of base64").to_owned()
}

const CONFIGURED: &str = r#"
[kafka]
bootstrap_servers = "127.0.0.1:1"
options."security.protocol" = "SASL_PLAINTEXT"
options."sasl.mechanisms" = "SCRAM-SHA-512"
options."sasl.username" = "flowguard"
options."sasl.password" = "${PLANTED_SASL_PASSWORD}"
options."ssl.key.password" = "planted-ssl-key-password"
options."debug" = "all"
"#;

#[test]
fn planted_secrets_are_nowhere_in_what_is_written() {
    let certificates = Certificates::new();
    let project = Project::of_demo(&SMALL_DEMO)
        .with("FLOWGUARD_LOG_LEVEL", "trace")
        .with("PLANTED_SASL_PASSWORD", SASL_PASSWORD)
        .with("FLOWGUARD_S3_ACCESS_KEY_ID", "some-access-key")
        .with("FLOWGUARD_S3_SECRET_ACCESS_KEY", S3_SECRET)
        .with("FLOWGUARD_S3_SESSION_TOKEN", S3_SESSION);
    project.write("flowguard.toml", CONFIGURED);
    let add = ["user", "add", "ana", "--role", "engineer", "--password-stdin"];
    let added = project.run_with_input(&add, USER_PASSWORD).succeeded();
    let token = project.run(&["user", "token", "ana"]).succeeded();
    let token_text = token.stdout.trim().to_owned();

    let mut search = Search::of([
        USER_PASSWORD,
        WRONG_PASSWORD,
        "planted-token",
        S3_SECRET,
        S3_SESSION,
        SASL_PASSWORD,
        SSL_PASSWORD,
        &token_text,
        &key_line(&certificates),
        &STANDARD.encode(format!("ana:{USER_PASSWORD}")),
        &STANDARD.encode(format!("ana:{WRONG_PASSWORD}")),
    ]);
    search.add("user add", format!("{}{}", added.stdout, added.stderr));
    search.add("user token", token.stderr);
    let log = serve(&project, &certificates, &token_text, &mut search);
    // A statement's text is for whoever wrote it, so its literal is looked for elsewhere.
    let mut literals = Search::of([LITERAL]);
    literals.add("serve's log", log);
    literals.add_files(project.lake(), &[]);
    literals.finds_nothing();
    assert!(search.holds("statements.jsonl", LITERAL), "statements are kept as they were written");

    commands_that_fail(&project, &mut search);
    search.add_files(project.lake(), &[]);
    search.finds_nothing();
    assert!(search.holds("serve's log", "wrong password"), "the log is talkative");
}

/// A server that is asked rightly and wrongly in every way, until it has ended; its log.
fn serve(
    project: &Project,
    certificates: &Certificates,
    token: &str,
    search: &mut Search,
) -> String {
    let project = project
        .clone()
        .with("FLOWGUARD_SERVER_TLS_CERTIFICATE", &certificates.path("server.pem"))
        .with("FLOWGUARD_SERVER_TLS_KEY", &certificates.path("server.key"));
    let served = Served::start(&project, &[]);
    search.add("serve's output", served.described.to_string());
    let basic = |password| format!("Basic {}", STANDARD.encode(format!("ana:{password}")));
    let proofs = [
        basic(USER_PASSWORD),
        basic(WRONG_PASSWORD),
        format!("Bearer {token}"),
        format!("Bearer {WRONG_TOKEN}"),
        WRONG_PASSWORD.to_owned(),
    ];
    for proof in &proofs {
        for path in ["/metrics", "/api/v1/query?sql=SELECT+nothing", "/nowhere"] {
            let headers = [("authorization", proof.as_str())];
            let request = Request { path, headers: &headers, ..Request::default() };
            let reply = request.send(certificates.connect(&served, None));
            search.add(format!("HTTP {path} {}", reply.status), format!("{reply:?}"));
            search.add(format!("HTTP {path}"), reply.body);
        }
        search.add("Flight", ask_flight(&served, certificates, proof, "SELECT nothing"));
    }
    // What fails in the planner, in the parser, in a function and at run time.
    for statement in [
        format!("SELECT '{LITERAL}' || nothing FROM gold.daily_metrics"),
        format!("SELECT '{LITERAL}' FROM WHERE"),
        format!("SELECT CAST('{LITERAL}' AS INT)"),
        format!("SELECT CAST('{LITERAL}' || order_id AS INT) FROM silver.orders_cleaned"),
        format!("SELECT * FROM gold.\"{LITERAL}\""),
        format!("DELETE FROM gold.daily_metrics WHERE x = '{LITERAL}'"),
        format!("SELECT '{LITERAL}'"),
    ] {
        let headers = [("authorization", proofs[0].as_str()), ("content-type", "text/plain")];
        let body = statement.as_bytes();
        let path = "/api/v1/query";
        let request = Request { method: "POST", path, headers: &headers, body };
        let reply = request.send(certificates.connect(&served, None));
        search.add(format!("HTTP {statement}"), reply.body);
        search.add("Flight", ask_flight(&served, certificates, &proofs[2], &statement));
    }
    let said = served.said();
    search.add("serve's log", said.clone());
    // Kafka is not there, so that its own end may be a failure.
    served.stop();
    let log = project.folder().join(".flowguard/log/statements.jsonl");
    search.add("statements.jsonl", std::fs::read(log).expect("the statement log"));
    search.add("statements", project.run(&["statements", "--output", "json"]).succeeded().stdout);
    said
}

/// Everything that Flight SQL says of a statement: its schema, or why there is none.
#[tokio::main(flavor = "current_thread")]
async fn ask_flight(
    served: &Served,
    certificates: &Certificates,
    proof: &str,
    sql: &str,
) -> String {
    let authority = std::fs::read_to_string(certificates.path("ca.pem")).expect("a certificate");
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
    let url = format!("https://{}", served.address("flight"));
    let endpoint = Endpoint::from_shared(url).expect("an address").tls_config(tls).expect("TLS");
    let mut client = FlightSqlServiceClient::new(endpoint.connect().await.expect("it listens"));
    client.set_header("authorization", proof);
    match client.execute(sql.to_owned(), None).await {
        Ok(mut info) => {
            let ticket = info.endpoint.remove(0).ticket.expect("a ticket");
            match client.do_get(ticket).await {
                Ok(rows) => {
                    use futures::TryStreamExt;
                    format!("{:?}", rows.try_collect::<Vec<_>>().await)
                }
                Err(error) => format!("{error:?}"),
            }
        }
        Err(error) => format!("{error:?}"),
    }
}

fn commands_that_fail(project: &Project, search: &mut Search) {
    let nowhere = project
        .clone()
        .with("FLOWGUARD_S3_ENDPOINT", "http://127.0.0.1:1")
        .with("FLOWGUARD_S3_ALLOW_HTTP", "true");
    let query = ["query", "--lake", "s3://nowhere/lake", "SELECT * FROM gold.daily_metrics"];
    search.add_failure(&nowhere, &query, 3);
    search.add_failure(project, &["query", "SELECT nothing"], 1);
    search.add("config", project.run(&["config"]).succeeded().stdout);
    let lake = format!("s3://some-access-key:{S3_SECRET}@bucket/lake");
    search.add_failure(project, &["query", "--lake", &lake, "SELECT 1"], 1);
    let unknown = project.clone().with("FLOWGUARD_S3_SECRET_KEY", S3_SECRET);
    search.add_failure(&unknown, &["config"], 1);
    let options = format!("sasl.password {SASL_PASSWORD}");
    let options = project.clone().with("FLOWGUARD_KAFKA_OPTIONS", &options);
    search.add_failure(&options, &["config"], 1);
    let users = format!("version: 1\nusers: {{ana: {{passwort: {USER_PASSWORD}}}}}");
    let users = project.clone().with("FLOWGUARD_SERVER_USERS", &users);
    search.add_failure(&users, &["serve", "--only", "http"], 1);
    for toml in [
        format!("[s3]\nsecret_acces_key = \"{S3_SECRET}\"\n"),
        format!("[s3]\nsecret_access_key = \"{S3_SECRET}\n"),
        format!("[s3]\nsecret_access_key = [\"{S3_SECRET}\"]\n"),
        format!("[s3]\nsecret_access_key = \"{S3_SECRET} ${{NOT_SET}}\"\n"),
        format!("s3 = {{access_key_id = \"a\", secret_access_key = \"{S3_SECRET}\", x = 1}}\n"),
        format!("[kafka]\noptions.\"sasl.password\" = \"{SASL_PASSWORD}\" \"x\"\n"),
        format!("[server]\nusers = \"ana: {USER_PASSWORD}\"\nuser = 1\n"),
    ] {
        project.write("flowguard.toml", &toml);
        search.add_failure(project, &["config"], 1);
    }
    project.write("flowguard.toml", CONFIGURED);
}

#[test]
fn wrong_keys_and_a_wrong_bucket_are_not_told() {
    let Some(services) = services("secrets::wrong_keys_and_a_wrong_bucket_are_not_told") else {
        return;
    };
    let (_, secret) = User::Root.keys();
    let mut search = Search::of([S3_SECRET.to_owned(), SASL_PASSWORD.to_owned(), secret]);
    let project = Project::on_services(&services, User::Root, "secrets")
        .with("FLOWGUARD_LOG_LEVEL", "trace")
        .with("FLOWGUARD_KAFKA_OPTIONS", &format!("debug=all;sasl.password={SASL_PASSWORD}"));
    let metrics = "SELECT * FROM gold.daily_metrics";
    search.add_failure(&project, &["query", "--lake", "s3://no-such-bucket/x", metrics], 1);
    search.add_failure(&project, &["ingest", "--once"], 1);
    let wrong = project.with("FLOWGUARD_S3_SECRET_ACCESS_KEY", S3_SECRET);
    search.add_failure(&wrong, &["query", metrics], 3);
    search.add_failure(&wrong, &["audit", "--offline"], 3);
    search.finds_nothing();
}
