import sys

import adbc_driver_flightsql.dbapi as flightsql
import polars

uri = sys.argv[1]  # grpc://127.0.0.1:31337
with flightsql.connect(uri, autocommit=True) as connection:
    orders = polars.read_database(
        "SELECT category, price FROM silver.orders_cleaned", connection
    )
print(orders.height, orders["price"].sum())
