//! A local object store whose writes survive a power cut: every file and the folders above it are
//! synced before the write is reported done. object_store 0.13 syncs neither.

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};

const STORE: &str = "LocalFileSystem";
/// Folders above a new file that may be new themselves: partition, table or log, layer, lake.
const FOLDERS_SYNCED_MAX: usize = 4;

/// A local folder whose writes survive a power failure.
#[derive(Debug)]
pub struct Durable {
    inner: LocalFileSystem,
}

impl Durable {
    pub fn new(inner: LocalFileSystem) -> Self {
        Self { inner }
    }
}

impl fmt::Display for Durable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Durable({})", self.inner)
    }
}

async fn sync(file: PathBuf) -> Result<()> {
    let synced = tokio::task::spawn_blocking(move || {
        std::fs::File::open(&file)?.sync_all()?;
        sync_folders(&file)
    })
    .await?;
    synced.map_err(|source| object_store::Error::Generic { store: STORE, source: source.into() })
}

/// One object on its way to its name.
struct Put {
    file: PathBuf,
    staged: PathBuf,
    /// Fails where there is one already, instead of replacing it.
    is_new: bool,
}

impl Put {
    fn write(self, payload: &PutPayload) -> io::Result<()> {
        let named = self.name(payload);
        if self.is_new || named.is_err() {
            let _ = std::fs::remove_file(&self.staged);
        }
        named?;
        sync_folders(&self.file)
    }

    fn name(&self, payload: &PutPayload) -> io::Result<()> {
        if let Some(folder) = self.file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut staged = std::fs::File::create_new(&self.staged)?;
        payload.iter().try_for_each(|part| staged.write_all(part))?;
        staged.sync_all()?;
        match self.is_new {
            true => std::fs::hard_link(&self.staged, &self.file),
            false => std::fs::rename(&self.staged, &self.file),
        }
    }
}

fn sync_folders(file: &std::path::Path) -> io::Result<()> {
    for folder in file.ancestors().skip(1).take(FOLDERS_SYNCED_MAX) {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[async_trait]
impl ObjectStore for Durable {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if !matches!(options.mode, PutMode::Create | PutMode::Overwrite) {
            return self.inner.put_opts(location, payload, options).await;
        }
        // Under its own name only when it is whole: after a power cut, a log entry that was there
        // before its bytes would be read as one of fewer lines.
        let file = self.inner.path_to_filesystem(location)?;
        let mut staged = file.clone().into_os_string();
        // As object_store names what is under way, which it does not list.
        staged.push(format!("#{}", uuid::Uuid::new_v4().as_u64_pair().0));
        let put = Put { file, staged: staged.into(), is_new: options.mode == PutMode::Create };
        let put = tokio::task::spawn_blocking(move || put.write(&payload)).await?;
        put.map_err(|source| {
            let (path, kind) = (location.to_string(), source.kind());
            match kind {
                io::ErrorKind::AlreadyExists => {
                    object_store::Error::AlreadyExists { path, source: source.into() }
                }
                io::ErrorKind::PermissionDenied => {
                    object_store::Error::PermissionDenied { path, source: source.into() }
                }
                _ => object_store::Error::Generic { store: STORE, source: source.into() },
            }
        })?;
        let meta = self.inner.head(location).await?;
        Ok(PutResult { e_tag: meta.e_tag, version: meta.version })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        let file = self.inner.path_to_filesystem(location)?;
        Ok(Box::new(DurableUpload { inner, file }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        sync(self.inner.path_to_filesystem(to)?).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        sync(self.inner.path_to_filesystem(to)?).await
    }
}

#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    file: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        sync(self.file.clone()).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
