//! Where the logs of a topic's partitions begin and end. Reads nothing of them.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::metadata::MetadataPartition;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::native::offsets_at;
use crate::error::{Error, ErrorKind, Result};

/// How long a broker may take to answer a question about a topic.
pub(super) const METADATA_TIMEOUT: Duration = Duration::from_secs(10);

/// Low and high watermark by partition; a read_committed client's high one is the last stable
/// offset. `NotFound` if there is no such topic; `failed` makes an error of what is being done and of
/// what librdkafka says.
pub(super) fn watermarks_of<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    failed: impl Fn(&str, KafkaError) -> Error,
) -> Result<BTreeMap<i32, (i64, i64)>> {
    let failed = |error| failed(&format!("cannot ask for topic `{topic}`"), error);
    let metadata = client.fetch_metadata(Some(topic), METADATA_TIMEOUT).map_err(failed)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let Some(found) = found.filter(|found| found.error().is_none()) else {
        return Err(missing_topic(topic));
    };
    let ids: Vec<i32> = found.partitions().iter().map(MetadataPartition::id).collect();
    if ids.is_empty() {
        return Err(missing_topic(topic));
    }
    let lows = offsets_of(client, topic, &ids, Offset::Beginning).map_err(failed)?;
    let highs = offsets_of(client, topic, &ids, Offset::End).map_err(failed)?;
    Ok(ids.into_iter().zip(lows.into_iter().zip(highs)).collect())
}

/// Where the logs of `partitions` begin, or end.
fn offsets_of<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    partitions: &[i32],
    at: Offset,
) -> KafkaResult<Vec<i64>> {
    let mut asked = TopicPartitionList::with_capacity(partitions.len());
    for partition in partitions {
        asked.add_partition_offset(topic, *partition, at)?;
    }
    offsets_at(client, &mut asked, METADATA_TIMEOUT)?;
    let told = asked.elements().into_iter().map(|element| {
        element.error()?;
        match element.offset() {
            Offset::Offset(offset) => Ok(offset),
            _ => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable)),
        }
    });
    told.collect()
}

fn missing_topic(topic: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no topic `{topic}` on the broker"))
        .hint("create it, or correct `source.topic` in the model's header")
}
