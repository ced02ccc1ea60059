"""The lines that load a promoted adapter without ftcluster: MLflow, transformers and PEFT as their users know them."""

from __future__ import annotations

from ftcluster.tracking.redaction import hide_url_users

_LINES = """\
import mlflow
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

mlflow.set_tracking_uri({uri!r})
folder = mlflow.artifacts.download_artifacts({source!r})
tokenizer = AutoTokenizer.from_pretrained(folder)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), folder)

messages = [{{"role": "user", "content": {prompt!r}}}]
prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**prompt, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def loading_snippet(*, uri: str, model: str, alias: str, base: str, prompt: str = "Hello") -> str:
    """Python that downloads the adapter an alias points at, puts it on its base and asks it ``prompt``.

    A user and password in ``uri`` are left out; MLflow takes those from its own environment variables.
    """
    return _LINES.format(uri=hide_url_users(uri), source=f"models:/{model}@{alias}", base=base, prompt=prompt)
