"""Stands between the engine and a driver's process, and runs other statements than were asked for.

faulty_driver.py PROGRAM RULES: RULES is a file with a JSON list of [pattern, [statement, ...]]. A statement
that a pattern is found in is replaced by those of its list: `$0` is the statement itself, `$1` the
pattern's group, `die` the death of the driver. The answer is the last one's; nothing in the list is
an answer of success. A query keeps its place: what is in its list is run before it.
"""

import json
import re
import subprocess
import sys

program, rules = sys.argv[1], json.load(open(sys.argv[2]))
driver = subprocess.Popen([program, "warehouse-driver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
engine_in, engine_out = sys.stdin.buffer, sys.stdout.buffer


def frame(source):
    head = source.read(5)
    if len(head) < 5:
        sys.exit(1)
    return head[:1], head + source.read(int.from_bytes(head[1:], "little"))


def pass_on(source, sink, last):
    """Frames up to one of the kind `last`; that one."""
    while True:
        kind, content = frame(source)
        sink.write(content)
        if kind == last:
            sink.flush()
            return content


def message(content):
    text = json.dumps(content).encode()
    return b"M" + len(text).to_bytes(4, "little") + text


def execute(sql):
    if sql == "die":
        driver.kill()
        driver.wait()
        sys.exit(1)
    driver.stdin.write(message({"Execute": {"sql": sql}}))
    driver.stdin.flush()
    return frame(driver.stdout)[1]


while True:
    head = engine_in.read(5)
    if len(head) < 5:
        break
    content = engine_in.read(int.from_bytes(head[1:], "little"))
    request = json.loads(content)
    (kind, asked), = request.items()
    sql = asked.get("sql", "")
    found = ((re.search(pattern, sql), statements) for pattern, statements in rules)
    match, statements = next((pair for pair in found if pair[0]), (None, []))
    replaced = [text.replace("$0", sql).replace("$1", match[match.re.groups]) for text in statements]
    if kind == "Execute" and match:
        reply = message({"Done": {"rows": None}})
        for statement in replaced:
            reply = execute(statement)
        engine_out.write(reply)
        engine_out.flush()
        continue
    for statement in replaced:
        execute(statement)
    driver.stdin.write(head + content)
    driver.stdin.flush()
    if kind == "Ingest":
        pass_on(engine_in, driver.stdin, b"E")
    reply = pass_on(driver.stdout, engine_out, b"M")
    if kind == "Query" and reply[5:].startswith(b'{"Done"'):
        pass_on(driver.stdout, engine_out, b"E")
        pass_on(driver.stdout, engine_out, b"M")
driver.stdin.close()
driver.wait()
