-- /// flowguard
-- kind: full
-- doc: Of the users who first ordered in a week, how many ordered in each week after it.
-- tags: [orders]
-- key: [cohort_week, week_number]
-- columns:
--   cohort_week: {type: date, doc: "the Monday, in UTC, of the week of the users' first order"}
--   week_number: {type: bigint, doc: "weeks since then, 0 for the first"}
--   cohort_size: {type: bigint, doc: users who first ordered in cohort_week}
--   active_users: {type: bigint, doc: those of them who ordered in this week}
--   retention_percent: {type: "decimal(5,2)", doc: "100 * active_users / cohort_size, rounded half up"}
-- ///
WITH active AS (
  SELECT DISTINCT user_id, CAST(date_trunc('week', event_timestamp) AS DATE) AS week
  FROM silver.orders_cleaned
), users AS (
  SELECT user_id, min(week) AS cohort_week
  FROM active
  GROUP BY user_id
), cohorts AS (
  SELECT cohort_week, count(*) AS cohort_size
  FROM users
  GROUP BY cohort_week
), activity AS (
  SELECT users.cohort_week, active.week, count(*) AS active_users
  FROM active
  JOIN users ON users.user_id = active.user_id
  GROUP BY users.cohort_week, active.week
)
SELECT
  activity.cohort_week,
  CAST(date_part('epoch', activity.week) - date_part('epoch', activity.cohort_week) AS BIGINT)
    / 604800 AS week_number,
  cohorts.cohort_size,
  activity.active_users,
  CAST(
    CAST(100 * activity.active_users AS DECIMAL(22, 2)) / cohorts.cohort_size AS DECIMAL(5, 2)
  ) AS retention_percent
FROM activity
JOIN cohorts ON cohorts.cohort_week = activity.cohort_week
