//! The id that a broker gives a topic when it is created: what tells a recreated topic from its
//! namesake. librdkafka knows it; its Rust wrapper does not pass it on, so this file calls the C
//! functions; with `native` it holds the only unsafe code.
#![allow(unsafe_code, reason = "rdkafka 0.39 does not wrap DescribeTopics")]

use std::ffi::{CStr, CString, c_char};
use std::time::Duration;

use rdkafka::bindings as c;

/// What librdkafka prints for an id of zeros, which old brokers and the mock broker answer.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Asks the cluster of `client` for the id of `topic`, in Kafka's base64 form. `None` when the
/// broker does not tell: it is too old, does not answer in time, or the rights are missing.
pub fn topic_id(client: *mut c::rd_kafka_t, topic: &str, timeout: Duration) -> Option<String> {
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    let name = CString::new(topic).ok()?;
    let mut names = [name.as_ptr()];
    let mut problem: [c_char; 256] = [0; 256];
    // SAFETY: `client` is a live handle, borrowed by the caller for this call. Each object made
    // here is checked or documented to be non-null, is only used before its destroy below, and is
    // destroyed once. `names` holds one pointer, to `name`, which outlives the collection.
    unsafe {
        let queue = c::rd_kafka_queue_new(client);
        let options = c::rd_kafka_AdminOptions_new(
            client,
            c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        );
        let topics = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        c::rd_kafka_AdminOptions_set_request_timeout(
            options,
            timeout_ms,
            problem.as_mut_ptr(),
            problem.len(),
        );
        c::rd_kafka_DescribeTopics(client, topics, options, queue);
        let event = c::rd_kafka_queue_poll(queue, timeout_ms);
        let id = if event.is_null() { None } else { id_in(event) };
        if !event.is_null() {
            c::rd_kafka_event_destroy(event);
        }
        c::rd_kafka_TopicCollection_destroy(topics);
        c::rd_kafka_AdminOptions_destroy(options);
        c::rd_kafka_queue_destroy(queue);
        id
    }
}

/// # Safety
/// `event` is a live event; what it points to is copied before returning.
unsafe fn id_in(event: *mut c::rd_kafka_event_t) -> Option<String> {
    // SAFETY: the accessors return null, or pointers into the event, which outlives this call;
    // `count` is the length of the array that comes with it.
    unsafe {
        if c::rd_kafka_event_error(event) != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let result = c::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return None;
        }
        let mut count = 0;
        let descriptions = c::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if count != 1 || descriptions.is_null() {
            return None;
        }
        let description = *descriptions;
        if !c::rd_kafka_TopicDescription_error(description).is_null()
            && c::rd_kafka_error_code(c::rd_kafka_TopicDescription_error(description))
                != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return None;
        }
        let uuid = c::rd_kafka_TopicDescription_topic_id(description);
        if uuid.is_null() {
            return None;
        }
        let text = c::rd_kafka_Uuid_base64str(uuid);
        if text.is_null() {
            return None;
        }
        let text = CStr::from_ptr(text).to_str().ok()?;
        (text != NO_ID).then(|| text.to_owned())
    }
}
