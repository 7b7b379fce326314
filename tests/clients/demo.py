"""What the lake of `flowguard demo`, with its default seed, holds: the scripts' expected values."""

from datetime import date
from decimal import Decimal

CATALOG = "lake"
TABLES = {
    "bronze": ["clicks_raw", "dead_letters", "orders_raw"],
    "silver": ["clicks_cleaned", "orders_cleaned", "user_sessions"],
    "gold": ["daily_metrics", "food_item_performance", "funnel_metrics", "user_cohorts"],
}
# gold.daily_metrics: order_date, orders, gmv, unique_users, avg_order_value.
DAILY_METRICS = [
    (date(2026, 1, 5), 2845, Decimal("32603.16"), 984, Decimal("11.46")),
    (date(2026, 1, 6), 2852, Decimal("32849.68"), 1072, Decimal("11.52")),
    (date(2026, 1, 7), 2851, Decimal("32592.02"), 1141, Decimal("11.43")),
    (date(2026, 1, 8), 2847, Decimal("32601.06"), 1214, Decimal("11.45")),
    (date(2026, 1, 9), 2856, Decimal("32655.15"), 1221, Decimal("11.43")),
    (date(2026, 1, 10), 2845, Decimal("32718.10"), 1291, Decimal("11.50")),
    (date(2026, 1, 11), 2865, Decimal("32885.32"), 1351, Decimal("11.48")),
]
ORDERS = sum(day[1] for day in DAILY_METRICS)
GMV = sum(day[2] for day in DAILY_METRICS)
# Impressions and clicks in silver.clicks_cleaned, each with an id of its own.
CLICKS = 200_000
