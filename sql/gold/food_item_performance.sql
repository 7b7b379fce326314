-- /// flowguard
-- kind: full
-- doc: Orders and revenue per item.
-- tags: [orders]
-- key: [item_id]
-- columns:
--   item_id: {type: string, doc: the item}
--   item_name: {type: string, doc: "its name, the last in the alphabet if it was renamed"}
--   category: {type: string, doc: "its category, chosen like the name"}
--   total_orders: {type: bigint, doc: number of orders}
--   revenue: {type: "decimal(18,2)", doc: "the sum of the orders' prices"}
--   avg_price: {type: "decimal(12,2)", doc: "revenue / total_orders, rounded half up"}
-- ///
SELECT
  item_id,
  max(item_name) AS item_name,
  max(category) AS category,
  count(*) AS total_orders,
  CAST(sum(price) AS DECIMAL(18, 2)) AS revenue,
  CAST(sum(price) / count(*) AS DECIMAL(12, 2)) AS avg_price
FROM silver.orders_cleaned
GROUP BY item_id
