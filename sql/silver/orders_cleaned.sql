-- /// flowguard
-- kind: interval
-- every: 1d
-- timezone: UTC
-- doc: One row per order that has an item and a price, in its latest such version.
-- tags: [orders]
-- time: event_timestamp
-- partition_by: day
-- key: [order_id]
-- columns:
--   order_id: {type: string, doc: UUID given by the server}
--   user_id: {type: string, doc: who ordered}
--   session_id: {type: string, doc: "the browser's session"}
--   item_id: {type: string, doc: what was ordered}
--   item_name: {type: string, doc: its name at that time}
--   category: {type: string, doc: its category at that time}
--   price: {type: "decimal(10,2)", doc: "what was paid for it, above 0"}
--   status: {type: string, doc: "the latest of placed, confirmed, delivered and cancelled"}
--   event_timestamp: {type: timestamp, doc: when it was ordered}
--   order_date: {type: date, doc: the day of event_timestamp in UTC}
-- ///
SELECT
  order_id, user_id, session_id, item_id, item_name, category, price, status, event_timestamp,
  CAST(event_timestamp AS DATE) AS order_date
FROM bronze.orders_raw
WHERE event_timestamp >= $start AND event_timestamp < $end
  AND price > 0 AND item_id IS NOT NULL
QUALIFY row_number() OVER (
  PARTITION BY order_id, CAST(event_timestamp AS DATE) ORDER BY _timestamp DESC, _partition DESC, _offset DESC
) = 1
