//! A connection that writes in large pieces. HTTP/2 writes and flushes each of its frames of 16 KiB by
//! itself; of a stream of them the system is given several at a time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// No more than about this waits to be written.
const BYTES_MAX: usize = 128 << 10;
/// Less is an answer, and more hardly follows.
const BYTES_MIN: usize = 8 << 10;

/// Holds back what is written until it is much, or a flush comes after which nothing followed.
pub struct Gathering<S> {
    inner: S,
    bytes: Vec<u8>,
    /// How many of `bytes` are written.
    written: usize,
    /// Whether anything came since a flush was asked for.
    has_grown: bool,
}

impl<S> Gathering<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, bytes: Vec::new(), written: 0, has_grown: false }
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            let rest = &self.bytes[self.written..];
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.bytes.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.waiting() >= BYTES_MAX {
            ready!(self.drain(context))?;
        }
        let before = self.bytes.len();
        for slice in slices {
            self.bytes.extend_from_slice(slice);
        }
        self.has_grown = true;
        Poll::Ready(Ok(self.bytes.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let has_grown = std::mem::take(&mut self.has_grown);
        if has_grown && (BYTES_MIN..BYTES_MAX).contains(&self.waiting()) {
            // Who flushes is polled again, with all that was ready to be written by then; once that
            // is nothing more, what waits here is sent.
            context.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        ready!(self.drain(context))?;
        // Connections that are idle hold nothing.
        self.bytes.shrink_to(BYTES_MIN);
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.drain(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Takes all that it is given, and remembers the pieces.
    #[derive(Default)]
    struct Pieces {
        lengths: Vec<usize>,
        bytes: Vec<u8>,
        flushes: usize,
        /// What it takes at once.
        most: usize,
    }

    impl AsyncWrite for Pieces {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let taken = &bytes[..bytes.len().min(self.most)];
            self.lengths.push(taken.len());
            self.bytes.extend_from_slice(taken);
            Poll::Ready(Ok(taken.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn gathering(most: usize) -> Gathering<Pieces> {
        Gathering::new(Pieces { most, ..Pieces::default() })
    }

    #[tokio::test]
    async fn frames_that_follow_each_other_are_written_together() {
        let mut connection = gathering(usize::MAX);
        let sent: Vec<u8> = (0..40 * 16_384_u32).map(|at| (at / 7) as u8).collect();
        for frame in sent.chunks(16_384) {
            connection.write_all(frame).await.unwrap();
            connection.flush().await.unwrap();
        }
        connection.flush().await.unwrap();
        let pieces = &connection.inner;
        assert_eq!(pieces.lengths, [8 * 16_384; 5]);
        assert!(pieces.bytes == sent);
    }

    #[tokio::test]
    async fn a_small_answer_is_sent_at_once_and_a_large_one_by_the_next_flush() {
        let mut connection = gathering(5_000);
        connection.write_all(b"small").await.unwrap();
        connection.flush().await.unwrap();
        assert_eq!(
            (connection.inner.bytes.as_slice(), connection.inner.flushes),
            (&b"small"[..], 1)
        );
        connection.write_all(&[1; 9_000]).await.unwrap();
        let asked = std::future::poll_fn(|context| {
            let flushed = Pin::new(&mut connection).poll_flush(context);
            Poll::Ready((flushed.is_ready(), connection.inner.bytes.len()))
        });
        assert_eq!(asked.await, (true, 5));
        connection.flush().await.unwrap();
        assert_eq!(connection.inner.lengths, [5, 5_000, 4_000]);
        assert!(connection.bytes.capacity() <= BYTES_MIN);
    }

    #[tokio::test]
    async fn nothing_is_left_behind_by_an_end() {
        let mut connection = gathering(usize::MAX);
        connection.write_all(&[1; 20_000]).await.unwrap();
        connection.flush().await.unwrap();
        connection.shutdown().await.unwrap();
        assert_eq!(connection.inner.bytes.len(), 20_000);
    }
}
