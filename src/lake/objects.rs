//! A folder or bucket of objects that is no lake, such as a target of files: what is in it, whole
//! objects in and out, and the one write that fails if the object is there. Knows nothing of what
//! the objects hold.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, WriteMultipart};
use url::Url;

use super::store::{S3Access, open_store, store_error};
use crate::error::{Error, Result};
use crate::interval::Instant;

/// Larger objects are sent in parts of this size, so that none takes longer than a request may.
const PART_BYTES: usize = 8 << 20;
/// Parts on their way.
const PARTS_MAX: usize = 4;
const DELETE_ATTEMPTS_MAX: u32 = 3;

/// A prefix of a store, under which names are given.
#[derive(Clone)]
pub struct Folder {
    root: Url,
    path: Path,
    store: Arc<dyn ObjectStore>,
}

/// One object; its name begins below the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub name: String,
    pub bytes: u64,
    /// By the store's clock.
    pub modified: Instant,
}

impl Folder {
    /// Opens `root` (`file://` or `s3://`); a folder that is not there is made.
    pub fn open(root: &Url, s3: &S3Access) -> Result<Self> {
        Self::with_store(root, open_store(root, s3)?)
    }

    /// On a store that the caller built, addressed from the root of its bucket or file system.
    pub fn with_store(root: &Url, store: Arc<dyn ObjectStore>) -> Result<Self> {
        let path = Path::from_url_path(root.path())
            .map_err(|source| Error::invalid(format!("bad path `{root}`")).source(source))?;
        Ok(Self { root: root.clone(), path, store })
    }

    /// As it was opened, with or without a `/` at the end.
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// Segments are kept as they are: none can lead out of the folder.
    fn path_of(&self, name: &str) -> Path {
        name.split('/').fold(self.path.clone(), |path, segment| path.join(segment))
    }

    fn failed(&self, doing: &str, name: &str, source: object_store::Error) -> Error {
        let root = self.root.as_str().trim_end_matches('/');
        store_error(&format!("cannot {doing} `{root}/{name}`"), source)
    }

    /// All objects below `name`, in order of their names.
    pub async fn list(&self, name: &str) -> Result<Vec<Object>> {
        let above = self.path_of(name);
        let found = self.store.list(Some(&above)).map_ok(|found| Object {
            name: match found.location.prefix_match(&above) {
                Some(rest) => {
                    let rest: Vec<String> = rest.map(|part| part.as_ref().to_owned()).collect();
                    format!("{name}/{}", rest.join("/"))
                }
                None => String::new(),
            },
            bytes: found.size,
            modified: Instant::from_datetime(found.last_modified),
        });
        let mut objects: Vec<Object> = match found.try_collect().await {
            Ok(objects) => objects,
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            Err(source) => return Err(self.failed("list", name, source)),
        };
        objects.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(objects)
    }

    /// The whole object, or `None` if it is not there.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>> {
        let found = match self.store.get(&self.path_of(name)).await {
            Ok(found) => found.bytes().await,
            Err(source) => Err(source),
        };
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(self.failed("read", name, source)),
        }
    }

    /// Writes an object whole: nobody sees a part of it.
    pub async fn put(&self, name: &str, content: Bytes) -> Result<()> {
        let path = self.path_of(name);
        let put = match content.len() <= PART_BYTES {
            true => self.store.put(&path, content.into()).await.map(drop),
            false => self.put_in_parts(&path, content).await,
        };
        put.map_err(|source| self.failed("write", name, source))
    }

    async fn put_in_parts(&self, path: &Path, content: Bytes) -> object_store::Result<()> {
        let upload = self.store.put_multipart(path).await?;
        let mut write = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut rest = content;
        while !rest.is_empty() {
            if let Err(source) = write.wait_for_capacity(PARTS_MAX).await {
                // What was sent so far; the first error is the one to tell.
                let _ = write.abort().await;
                return Err(source);
            }
            write.put(rest.split_to(rest.len().min(PART_BYTES)));
        }
        write.finish().await.map(drop)
    }

    /// Writes an object that is not there yet; false if it is.
    pub async fn put_new(&self, name: &str, content: Bytes) -> Result<bool> {
        let path = self.path_of(name);
        match self.store.put_opts(&path, content.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(source) => Err(self.failed("write", name, source)),
        }
    }

    /// Deletes an object, if it is there. A delete that a dropped connection cut off, which MinIO
    /// does after it refused a conditional put, is not repeated by object_store.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let path = self.path_of(name);
        let mut attempt = 1;
        loop {
            match self.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => return Ok(()),
                Err(_) if attempt < DELETE_ATTEMPTS_MAX => attempt += 1,
                Err(source) => return Err(self.failed("delete", name, source)),
            }
        }
    }
}
