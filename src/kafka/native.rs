//! Messages of a consumer group in batches, by librdkafka's own C function for it. The Rust wrapper
//! takes them one by one, each through an event and an allocation, which costs as much as decoding.
//! With `topic_id` the only unsafe code.
#![allow(unsafe_code, reason = "rdkafka 0.39 does not wrap rd_kafka_consume_batch_queue")]

use std::any::Any;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaType;

use super::access::HeaderList;
use super::heard::why_untrusted;

const NO_ERROR: c::rd_kafka_resp_err_t = c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;

/// Is told of rebalances, on the thread that polls or closes.
pub trait Rebalances: ClientContext {
    /// Must take partitions through `group`: librdkafka assigns none by itself.
    fn assigned(&self, group: Group<'_>, partitions: &TopicPartitionList);
    /// Must give them up through `group`, without which the rebalance does not end.
    fn revoked(&self, group: Group<'_>, partitions: &TopicPartitionList);
    /// For [`BatchConsumer`] alone.
    fn rebalances(&self) -> &Rebalanced;
}

/// What came of the rebalances so far.
#[derive(Default)]
pub struct Rebalanced {
    count: AtomicU64,
    /// A panic must not pass through librdkafka's frames, which would end the process: it goes on
    /// behind them, in the poll.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A consumer in a group, whose partitions its context assigns.
pub struct BatchConsumer<C: Rebalances> {
    queue: NonNull<c::rd_kafka_queue_t>,
    /// Room for one batch.
    messages: Vec<*mut c::rd_kafka_message_t>,
    /// Dropped last: everything above belongs to it.
    client: Client<C>,
}

// SAFETY: librdkafka's handles may be used from any thread; the pointers in `messages` are only
// used between two calls through `&mut self`.
unsafe impl<C: Rebalances> Send for BatchConsumer<C> {}

impl<C: Rebalances> BatchConsumer<C> {
    /// `config` names the group. A batch has at most `messages_max` messages.
    pub fn new(config: &ClientConfig, context: C, messages_max: usize) -> KafkaResult<Self> {
        let native = config.create_native_config()?;
        // SAFETY: `native` is a live configuration; the functions outlive the program. The opaque
        // pointer that they are called with is the client's context, which `Client` keeps.
        unsafe {
            c::rd_kafka_conf_set_rebalance_cb(native.ptr(), Some(rebalance::<C>));
            c::rd_kafka_conf_set_error_cb(native.ptr(), Some(error::<C>));
            c::rd_kafka_conf_set_log_cb(native.ptr(), Some(log::<C>));
            // Its answer is the one that it is given; it refuses nothing where TLS is not used.
            c::rd_kafka_conf_set_ssl_cert_verify_cb(native.ptr(), Some(verify));
        }
        let client = Client::new(config, native, RDKafkaType::RD_KAFKA_CONSUMER, context)?;
        // SAFETY: the client is live.
        let queue = unsafe {
            c::rd_kafka_poll_set_consumer(client.native_ptr());
            c::rd_kafka_queue_get_consumer(client.native_ptr())
        };
        let queue = NonNull::new(queue).ok_or_else(|| {
            KafkaError::ClientCreation("the consumer belongs to no group".to_owned())
        })?;
        Ok(Self { queue, messages: vec![null_mut(); messages_max], client })
    }

    pub fn client(&self) -> &Client<C> {
        &self.client
    }

    pub fn group(&self) -> Group<'_> {
        Group { client: self.client.native_ptr(), lifetime: PhantomData }
    }

    /// Hands out what was logged, for whoever has not subscribed yet and does not poll.
    pub fn listen(&self) {
        // SAFETY: the client is live.
        unsafe { c::rd_kafka_poll(self.client.native_ptr(), 0) };
    }

    /// Only asks for partitions: they come through [`Rebalances::assigned`] during later polls.
    pub fn subscribe(&self, topic: &str) -> KafkaResult<()> {
        let mut topics = TopicPartitionList::new();
        topics.add_topic_unassigned(topic);
        // SAFETY: client and list are live for the call, which copies the list.
        check(unsafe { c::rd_kafka_subscribe(self.client.native_ptr(), topics.ptr()) })
    }

    /// What comes within `timeout`, or until there are `messages_max`.
    pub fn poll(&mut self, timeout: Duration, messages_max: usize) -> Batch<'_> {
        let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        let rebalanced = self.client.context().rebalances();
        let before = rebalanced.count.load(Ordering::Relaxed);
        // SAFETY: the queue is live, and `messages` has room for as many pointers as is said. The
        // first `count` of them are then messages of ours, until `Batch` destroys them.
        let count = unsafe {
            c::rd_kafka_consume_batch_queue(
                self.queue.as_ptr(),
                timeout_ms,
                self.messages.as_mut_ptr(),
                self.messages.len().min(messages_max),
            )
        };
        let spans_rebalance = rebalanced.count.load(Ordering::Relaxed) != before;
        let messages = &self.messages[..usize::try_from(count).unwrap_or(0)];
        let batch = Batch { messages, spans_rebalance };
        if let Some(panic) = rebalanced.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            resume_unwind(panic);
        }
        batch
    }
}

impl<C: Rebalances> Drop for BatchConsumer<C> {
    fn drop(&mut self) {
        // SAFETY: both handles are live and not used again. Closing gives up all partitions by the
        // rebalance callback, on this thread, and waits for the group to know.
        unsafe {
            c::rd_kafka_consumer_close(self.client.native_ptr());
            c::rd_kafka_queue_destroy(self.queue.as_ptr());
        }
    }
}

/// Messages, and what librdkafka says in their place.
pub struct Batch<'a> {
    messages: &'a [*mut c::rd_kafka_message_t],
    /// Partitions changed hands while the batch was filled: some messages may come from before and
    /// some from after.
    pub spans_rebalance: bool,
}

impl Batch<'_> {
    /// Whether there is neither a message nor anything in the place of one.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What has an [`error`](RawMessage::error) is no message.
    pub fn iter(&self) -> impl Iterator<Item = RawMessage<'_>> {
        // SAFETY: the pointers were handed out by librdkafka and are destroyed by `drop` only.
        self.messages.iter().map(|message| RawMessage(unsafe { &**message }))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        for message in self.messages {
            // SAFETY: each message is ours, and destroyed once: the next poll overwrites it.
            unsafe { c::rd_kafka_message_destroy(*message) };
        }
    }
}

/// A message in librdkafka's own memory.
#[derive(Clone, Copy)]
pub struct RawMessage<'a>(&'a c::rd_kafka_message_t);

impl<'a> RawMessage<'a> {
    /// One that the wrapper handed out.
    pub fn of(message: &'a BorrowedMessage<'_>) -> Self {
        // SAFETY: the pointer is the wrapper's own, which keeps the message for as long as it lives.
        Self(unsafe { &*message.ptr() })
    }

    /// What librdkafka says in the place of a message; `None` if it is one.
    pub fn error(&self) -> Option<c::rd_kafka_resp_err_t> {
        (self.0.err != NO_ERROR).then_some(self.0.err)
    }

    pub fn partition(&self) -> i32 {
        self.0.partition
    }

    /// Where the error is the end of the partition, that end.
    pub fn offset(&self) -> i64 {
        self.0.offset
    }

    /// That of the leader which appended the message; `None` where the broker does not tell.
    pub fn leader_epoch(&self) -> Option<i32> {
        // SAFETY: the message is live.
        let epoch = unsafe { c::rd_kafka_message_leader_epoch(self.0) };
        (epoch >= 0).then_some(epoch)
    }

    /// `None` if there is no key, which an empty one is not.
    pub fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: as librdkafka documents, null or that many bytes, which live as the message does.
        unsafe { bytes(self.0.key, self.0.key_len) }
    }

    /// `None` is a tombstone; an empty payload is not.
    pub fn payload(&self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { bytes(self.0.payload, self.0.len) }
    }

    /// In milliseconds since 1970 UTC.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is live; `kind` is written.
        let millis = unsafe { c::rd_kafka_message_timestamp(self.0, &raw mut kind) };
        let is_known = kind != c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        (is_known && millis != -1).then_some(millis)
    }

    /// In the order in which they were sent; names may repeat, and are made UTF-8 where they are
    /// not.
    pub fn headers(&self) -> HeaderList {
        let mut headers = null_mut();
        // SAFETY: the message is live and keeps the headers; what is read of them is copied.
        unsafe {
            if c::rd_kafka_message_headers(self.0, &raw mut headers) != NO_ERROR {
                return Vec::new();
            }
            let mut list = Vec::new();
            let (mut name, mut value, mut length) = (null(), null(), 0);
            while c::rd_kafka_header_get_all(
                headers,
                list.len(),
                &raw mut name,
                &raw mut value,
                &raw mut length,
            ) == NO_ERROR
            {
                let name = CStr::from_ptr(name).to_string_lossy().into_owned();
                list.push((name, bytes(value, length).map(<[u8]>::to_vec)));
            }
            list
        }
    }
}

/// # Safety
/// `start` is null, or the start of `length` bytes that live as long as `'a`.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller says so.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast(), length) })
}

/// A member of a group: what it may do with its partitions.
#[derive(Clone, Copy)]
pub struct Group<'a> {
    client: *mut c::rd_kafka_t,
    lifetime: PhantomData<&'a ()>,
}

// In each call below the client outlives `self`, and lists are copied or only read.
impl Group<'_> {
    /// What is assigned now.
    pub fn assignment(self) -> KafkaResult<TopicPartitionList> {
        let mut list = null_mut();
        // SAFETY: see above; the list that comes is ours, copied and destroyed once.
        unsafe {
            check(c::rd_kafka_assignment(self.client, &raw mut list))?;
            let copied = copy(list);
            c::rd_kafka_topic_partition_list_destroy(list);
            Ok(copied)
        }
    }

    /// Takes `starts`: beside what is assigned already if the group rebalances step by step, and
    /// nothing else if it does not.
    pub fn assign(self, starts: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: see above.
        unsafe {
            if self.is_cooperative() {
                return settle(c::rd_kafka_incremental_assign(self.client, starts.ptr()));
            }
            check(c::rd_kafka_assign(self.client, starts.ptr()))
        }
    }

    /// Gives up `partitions`, or everything if the group does not rebalance step by step.
    pub fn unassign(self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        if !self.is_cooperative() {
            // SAFETY: see above.
            return check(unsafe { c::rd_kafka_assign(self.client, null()) });
        }
        // One that was never taken would keep all of them, and the group waiting.
        let assigned = self.assignment()?;
        let mut taken = TopicPartitionList::new();
        for element in partitions.elements() {
            let (topic, partition) = (element.topic(), element.partition());
            if assigned.find_partition(topic, partition).is_some() {
                taken.add_partition(topic, partition);
            }
        }
        // SAFETY: see above.
        settle(unsafe { c::rd_kafka_incremental_unassign(self.client, taken.ptr()) })
    }

    /// Reads on at `positions` and hands out nothing more of what was fetched of them before; waits
    /// for nothing. One that is not fetched yet begins where it was assigned.
    pub fn seek(self, positions: &TopicPartitionList) -> KafkaResult<()> {
        if positions.count() == 0 {
            return Ok(());
        }
        // SAFETY: see above; the list's own error fields are written.
        settle(unsafe { c::rd_kafka_seek_partitions(self.client, positions.ptr(), 0) })
    }

    /// Fetches nothing more of them; what is not assigned is passed over.
    pub fn pause(self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: see above; the list's own error fields are written.
        check(unsafe { c::rd_kafka_pause_partitions(self.client, partitions.ptr()) })
    }

    /// Fetches of them again; what is not assigned is passed over.
    pub fn resume(self, partitions: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: as for `pause`.
        check(unsafe { c::rd_kafka_resume_partitions(self.client, partitions.ptr()) })
    }

    /// Whether the group has taken its member in, with partitions or without.
    pub fn has_joined(self) -> bool {
        // SAFETY: see above; what comes is null or ours, read once and destroyed once.
        unsafe {
            let membership = c::rd_kafka_consumer_group_metadata(self.client);
            if membership.is_null() {
                return false;
            }
            let generation = c::rd_kafka_consumer_group_metadata_generation_id(membership);
            c::rd_kafka_consumer_group_metadata_destroy(membership);
            generation > 0
        }
    }

    /// Tells the group how far its member is, without waiting.
    pub fn commit(self, offsets: &TopicPartitionList) -> KafkaResult<()> {
        // SAFETY: see above.
        check(unsafe { c::rd_kafka_commit(self.client, offsets.ptr(), 1) })
    }

    fn is_cooperative(self) -> bool {
        // SAFETY: the answer is null or a text that lives as long as the client.
        unsafe {
            let protocol = c::rd_kafka_rebalance_protocol(self.client);
            !protocol.is_null() && CStr::from_ptr(protocol) == c"COOPERATIVE"
        }
    }
}

/// Replaces the times that `partitions` have in the place of offsets, which may be the beginning and
/// the end of a log, by offsets: one request to each leader, whatever their number. What could not
/// be told is an error of its element.
pub fn offsets_at<C: ClientContext>(
    client: &Client<C>,
    partitions: &mut TopicPartitionList,
    timeout: Duration,
) -> KafkaResult<()> {
    let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    // SAFETY: client and list are live for the call, which writes to the list's elements.
    check(unsafe {
        c::rd_kafka_offsets_for_times(client.native_ptr(), partitions.ptr(), timeout_ms)
    })
}

fn check(code: c::rd_kafka_resp_err_t) -> KafkaResult<()> {
    if code == NO_ERROR { Ok(()) } else { Err(KafkaError::Global(code.into())) }
}

/// The same for the functions that hand out an error object.
fn settle(error: *mut c::rd_kafka_error_t) -> KafkaResult<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is ours, read once and destroyed once.
    unsafe {
        let code = c::rd_kafka_error_code(error);
        c::rd_kafka_error_destroy(error);
        check(code)
    }
}

unsafe extern "C" fn rebalance<C: Rebalances>(
    client: *mut c::rd_kafka_t,
    code: c::rd_kafka_resp_err_t,
    partitions: *mut c::rd_kafka_topic_partition_list_t,
    context: *mut c_void,
) {
    // SAFETY: the opaque pointer is the client's context; client and list outlive this call. The
    // list stays librdkafka's: what is made of it here is a copy.
    let (context, partitions) = unsafe { (&*context.cast::<C>(), copy(partitions)) };
    let group = Group { client, lifetime: PhantomData };
    let rebalanced = context.rebalances();
    rebalanced.count.fetch_add(1, Ordering::Relaxed);
    let told = catch_unwind(AssertUnwindSafe(|| match code {
        c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
            context.assigned(group, &partitions);
        }
        _ => context.revoked(group, &partitions),
    }));
    if let Err(panic) = told {
        let _ = match code {
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                group.assign(&TopicPartitionList::new())
            }
            _ => group.unassign(&partitions),
        };
        *rebalanced.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
    }
}

/// # Safety
/// `list` is null or a live list.
unsafe fn copy(list: *const c::rd_kafka_topic_partition_list_t) -> TopicPartitionList {
    let mut copied = TopicPartitionList::new();
    if list.is_null() {
        return copied;
    }
    // SAFETY: a live list holds `cnt` elements with names that end in a zero.
    unsafe {
        let count = usize::try_from((*list).cnt).unwrap_or(0);
        for element in std::slice::from_raw_parts((*list).elems, count) {
            let topic = CStr::from_ptr(element.topic).to_string_lossy();
            copied.add_partition(&topic, element.partition);
        }
    }
    copied
}

unsafe extern "C" fn error<C: ClientContext>(
    _client: *mut c::rd_kafka_t,
    code: c_int,
    reason: *const c_char,
    context: *mut c_void,
) {
    // SAFETY: the opaque pointer is the client's context, and the reason a text.
    let (context, reason) =
        unsafe { (&*context.cast::<C>(), CStr::from_ptr(reason).to_string_lossy()) };
    let code = c::rd_kafka_resp_err_t::try_from(code)
        .unwrap_or(c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN);
    context.error(KafkaError::Global(code.into()), &reason);
}

unsafe extern "C" fn log<C: ClientContext>(
    client: *const c::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    message: *const c_char,
) {
    // SAFETY: the client's opaque pointer is its context; both texts end in a zero.
    let (context, facility, message) = unsafe {
        (
            c::rd_kafka_opaque(client).cast::<C>().as_ref(),
            CStr::from_ptr(facility).to_string_lossy(),
            CStr::from_ptr(message).to_string_lossy(),
        )
    };
    if let Some(context) = context {
        // Levels are syslog's: 3 is an error, below it is worse.
        let level = if level <= 3 { RDKafkaLogLevel::Error } else { RDKafkaLogLevel::Info };
        context.log(level, facility.trim(), message.trim());
    }
}

/// Says why OpenSSL does not trust a certificate, which librdkafka then logs with its names.
unsafe extern "C" fn verify(
    _client: *mut c::rd_kafka_t,
    _broker: *const c_char,
    _broker_id: i32,
    x509_error: *mut c_int,
    _depth: c_int,
    _certificate: *const c_char,
    _length: usize,
    reason: *mut c_char,
    reason_size: usize,
    _context: *mut c_void,
) -> c_int {
    // SAFETY: the number is live.
    let error = unsafe { *x509_error };
    if error == 0 {
        return 1;
    }
    let why = why_untrusted(error);
    let length = why.len().min(reason_size.saturating_sub(1));
    if reason_size > 0 {
        // SAFETY: `reason` has room for `reason_size` bytes: the text, and the zero behind it.
        unsafe {
            std::ptr::copy_nonoverlapping(why.as_ptr().cast(), reason, length);
            *reason.add(length) = 0;
        }
    }
    0
}
