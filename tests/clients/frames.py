"""pandas and Polars through ADBC on a server over the demo's lake, as a user would write it.

Usage: frames.py URL [--user U --password P | --token T] [--certificate FILE]
"""

from datetime import date
from decimal import Decimal

import adbc_driver_flightsql.dbapi as flightsql
import pandas
import polars

from checks import Checks, arguments, database_options
from demo import DAILY_METRICS, GMV, ORDERS

DAILY = "SELECT * FROM gold.daily_metrics ORDER BY order_date"


def with_pandas(checks, connection):
    frame = pandas.read_sql(DAILY, connection, dtype_backend="pyarrow")
    checks.equal("pandas: rows", list(frame.itertuples(index=False, name=None)), DAILY_METRICS)
    checks.equal(
        "pandas: types",
        [str(dtype) for dtype in frame.dtypes],
        [
            "date32[day][pyarrow]",
            "int64[pyarrow]",
            "decimal128(18, 2)[pyarrow]",
            "int64[pyarrow]",
            "decimal128(12, 2)[pyarrow]",
        ],
    )
    frame = pandas.read_sql(DAILY, connection, index_col="order_date", parse_dates=["order_date"])
    checks.equal("pandas: an index of days", frame.loc["2026-01-07", "orders"], 2851)
    checks.equal("pandas: sum", frame["gmv"].sum(), GMV)
    # pandas drops the `schema` of read_sql_table on an ADBC connection; the session's holds.
    connection.adbc_current_db_schema = "silver"
    columns = ["order_id", "event_timestamp"]
    table = pandas.read_sql_table("orders_cleaned", connection, columns=columns)
    checks.equal("pandas: a whole table", len(table), ORDERS)
    checks.equal("pandas: every id once", table["order_id"].nunique(), ORDERS)
    checks.equal("pandas: times in UTC", str(table["event_timestamp"].dtype), "datetime64[us, UTC]")
    checks.fails(
        "pandas: to_sql is refused",
        lambda: frame.to_sql("mine", connection, schema="gold"),
        pandas.errors.DatabaseError,
        "only queries are allowed",
    )


def with_polars(checks, connection):
    frame = polars.read_database(DAILY, connection)
    checks.equal("Polars: rows", frame.rows(), DAILY_METRICS)
    checks.equal(
        "Polars: types",
        frame.dtypes,
        [
            polars.Date,
            polars.Int64,
            polars.Decimal(18, 2),
            polars.Int64,
            polars.Decimal(12, 2),
        ],
    )
    frame = polars.read_database(
        "SELECT gmv FROM gold.daily_metrics WHERE order_date = ?",
        connection,
        execute_options={"parameters": [date(2026, 1, 9)]},
    )
    checks.equal("Polars: a parameter", frame.item(), Decimal("32655.15"))
    batches = polars.read_database(
        "SELECT order_id, price FROM silver.orders_cleaned",
        connection,
        iter_batches=True,
        batch_size=5_000,
    )
    rows = sum(batch.height for batch in batches)
    checks.equal("Polars: in batches", rows, ORDERS)


def main():
    target = arguments(__doc__)
    checks = Checks()
    options = database_options(target)
    options["adbc.flight.sql.rpc.with_cookie_middleware"] = "true"
    connection = flightsql.connect(target.url, db_kwargs=options, autocommit=True)
    with connection:
        for library in (with_pandas, with_polars):
            with checks.group(library.__name__):
                library(checks, connection)
    checks.finish()


if __name__ == "__main__":
    main()
