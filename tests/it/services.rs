//! The real services: what `minio/services start DIR` wrote into `DIR/services.env`, read from the
//! environment, and topics and objects on them. Starts nothing but a broker of a test's own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use tempfile::TempDir;

use crate::program::{Ending, finish};

/// How long a broker may take to know a topic that it made.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);

/// A user of the MinIO that `minio/policies` describes.
#[derive(Debug, Clone, Copy)]
pub enum User {
    Root,
    Ingest,
    Transform,
    Analyst,
    Server,
}

pub struct Services {
    pub kafka: String,
    pub s3_endpoint: String,
    pub s3_region: String,
    pub s3_bucket: String,
    /// Different in every run, for names of topics and prefixes.
    pub nonce: String,
}

/// A broker of one test, which may restart it. It ends with the test, however that does.
pub struct Broker {
    folder: PathBuf,
    pub address: String,
    _ending: Ending,
}

/// The services, or `None` after a loud word that `test` is skipped. With
/// `FLOWGUARD_TEST_REQUIRED=1` missing services are a failure.
pub fn services(test: &str) -> Option<Services> {
    let Ok(kafka) = std::env::var("FLOWGUARD_TEST_KAFKA") else {
        skipped(test, "no real Kafka and MinIO (run `make test`)");
        return None;
    };
    Some(Services {
        kafka,
        s3_endpoint: variable("S3_ENDPOINT"),
        s3_region: variable("S3_REGION"),
        s3_bucket: variable("S3_BUCKET"),
        nonce: uuid::Uuid::new_v4().simple().to_string()[..8].to_owned(),
    })
}

/// Whether every test must run, whatever it needs.
pub fn is_required() -> bool {
    std::env::var("FLOWGUARD_TEST_REQUIRED").is_ok_and(|value| value == "1")
}

/// Says that a test did not run, past the test harness, which keeps back what passing tests print.
/// Where every test must run, that is a failure.
#[track_caller]
pub fn skipped(test: &str, why: &str) {
    assert!(!is_required(), "{test} must run: {why}");
    say(&format!("skipped: {test}: {why}"));
}

/// A line on the real standard error.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn variable(name: &str) -> String {
    let name = format!("FLOWGUARD_TEST_{name}");
    std::env::var(&name).unwrap_or_else(|_| panic!("`{name}` is not set: source services.env"))
}

impl User {
    /// Access key and secret.
    pub fn keys(self) -> (String, String) {
        let name = format!("{self:?}").to_uppercase();
        let key = |part: &str| variable(&format!("S3_{name}_{part}"));
        (key("ACCESS_KEY_ID"), key("SECRET_ACCESS_KEY"))
    }
}

impl Services {
    /// Client settings of the tests' own producers and consumers.
    pub fn client(&self) -> ClientConfig {
        client(&self.kafka)
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().expect("the client settings are valid")
    }

    /// Creates a topic that keeps its messages, however old they say they are, and waits until the
    /// broker knows it: one that makes another topic of very many partitions may take a while.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1))
            .set("retention.ms", "-1")
            .set("message.timestamp.type", "CreateTime");
        let admin = self.admin();
        let made = admin.create_topics([&topic], &AdminOptions::new());
        for result in futures::executor::block_on(made).expect("the broker answers") {
            result.expect("the topic is new");
        }
        let deadline = Instant::now() + CREATION_TIMEOUT;
        loop {
            let known = admin.inner().fetch_metadata(Some(name), CREATION_TIMEOUT);
            let known = known.expect("the broker answers");
            let topic = known.topics().iter().find(|topic| topic.name() == name);
            if topic.is_some_and(|topic| topic.partitions().len() == partitions as usize) {
                return;
            }
            assert!(Instant::now() < deadline, "`{name}` was made, and is not there");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Deletes a topic; the broker may take a moment to forget it.
    pub fn delete_topic(&self, name: &str) {
        let admin = self.admin();
        let gone = admin.delete_topics(&[name], &AdminOptions::new());
        for result in futures::executor::block_on(gone).expect("the broker answers") {
            result.expect("the topic is there");
        }
    }

    /// Gives a topic more partitions.
    pub fn grow_topic(&self, name: &str, partitions: usize) {
        let wanted = NewPartitions::new(name, partitions);
        let admin = self.admin();
        let made = admin.create_partitions([&wanted], &AdminOptions::new());
        for result in futures::executor::block_on(made).expect("the broker answers") {
            result.expect("the topic has fewer partitions");
        }
    }

    fn bucket(&self) -> Arc<dyn ObjectStore> {
        let (key, secret) = User::Root.keys();
        let store = AmazonS3Builder::new()
            .with_endpoint(&self.s3_endpoint)
            .with_region(&self.s3_region)
            .with_bucket_name(&self.s3_bucket)
            .with_access_key_id(key)
            .with_secret_access_key(secret)
            .with_allow_http(true)
            .build();
        Arc::new(store.expect("the store's settings are valid"))
    }

    /// Paths of all objects under a folder of the bucket, sorted.
    pub async fn objects(&self, folder: &str) -> Vec<String> {
        let store = self.bucket();
        let listed = store.list(Some(&folder.into())).map_ok(|object| object.location.to_string());
        let mut paths: Vec<String> = listed.try_collect().await.expect("the bucket can be listed");
        paths.sort();
        paths
    }

    /// All objects under a folder of the bucket, with what they hold.
    pub async fn contents(&self, folder: &str) -> Vec<(String, Vec<u8>)> {
        use object_store::ObjectStoreExt;
        let store = self.bucket();
        let mut contents = Vec::new();
        for path in self.objects(folder).await {
            let object = store.get(&path.as_str().into()).await.expect("the object is there");
            contents.push((path, object.bytes().await.expect("it can be read").to_vec()));
        }
        contents
    }

    /// Deletes everything under a folder of the bucket.
    pub async fn remove_objects(&self, folder: &str) {
        use object_store::ObjectStoreExt;
        let store = self.bucket();
        for path in self.objects(folder).await {
            store.delete(&path.into()).await.expect("the administrator may delete");
        }
    }
}

pub fn client(broker: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker).set("topic.metadata.refresh.interval.ms", "500");
    config
}

/// Copies a folder's content, which may be large and sparse.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    finish(Command::new("cp").arg("-a").arg(from.join(".")).arg(to)).succeeded();
}

impl Broker {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With some of the broker's properties set otherwise, a line each.
    pub fn start_with(properties: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder").keep();
        std::fs::write(folder.join("more.properties"), properties).expect("a new file");
        let ending = Ending::of(&folder, &Self::asked("stop", &folder));
        let started = finish(&mut Self::asked("start-kafka", &folder)).succeeded();
        Self { folder, address: started.stdout.trim().to_owned(), _ending: ending }
    }

    fn asked(what: &str, folder: &Path) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("minio/services");
        let mut command = Command::new(script);
        command.arg(what).arg(folder);
        command
    }

    /// Stops the broker and copies what it has, to be put back by [`Broker::rolled_back`].
    pub fn saved(&self) -> TempDir {
        finish(&mut Self::asked("stop", &self.folder)).succeeded();
        let saved = TempDir::new().expect("a temporary folder");
        copy(&self.folder.join("kafka"), saved.path());
        saved
    }

    /// Stops the broker and gives it back what it had, as a machine from a backup.
    pub fn rolled_back(&self, saved: &TempDir) {
        finish(&mut Self::asked("stop", &self.folder)).succeeded();
        std::fs::remove_dir_all(self.folder.join("kafka")).expect("the broker's folder");
        copy(saved.path(), &self.folder.join("kafka"));
        finish(&mut self.restart()).succeeded();
    }

    /// A command that stops the broker and starts it again, where it was and with what it had.
    pub fn restart(&self) -> Command {
        Self::asked("restart-kafka", &self.folder)
    }
}
