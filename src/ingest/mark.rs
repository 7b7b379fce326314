//! How a message is known again: a log that lost its tail and grew anew has other messages at the
//! offsets that the lake holds, which no offset and no watermark can tell.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::decode::Message;
use crate::kafka::{HeaderList, Received};

/// What librdkafka handed over, with its headers.
pub fn message_of<'a>(received: &Received<'a>, headers: &'a HeaderList) -> Message<'a> {
    Message {
        partition: received.partition(),
        offset: received.offset(),
        leader_epoch: received.leader_epoch(),
        timestamp_ms: received.timestamp_ms(),
        key: received.key(),
        headers,
        payload: received.payload(),
    }
}

/// Everything of a message that its log keeps: where it is, who appended it and when, its bytes.
pub fn message_hash(message: &Message<'_>) -> u64 {
    let place = mix(message.partition as u64, message.offset as u64);
    let epoch = message.leader_epoch.map_or(u64::MAX, |epoch| epoch as u64);
    let time = message.timestamp_ms.map_or(u64::MAX, |millis| millis as u64);
    let mut hash = mix(place, mix(epoch, time));
    let headers = message.headers.iter();
    let headers = headers.flat_map(|(name, value)| [Some(name.as_bytes()), value.as_deref()]);
    for bytes in [message.key, message.payload].into_iter().chain(headers) {
        hash = match bytes {
            Some(bytes) => xxh3_64_with_seed(bytes, hash),
            None => mix(hash, 1),
        };
    }
    hash
}

/// One number of two, by a multiplication whose halves are folded (as in wyhash, public domain).
pub fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0xA076_1D64_78BD_642F) * u128::from(b ^ 0xE703_7ED1_A0B4_28DB);
    (product as u64) ^ ((product >> 64) as u64)
}

/// The last message before an offset: how far before, and the upper bits of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    distance: u8,
    hash: u64,
}

const HASH_BITS: u64 = !0xff_ffff;

impl Mark {
    /// `None` if the message is too far before `next`, behind more offsets without messages than a
    /// mark can say.
    pub fn new(next: i64, offset: i64, hash: u64) -> Option<Self> {
        let distance = u8::try_from(next - offset).ok().filter(|distance| *distance > 0)?;
        Some(Self { distance, hash: hash & HASH_BITS })
    }

    /// As the value of a transaction beside that of `next`; no mark is 0.
    pub fn pack(mark: Option<Self>, next: i64) -> i64 {
        mark.map_or(0, |mark| (mark.hash | check_of(next) | u64::from(mark.distance)) as i64)
    }

    /// The inverse of [`Mark::pack`]. `None` also if the offset moved without its mark, as a version
    /// that knows no marks moves it.
    pub fn unpack(value: i64, next: i64) -> Option<Self> {
        let value = value as u64;
        let distance = (value & 0xff) as u8;
        let is_of_next = value & 0xff_ff00 == check_of(next);
        (distance > 0 && is_of_next).then_some(Self { distance, hash: value & HASH_BITS })
    }

    /// Where the message is that `next` follows.
    pub fn offset(self, next: i64) -> i64 {
        next - i64::from(self.distance)
    }

    /// As far as [`Mark::new`] keeps it.
    pub fn hash(self) -> u64 {
        self.hash
    }

    /// Whether a message may stand in a log before `next`: it is the marked one, or comes before it.
    /// Between the two there was none.
    pub fn allows(self, next: i64, message: &Message<'_>) -> bool {
        let marked = self.offset(next);
        message.offset < marked
            || message.offset == marked && self.hash == message_hash(message) & HASH_BITS
    }
}

fn check_of(next: i64) -> u64 {
    mix(next as u64, 3) & 0xff_ff00
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_the_lake_beside_its_offset() {
        for (next, offset) in [(1, 0), (300, 299), (300, 45)] {
            let mark = Mark::new(next, offset, 0x0123_4567_89ab_cdef);
            let packed = Mark::pack(mark, next);
            assert_eq!(Mark::unpack(packed, next), mark);
            assert_eq!(mark.unwrap().offset(next), offset);
            // A version without marks has ingested more.
            assert_eq!(Mark::unpack(packed, next + 100), None);
        }
        assert_eq!(Mark::unpack(Mark::pack(None, 7), 7), None);
        assert_eq!(Mark::new(300, 44, 1), None);
    }

    #[test]
    fn behind_the_marked_message_there_was_none() {
        let message = |offset, payload| Message {
            partition: 0,
            offset,
            leader_epoch: None,
            timestamp_ms: None,
            key: None,
            headers: &[],
            payload: Some(payload),
        };
        let marked = message(98, b"a");
        let mark = Mark::new(100, 98, message_hash(&marked)).unwrap();
        let allows = |offset, payload| mark.allows(100, &message(offset, payload));
        assert!(allows(98, b"a") && allows(97, b"b"));
        assert!(!allows(98, b"b") && !allows(99, b"a"));
    }

    #[test]
    fn whatever_a_log_keeps_of_a_message_is_in_its_hash() {
        let headers = [("a".to_owned(), None)];
        let message = Message {
            partition: 1,
            offset: 7,
            leader_epoch: Some(2),
            timestamp_ms: Some(5),
            key: Some(b"k"),
            headers: &headers,
            payload: Some(b"p"),
        };
        let others = [
            Message { partition: 2, ..message },
            Message { offset: 8, ..message },
            Message { leader_epoch: Some(3), ..message },
            Message { leader_epoch: None, ..message },
            Message { timestamp_ms: Some(6), ..message },
            Message { key: None, ..message },
            Message { key: Some(b""), ..message },
            Message { headers: &[], ..message },
            Message { payload: None, ..message },
            Message { payload: Some(b""), ..message },
        ];
        let mut hashes: Vec<u64> = others.iter().chain([&message]).map(message_hash).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), others.len() + 1);
    }
}
