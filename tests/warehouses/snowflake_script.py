"""Runs a script as snowsql does with exit_on_error=true: a statement after the other, to the first error.

Usage: snowflake_script.py PORT <SCRIPT
"""

import sys

import snowflake.connector

connection = snowflake.connector.connect(
    host="127.0.0.1", port=int(sys.argv[1]), protocol="http", account="fakesnow", user="somebody",
    password="any", database="LAKE",
)
lines = (line for line in sys.stdin.read().split("\n") if not line.startswith("--"))
for statement in "\n".join(lines).split(";\n"):
    if statement.strip():
        try:
            connection.cursor().execute(statement.strip())
        except snowflake.connector.errors.Error as error:
            sys.exit(f"{statement.strip()}\n{error}")
