"""A reader of a target of files that is not FlowGuard: a table is what its newest manifest names."""

import glob
import json
import os

import duckdb


def ask(folder, sql):
    """Runs a statement on the tables of a folder and returns its rows. Rows that it changes are
    written back into the files they are from, new ones into the last file, as somebody might who
    tampers with them."""
    with duckdb.connect() as database:
        return ask_within(database, folder, sql)


def ask_within(database, folder, sql):
    database.execute("SET TimeZone = 'UTC'")
    newest = {}
    for path in sorted(glob.glob(f"{folder}/*/*/_manifest/*.json")):
        newest[tuple(path.split("/")[-4:-2])] = path
    files = {}
    for (schema, table), path in newest.items():
        with open(path) as manifest:
            names = [file["path"] for file in json.load(manifest)["files"]]
        files[schema, table] = [f"{folder}/{schema}/{table}/{name}" for name in names]
        database.execute(f'CREATE SCHEMA IF NOT EXISTS "{schema}"')
        for name in (f'"{schema}"."{table}"', f'"before {schema} {table}"'):
            rows = f"SELECT * FROM read_parquet({files[schema, table]}, filename = true)"
            database.execute(f"CREATE TABLE {name} AS {rows}")
    answer = database.execute(sql)
    if sql.startswith("SELECT"):
        return answer.fetchall()
    statement = "SELECT table_schema, table_name FROM information_schema.tables"
    tables = database.execute(statement).fetchall()
    for schema, table in newest:
        if (schema, table) not in tables:
            for path in glob.glob(f"{folder}/{schema}/{table}/_manifest/*.json"):
                os.remove(path)
            continue
        now, before = f'"{schema}"."{table}"', f'"before {schema} {table}"'
        last = [files[schema, table][-1]]
        database.execute(f"UPDATE {now} SET filename = ? WHERE filename IS NULL", last)
        changed = database.execute(
            f"SELECT DISTINCT filename FROM ((TABLE {now} EXCEPT ALL TABLE {before}) "
            f"UNION ALL (TABLE {before} EXCEPT ALL TABLE {now}))"
        )
        for (path,) in changed.fetchall():
            rows = f"SELECT * EXCLUDE (filename) FROM {now} WHERE filename = '{path}'"
            database.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet)")
    return []
