"""The rows of a Delta table, read by DuckDB from the files that the log's entries name."""

import json
import pathlib
import urllib.parse

import duckdb


def rows(folder, expression):
    """The text of an SQL expression for each row. Reads the JSON entries alone, from the first on:
    the table must be young enough to have them all."""
    table = pathlib.Path(folder)
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
    # A file that is older than a column has none of it, and reads as null.
    wanted = ", ".join(f'NULL AS "{field["name"]}"' for field in schema["fields"])
    paths = [str(table / urllib.parse.unquote(path)) for path in files]
    if not paths:
        return []
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT {expression} FROM (SELECT * FROM read_parquet(?, union_by_name = true, "
            f"hive_partitioning = false) UNION ALL BY NAME SELECT {wanted} WHERE false)",
            [paths],
        )
        return found.fetchall()
