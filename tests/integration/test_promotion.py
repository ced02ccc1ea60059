"""Promotion and rollback on real runs and a real MLflow: what moves, what is refused, what is stored."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import registry_samples
from registry_samples import PROMPT, Home

from ftcluster.contracts.folder import RunFolder
from ftcluster.errors import BadAdapter, PromotionRefused, StoreError, TrackingError, UsageError
from ftcluster.evaluation.record import from_json
from ftcluster.ledger.store import Ledger
from ftcluster.models.adapters import WEIGHTS
from ftcluster.models.integrity import read_integrity
from ftcluster.registry.conversation import Conversation
from ftcluster.registry.examination import examine
from ftcluster.registry.promotion import Promotion, carry_out, promote
from ftcluster.registry.rollback import roll_back
from ftcluster.registry.snippet import loading_snippet
from ftcluster.registry.speaker import find_speaker, load_speaker
from ftcluster.registry.store import Registry
from ftcluster.tracking.bookmark import BOOKMARK
from ftcluster.tracking.mlflow_store import open_client
from ftcluster.training.records import store_uri

pytestmark = pytest.mark.slow
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return registry_samples.trained_home(tiny_qwen2, tmp_path_factory.getbasetemp() / "trained")


@pytest.fixture(scope="module")
def ledger(home: Home) -> Iterator[Ledger]:
    with Ledger.open(home.path) as opened:
        yield opened


@pytest.fixture(scope="module")
def uri(home: Home) -> str:
    return store_uri(home.path, "")


@pytest.fixture
def registry(uri: str) -> Registry:
    return Registry(uri)


@pytest.fixture
def give(home: Home, ledger: Ledger) -> Callable[..., Promotion]:
    """Promote a run under a model name of the test's own."""

    def promote_it(run: str, model: str, **options: Any) -> Promotion:
        return promote(ledger, run, home=home.path, model_name=model, **options)

    return promote_it


def versions(uri: str, model: str) -> list[str]:
    return sorted(str(v.version) for v in open_client(uri).search_model_versions(f"name='{model}'"))


def test_a_sweep_promotes_its_best_finished_trial_under_its_own_name(
    home: Home, ledger: Ledger, registry: Registry
) -> None:
    promotion = promote(ledger, home.sweep, home=home.path, by="ada")
    assert (promotion.run, promotion.model, promotion.version) == (home.strong, registry_samples.SWEEP, "1")
    assert (promotion.moved, promotion.previous) == (True, None)
    champion = registry.champion(registry_samples.SWEEP, "champion")
    assert champion is not None
    assert champion.tags["ftcluster.run"] == home.strong


def test_a_version_carries_its_evidence_in_tags_and_as_a_document_of_its_run(
    home: Home, ledger: Ledger, registry: Registry
) -> None:
    case = examine(ledger, home.strong, home=home.path, model_name="evidence")
    carry_out(case, by="ada", now=lambda: NOON)
    version = registry.champion("evidence", "champion")
    assert version is not None
    saved = read_integrity(RunFolder(Path(ledger.get(home.strong).folder)).adapter)
    assert case.record is not None
    assert version.tags == {
        "ftcluster.run": home.strong,
        "ftcluster.sweep": home.sweep,
        "ftcluster.config": ledger.get(home.strong).identity,
        "ftcluster.adapter_sha256": saved.sha256,
        "ftcluster.base": str(home.base),
        "ftcluster.base_revision": saved.base_revision,
        "ftcluster.data": case.record.data,
        "ftcluster.gates": "all 6 passed",
        "ftcluster.forced": "",
        "ftcluster.test_loss": version.tags["ftcluster.test_loss"],
        "ftcluster.test_exact_match": version.tags["ftcluster.test_exact_match"],
        "ftcluster.promoted_by": "ada",
        "ftcluster.promoted_at": "2026-03-01T12:00:00+00:00",
    }
    assert f"{case.record.loss:.4f}, base " in version.tags["ftcluster.test_loss"]
    document = registry.read_json(version.run_id, "evidence.json")
    assert document["test"]["against_base"]["loss"]["verdict"] == "better"
    assert document["test"]["against_base"]["loss"]["high"] < 0
    assert [gate["passed"] for gate in document["gates"]] == [True] * 6
    assert from_json(registry.read_json(version.run_id, "test.json")) == case.record


def test_the_registered_source_holds_the_adapter_and_nothing_of_the_base(
    give: Callable[..., Promotion], home: Home, registry: Registry, tmp_path: Path
) -> None:
    give(home.strong, "adapter-only")
    version = registry.champion("adapter-only", "champion")
    assert version is not None
    folder = registry.download_adapter(version, tmp_path)
    assert {WEIGHTS, "adapter_config.json", "integrity.json", "tokenizer.json"} <= {f.name for f in folder.iterdir()}
    assert not (folder / "model.safetensors").exists()
    assert read_integrity(folder).sha256 == version.sha256


def test_plain_transformers_and_peft_load_the_champion_and_answer_as_we_do(
    give: Callable[..., Promotion], home: Home, registry: Registry, uri: str, tmp_path: Path
) -> None:
    give(home.strong, "portable")
    snippet = loading_snippet(uri=uri, model="portable", alias="champion", base=str(home.base), prompt=PROMPT)
    check = "\nimport sys\nassert not any(name.partition('.')[0] == 'ftcluster' for name in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-I", "-c", snippet + check], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    ours = Conversation(
        load_speaker(find_speaker("portable@champion", home.path, registry, tmp_path)), max_new_tokens=64
    )
    answer = ours.say(PROMPT).text
    assert run.stdout.strip().splitlines()[-1] == answer
    assert answer in ("Paris", "上海")
    base = Conversation(load_speaker(find_speaker(str(home.base), home.path, registry, tmp_path)), max_new_tokens=64)
    assert base.say(PROMPT).text != answer


def test_the_recorded_answers_are_those_of_the_promoted_adapter(
    give: Callable[..., Promotion], home: Home, registry: Registry, tmp_path: Path
) -> None:
    give(home.strong, "answering")
    version = registry.champion("answering", "champion")
    assert version is not None
    record = from_json(registry.read_json(version.run_id, "test.json"))
    ours = Conversation(
        load_speaker(find_speaker("models:/answering/1", home.path, registry, tmp_path)), max_new_tokens=12
    )
    for prompt, answer in zip(record.prompts[:5], record.answers[:5], strict=True):
        assert ours.say(prompt).text == answer
        ours.reset()


def test_promoting_the_champion_again_changes_nothing(
    give: Callable[..., Promotion], home: Home, registry: Registry, uri: str
) -> None:
    first = give(home.strong, "twice")
    again = give(home.strong, "twice")
    assert (again.moved, again.version, again.previous) == (False, first.version, first.version)
    assert versions(uri, "twice") == ["1"]
    assert registry.history("twice", "champion") == ["1"]


def test_an_earlier_champion_is_promoted_again_as_the_version_it_was(
    give: Callable[..., Promotion], home: Home, registry: Registry, uri: str
) -> None:
    give(home.strong, "back")
    give(home.other, "back", force="try it")
    give(home.strong, "back", force="better after all")
    assert versions(uri, "back") == ["1", "2"]
    assert registry.history("back", "champion") == ["1", "2", "1"]


def test_a_rollback_restores_the_champion_before_and_notes_it_on_the_other(
    give: Callable[..., Promotion], home: Home, registry: Registry, uri: str
) -> None:
    give(home.weak, "rolling")
    assert give(home.strong, "rolling").previous == "1"
    done = roll_back("rolling", uri=uri, by="ada", now=lambda: NOON)
    assert (done.version, done.left, done.run) == ("1", "2", home.weak)
    champion, left = registry.champion("rolling", "champion"), registry.version("rolling", "2")
    assert champion is not None
    assert left is not None
    assert champion.number == "1"
    assert left.tags["ftcluster.rolled_back"] == "2026-03-01T12:00:00+00:00 ada"
    with pytest.raises(PromotionRefused, match="no champion before version 1 is known"):
        roll_back("rolling", uri=uri)


def test_aliases_of_one_model_have_histories_of_their_own(
    give: Callable[..., Promotion], home: Home, registry: Registry
) -> None:
    give(home.weak, "aliases")
    give(home.strong, "aliases", alias="candidate")
    assert registry.history("aliases", "champion") == ["1"]
    assert registry.history("aliases", "candidate") == ["2"]


def test_rollback_refuses_a_predecessor_whose_adapter_was_changed_or_is_gone(
    give: Callable[..., Promotion], home: Home, registry: Registry, uri: str
) -> None:
    give(home.weak, "damaged")
    give(home.strong, "damaged")
    version = registry.version("damaged", "1")
    assert version is not None
    run = open_client(uri).get_run(version.run_id)
    weights = Path(run.info.artifact_uri.removeprefix("file://")) / "adapter" / WEIGHTS
    intact = weights.read_bytes()
    try:
        weights.write_bytes(intact[:-1] + b"\0" if intact[-1] else intact[:-1] + b"\1")
        with pytest.raises(PromotionRefused, match="version 1 was champion before, but its adapter was changed"):
            roll_back("damaged", uri=uri)
        weights.unlink()
        with pytest.raises(PromotionRefused, match="version 1 was champion before, but its adapter is gone"):
            roll_back("damaged", uri=uri)
    finally:
        weights.write_bytes(intact)
    champion = registry.champion("damaged", "champion")
    assert champion is not None
    assert champion.number == "2"
    assert roll_back("damaged", uri=uri).version == "1"


def test_rollback_refuses_a_deleted_predecessor_and_one_that_somebody_else_made(
    give: Callable[..., Promotion], home: Home, uri: str
) -> None:
    client = open_client(uri)
    give(home.weak, "deleted")
    give(home.strong, "deleted")
    client.delete_model_version("deleted", "1")
    with pytest.raises(PromotionRefused, match="version 1 was champion before, but it was deleted"):
        roll_back("deleted", uri=uri)
    client.create_registered_model("foreign")
    client.create_model_version("foreign", "file:///elsewhere", None)
    client.set_registered_model_alias("foreign", "champion", "1")
    give(home.strong, "foreign")
    with pytest.raises(PromotionRefused, match="ftcluster did not make it"):
        roll_back("foreign", uri=uri)


def test_rollback_of_a_model_or_alias_that_does_not_exist_says_so(
    give: Callable[..., Promotion], home: Home, uri: str
) -> None:
    with pytest.raises(UsageError, match='there is no registered model "nobody"'):
        roll_back("nobody", uri=uri)
    give(home.strong, "known")
    with pytest.raises(PromotionRefused, match="known has no stable"):
        roll_back("known", "stable", uri=uri)


@pytest.mark.parametrize("state", ["failed", "pruned", "running"])
def test_a_run_that_did_not_finish_is_refused_by_name_and_not_even_by_force(
    give: Callable[..., Promotion], home: Home, registry: Registry, state: str
) -> None:
    for force in ("", "I insist"):
        with pytest.raises(PromotionRefused, match=f"finished: the run is {state}"):
            give(f"{home.sweep}-{state}", "unfinished", force=force)
    assert not registry.is_registered("unfinished")


def test_a_sweep_without_a_finished_trial_is_refused_with_the_states_of_its_trials(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as empty:
        spec = {"name": "s", "metric": "eval/loss", "direction": "minimize"}
        empty.add(registry_samples.RunRow("s", "sweep", str(tmp_path / "s"), {"spec": spec}))
        empty.add(registry_samples.RunRow("s-0", "trial", str(tmp_path / "s-0"), {}, parent="s"))
        with pytest.raises(PromotionRefused, match=r"no finished trial of s reported eval/loss \(s-0 waiting\)"):
            promote(empty, "s", home=tmp_path)


def test_a_worse_run_is_refused_and_a_reason_overrules_and_is_stored(
    give: Callable[..., Promotion], home: Home, registry: Registry, uri: str
) -> None:
    give(home.strong, "forced")
    with pytest.raises(PromotionRefused, match=r"holds champion: loss .* worse") as refused:
        give(home.weak, "forced")
    assert "--force" in refused.value.remedy
    assert versions(uri, "forced") == ["1"]
    give(home.weak, "forced", force="the strong one leaks")
    champion = registry.champion("forced", "champion")
    assert champion is not None
    assert champion.tags["ftcluster.forced"] == "the strong one leaks"
    assert champion.tags["ftcluster.gates"] == "forced past: holds champion"


def test_a_needless_reason_is_not_stored(give: Callable[..., Promotion], home: Home, registry: Registry) -> None:
    give(home.strong, "needless", force="just in case")
    champion = registry.champion("needless", "champion")
    assert champion is not None
    assert champion.tags["ftcluster.forced"] == ""


def test_an_adapter_changed_after_it_was_saved_is_refused_even_by_force(
    give: Callable[..., Promotion], home: Home, ledger: Ledger
) -> None:
    weights = RunFolder(Path(ledger.get(home.other).folder)).adapter / WEIGHTS
    intact = weights.read_bytes()
    try:
        shutil.copy(RunFolder(Path(ledger.get(home.strong).folder)).adapter / WEIGHTS, weights)
        with pytest.raises(PromotionRefused, match="intact: the file's sha256 is"):
            give(home.other, "tampered", force="looks fine")
    finally:
        weights.write_bytes(intact)


def test_what_mlflow_lost_of_an_adapter_is_stored_again_before_it_is_registered(
    give: Callable[..., Promotion], home: Home, ledger: Ledger, registry: Registry, uri: str
) -> None:
    run_id = json.loads((Path(ledger.get(home.other).folder) / BOOKMARK).read_text())["run_id"]
    root = Path(open_client(uri).get_run(run_id).info.artifact_uri.removeprefix("file://"))
    shutil.rmtree(root / "adapter")
    give(home.other, "restored")
    version = registry.champion("restored", "champion")
    assert version is not None
    assert registry.stored_sha256(run_id) == version.sha256


def test_a_run_whose_folder_lost_its_facts_is_refused_with_the_missing_file(home: Home, ledger: Ledger) -> None:
    facts = RunFolder(Path(ledger.get(home.other).folder)).facts
    kept = facts.read_text()
    facts.unlink()
    try:
        with pytest.raises(StoreError, match="other does not say which data it was trained on") as error:
            promote(ledger, home.other, home=home.path, model_name="factless")
        assert error.value.where == str(facts)
    finally:
        facts.write_text(kept)


def test_a_full_fine_tune_is_told_where_its_model_is(home: Home, ledger: Ledger) -> None:
    config = {**ledger.get(home.other).config, "adapter": {"kind": "none"}}
    row = ledger.add(registry_samples.RunRow("whole", "train", str(home.path / "whole"), config))
    with pytest.raises(UsageError, match="whole trained the whole model, and the registry takes adapters") as error:
        promote(ledger, row.name, home=home.path)
    assert str(home.path / "whole" / "model") in error.value.remedy


def test_with_mlflow_away_nothing_is_promoted_and_the_remedy_is_named(home: Home, ledger: Ledger) -> None:
    with pytest.raises(TrackingError, match="ftcluster runs sync"):
        promote(ledger, home.strong, home=home.path, model_name="away", uri="http://127.0.0.1:9")


def test_a_run_that_another_store_does_not_have_is_delivered_before_it_is_promoted(
    home: Home, ledger: Ledger, tmp_path: Path
) -> None:
    elsewhere = f"sqlite:///{tmp_path / 'mlflow.db'}"
    promotion = promote(ledger, home.other, home=home.path, model_name="moved", uri=elsewhere)
    registry = Registry(elsewhere)
    champion = registry.champion("moved", "champion")
    assert champion is not None
    assert champion.number == promotion.version
    assert registry.stored_sha256(champion.run_id) == champion.sha256


def test_a_changed_download_is_refused_by_whoever_loads_it(
    give: Callable[..., Promotion], home: Home, registry: Registry, uri: str, tmp_path: Path
) -> None:
    give(home.strong, "swapped")
    open_client(uri).set_model_version_tag("swapped", "1", "ftcluster.adapter_sha256", "0" * 64)
    with pytest.raises(BadAdapter, match="promoted was 000000000000"):
        find_speaker("swapped@champion", home.path, registry, tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow server that keeps artifacts itself, as a team has it."""
    folder = tmp_path_factory.mktemp("server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}", process)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_it_answers(uri: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()
            return
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)


@pytest.mark.whole
def test_promotion_rollback_and_loading_work_through_a_tracking_server(
    home: Home, ledger: Ledger, server: str, tmp_path: Path
) -> None:
    registry = Registry(server)
    for run, number in ((home.weak, "1"), (home.strong, "2"), (home.strong, "2")):
        assert promote(ledger, run, home=home.path, model_name="served", uri=server).version == number
    assert registry.history("served", "champion") == ["1", "2"]
    speaker = find_speaker("served@champion", home.path, registry, tmp_path)
    assert Conversation(load_speaker(speaker), max_new_tokens=12).say(PROMPT).text in ("Paris", "上海")
    assert roll_back("served", uri=server).version == "1"
    with pytest.raises(PromotionRefused, match="no champion before version 1"):
        roll_back("served", uri=server)
    with pytest.raises(UsageError, match="no registered model"):
        roll_back("nobody", uri=server)
