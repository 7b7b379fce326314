-- /// flowguard
-- kind: interval
-- every: 1d
-- timezone: UTC
-- doc: One row per impression or click, as first delivered.
-- tags: [clicks]
-- time: event_timestamp
-- partition_by: day
-- key: [event_id]
-- columns:
--   event_id: {type: string, doc: UUID given by the server}
--   event_type: {type: string, doc: impression or click}
--   user_id: {type: string, doc: who saw or clicked the item}
--   session_id: {type: string, doc: "the browser's session"}
--   item_id: {type: string, doc: the item seen or clicked}
--   item_name: {type: string, doc: its name at that time}
--   category: {type: string, doc: its category at that time}
--   event_timestamp: {type: timestamp, doc: when it happened}
--   event_date: {type: date, doc: the day of event_timestamp in UTC}
-- ///
SELECT
  event_id, event_type, user_id, session_id, item_id, item_name, category, event_timestamp,
  CAST(event_timestamp AS DATE) AS event_date
FROM bronze.clicks_raw
WHERE event_timestamp >= $start AND event_timestamp < $end
  AND event_type IN ('impression', 'click')
QUALIFY row_number() OVER (
  PARTITION BY event_id, CAST(event_timestamp AS DATE) ORDER BY _timestamp, _partition, _offset
) = 1
