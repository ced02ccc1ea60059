"""The promoted adapter in somebody else's hands: a process that has transformers and PEFT but never sees ftcluster."""

from __future__ import annotations

import json
import subprocess
import sys

from ftcluster.contracts.evidence import TestRecord
from ftcluster.errors import TrialError
from ftcluster.registry.promotion import Promotion

_PROGRAM = """
import json, sys
import mlflow
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

job = json.load(sys.stdin)
mlflow.set_tracking_uri(job["uri"])
folder = mlflow.artifacts.download_artifacts(job["source"])
tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(job["base"]), folder)
answers = []
for start in range(0, len(job["prompts"]), 64):
    chats = [[{"role": "user", "content": prompt}] for prompt in job["prompts"][start : start + 64]]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
    )
    written = model.generate(**batch, max_new_tokens=job["max_new_tokens"], do_sample=False)
    answers += tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
assert "ftcluster" not in sys.modules
print(json.dumps(answers))
"""


def plain_exact_match(promotion: Promotion, record: TestRecord, max_new_tokens: int = 64) -> float:
    """Share of the record's prompts that the registered adapter answers exactly, 0 to 1.

    Raises:
        TrialError: the adapter cannot be loaded that way, with the end of what the process said.
    """
    asked = len(record.answers)
    job = {
        "uri": promotion.uri,
        "source": f"models:/{promotion.model}@{promotion.alias}",
        "base": promotion.base,
        "prompts": record.prompts[:asked],
        "max_new_tokens": max_new_tokens,
    }
    command = [sys.executable, "-I", "-W", "ignore", "-c", _PROGRAM]
    done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
    if done.returncode:
        raise TrialError(
            f"plain transformers and PEFT cannot use the adapter: {done.stderr.strip().splitlines()[-1]}",
            where=promotion.run,
            remedy="please report this as a defect of ftcluster",
        )
    answers: list[str] = json.loads(done.stdout.splitlines()[-1])
    pairs = zip(answers, record.references[:asked], strict=True)
    return sum(a.strip() == r.strip() for a, r in pairs) / max(asked, 1)
