#!/usr/bin/env bash
set -euo pipefail
url=$1 # http://127.0.0.1:8080
curl --fail-with-body --silent --show-error \
    --header 'accept: text/csv' \
    --data-urlencode 'sql=SELECT order_date, gmv FROM gold.daily_metrics ORDER BY 1 DESC LIMIT 2' \
    "$url/api/v1/query"
