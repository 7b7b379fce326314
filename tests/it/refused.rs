//! Brokers that refuse a client, on real listeners: what is wrong is the error, not that nobody
//! answers, and it is said once.

use std::net::TcpListener;
use std::thread;

use crate::certificates::Certificates;
use crate::program::{Finished, Project, model};
use crate::services::{Broker, Services, services};

const TOPIC: &str = "refused";
/// Lines of the log beside the error.
const LINES_MAX: usize = 6;

/// A broker that asks for a login at one port, and speaks TLS at two, one of which has a certificate
/// that has expired.
struct Listeners {
    plain: String,
    login: String,
    tls: String,
    stale: String,
    certificates: Certificates,
    _broker: Broker,
}

impl Listeners {
    fn start() -> Self {
        let certificates = Certificates::new();
        certificates.sign_expired("stale");
        for name in ["server", "stale"] {
            let part = |end: &str| {
                std::fs::read_to_string(certificates.path(&format!("{name}.{end}"))).unwrap()
            };
            let store = [part("key"), part("pem")].concat();
            std::fs::write(certificates.path(&format!("{name}.store.pem")), store).unwrap();
        }
        let [login, tls, stale] = [(); 3].map(|()| free_address());
        let store = |name: &str| certificates.path(&format!("{name}.store.pem"));
        let properties = format!(
            "listeners=CLIENT://127.0.0.1:@PORT@,CONTROLLER://127.0.0.1:@CONTROLLER_PORT@,\
             LOGIN://{login},TLS://{tls},STALE://{stale}\n\
             advertised.listeners=CLIENT://127.0.0.1:@PORT@,LOGIN://{login},TLS://{tls},\
             STALE://{stale}\n\
             listener.security.protocol.map=CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT,\
             LOGIN:SASL_PLAINTEXT,TLS:SSL,STALE:SSL\n\
             listener.name.login.sasl.enabled.mechanisms=PLAIN\n\
             listener.name.login.plain.sasl.jaas.config=\
             org.apache.kafka.common.security.plain.PlainLoginModule required \
             user_reader=\"right\";\n\
             listener.name.tls.ssl.keystore.type=PEM\n\
             listener.name.tls.ssl.keystore.location={}\n\
             listener.name.stale.ssl.keystore.type=PEM\n\
             listener.name.stale.ssl.keystore.location={}\n",
            store("server"),
            store("stale")
        );
        let broker = Broker::start_with(&properties);
        let plain = broker.address.clone();
        Self { plain, login, tls, stale, certificates, _broker: broker }
    }
}

/// Nobody listens there, unless somebody is quick.
fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

fn ingest(broker: &str, options: &str) -> Finished {
    let header = format!(
        "kind: append\nsource: {{topic: {TOPIC}, format: json}}\ncolumns:\n  id: {{type: bigint}}"
    );
    let project = Project::of_models(&[("bronze/t", &model(&header, "SELECT * FROM kafka.t"))]);
    let project = project.with("FLOWGUARD_KAFKA_BOOTSTRAP_SERVERS", broker);
    project.with("FLOWGUARD_KAFKA_OPTIONS", options).run(&["ingest", "--once"])
}

/// The lines that people read at the end, without the cause in librdkafka's words.
fn error_of(finished: &Finished) -> String {
    let lines = finished.stderr.lines();
    let kept = lines.filter(|line| line.starts_with("error: ") || line.starts_with("hint: "));
    kept.collect::<Vec<_>>().join("\n")
}

fn check(broker: &str, options: &str, code: i32, error: &str) {
    let ended = ingest(broker, options);
    assert_eq!((ended.code, error_of(&ended).as_str()), (Some(code), error), "{}", ended.stderr);
    let lines = ended.stderr.lines().filter(|line| line.starts_with("20")).count();
    assert!(lines <= LINES_MAX, "{}", ended.stderr);
}

#[test]
fn a_broker_that_refuses_is_named_for_what_it_refuses() {
    let name = "refused::a_broker_that_refuses_is_named_for_what_it_refuses";
    let Some(services) = services(name) else { return };
    let listeners = Listeners::start();
    let Listeners { plain, login, tls, stale, certificates, .. } = &listeners;
    Services { kafka: plain.clone(), ..services }.create_topic(TOPIC, 1);
    let (ca, other) = (certificates.path("ca.pem"), Certificates::new());
    let other = other.path("ca.pem");
    let doing = "error: cannot ask for topic `refused`";
    let sasl = "security.protocol=sasl_plaintext;sasl.username=reader";
    let trusting = format!("security.protocol=ssl;ssl.ca.location={ca}");
    let cases = [
        (
            login,
            format!("{sasl};sasl.mechanisms=PLAIN;sasl.password=wrong"),
            format!(
                "{doing}: the broker refuses the SASL login\nhint: check `sasl.username`, \
                 `sasl.password` and `sasl.mechanisms` in `kafka.options`"
            ),
        ),
        (
            login,
            format!("{sasl};sasl.mechanisms=SCRAM-SHA-256;sasl.password=right"),
            format!(
                "{doing}: the broker does not take the SASL mechanism\nhint: set \
                 `sasl.mechanisms` in `kafka.options` to one that the broker takes"
            ),
        ),
        (
            login,
            "security.protocol=plaintext".to_owned(),
            format!(
                "{doing}: the broker seems to end connections of clients that do not log in\nhint: set \
                 `security.protocol` (sasl_plaintext or sasl_ssl) and `sasl.mechanisms` in \
                 `kafka.options`"
            ),
        ),
        (
            tls,
            format!("security.protocol=ssl;ssl.ca.location={other}"),
            format!(
                "{doing}: the broker's certificate is not to be trusted\nhint: set \
                 `ssl.ca.location` in `kafka.options` to the authority that signed it"
            ),
        ),
        (
            stale,
            trusting.clone(),
            format!(
                "{doing}: the broker's certificate has expired\nhint: give the brokers a new \
                 certificate"
            ),
        ),
        (
            tls,
            "security.protocol=plaintext".to_owned(),
            format!(
                "{doing}: the broker's port seems to speak TLS, which the client does not\nhint: \
                 set `security.protocol` in `kafka.options` to ssl or sasl_ssl"
            ),
        ),
        (
            plain,
            trusting.clone(),
            format!(
                "{doing}: the broker's port does not speak TLS\nhint: name the port that does in \
                 `kafka.bootstrap_servers`, or set `security.protocol` in `kafka.options` to \
                 plaintext or sasl_plaintext"
            ),
        ),
    ];
    thread::scope(|scope| {
        for (broker, options, error) in &cases {
            scope.spawn(move || check(broker, options, 3, error));
        }
    });
    // It is no fault of the listeners.
    ingest(login, &format!("{sasl};sasl.mechanisms=PLAIN;sasl.password=right")).succeeded();
    ingest(tls, &trusting).succeeded();
}

#[test]
fn a_login_without_a_mechanism_is_refused_before_anybody_is_asked() {
    let sasl = "security.protocol=sasl_plaintext;sasl.username=reader;sasl.password=right";
    let hint = "hint: set `sasl.mechanisms` in `kafka.options` to PLAIN, SCRAM-SHA-256, \
                SCRAM-SHA-512 or OAUTHBEARER";
    let broker = free_address();
    let missing = format!("error: cannot use Kafka: no SASL mechanism is set\n{hint}");
    check(&broker, sasl, 1, &missing);
    let unknown =
        format!("error: cannot use Kafka: there is no SASL mechanism `MAGIC` here\n{hint}");
    check(&broker, &format!("{sasl};sasl.mechanisms=MAGIC"), 1, &unknown);
}

/// It was 200 lines within a second.
#[test]
fn a_broker_that_is_not_there_is_told_once() {
    let broker = free_address();
    let hint = "hint: check `kafka.bootstrap_servers` and that the brokers run";
    let error = format!("error: cannot ask for topic `{TOPIC}`: the brokers do not answer\n{hint}");
    check(&broker, "reconnect.backoff.ms=10;reconnect.backoff.max.ms=20", 3, &error);
}
