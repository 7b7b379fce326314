//! Batches as messages of Flight: first the promised schema, then a message for each batch that
//! fits, made when the client asks for it and not before. What is too large is cut by rows.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_flight::{FlightData, SchemaAsIpc};
use futures::{Stream, StreamExt};
use prost::Message;
use tonic::Status;

use crate::error::{Error, ErrorKind, Result};

/// Rows of one message.
const ROWS_MAX: usize = 65_536;
/// What a message is cut to.
const MESSAGE_BYTES_AIM: usize = 2 << 20;
/// What gRPC clients take unless they are told otherwise, less the frame around a message.
const MESSAGE_BYTES_MAX: usize = (4 << 20) - 64;
/// A single row goes out as far as ADBC's driver takes it (16 MiB); JDBC, C++ and Python take
/// more, and Rust and Go must be told to take more than 4 MiB.
const ROW_BYTES_MAX: usize = (16 << 20) - 64;

/// The messages of a stream of batches that have the columns of `schema`.
pub fn messages<S>(schema: &Schema, batches: S) -> Messages<S>
where
    S: Stream<Item = Result<RecordBatch>> + Unpin,
{
    let options = IpcWriteOptions::default();
    Messages {
        batches,
        first: Some(FlightData::from(SchemaAsIpc::new(schema, &options))),
        pending: Vec::new(),
        row_bytes: 0,
        writer: Writer { options, context: IpcWriteContext::default() },
        is_done: false,
    }
}

/// The messages of rows that are in memory already.
pub fn messages_of(
    batch: RecordBatch,
) -> impl Stream<Item = Result<FlightData, Status>> + Send + 'static {
    let schema = batch.schema();
    messages(&schema, futures::stream::iter([Ok(batch)]))
}

/// A stream of batches as a stream of messages; nothing follows an error.
pub struct Messages<S> {
    batches: S,
    first: Option<FlightData>,
    /// Pieces of the last batch, the next one last.
    pending: Vec<RecordBatch>,
    /// What a row of the last message took.
    row_bytes: usize,
    writer: Writer,
    is_done: bool,
}

impl<S> Stream for Messages<S>
where
    S: Stream<Item = Result<RecordBatch>> + Unpin,
{
    type Item = Result<FlightData, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if this.is_done {
            return Poll::Ready(None);
        }
        loop {
            if let Some(batch) = this.pending.pop() {
                match this.encode(batch) {
                    Ok(None) => continue,
                    Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                    Err(error) => {
                        this.is_done = true;
                        return Poll::Ready(Some(Err(error.into())));
                    }
                }
            }
            match ready!(this.batches.poll_next_unpin(context)) {
                Some(Ok(batch)) => this.pending.push(batch),
                Some(Err(error)) => {
                    this.is_done = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    this.is_done = true;
                    return Poll::Ready(None);
                }
            }
        }
    }
}

impl<S> Messages<S> {
    /// The message of as much of `batch` as should fit; the rest is to come. Nothing if that was
    /// too much, and all is to come in pieces.
    fn encode(&mut self, mut batch: RecordBatch) -> Result<Option<FlightData>> {
        let fitting = match self.row_bytes {
            0 => ROWS_MAX,
            bytes => (MESSAGE_BYTES_AIM / bytes).clamp(1, ROWS_MAX),
        };
        if batch.num_rows() > fitting {
            self.pending.push(batch.slice(fitting, batch.num_rows() - fitting));
            batch = batch.slice(0, fitting);
        }
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(None);
        }
        let message = self.writer.write(&batch).map_err(|source| {
            Error::internal("a batch cannot be encoded for its client").source(source)
        })?;
        let bytes = message.encoded_len();
        self.row_bytes = bytes.div_ceil(rows);
        if bytes <= MESSAGE_BYTES_MAX || (rows == 1 && bytes <= ROW_BYTES_MAX) {
            return Ok(Some(message));
        }
        if rows == 1 {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("a row takes {bytes} bytes, and a message at most {ROW_BYTES_MAX}"),
            )
            .hint("select fewer columns, or a part of the value"));
        }
        let pieces = bytes.div_ceil(MESSAGE_BYTES_AIM).clamp(2, rows);
        self.cut(&batch, rows.div_ceil(pieces));
        Ok(None)
    }

    fn cut(&mut self, batch: &RecordBatch, rows_max: usize) {
        let starts = (0..batch.num_rows()).step_by(rows_max);
        let pieces = starts.map(|start| batch.slice(start, rows_max.min(batch.num_rows() - start)));
        let first = self.pending.len();
        self.pending.extend(pieces);
        self.pending[first..].reverse();
    }
}

struct Writer {
    options: IpcWriteOptions,
    context: IpcWriteContext,
}

impl Writer {
    /// Only the rows of a slice are written, whatever it was cut from.
    fn write(&mut self, batch: &RecordBatch) -> Result<FlightData, ArrowError> {
        // Results hold no dictionaries, so there is never one to send.
        let mut dictionaries = DictionaryTracker::new(true);
        let (_, encoded) = IpcDataGenerator::default().encode(
            batch,
            &mut dictionaries,
            &self.options,
            &mut self.context,
        )?;
        Ok(encoded.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use arrow::array::{ArrayRef, Int64Array, ListArray, StringArray};
    use arrow::datatypes::{Field, Int64Type};
    use arrow_flight::decode::FlightRecordBatchStream;
    use arrow_flight::error::FlightError;
    use futures::TryStreamExt;

    fn batch(column: ArrayRef) -> RecordBatch {
        let field = Field::new("a", column.data_type().clone(), true);
        RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![column]).unwrap()
    }

    /// Encodes, checks that every message is below `bytes_max` and that the rows come back.
    async fn check(batches: Vec<RecordBatch>, bytes_max: usize) -> Vec<usize> {
        let schema = batches[0].schema();
        let stream = futures::stream::iter(batches.clone().into_iter().map(Ok));
        let messages: Vec<FlightData> = messages(&schema, stream).try_collect().await.unwrap();
        for message in &messages {
            assert!(message.encoded_len() <= bytes_max, "{}", message.encoded_len());
        }
        let stream = futures::stream::iter(messages.into_iter().map(Ok::<_, FlightError>));
        let back: Vec<RecordBatch> =
            FlightRecordBatchStream::new_from_flight_data(stream).try_collect().await.unwrap();
        let whole = arrow::compute::concat_batches(&schema, &batches).unwrap();
        assert_eq!(arrow::compute::concat_batches(&schema, &back).unwrap(), whole);
        back.iter().map(RecordBatch::num_rows).collect()
    }

    fn text(rows: usize, bytes: usize) -> RecordBatch {
        batch(Arc::new(StringArray::from_iter_values((0..rows).map(|_| "x".repeat(bytes)))))
    }

    #[tokio::test]
    async fn a_large_column_is_cut_below_what_clients_take() {
        let rows = check(vec![text(100, 100_000), text(100, 100_000)], 4 << 20).await;
        assert!(rows.len() >= 10, "{rows:?}");
        // One value of three megabytes among small ones.
        let mut values = vec!["x".to_owned(); 1_000];
        values[500] = "y".repeat(3 << 20);
        values[501] = "z".repeat(3 << 20);
        check(vec![batch(Arc::new(StringArray::from(values)))], 4 << 20).await;
        let lists = (0..2_000).map(|row| Some((0..1_000).map(move |at| Some(row * at))));
        let lists = ListArray::from_iter_primitive::<Int64Type, _, _>(lists);
        check(vec![batch(Arc::new(lists))], 4 << 20).await;
    }

    #[tokio::test]
    async fn a_message_has_at_most_64_ki_rows() {
        let rows = check(vec![batch(Arc::new(Int64Array::from_iter_values(0..150_000)))], 4 << 20);
        assert_eq!(rows.await, [65_536, 65_536, 18_928]);
    }

    #[tokio::test]
    async fn a_slice_is_sent_without_what_it_was_cut_from() {
        let small = text(1_000, 1_000).slice(10, 1);
        assert_eq!(check(vec![small], 2_000).await, [1]);
    }

    #[tokio::test]
    async fn a_row_above_four_megabytes_goes_alone_and_one_above_sixteen_is_an_error() {
        assert_eq!(check(vec![text(2, 5 << 20)], 6 << 20).await, [1, 1]);
        let messages = messages_of(text(1, 17 << 20)).try_collect::<Vec<_>>().await;
        let status = messages.unwrap_err();
        assert_eq!(
            (status.code(), status.message().split(" bytes, ").nth(1).unwrap()),
            (
                tonic::Code::ResourceExhausted,
                "and a message at most 16777152\nhint: select fewer columns, or a part of the value"
            )
        );
    }

    #[tokio::test]
    async fn a_failure_ends_the_stream_with_an_error() {
        let rows = vec![Ok(text(1, 1)), Err(Error::invalid("too bad")), Ok(text(1, 1))];
        let schema = text(1, 1).schema();
        let messages: Vec<_> = messages(&schema, futures::stream::iter(rows)).collect().await;
        let failed: Vec<bool> = messages.iter().map(Result::is_err).collect();
        assert_eq!(failed, [false, false, true]);
    }
}
