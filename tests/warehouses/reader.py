"""A reader that is not FlowGuard, for many questions: DuckDB on a database file, on a target of files,
and on the files of a Delta table.

Reads one request in JSON per line from standard input, to its end, and answers each with one line:
{"rows": [...]}, a text per row with its values between bars, or {"error": ...}. Requests are
{"database": FILE, "sql": ...}, {"files": FOLDER, "sql": ...} and {"table": FOLDER, "expression": ...}.
Nothing stays open between two of them, so nobody is kept from a file.
"""

import json
import sys

import duckdb

import files
import lake_rows


def rows(request):
    if "database" in request:
        with duckdb.connect(request["database"]) as connection:
            return connection.execute(request["sql"]).fetchall()
    if "files" in request:
        return files.ask(request["files"], request["sql"])
    return lake_rows.rows(request["table"], request["expression"])


for line in sys.stdin:
    try:
        found = rows(json.loads(line))
        cells = (("" if value is None else str(value) for value in row) for row in found)
        answer = {"rows": ["|".join(row) for row in cells]}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
