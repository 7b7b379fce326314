//! Three users of three roles over TLS, on MinIO, while real Kafka flows in: each asks through ADBC
//! and sees what is theirs, and bronze grows before the engineer's eyes.

use std::sync::atomic::{AtomicBool, Ordering};

use flowguard::demo::events::{Event, Options, Topic, history};

use crate::certificates::Certificates;
use crate::clients::{installed, python, run};
use crate::program::{CLICKS, ORDERS, Project};
use crate::secrets::Search;
use crate::served::Served;
use crate::services::{Services, User, services};
use crate::traffic::{Outgoing, Sender, produce_history};

const USERS: [(&str, &str); 3] = [("ada", "analyst"), ("emil", "engineer"), ("anna", "admin")];
/// Between two messages.
const PACE: std::time::Duration = std::time::Duration::from_millis(5);

/// Sends the events over and over until it is told to stop.
fn keep_sending(services: &Services, events: &[Event], stop: &AtomicBool) {
    let sender = Sender::plain(services);
    for event in events.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let reference = match event.topic {
            Topic::Orders => ORDERS,
            Topic::Clicks => CLICKS,
        };
        sender.send(&Outgoing {
            topic: Project::topic(services, reference),
            partition: event.partition,
            key: event.key.clone(),
            payload: Some(event.payload.clone()),
            timestamp_ms: Some(event.timestamp_ms),
        });
        std::thread::sleep(PACE);
    }
    sender.flush();
}

#[test]
fn each_sees_what_is_theirs_while_kafka_flows_in() {
    let test = "three_roles::each_sees_what_is_theirs_while_kafka_flows_in";
    let (Some(services), Some(home)) = (services(test), installed(test)) else { return };
    let certificates = Certificates::new();
    let lake = format!("roles-{}", services.nonce);
    let project = Project::on_services(&services, User::Root, &lake)
        .with("FLOWGUARD_INGEST_FLUSH_AGE_MS_MAX", "300ms")
        .with("FLOWGUARD_SERVER_TLS_CERTIFICATE", &certificates.path("server.pem"))
        .with("FLOWGUARD_SERVER_TLS_KEY", &certificates.path("server.key"));
    let options = Options { days: 1, orders: 300, clicks: 1_000, ..Options::default() };
    let events: Vec<Event> = history(&options).collect();
    produce_history(&services, &events);
    project.run(&["ingest", "--once"]).succeeded();
    project.run(&["run"]).succeeded();
    let mut people = Vec::new();
    for (user, role) in USERS {
        let password = format!("{user} of the lake");
        let add = ["user", "add", user, "--role", role, "--password-stdin"];
        project.run_with_input(&add, &password).succeeded();
        people.push((format!("--{role}"), format!("{user}:{password}")));
    }

    let served = Served::start(&project, &[]);
    assert_eq!(
        served.described["ingest"],
        serde_json::json!(["bronze.clicks_raw", "bronze.orders_raw"])
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| keep_sending(&services, &events, &stop));
        let url = format!("grpc+tls://{}", served.address("flight"));
        let mut script = python(&home, "flowing.py", &url);
        script.args(["--certificate", &certificates.path("ca.pem")]);
        script.args(people.iter().flat_map(|(option, user)| [option, user]));
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run("flowing.py: three roles, TLS, MinIO and Kafka", &mut script);
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(failure) = outcome {
            std::panic::resume_unwind(failure);
        }
    });
    let said = served.said();
    assert_eq!(served.stop(), Some(0));
    project.run(&["audit"]).succeeded();

    let mut search = Search::of(USERS.map(|(user, _)| format!("{user} of the lake")));
    search.add("serve's log", said);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for (path, content) in runtime.block_on(services.contents(&lake)) {
        search.add(path, content);
    }
    search.finds_nothing();
}
