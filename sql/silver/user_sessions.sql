-- /// flowguard
-- kind: full
-- timezone: UTC
-- doc: What users did at a stretch; more than 30 minutes of silence end a session.
-- tags: [orders, clicks]
-- time: session_start
-- partition_by: day
-- key: [user_id, session_number]
-- columns:
--   user_id: {type: string, doc: whose session it is}
--   session_number: {type: bigint, doc: "1 for the user's first session, 2 for the next"}
--   session_start: {type: timestamp, doc: its first event}
--   session_end: {type: timestamp, doc: its last event}
--   events: {type: bigint, doc: "impressions, clicks and orders"}
--   impressions: {type: bigint, doc: items seen}
--   clicks: {type: bigint, doc: items clicked}
--   orders: {type: bigint, doc: items ordered}
--   gmv: {type: "decimal(18,2)", doc: "gross merchandise value, the sum of the orders' prices"}
-- ///
WITH events AS (
  SELECT user_id, event_timestamp, event_type, CAST(0 AS DECIMAL(10, 2)) AS price
  FROM silver.clicks_cleaned
  UNION ALL
  SELECT user_id, event_timestamp, 'order' AS event_type, price
  FROM silver.orders_cleaned
), with_previous AS (
  SELECT
    *,
    lag(event_timestamp) OVER (PARTITION BY user_id ORDER BY event_timestamp) AS previous
  FROM events
), numbered AS (
  -- Events of the same instant are peers, so they share a number however they are sorted.
  SELECT
    *,
    sum(CASE WHEN event_timestamp <= previous + INTERVAL '30 minutes' THEN 0 ELSE 1 END)
      OVER (PARTITION BY user_id ORDER BY event_timestamp) AS session_number
  FROM with_previous
)
SELECT
  user_id,
  session_number,
  min(event_timestamp) AS session_start,
  max(event_timestamp) AS session_end,
  count(*) AS events,
  count(*) FILTER (WHERE event_type = 'impression') AS impressions,
  count(*) FILTER (WHERE event_type = 'click') AS clicks,
  count(*) FILTER (WHERE event_type = 'order') AS orders,
  CAST(sum(price) AS DECIMAL(18, 2)) AS gmv
FROM numbered
GROUP BY user_id, session_number
