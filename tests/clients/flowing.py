"""Three users of three roles over TLS while messages flow in: what each of them sees of it.

Usage: flowing.py URL --certificate FILE --analyst NAME:PASSWORD --engineer NAME:PASSWORD
                  --admin NAME:PASSWORD
"""

import time
from argparse import Namespace

import adbc_driver_flightsql.dbapi as flightsql

from checks import Checks, arguments, database_options
from demo import TABLES

BRONZE = """SELECT (SELECT count(*) FROM bronze.orders_raw)
                 + (SELECT count(*) FROM bronze.clicks_raw) AS messages"""
# Commits that the engineer waits for, and how long in all.
GROWTHS = 3
SECONDS_MAX = 60


def main():
    target = arguments(__doc__, "analyst", "engineer", "admin")
    checks = Checks()

    def connect(role, certificate=target.certificate):
        user, password = getattr(target, role).split(":", 1)
        who = Namespace(
            url=target.url, user=user, password=password, token=None, certificate=certificate
        )
        options = database_options(who)
        return flightsql.connect(target.url, db_kwargs=options, autocommit=True)

    def ask(role, sql):
        with connect(role) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    def exists(role):
        sql = "SELECT table_schema, table_name FROM information_schema.tables"
        return sorted(row for row in ask(role, sql) if row[0] in TABLES)

    def tables(*layers):
        return sorted((layer, table) for layer in layers for table in TABLES[layer])

    checks.fails(
        "the server's certificate is verified",
        lambda: connect("admin", certificate=None).cursor().execute("SELECT 1"),
        flightsql.Error,
        "certificate",
    )
    with checks.group("analyst"):
        checks.equal("sees silver and gold", exists("analyst"), tables("silver", "gold"))
        checks.fails(
            "and no bronze",
            lambda: ask("analyst", "SELECT count(*) FROM bronze.orders_raw"),
            flightsql.Error,
            "there is no table `bronze.orders_raw`",
        )
        for layer, table in tables("silver", "gold"):
            ((rows,),) = ask("analyst", f"SELECT count(*) FROM {layer}.{table}")
            checks.true(f"reads {layer}.{table}", rows > 0)
    with checks.group("engineer"), connect("engineer") as connection:
        counts = []
        deadline = time.monotonic() + SECONDS_MAX
        while len(counts) <= GROWTHS and time.monotonic() < deadline:
            with connection.cursor() as cursor:
                cursor.execute(BRONZE)
                ((count,),) = cursor.fetchall()
            if count not in counts:
                counts.append(count)
        checks.true("sees bronze grow", len(counts) > GROWTHS, f"counts were {counts}")
        checks.equal("and never shrink", counts, sorted(counts))
    with checks.group("admin"):
        checks.equal("sees everything", exists("admin"), tables("bronze", "silver", "gold"))
        for layer, table in tables("bronze", "silver", "gold"):
            ((rows,),) = ask("admin", f"SELECT count(*) FROM {layer}.{table}")
            # A short history may have no message that cannot be read.
            checks.true(f"reads {layer}.{table}", rows > 0 or table == "dead_letters")
    checks.finish()


if __name__ == "__main__":
    main()
