-- /// flowguard
-- kind: interval
-- every: 1d
-- timezone: UTC
-- doc: Orders, turnover and buyers per day.
-- tags: [orders]
-- time: order_date
-- key: [order_date]
-- columns:
--   order_date: {type: date, doc: the day in UTC}
--   orders: {type: bigint, doc: number of orders}
--   gmv: {type: "decimal(18,2)", doc: "gross merchandise value, the sum of the orders' prices"}
--   unique_users: {type: bigint, doc: users who ordered}
--   avg_order_value: {type: "decimal(12,2)", doc: "gmv / orders, rounded half up"}
-- ///
-- Dividing cuts off after the sixth decimal and the cast rounds what is left half up; an exact
-- half always shows within six decimals, so the result is exactly rounded.
SELECT
  CAST(event_timestamp AS DATE) AS order_date,
  count(*) AS orders,
  CAST(sum(price) AS DECIMAL(18, 2)) AS gmv,
  count(DISTINCT user_id) AS unique_users,
  CAST(sum(price) / count(*) AS DECIMAL(12, 2)) AS avg_order_value
FROM silver.orders_cleaned
WHERE event_timestamp >= $start AND event_timestamp < $end
GROUP BY 1
