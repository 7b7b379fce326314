//! An object store that fails as told: before an operation is done, after it although it was done,
//! late, or for good, as if the process had died there. Decides nothing itself: a plan, asked about
//! each operation in turn, does. What it cannot do is tear an object: stores write them whole.

use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, Result, UploadPart,
};
use tokio::sync::Notify;
use xxhash_rust::xxh3::xxh3_64_with_seed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Put,
    /// The start of a multipart upload, each part of it, its completion and its abort.
    Begin,
    Part,
    Complete,
    Abort,
    Get,
    List,
    Delete,
    Copy,
}

/// One call, counted from 0 in the order of their beginning.
pub struct Operation<'a> {
    pub index: u64,
    pub verb: Verb,
    pub path: &'a str,
}

impl Operation<'_> {
    /// The write of a log entry: the moment at which a commit happens.
    pub fn is_log_entry(&self) -> bool {
        self.verb == Verb::Put && self.path.contains("/_delta_log/") && self.path.ends_with(".json")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Nothing was done.
    Before(Reply),
    /// It was done, and this is what is heard of it.
    After(Reply),
    Late(Duration),
    /// Neither this operation nor any later one is done: the process died before it.
    Death,
    /// Waits for [`FaultyStore::resume`].
    Pause,
}

/// What a store says when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    ConnectionReset,
    SlowDown,
    /// 409, and 412 where an object must not exist yet.
    AlreadyExists,
    Precondition,
}

impl Reply {
    fn error(self, path: &str) -> Error {
        let generic = |text: &str| Error::Generic { store: "S3", source: text.into() };
        let path = path.to_owned();
        match self {
            Reply::ConnectionReset => generic("connection reset by peer"),
            Reply::SlowDown => generic("Server returned non-2xx status code: 503: SlowDown"),
            Reply::AlreadyExists => Error::AlreadyExists { path, source: "409 Conflict".into() },
            Reply::Precondition => {
                Error::Precondition { path, source: "412 Precondition Failed".into() }
            }
        }
    }
}

/// Faults of every kind at about `per_mille` of the operations, the same for the same seed.
pub fn mixed(seed: u64, per_mille: u64) -> impl Fn(&Operation<'_>) -> Fault + Send + Sync {
    move |operation| {
        let roll = xxh3_64_with_seed(&operation.index.to_le_bytes(), seed);
        if roll % 1000 >= per_mille {
            return Fault::None;
        }
        let writes = matches!(operation.verb, Verb::Put | Verb::Complete);
        let reply = match (roll >> 16) % 4 {
            0 if writes => Reply::AlreadyExists,
            1 if writes => Reply::Precondition,
            2 => Reply::SlowDown,
            _ => Reply::ConnectionReset,
        };
        match (roll >> 32) % 5 {
            0 | 1 => Fault::Before(reply),
            2 | 3 => Fault::After(reply),
            _ => Fault::Late(Duration::from_millis((roll >> 48) % 4)),
        }
    }
}

/// The process dies before its operation number `index`.
pub fn death_at(index: u64) -> impl Fn(&Operation<'_>) -> Fault + Send + Sync {
    move |operation| if operation.index == index { Fault::Death } else { Fault::None }
}

type Plan = dyn Fn(&Operation<'_>) -> Fault + Send + Sync;

/// One process's view of a store. A restarted process gets a new one over the same `inner`.
#[derive(Clone)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Arc<State>,
}

struct State {
    plan: Box<Plan>,
    operations: AtomicU64,
    dead: AtomicBool,
    died: Notify,
    paused: Notify,
    resumed: Notify,
    /// What was asked for, for messages of failing tests.
    log: Mutex<Vec<String>>,
}

impl FaultyStore {
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        plan: impl Fn(&Operation<'_>) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let state = State {
            plan: Box::new(plan),
            operations: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            died: Notify::new(),
            paused: Notify::new(),
            resumed: Notify::new(),
            log: Mutex::default(),
        };
        Self { inner, state: Arc::new(state) }
    }

    pub fn operations(&self) -> u64 {
        self.state.operations.load(Ordering::SeqCst)
    }

    pub fn is_dead(&self) -> bool {
        self.state.dead.load(Ordering::SeqCst)
    }

    /// Returns once an operation was told to die.
    pub async fn died(&self) {
        if !self.is_dead() {
            self.state.died.notified().await;
        }
    }

    /// Returns once an operation was told to pause.
    pub async fn paused(&self) {
        self.state.paused.notified().await;
    }

    pub fn resume(&self) {
        self.state.resumed.notify_one();
    }

    /// Operations and their faults, one per line.
    pub fn log(&self) -> String {
        self.state.log.lock().unwrap().join("\n")
    }

    fn begin(&self, verb: Verb, path: &str) -> Result<Fault> {
        if self.is_dead() {
            return Err(dead());
        }
        let index = self.state.operations.fetch_add(1, Ordering::SeqCst);
        let fault = (self.state.plan)(&Operation { index, verb, path });
        self.state.log.lock().unwrap().push(format!("{index} {verb:?} {path} {fault:?}"));
        if fault == Fault::Death {
            self.state.dead.store(true, Ordering::SeqCst);
            self.state.died.notify_one();
            return Err(dead());
        }
        Ok(fault)
    }

    async fn perform<T>(
        &self,
        verb: Verb,
        path: &str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match self.begin(verb, path)? {
            Fault::Before(reply) => return Err(reply.error(path)),
            Fault::After(reply) => {
                work.await?;
                return Err(reply.error(path));
            }
            Fault::Late(delay) => tokio::time::sleep(delay).await,
            Fault::Pause => {
                self.state.paused.notify_one();
                self.state.resumed.notified().await;
            }
            Fault::None | Fault::Death => {}
        }
        work.await
    }

    fn listed(
        &self,
        prefix: Option<&Path>,
        list: impl FnOnce() -> BoxStream<'static, Result<ObjectMeta>> + Send + 'static,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, path) = (self.clone(), prefix.map(Path::to_string).unwrap_or_default());
        let begun =
            async move { store.perform(Verb::List, &path, async move { Ok(list()) }).await };
        let flat = stream::once(begun).map(|begun| match begun {
            Ok(listed) => listed,
            Err(error) => stream::once(async { Err(error) }).boxed(),
        });
        flat.flatten().boxed()
    }
}

fn dead() -> Error {
    Error::Generic { store: "S3", source: "the process is dead".into() }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let work = self.inner.put_opts(location, payload, options);
        self.perform(Verb::Put, location.as_ref(), work).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let work = self.inner.put_multipart_opts(location, options);
        let inner = self.perform(Verb::Begin, location.as_ref(), work).await?;
        Ok(Box::new(FaultyUpload { inner, store: self.clone(), path: location.to_string() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let work = self.inner.get_opts(location, options);
        self.perform(Verb::Get, location.as_ref(), work).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let work = self.inner.get_ranges(location, ranges);
        self.perform(Verb::Get, location.as_ref(), work).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let deleted = locations.then(move |location| {
            let store = store.clone();
            async move {
                let location = location?;
                let work = store.inner.delete(&location);
                store.perform(Verb::Delete, location.as_ref(), work).await?;
                Ok(location)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, from) = (Arc::clone(&self.inner), prefix.cloned());
        self.listed(prefix, move || inner.list(from.as_ref()))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (inner, from, offset) = (Arc::clone(&self.inner), prefix.cloned(), offset.clone());
        self.listed(prefix, move || inner.list_with_offset(from.as_ref(), &offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.map(Path::to_string).unwrap_or_default();
        self.perform(Verb::List, &path, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let work = self.inner.copy_opts(from, to, options);
        self.perform(Verb::Copy, to.as_ref(), work).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let work = self.inner.rename_opts(from, to, options);
        self.perform(Verb::Copy, to.as_ref(), work).await
    }
}

/// Torn when its completion fails: some parts are there, the object is not.
#[derive(Debug)]
struct FaultyUpload {
    inner: Box<dyn MultipartUpload>,
    store: FaultyStore,
    path: String,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, path, part) =
            (self.store.clone(), self.path.clone(), self.inner.put_part(data));
        Box::pin(async move { store.perform(Verb::Part, &path, part).await })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (store, path) = (self.store.clone(), self.path.clone());
        store.perform(Verb::Complete, &path, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        let (store, path) = (self.store.clone(), self.path.clone());
        store.perform(Verb::Abort, &path, self.inner.abort()).await
    }
}
