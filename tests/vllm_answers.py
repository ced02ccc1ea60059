"""What vLLM says with folders that a training wrote. For a Python that has vLLM, and need not have this project.

    python vllm_answers.py REQUEST ANSWER

Both are files with JSON. A request is a list of models to load one after the other, and what each is asked::

    {"model": FOLDER, "adapter": FOLDER | null, "tokens": COUNT, "chats": [[{"role": ..., "content": ...}, ...], ...]}

Each is answered greedily, chat by chat: {"prompt": [TOKEN, ...], "tokens": [TOKEN, ...], "logprobs": [...]}.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

_VARIABLES = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # each further process imports all of it again
}


def main(request: Path, answer: Path) -> None:
    asked = json.loads(request.read_text())
    os.environ.update(_VARIABLES)
    answer.write_text(json.dumps([_answers(**each) for each in asked]))


def _answers(model: str, adapter: str | None, tokens: int, chats: list[list[dict[str, str]]]) -> list[dict[str, Any]]:
    vllm, lora = import_module("vllm"), import_module("vllm.lora.request")
    speaker = vllm.LLM(
        model,
        tokenizer=adapter or model,
        enable_lora=bool(adapter),
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        max_num_seqs=8,
        distributed_executor_backend="uni",
    )
    greedy = vllm.SamplingParams(temperature=0.0, max_tokens=tokens, logprobs=0)
    taught = lora.LoRARequest("adapter", 1, adapter) if adapter else None
    found = speaker.chat(chats, greedy, lora_request=taught, use_tqdm=False)
    del speaker
    import_module("vllm.distributed").cleanup_dist_env_and_memory()
    return [_plain(each) for each in found]


def _plain(found: Any) -> dict[str, Any]:
    (made,) = found.outputs
    tokens = list(made.token_ids)
    logprobs = [told[token].logprob for token, told in zip(tokens, made.logprobs, strict=True)]
    return {"prompt": list(found.prompt_token_ids), "tokens": tokens, "logprobs": logprobs}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
