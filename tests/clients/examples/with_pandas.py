import sys

import adbc_driver_flightsql.dbapi as flightsql
import pandas

uri = sys.argv[1]  # grpc://127.0.0.1:31337
with flightsql.connect(uri, autocommit=True) as connection:
    daily = pandas.read_sql(
        "SELECT order_date, orders, gmv FROM gold.daily_metrics ORDER BY order_date",
        connection,
        dtype_backend="pyarrow",
    )
print(daily["orders"].sum(), daily["gmv"].sum())
