"""``ftcluster data formats``: what can be read."""

from __future__ import annotations

from ftcluster.cli.arguments import Json
from ftcluster.cli.output import console, print_json, table


def formats(as_json: Json = False) -> None:
    """List formats with their fields, and the kinds of files that can be read.

    A format is recognised from the first rows of each file; data.format=NAME states it. Columns of other names are
    mapped: [bold]data.columns={answer: Response}[/bold].
    """
    from ftcluster.config.locations import COMPRESSED, COMPRESSED_IN_THEMSELVES, KINDS
    from ftcluster.data.rows.formats import FORMATS

    if as_json:
        known = {
            name: {"required": one.required, "one_of": one.either, "optional": one.optional}
            for name, one in FORMATS.items()
        }
        print_json({"formats": known, "files": KINDS})
        return
    rows = [(name, one.needs, ", ".join(one.optional) or "-") for name, one in FORMATS.items()]
    table(("format", "fields", "also"), rows)
    console().print()
    also = " or ".join(COMPRESSED)
    table(
        ("files", "what they hold", "compressed"),
        [(kind, text, "-" if kind in COMPRESSED_IN_THEMSELVES else also) for kind, text in KINDS.items()],
    )
    console().print("\nplaces: paths, folders, URLs such as s3://bucket/rows.jsonl, hub:owner/name", soft_wrap=True)
