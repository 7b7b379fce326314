"""ADBC's Flight SQL driver (dbapi) on a server over the demo's lake, as a user would write it.

Usage: adbc.py URL [--user U --password P | --token T] [--certificate FILE]
The user must be one who reads every table.
"""

import threading
import time
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import adbc_driver_flightsql.dbapi as flightsql
import pyarrow

from checks import Checks, arguments, database_options
from demo import CATALOG, CLICKS, DAILY_METRICS, GMV, ORDERS, TABLES

REFUSED = "only queries are allowed"
# Hundreds of seconds of work, and no memory to speak of.
SLOW = """
SELECT count(*) FROM silver.clicks_cleaned AS one CROSS JOIN silver.clicks_cleaned AS other
WHERE one.event_id < other.user_id
"""
CANCEL_SECONDS_MAX = 20


def connect(target, **options):
    return flightsql.connect(
        target.url, db_kwargs=database_options(target) | options, autocommit=True
    )


def queries(checks, connection):
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM gold.daily_metrics ORDER BY order_date")
        checks.equal("fetchall", cursor.fetchall(), DAILY_METRICS)
        columns = ["order_date", "orders", "gmv", "unique_users", "avg_order_value"]
        checks.equal("description", [column[0] for column in cursor.description], columns)

        cursor.execute("SELECT * FROM gold.daily_metrics ORDER BY order_date")
        table = cursor.fetch_arrow_table()
        checks.equal("fetch_arrow_table: rows", table.num_rows, len(DAILY_METRICS))
        types = [pyarrow.date32(), pyarrow.int64(), pyarrow.decimal128(18, 2)]
        types += [pyarrow.int64(), pyarrow.decimal128(12, 2)]
        checks.equal("fetch_arrow_table: types", table.schema.types, types)

        cursor.execute("SELECT * FROM gold.daily_metrics ORDER BY order_date")
        checks.equal("fetchone", cursor.fetchone(), DAILY_METRICS[0])
        checks.equal("fetchmany", cursor.fetchmany(2), DAILY_METRICS[1:3])
        checks.equal("the rest", list(cursor), DAILY_METRICS[3:])

        cursor.execute("SELECT order_date FROM gold.daily_metrics WHERE orders < 0")
        checks.equal("no rows", cursor.fetchall(), [])
        checks.equal("no rows: a column", len(cursor.description), 1)

        cursor.execute("SELECT min(order_date) AS first, max(orders) AS most FROM gold.daily_metrics")
        checks.equal("by statistics alone", cursor.fetchall(), [(date(2026, 1, 5), 2865)])
        for sql in ("SHOW TABLES", "DESCRIBE gold.daily_metrics", "EXPLAIN SELECT 1"):
            cursor.execute(sql)
            checks.true(sql, len(cursor.fetchall()) > 0, "no rows")
        cursor.execute("SELECT count(*) FROM table_at('gold.daily_metrics', 0)")
        checks.equal("an older version", len(cursor.fetchall()), 1)
        # What Grafana's plugin makes of `$__dateBin` and `$__timeFilter`.
        cursor.execute(
            "SELECT date_bin(interval '86400 second', event_timestamp,"
            " timestamp '1970-01-01T00:00:00Z') AS time, count(*) FROM silver.orders_cleaned"
            " WHERE event_timestamp >= '2026-01-07T00:00:00Z'"
            " AND event_timestamp <= '2026-01-08T23:59:59.999999Z' GROUP BY 1 ORDER BY 1"
        )
        days = [datetime(2026, 1, day, tzinfo=timezone.utc) for day in (7, 8)]
        checks.equal("Grafana's macros", cursor.fetchall(), [(days[0], 2851), (days[1], 2847)])
        schema = cursor.adbc_execute_schema("SELECT 1 AS one, 'a' AS two")
        checks.equal("execute_schema", schema.types, [pyarrow.int64(), pyarrow.string()])


def objects(checks, connection):
    def found(**filters):
        return connection.adbc_get_objects(**filters).read_all().to_pylist()

    def schemas(**filters):
        (catalog,) = found(**filters)
        checks.equal(f"catalog by {filters}", catalog["catalog_name"], CATALOG)
        return {
            schema["db_schema_name"]: schema["db_schema_tables"]
            for schema in catalog["catalog_db_schemas"]
        }

    checks.equal(
        "depth catalogs",
        found(depth="catalogs"),
        [{"catalog_name": CATALOG, "catalog_db_schemas": None}],
    )
    depth = schemas(depth="db_schemas")
    checks.true("depth db_schemas", set(TABLES) <= set(depth), depth)
    depth = schemas(depth="tables")
    for schema, names in TABLES.items():
        listed = [table["table_name"] for table in depth[schema]]
        checks.equal(f"depth tables: {schema}", sorted(listed), names)

    depth = schemas(depth="all", db_schema_filter="go%", table_name_filter="daily\\_metrics")
    checks.equal("filters: schema", list(depth), ["gold"])
    (table,) = depth["gold"]
    checks.equal("filters: table", table["table_name"], "daily_metrics")
    columns = table["table_columns"]
    checks.equal(
        "columns in order",
        [(column["column_name"], column["ordinal_position"]) for column in columns],
        [("order_date", 1), ("orders", 2), ("gmv", 3), ("unique_users", 4), ("avg_order_value", 5)],
    )
    checks.true(
        "columns: type names",
        all(column["xdbc_type_name"] for column in columns),
        [column["xdbc_type_name"] for column in columns],
    )
    depth = schemas(depth="columns", db_schema_filter="gold", column_name_filter="%user%")
    names = {
        column["column_name"] for table in depth["gold"] for column in table["table_columns"] or []
    }
    checks.equal("filters: column", names, {"unique_users", "active_users"})
    depth = schemas(depth="tables", db_schema_filter="gold", table_types_filter=["VIEW"])
    checks.equal("filters: only views", depth["gold"], [])
    depth = schemas(depth="tables", db_schema_filter="gold", table_name_filter="f_od%")
    listed = [table["table_name"] for table in depth["gold"]]
    checks.equal("filters: an underscore is any letter", listed, ["food_item_performance"])
    checks.equal("filters: catalog", found(catalog_filter="elsewhere"), [])
    checks.equal("filters: no schema", list(schemas(db_schema_filter="nothing")), [])


def metadata(checks, connection):
    schema = connection.adbc_get_table_schema("daily_metrics", db_schema_filter="gold")
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM gold.daily_metrics")
        streamed = cursor.fetch_arrow_table().schema
    checks.equal("get_table_schema", schema.names, streamed.names)
    checks.equal("get_table_schema: types", schema.types, streamed.types)
    checks.equal(
        "get_table_schema: nullability",
        [field.nullable for field in schema],
        [field.nullable for field in streamed],
    )
    checks.fails(
        "get_table_schema: no such table",
        lambda: connection.adbc_get_table_schema("nothing", db_schema_filter="gold"),
        flightsql.Error,
    )
    checks.equal("get_table_types", sorted(connection.adbc_get_table_types()), ["TABLE", "VIEW"])
    information = connection.adbc_get_info()
    checks.equal("get_info: name", information["vendor_name"], "FlowGuard")
    checks.true("get_info: version", information["vendor_version"], information)


def parameters(checks, connection):
    rome = datetime(2026, 1, 7, 13, 30, 0, 250, tzinfo=ZoneInfo("Europe/Rome"))
    utc = datetime(2026, 1, 7, 12, 30, tzinfo=timezone.utc)
    values = [
        ("int", 42, pyarrow.int64()),
        ("negative int", -(2**63), pyarrow.int64()),
        ("float", 0.1, pyarrow.float64()),
        ("str", "Gâteau 🎂 'quoted' $1 ?", pyarrow.string()),
        ("empty str", "", pyarrow.string()),
        ("bytes", b"\x00\xff", pyarrow.binary()),
        ("bool", True, pyarrow.bool_()),
        ("date", date(2026, 1, 7), pyarrow.date32()),
        ("datetime in UTC", utc, pyarrow.timestamp("us", "UTC")),
        ("datetime in a zone", rome, pyarrow.timestamp("us", "Europe/Rome")),
        ("datetime without a zone", datetime(2026, 1, 7, 12), pyarrow.timestamp("us")),
        ("Decimal", Decimal("-123456789.12"), pyarrow.decimal128(11, 2)),
        ("None", None, pyarrow.null()),
    ]
    for name, value, data_type in values:
        with checks.group(f"parameter: {name}"), connection.cursor() as cursor:
            cursor.execute("SELECT ? AS value", (value,))
            table = cursor.fetch_arrow_table()
            checks.equal(f"parameter: {name}", table.column(0).to_pylist(), [value])
            checks.equal(f"parameter: {name}: type", table.schema.types, [data_type])

    with connection.cursor() as cursor:
        count = "SELECT count(*) FROM silver.orders_cleaned WHERE order_date = ?"
        for day, orders, *_ in DAILY_METRICS:
            cursor.execute(count, (day,))
            checks.equal(f"prepared once, executed on {day}", cursor.fetchall(), [(orders,)])
        cursor.execute(count, (None,))
        checks.equal("compared with null", cursor.fetchall(), [(0,)])

        between = "SELECT sum(gmv) FROM gold.daily_metrics WHERE order_date BETWEEN $1 AND $2"
        cursor.execute(between, (date(2026, 1, 5), date(2026, 1, 6)))
        checks.equal("by position", cursor.fetchall(), [(Decimal("65452.84"),)])
        named = "SELECT orders FROM gold.daily_metrics WHERE order_date = $day AND orders > $least"
        # The driver binds Arrow data as it is; the server finds the names in its schema.
        row = pyarrow.record_batch({"least": [0], "day": [date(2026, 1, 11)]})
        cursor.execute(named, row)
        checks.equal("by name, in another order", cursor.fetchall(), [(2865,)])
        days = pyarrow.record_batch({"0": [date(2026, 1, 5), date(2026, 1, 11)]})
        cursor.execute("SELECT orders FROM gold.daily_metrics WHERE order_date = ?", days)
        checks.equal("once for each row", cursor.fetchall(), [(2845,), (2865,)])

        schema = cursor.adbc_prepare("SELECT * FROM gold.daily_metrics WHERE order_date = ?")
        checks.equal("prepare: parameter types", schema.types, [pyarrow.date32()])
        checks.fails(
            "too few values",
            lambda: cursor.execute("SELECT ?, ?", (1,)),
            flightsql.Error,
            "2 parameters",
        )
        checks.fails(
            "no values", lambda: cursor.execute("SELECT ? AS value"), flightsql.Error, "no value"
        )


def large(checks, connection):
    sql = """
    SELECT orders.order_id, orders.price, orders.event_timestamp
    FROM silver.orders_cleaned AS orders
    CROSS JOIN gold.daily_metrics AS one CROSS JOIN gold.daily_metrics AS other
    CROSS JOIN (VALUES (1), (2), (3)) AS copies
    """
    times = len(DAILY_METRICS) ** 2 * 3
    with connection.cursor() as cursor:
        cursor.execute(sql)
        reader = cursor.fetch_record_batch()
        rows, cents = 0, Decimal(0)
        for batch in reader:
            rows += batch.num_rows
            cents += pyarrow.compute.sum(batch.column("price")).as_py()
        checks.equal("large: rows", rows, ORDERS * times)
        checks.equal("large: sum", cents, GMV * times)

        cursor.execute("SELECT repeat('x', 6000000) AS wide FROM gold.daily_metrics")
        widths = [len(row[0]) for row in cursor.fetchall()]
        checks.equal("large: values of 6 MB", widths, [6_000_000] * len(DAILY_METRICS))


def partitions(checks, target):
    sql = "SELECT event_id, event_type FROM silver.clicks_cleaned"
    with connect(target) as connection, connection.cursor() as cursor:
        parts, schema = cursor.adbc_execute_partitions(sql)
        checks.equal("partitions: schema", schema.names, ["event_id", "event_type"])
        checks.true("partitions: several", len(parts) > 1, len(parts))
        tables = []
        # In reverse, and each by a connection that did not plan the statement.
        for part in reversed(parts):
            with connect(target) as other, other.cursor() as reading:
                reading.adbc_read_partition(part)
                tables.append(reading.fetch_arrow_table())
        table = pyarrow.concat_tables(tables)
        checks.equal("partitions: rows", table.num_rows, CLICKS)
        checks.equal("partitions: no row twice", len(table["event_id"].unique()), CLICKS)
        cursor.adbc_read_partition(parts[0])
        again = cursor.fetch_arrow_table()
        checks.equal(
            "partitions: once more", again.sort_by("event_id"), tables[-1].sort_by("event_id")
        )


def cancellation(checks, connection):
    with connection.cursor() as cursor:
        timer = threading.Timer(1.0, cursor.adbc_cancel)
        timer.start()
        began = time.monotonic()

        def slow():
            cursor.execute(SLOW)
            cursor.fetchall()

        checks.fails("cancelled", slow, flightsql.Error, "ancel")
        timer.join()
        took = time.monotonic() - began
        checks.true("cancelled at once", took < CANCEL_SECONDS_MAX, f"after {took:.1f} s")
        began = time.monotonic()
        cursor.execute("SELECT 1")
        checks.equal("the cursor lives on", cursor.fetchall(), [(1,)])
        took = time.monotonic() - began
        checks.true("nothing stands in its way", took < 2, f"after {took:.1f} s")


def errors(checks, connection):
    with connection.cursor() as cursor:

        def execute(sql, *values):
            return lambda: cursor.execute(sql, *values)

        wrong = flightsql.ProgrammingError
        checks.fails(
            "no such column",
            execute("SELECT order_dat\nFROM gold.daily_metrics"),
            wrong,
            "1:8",
            "order_dat",
            "hint: did you mean",
        )
        checks.fails("a syntax error", execute("SELECT 1,\nFROM"), wrong, "2:")
        checks.fails(
            "no such table",
            execute("SELECT * FROM gold.daily_metric"),
            flightsql.Error,
            "there is no table `gold.daily_metric` in the lake",
            "hint: did you mean `gold.daily_metrics`?",
        )
        checks.fails("while it runs", lambda: divide(cursor), flightsql.Error, "ivide by zero")
        for sql in (
            "CREATE TABLE gold.mine AS SELECT 1 AS one",
            "DROP TABLE gold.daily_metrics",
            "INSERT INTO gold.daily_metrics VALUES (1)",
            "DELETE FROM gold.daily_metrics",
            "COPY gold.daily_metrics TO '/tmp/stolen.parquet'",
            "SET datafusion.execution.batch_size = 1",
            "CREATE EXTERNAL TABLE mine STORED AS CSV LOCATION '/etc/passwd'",
        ):
            checks.fails(f"refused: {sql}", execute(sql), flightsql.Error, REFUSED)
        statement = cursor.adbc_statement
        statement.set_sql_query("DELETE FROM gold.daily_metrics")
        checks.fails("refused: an update", statement.execute_update, flightsql.Error, REFUSED)
        table = pyarrow.table({"one": [1]})
        checks.fails(
            "refused: ingest", lambda: cursor.adbc_ingest("mine", table), flightsql.Error, REFUSED
        )
        checks.fails("a file", execute("SELECT * FROM '/etc/passwd'"), flightsql.Error)
        cursor.execute("SELECT count(*) FROM gold.daily_metrics")
        checks.equal("the cursor lives on after errors", cursor.fetchall(), [(7,)])


def divide(cursor):
    cursor.execute("SELECT 1 / (orders - orders) FROM gold.daily_metrics")
    cursor.fetchall()


def session(checks, target):
    # The session is held in a cookie, which the driver keeps only if told to.
    cookies = {"adbc.flight.sql.rpc.with_cookie_middleware": "true"}
    option = "adbc.flight.sql.session.option."
    with connect(target, **cookies) as connection, connect(target, **cookies) as other:
        checks.equal("current catalog", connection.adbc_current_catalog, CATALOG)
        connection.adbc_current_db_schema = "gold"
        checks.equal("current schema", connection.adbc_current_db_schema, "gold")
        with connection.cursor() as cursor, other.cursor() as unaware:
            cursor.execute("SELECT count(*) FROM daily_metrics")
            checks.equal("a name without schema", cursor.fetchall(), [(7,)])
            checks.fails(
                "another session",
                lambda: unaware.execute("SELECT count(*) FROM daily_metrics"),
                flightsql.Error,
                "daily_metrics",
            )
            start = datetime(2026, 1, 6, tzinfo=timezone.utc)
            end = start + timedelta(days=2)
            connection.adbc_connection.set_options(
                **{f"{option}start": start.isoformat(), f"{option}end": end.isoformat()}
            )
            cursor.execute(
                "SELECT count(*) FROM silver.orders_cleaned "
                "WHERE event_timestamp >= $start AND event_timestamp < $end"
            )
            checks.equal("$start and $end", cursor.fetchall(), [(2852 + 2851,)])
            connection.adbc_connection.set_options(**{f"{option}timezone": "Asia/Tokyo"})
            cursor.execute("SELECT TIMESTAMPTZ '2026-01-06 09:00:00' = TIMESTAMPTZ '2026-01-06T00:00:00Z'")
            checks.equal("time zone", cursor.fetchall(), [(True,)])
        checks.fails(
            "an unknown option",
            lambda: connection.adbc_connection.set_options(**{f"{option}colour": "red"}),
            flightsql.Error,
            "colour",
        )


def main():
    target = arguments(__doc__)
    checks = Checks()
    connection = connect(target)
    with connection:
        for topic in (queries, objects, metadata, parameters, large, cancellation, errors):
            with checks.group(topic.__name__):
                topic(checks, connection)
    checks.fails("closed", connection.cursor, flightsql.Error)
    for topic in (partitions, session):
        with checks.group(topic.__name__):
            topic(checks, target)
    checks.finish()


if __name__ == "__main__":
    main()
