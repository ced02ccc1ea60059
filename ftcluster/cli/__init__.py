"""The command line. ``main`` is the console script: it runs a verb and turns errors into messages and exit codes.

Verbs live one per file; ``app`` lists them. Nothing heavy is imported before a verb needs it.
"""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Sequence

from ftcluster.cli.complete import answer_bash
from ftcluster.errors import FtclusterError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ftcluster`` with these words (default: the process's own) and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = answer_bash(lambda: _run(words))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone (`ftcluster runs | head`). What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        gc.freeze()  # at its end Python looks for garbage: half a second once torch is imported


def _run(words: list[str]) -> int:
    from ftcluster.cli.app import build
    from ftcluster.config.environment import debug_wanted

    debug = debug_wanted() or "--debug" in words
    try:
        build().main([word for word in words if word != "--debug"], prog_name="ftcluster")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except FtclusterError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Exception as error:
        if debug:
            traceback.print_exc()
            return 1
        text = str(error).split("\n")[0]
        print(f"error: {type(error).__name__}: {text}\n  -> run again with --debug for all of it", file=sys.stderr)
        return 1
    return 0
