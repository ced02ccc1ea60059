"""What the texts of a data set look like, and whether that is a reason to warn or to refuse.

    examples -> examine -> Facts (one per chunk, added up) -> findings (JSON) -> judge -> summary, page

Owns what can be seen in the text itself. Lengths, splits and exact copies are counted where tokens are made.
"""

from ftcluster.data.audit.facts import Facts, control_tokens, examine
from ftcluster.data.audit.findings import Judgement, judge, refuse_bad_data
from ftcluster.data.audit.summary import summary_lines

__all__ = ["Facts", "Judgement", "control_tokens", "examine", "judge", "refuse_bad_data", "summary_lines"]
