"""pyarrow's Flight client, which knows no SQL: the messages of Flight SQL are put together here.

Usage: flight.py URL [--user U --password P | --token T] [--certificate FILE]
The user must be one who reads every table.
"""

import threading
from pathlib import Path

import pyarrow
import pyarrow.flight as flight

from checks import Checks, arguments
from demo import CLICKS, DAILY_METRICS, TABLES

PACKAGE = "type.googleapis.com/arrow.flight.protocol.sql."
STATEMENT = "SELECT event_id, event_type, event_timestamp FROM silver.clicks_cleaned"


def varint(number):
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def field(number, value):
    """One field of a protocol buffer: a number, or bytes and texts with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def command(message, *fields):
    """A Flight SQL command as Flight carries it: in a google.protobuf.Any."""
    encoded = b"".join(field(number, value) for number, value in fields)
    return flight.FlightDescriptor.for_command(field(1, PACKAGE + message) + field(2, encoded))


def statement(sql):
    return command("CommandStatementQuery", (1, sql))


def connect(target):
    roots = Path(target.certificate).read_bytes() if target.certificate else None
    client = flight.FlightClient(target.url, tls_root_certs=roots)
    if target.token:
        return client, flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {target.token}".encode())])
    if target.user:
        header = client.authenticate_basic_token(target.user, target.password)
        return client, flight.FlightCallOptions(headers=[header])
    return client, flight.FlightCallOptions()


def read(client, options, endpoint):
    return client.do_get(endpoint.ticket, options).read_all()


def queries(checks, client, options):
    info = client.get_flight_info(statement("SELECT * FROM gold.daily_metrics"), options)
    tables = [read(client, options, endpoint) for endpoint in info.endpoints]
    table = pyarrow.concat_tables(tables).sort_by("order_date")
    rows = list(zip(*table.to_pydict().values()))
    checks.equal("rows", rows, DAILY_METRICS)
    for sql in (
        "SELECT * FROM gold.daily_metrics",
        STATEMENT,
        "SELECT min(order_date), max(orders) FROM gold.daily_metrics",
        "SELECT count(*) FROM bronze.orders_raw",
        "SELECT 'a' AS text, 1 AS number, NULL AS nothing, now() AS moment",
        "SELECT category, count(*) FROM silver.orders_cleaned GROUP BY category ORDER BY category",
        "SHOW TABLES",
        "EXPLAIN SELECT * FROM gold.daily_metrics",
    ):
        with checks.group(sql):
            info = client.get_flight_info(statement(sql), options)
            promised = client.get_schema(statement(sql), options).schema
            checks.true(f"{sql}: get_schema", promised.equals(info.schema), promised)
            for endpoint in info.endpoints:
                schema = read(client, options, endpoint).schema
                checks.true(f"{sql}: as streamed", schema.equals(info.schema), schema)


def endpoints(checks, client, options):
    info = client.get_flight_info(statement(STATEMENT), options)
    checks.true("several endpoints", len(info.endpoints) > 1, len(info.endpoints))
    places = {str(place) for endpoint in info.endpoints for place in endpoint.locations}
    checks.true("no address of the inside", places <= {"arrow-flight-reuse-connection://?"}, places)
    forwards = [read(client, options, endpoint) for endpoint in info.endpoints]
    backwards = [read(client, options, endpoint) for endpoint in reversed(info.endpoints)]
    table = pyarrow.concat_tables(forwards)
    checks.equal("endpoints: rows", table.num_rows, CLICKS)
    checks.equal("endpoints: no row twice", len(table["event_id"].unique()), CLICKS)
    same = [
        one.sort_by("event_id").equals(other.sort_by("event_id"))
        for one, other in zip(forwards, reversed(backwards))
    ]
    checks.true("endpoints: twice, in any order", all(same), same)

    side_by_side = [None] * len(info.endpoints)

    def read_one(number):
        side_by_side[number] = read(client, options, info.endpoints[number])

    threads = [threading.Thread(target=read_one, args=[i]) for i in range(len(side_by_side))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = [part.num_rows for part in side_by_side]
    checks.equal("endpoints: side by side", rows, [part.num_rows for part in forwards])


def catalog(checks, client, options):
    def rows(descriptor):
        info = client.get_flight_info(descriptor, options)
        table = read(client, options, info.endpoints[0])
        checks.true("catalog: as promised", table.schema.equals(info.schema), table.schema)
        return table

    schemas = rows(command("CommandGetDbSchemas", (2, "g%")))
    checks.equal("schemas", schemas["db_schema_name"].to_pylist(), ["gold"])
    for name in schemas.schema.names:
        nullable = schemas.schema.field(name).nullable
        checks.equal(f"schemas: {name} is nullable", nullable, name == "catalog_name")
    tables = rows(command("CommandGetTables", (2, "silver"), (5, 1)))
    checks.equal("tables", tables["table_name"].to_pylist(), TABLES["silver"])
    included = pyarrow.ipc.read_schema(pyarrow.py_buffer(tables["table_schema"][1].as_py()))
    names = [included.field(i).metadata[b"ARROW:FLIGHT:SQL:TYPE_NAME"] for i in range(len(included))]
    checks.true("tables: type names", all(names), names)
    keys = rows(command("CommandGetPrimaryKeys", (2, "gold"), (3, "user_cohorts")))
    checks.equal("keys", keys["column_name"].to_pylist(), ["cohort_week", "week_number"])
    checks.equal("keys: their order", keys["key_sequence"].to_pylist(), [1, 2])
    checks.true("type info", rows(command("CommandGetXdbcTypeInfo")).num_rows > 5)
    checks.true("SQL info", rows(command("CommandGetSqlInfo")).num_rows > 10)


def errors(checks, client, options):
    def asked(descriptor):
        return lambda: client.get_flight_info(descriptor, options)

    invalid = pyarrow.ArrowInvalid
    checks.fails("bad SQL", asked(statement("SELECT nothing FROM gold.daily_metrics")), invalid, "1:8")
    checks.fails(
        "a write", asked(statement("DROP TABLE gold.daily_metrics")), invalid, "only queries are allowed"
    )
    checks.fails("no command", asked(flight.FlightDescriptor.for_command(b"\xff\xff")), invalid)
    checks.fails(
        "no known command", asked(command("CommandNobodyKnows")), pyarrow.ArrowException
    )
    checks.fails("a path", asked(flight.FlightDescriptor.for_path("etc", "passwd")), pyarrow.ArrowException)
    info = client.get_flight_info(statement("SELECT 1"), options)
    ticket = bytearray(info.endpoints[0].ticket.ticket)
    ticket[-1] ^= 1
    for name, forged in (("forged", bytes(ticket)), ("made up", b"lake/gold"), ("empty", b"")):
        endpoint = flight.FlightEndpoint(forged, [])
        checks.fails(
            f"a ticket that is {name}",
            lambda endpoint=endpoint: read(client, options, endpoint),
            (pyarrow.ArrowException, flight.FlightError),
        )


def main():
    target = arguments(__doc__)
    checks = Checks()
    client, options = connect(target)
    with client:
        for topic in (queries, endpoints, catalog, errors):
            with checks.group(topic.__name__):
                topic(checks, client, options)
    checks.finish()


if __name__ == "__main__":
    main()
