"""Stands between the engine and a driver's process, and kills one of them at one step.

dying_driver.py PROGRAM STEP MOMENT STEPS_FILE [VICTIM]: at request number STEP, `during` it (as
soon as it was passed on) or `after` it (the reply is lost); at none if that is 0. Writes the
requests that it saw to STEPS_FILE, one per line. VICTIM is the `driver`, or the `engine`, whose ends
of the pipes then close, as a dead engine's do; the driver is left to itself. An `asked` driver is
sent SIGTERM alone, and what it says passed on.
"""

import os
import signal
import subprocess
import sys

program, step, moment, steps_file = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
victim = sys.argv[5] if len(sys.argv) > 5 else "driver"
driver = subprocess.Popen([program, "warehouse-driver"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
engine_in, engine_out = sys.stdin.buffer, sys.stdout.buffer


def frame(source):
    head = source.read(5)
    if len(head) < 5:
        return None
    return head[:1], head + source.read(int.from_bytes(head[1:], "little"))


def pass_on(source, sink, last):
    """Frames up to one of a kind in `last`; that one's kind and content."""
    while True:
        found = frame(source)
        if found is None:
            sys.exit(1)
        kind, content = found
        if sink:
            sink.write(content)
        if kind in last:
            if sink:
                sink.flush()
            return content[5:]


def die():
    if victim == "engine":
        os.kill(os.getppid(), signal.SIGKILL)
        driver.stdin.close()
        driver.stdout.close()
    elif victim == "asked":
        driver.terminate()
        engine_out.write(driver.stdout.read())
        engine_out.flush()
        by = -driver.wait()
        if by > 0:
            os.kill(os.getpid(), by)
        sys.exit(-by)
    else:
        driver.kill()
        driver.wait()
    sys.exit(1)


seen = 0
steps = open(steps_file, "wb", buffering=0)
while True:
    found = frame(engine_in)
    if found is None:
        break
    seen += 1
    dies = seen == step
    kind, content = found
    steps.write(content[5:] + b"\n")
    driver.stdin.write(content)
    driver.stdin.flush()
    if content[5:].startswith(b'{"Ingest"'):
        pass_on(engine_in, driver.stdin, (b"E",))
    if dies and moment == "during":
        die()
    sink = None if dies else engine_out
    reply = pass_on(driver.stdout, sink, (b"M",))
    if content[5:].startswith(b'{"Query"') and reply.startswith(b'{"Done"'):
        pass_on(driver.stdout, sink, (b"E",))
        pass_on(driver.stdout, sink, (b"M",))
    if dies:
        die()
driver.stdin.close()
driver.wait()
