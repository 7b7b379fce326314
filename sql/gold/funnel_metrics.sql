-- /// flowguard
-- kind: full
-- doc: How often an item is clicked when it is shown.
-- tags: [clicks]
-- key: [item_id]
-- columns:
--   item_id: {type: string, doc: the item}
--   item_name: {type: string, doc: "its name, the last in the alphabet if it was renamed"}
--   impressions: {type: bigint, doc: how often it was shown}
--   clicks: {type: bigint, doc: how often it was clicked}
--   ctr_percent: {type: "decimal(9,4)", doc: "click-through rate, 100 * clicks / impressions rounded half up; null when never shown"}
-- ///
WITH counts AS (
  SELECT
    item_id,
    max(item_name) AS item_name,
    count(*) FILTER (WHERE event_type = 'impression') AS impressions,
    count(*) FILTER (WHERE event_type = 'click') AS clicks
  FROM silver.clicks_cleaned
  GROUP BY item_id
)
-- Dividing adds four decimals to those of the dividend and cuts off the rest; with two more than
-- the result keeps, the cast rounds exactly half up.
SELECT
  item_id,
  item_name,
  impressions,
  clicks,
  CAST(
    CAST(100 * clicks AS DECIMAL(22, 2)) / NULLIF(impressions, 0) AS DECIMAL(9, 4)
  ) AS ctr_percent
FROM counts
