"""fakesnow's server, closer to Snowflake in what the export tests need.

Usage: snowflake_server.py PORT
Keeps everything in memory, for all sessions alike, until it ends.
"""

import asyncio
import contextlib
import importlib
import json
import re
import sys
import types

import duckdb
import snowflake.connector.errors
import uvicorn
from fakesnow import cursor, info_schema, macros, transforms
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse

# Columns have the kind of instant that they were made with, and not the one of DuckDB's name.
for views in ["fs_global_creation_sql", "per_db_creation_sql"]:
    made = getattr(info_schema, views)
    changed = lambda *of, made=made: made(*of).replace("'TIMESTAMP_TZ'", "'TIMESTAMP_LTZ'")
    setattr(info_schema, views, changed)

# The package's own names hide these modules.
copy_into = importlib.import_module("fakesnow.copy_into")
server = importlib.import_module("fakesnow.server")

SUCCESS = "SELECT 'Statement executed successfully.' AS status"

# What Snowflake does and fakesnow does not, as other words for the same.
REWRITES = [
    # Sessions are UTC here, and tags are seen by nobody.
    (r"^ALTER SESSION SET .*", SUCCESS),
    # A dropped stage is gone with its files; here the next one of its name begins empty.
    (r"^DROP STAGE IF EXISTS .*", SUCCESS),
    (r"^CREATE TEMPORARY STAGE", "CREATE OR REPLACE TEMPORARY STAGE"),
    # A stage of these tests holds the files of one load, so all of them are named.
    (r"^(COPY INTO .*) FILES = \([^)]*\)", r"\1"),
    # Bytes are never read as text here, and no text is read as null.
    (r"^(COPY INTO .*) BINARY_AS_TEXT = FALSE NULL_IF = \(\)", r"\1"),
    # Whatever is divided by zero is an error.
    (r"^SELECT 1 / (CASE .*) ELSE 0 END AS", r"SELECT \1 ELSE error('Division by zero') END AS"),
    (r"\bBINARY\(\d+\)", "BINARY"),
    (r"TO_NUMBER\(SUBSTR\(MD5\(", "FIRST_60_BITS(MD5(("),
    (r"\), 1, 15\), 'X{15}'\)", ")))"),
    (r"\bOCTET_LENGTH\(", "OCTETS("),
    (r"\bHEX_ENCODE\((.*?), 0\)", r"LOWER_HEX(\1)"),
    (r"DATE_PART\(EPOCH_MICROSECOND, (.*?)\)", r"EPOCH_US(\1)"),
    (r"TO_TIMESTAMP_LTZ\((-?\d+), 6\)", r"MAKE_TIMESTAMPTZ(\1::BIGINT)"),
]
MACROS = """
CREATE OR REPLACE MACRO {catalog}.FIRST_60_BITS(digest) AS CAST('0x' || substr(digest, 1, 15) AS BIGINT);
CREATE OR REPLACE MACRO {catalog}.CURRENT_WAREHOUSE() AS 'LOAD_WH';
CREATE OR REPLACE MACRO {catalog}.OCTETS(t) AS strlen(CAST(t AS VARCHAR));
CREATE OR REPLACE MACRO {catalog}.LOWER_HEX(t) AS lower(hex(t));
"""


def rewritten(text):
    for pattern, replacement in REWRITES:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    return text


def loads(body):
    request = json.loads(body)
    if "sqlText" in request:
        request["sqlText"] = rewritten(request["sqlText"])
    return request


server.json = types.SimpleNamespace(loads=loads, dumps=json.dumps)
server.macros_made = macros.creation_sql
macros.creation_sql = lambda catalog: server.macros_made(catalog) + MACROS.format(catalog=catalog)


# Sums of numbers are exact; here they would go through floating point, as those of text do. A
# number of 38 digits has so many; here it would have 64 bits. How long texts may be is not asked,
# and names with quotes break what notes it.
for unwanted in ["numeric_agg_implicit_cast", "integer_precision", "extract_text_length"]:
    setattr(transforms, unwanted, lambda expression: expression)



def match_parquet_columns(found, wanted, mode):
    """Names match in any case, whichever the table's has."""
    by_name = {name.upper(): name for name in found}
    return {name: by_name[name.upper()] for name in wanted if name.upper() in by_name}


copy_into._match_parquet_columns = match_parquet_columns
copy_into._get_table_columns = lambda *table: [c[0] for c in copy_into._describe_table(*table)]


class Sessions:
    """Knows by which connections a session's client came. A client that has none left is gone."""

    def __init__(self):
        self.clients, self.running, self.connections = {}, {}, set

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await server.app(scope, receive, send)
        token = dict(scope["headers"]).get(b"authorization", b"").decode()[17:-1]
        done = asyncio.get_running_loop().create_future()
        if token:
            self.clients.setdefault(token, set()).add(tuple(scope["client"]))
            self.running.setdefault(token, set()).add(done)
        try:
            await self.roll_back_the_dead(token)
            await server.app(scope, receive, send)
        finally:
            done.set_result(None)
            self.running.get(token, set()).discard(done)

    async def roll_back_the_dead(self, own):
        """As Snowflake does before somebody else has what they had locked. What they asked for
        last still runs, and within their transaction."""
        alive = {tuple(connection.client) for connection in self.connections()}
        for token, clients in list(self.clients.items()):
            if clients & alive or token == own:
                continue
            await asyncio.gather(*self.running.get(token, ()))
            if self.clients.pop(token, None) and (session := server.sessions.get(token)):
                with contextlib.suppress(duckdb.TransactionException):
                    session._duck_conn.rollback()


SESSIONS = Sessions()
executed = cursor.FakeSnowflakeCursor._execute


def execute(self, transformed, params=None):
    """What fakesnow does not expect is an error of the statement, and not of the server, which
    clients would ask again. Of two that change the same rows Snowflake's second waits, and is told
    what it waited for; here it is told at once."""
    try:
        executed(self, transformed, params)
    except duckdb.TransactionException as error:
        raise snowflake.connector.errors.ProgrammingError(
            msg=f"another statement has locked table, and this lock has not been released: {error}",
            errno=625,
            sqlstate="57014",
        ) from error
    except duckdb.Error as error:
        raise snowflake.connector.errors.ProgrammingError(
            msg=str(error), errno=1003, sqlstate="42000"
        ) from error


cursor.FakeSnowflakeCursor._execute = execute


async def ask(request):
    """Statements of DuckDB on what all sessions see, without Snowflake's ways: the last one's rows
    as lines, values between bars."""
    text = (await request.body()).decode()

    def answer():
        connection = server.shared_fs.duck_conn.cursor()
        connection.execute("USE LAKE.PUBLIC")
        return connection.execute(text).fetchall()

    try:
        rows = await run_in_threadpool(answer)
    except duckdb.Error as error:
        return PlainTextResponse(str(error), status_code=400)
    cells = (("" if value is None else str(value) for value in row) for row in rows)
    return PlainTextResponse("".join("|".join(row) + "\n" for row in cells))


server.app.add_route("/ask", ask, methods=["POST"])


def main():
    server.shared_fs.connect("LAKE", "PUBLIC")
    config = uvicorn.Config(
        SESSIONS,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        timeout_keep_alive=600,
    )
    http = uvicorn.Server(config)
    SESSIONS.connections = lambda: http.server_state.connections
    http.run()


main()
