#!/usr/bin/env bash
set -euo pipefail
address=$1 # grpc://127.0.0.1:31337
flowguard query --remote "$address" --output csv \
    "SELECT order_date, gmv FROM gold.daily_metrics ORDER BY 1 DESC LIMIT 2"
flowguard sql --remote "$address" --output csv <<'SQL'
SELECT sum(orders) AS orders FROM gold.daily_metrics;
SELECT sum(gmv) AS gmv FROM gold.daily_metrics;
SQL
