"""Prints the rows of a Delta table, read by DuckDB from the files that the log's entries name.

lake_rows.py TABLE_FOLDER EXPRESSION: one line per row, the text of the SQL expression. Reads the
JSON entries alone, from the first on: the table must be young enough to have them all.
"""

import json
import pathlib
import sys
import urllib.parse

import duckdb

table, expression = pathlib.Path(sys.argv[1]), sys.argv[2]
files = {}
entries = sorted((table / "_delta_log").glob("*.json"))
assert [int(entry.stem) for entry in entries] == list(range(len(entries)))
for entry in entries:
    actions = [json.loads(line) for line in entry.read_text().splitlines()]
    for action in actions:
        if "remove" in action:
            del files[action["remove"]["path"]]
    for action in actions:
        if "add" in action:
            assert "deletionVector" not in action["add"]
            files[action["add"]["path"]] = None
        if "metaData" in action:
            schema = json.loads(action["metaData"]["schemaString"])
connection = duckdb.connect()
# A file that is older than a column has none of it, and reads as null.
wanted = ", ".join(f'NULL AS "{field["name"]}"' for field in schema["fields"])
paths = [str(table / urllib.parse.unquote(path)) for path in files]
if paths:
    rows = connection.execute(
        f"SELECT {expression} FROM (SELECT * FROM read_parquet(?, union_by_name = true, "
        f"hive_partitioning = false) UNION ALL BY NAME SELECT {wanted} WHERE false)",
        [paths],
    )
    for (row,) in rows.fetchall():
        print(row)
