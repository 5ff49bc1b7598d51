"""What is said to whoever watches the run, past pytest's capture."""

import contextlib
import sys

_pytest = []


def configure(config):
    _pytest[:] = [config]


def tell(text):
    capture = _pytest[0].pluginmanager.getplugin("capturemanager") if _pytest else None
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        print(f"\n{text}", file=sys.stderr, flush=True)
