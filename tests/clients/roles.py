"""Users of three roles over TLS: who gets in, and what exists for whom.

Usage: roles.py URL --certificate FILE --analyst NAME:PASSWORD --engineer NAME:PASSWORD
                --admin NAME:PASSWORD --token TOKEN       (a token of the analyst)
"""

from argparse import Namespace

import adbc_driver_flightsql.dbapi as flightsql
import pyarrow
import pyarrow.flight as flight

from checks import Checks, arguments, database_options
from demo import TABLES
from flight import connect as connect_flight
from flight import read, statement


def main():
    target = arguments(__doc__, "analyst", "engineer", "admin")
    checks = Checks()

    def as_user(user=None, password=None, token=None, certificate=target.certificate):
        return Namespace(
            url=target.url, user=user, password=password, token=token, certificate=certificate
        )

    def connect(**who):
        options = database_options(as_user(**who))
        return flightsql.connect(target.url, db_kwargs=options, autocommit=True)

    def ask(sql, **who):
        with connect(**who) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall()

    roles = {}
    for role in ("analyst", "engineer", "admin"):
        user, password = getattr(target, role).split(":", 1)
        roles[role] = {"user": user, "password": password}

    with checks.group("who gets in"):
        roles["analyst by token"] = {"token": target.token}
        for role, who in roles.items():
            rows = ask("SELECT count(*) FROM gold.daily_metrics", **who)
            checks.equal(f"{role} gets in", rows, [(7,)])
        wrong = [
            ("a wrong password", {"user": roles["analyst"]["user"], "password": "guessed"}),
            ("an unknown user", {"user": "nobody", "password": "guessed"}),
            ("a wrong token", {"token": "guessed"}),
            ("no credentials", {}),
        ]
        for name, who in wrong:
            checks.fails(
                f"{name} is refused",
                lambda who=who: ask("SELECT 1", **who),
                flightsql.Error,
                "Unauthenticated",
            )
        checks.fails(
            "a certificate that nobody signed is refused by the client",
            lambda: ask("SELECT 1", certificate=None, token=target.token),
            flightsql.Error,
            "certificate",
        )

    with checks.group("what exists for whom"):
        listed = "SELECT table_schema, table_name FROM information_schema.tables"
        for role, layers in (
            ("analyst", ["gold", "silver"]),
            ("analyst by token", ["gold", "silver"]),
            ("engineer", ["bronze", "gold", "silver"]),
            ("admin", ["bronze", "gold", "silver"]),
        ):
            who = roles[role]
            tables = sorted((layer, table) for layer in layers for table in TABLES[layer])
            found = [row for row in ask(listed, **who) if row[0] in TABLES]
            checks.equal(f"{role}: information_schema", sorted(found), tables)
            with connect(**who) as connection:
                (catalog,) = connection.adbc_get_objects(depth="tables").read_all().to_pylist()
            found = [
                (schema["db_schema_name"], table["table_name"])
                for schema in catalog["catalog_db_schemas"]
                for table in schema["db_schema_tables"]
            ]
            checks.equal(f"{role}: get_objects", sorted(found), tables)
        analyst = roles["analyst"]
        for sql in (
            "SELECT * FROM bronze.orders_raw",
            "SELECT count(*) FROM table_at('bronze.orders_raw', 0)",
            "DESCRIBE bronze.orders_raw",
            "EXPLAIN SELECT * FROM bronze.orders_raw",
        ):
            missing = sql.replace("orders_raw", "never_was")
            checks.equal(
                f"analyst: {sql}, as if it were not there",
                refusal(ask, sql, analyst).replace("orders_raw", "never_was"),
                refusal(ask, missing, analyst),
            )
        rows = ask("SELECT count(*) > 0 FROM bronze.orders_raw", **roles["engineer"])
        checks.equal("engineer reads bronze", rows, [(True,)])

    with checks.group("tickets"):
        client, options = connect_flight(as_user(**roles["engineer"]))
        other, as_analyst = connect_flight(as_user(**roles["analyst"]))
        with client, other:
            sql = statement("SELECT count(*) FROM gold.daily_metrics")
            (endpoint,) = client.get_flight_info(sql, options).endpoints
            checks.fails(
                "another user's ticket",
                lambda: read(other, as_analyst, endpoint),
                (pyarrow.ArrowException, flight.FlightError),
            )
            checks.equal("its own", read(client, options, endpoint).num_rows, 1)
    checks.finish()


def refusal(ask, sql, who):
    """The first line of what is said; the hint below it depends on names that are alike."""
    try:
        return f"nothing was refused: {ask(sql, **who)}"
    except flightsql.Error as error:
        return str(error).splitlines()[0]


if __name__ == "__main__":
    main()
