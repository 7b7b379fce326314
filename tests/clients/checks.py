"""What the Python scripts beside this file share: where the server is, and counting checks.

A check prints one line, `ok NAME` or `FAILED NAME: …`, and the script goes on; `finish` prints
`N passed, N failed` and ends the process with 1 if any failed.
"""

import argparse
import contextlib
import os
import sys
import traceback
from pathlib import Path


def arguments(doc, *required):
    """The server's address and who asks, from the command line or the environment; `required` are
    more options of one script."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    variable = os.environ.get
    parser.add_argument("url", nargs="?", default=variable("FLOWGUARD_TEST_URL"))
    parser.add_argument("--user", default=variable("FLOWGUARD_TEST_USER"))
    parser.add_argument("--password", default=variable("FLOWGUARD_TEST_PASSWORD"))
    parser.add_argument("--token", default=variable("FLOWGUARD_TEST_TOKEN"))
    parser.add_argument(
        "--certificate", default=variable("FLOWGUARD_TEST_CERTIFICATE"), metavar="FILE"
    )
    for option in required:
        parser.add_argument(f"--{option}", required=True)
    found = parser.parse_args()
    if not found.url:
        parser.error("give the server's url, such as grpc://127.0.0.1:31337")
    return found


def database_options(target):
    """The same for ADBC, as `db_kwargs` of `connect`."""
    options = {}
    if target.certificate:
        pem = Path(target.certificate).read_text()
        options["adbc.flight.sql.client_option.tls_root_certs"] = pem
    if target.token:
        options["adbc.flight.sql.authorization_header"] = f"Bearer {target.token}"
    elif target.user:
        options["username"] = target.user
        options["password"] = target.password
    return options


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def equal(self, name, got, expected):
        self._count(name, got == expected, f"expected {expected!r}, got {got!r}")

    def true(self, name, holds, what="it does not hold"):
        self._count(name, bool(holds), what)

    def fails(self, name, action, kind, *words):
        """`action` raises a `kind` whose text, with those of its causes, holds all of `words`."""
        try:
            action()
        except kind as error:
            said, cause = str(error), error.__cause__
            while cause:
                said, cause = f"{said}\n{cause}", cause.__cause__
            missing = [word for word in words if word not in said]
            self._count(name, not missing, f"no {missing} in {said!r}")
        except Exception as error:  # Another kind of error is what the check is there to find.
            self._count(name, False, f"a {type(error).__name__} was raised: {error}")
        else:
            self._count(name, False, "nothing was raised")

    @contextlib.contextmanager
    def group(self, name):
        """An unexpected error inside is one failure; the next group runs."""
        try:
            yield
        except Exception:
            self._count(name, False, traceback.format_exc().strip())

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        sys.exit(1 if self.failed or not self.passed else 0)

    def _count(self, name, holds, otherwise):
        if holds:
            self.passed += 1
            print(f"ok {name}", flush=True)
        else:
            self.failed += 1
            print(f"FAILED {name}: {otherwise}", flush=True)
