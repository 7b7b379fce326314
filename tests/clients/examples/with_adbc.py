import sys
from datetime import date

import adbc_driver_flightsql.dbapi as flightsql

uri = sys.argv[1]  # grpc://127.0.0.1:31337
with flightsql.connect(uri, autocommit=True) as connection, connection.cursor() as cursor:
    cursor.execute(
        "SELECT order_date, gmv FROM gold.daily_metrics WHERE order_date >= ? ORDER BY 1",
        (date(2026, 1, 10),),
    )
    for order_date, gmv in cursor:
        print(order_date, gmv)
