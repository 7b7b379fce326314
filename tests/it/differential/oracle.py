"""DuckDB in memory, as the one who knows the answer.

Reads one statement per line from standard input, as a text in JSON, and answers each with one line:
{"rows": [[cell, ...], ...]} or {"error": ...}. A cell is null or a text whose first letter says what
the rest is: boolean, integer, decimal, float, text, day since 1970, or microsecond since 1970.
`false` in the place of a statement begins anew. A statement that takes too long is interrupted.
"""

import datetime
import decimal
import json
import sys
import threading

import duckdb

SECONDS_MAX = 10
ROWS_MAX = 3000
EPOCH = datetime.datetime(1970, 1, 1)
MICROSECOND = datetime.timedelta(microseconds=1)


def cell(value):
    if value is None:
        return None
    if isinstance(value, bool):
        return "b" + ("true" if value else "false")
    if isinstance(value, int):
        return f"i{value}"
    if isinstance(value, decimal.Decimal):
        return f"d{value:f}"
    if isinstance(value, float):
        return f"f{value!r}"
    if isinstance(value, str):
        return "s" + value
    if isinstance(value, datetime.datetime):
        return f"t{(value - EPOCH) // MICROSECOND}"
    if isinstance(value, datetime.date):
        return f"D{value.toordinal() - EPOCH.toordinal()}"
    if isinstance(value, datetime.timedelta):
        return f"v{value // MICROSECOND}"
    raise TypeError(f"{type(value).__name__} {value!r}")


def connect():
    connection = duckdb.connect(":memory:")
    connection.execute("SET threads = 1")
    # It has mistakes of its own: `date_trunc('day', NULL) <> TIMESTAMP '2024-03-01 00:00:01'` is true.
    connection.execute("PRAGMA disable_optimizer")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET default_null_order = 'NULLS_LAST'")
    return connection


def answer(connection, statement):
    timer = threading.Timer(SECONDS_MAX, connection.interrupt)
    timer.start()
    try:
        connection.execute(statement)
        rows = connection.fetchmany(ROWS_MAX + 1) if connection.description else []
        if len(rows) > ROWS_MAX:
            return {"error": "too many rows"}
        return {"rows": [[cell(value) for value in row] for row in rows]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        timer.cancel()


connection = connect()
for line in sys.stdin:
    statement = json.loads(line)
    if statement is False:
        connection.close()
        connection = connect()
        reply = {"rows": []}
    else:
        reply = answer(connection, statement)
    print(json.dumps(reply), flush=True)
