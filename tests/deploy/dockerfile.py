"""Runs the steps of a Dockerfile as a script in a clean folder that plays the image's root.

Knows what ``deploy/Dockerfile`` uses and refuses anything else, so a new kind of step cannot pass untested.
Does not start containers: the machine's own Python stands for the base image.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

NEEDS_AN_IMAGE = re.compile(r"^(useradd|apt-get) ")  # changes the system: has no meaning in a folder
IGNORED = {"FROM", "USER", "CMD"}
CHANGED_BY_BUILDS = shutil.ignore_patterns("__pycache__", "*.pyc")


@dataclass
class Build:
    """The state a Dockerfile builds up: folder, arguments, environment."""

    context: Path
    root: Path
    arguments: dict[str, str]  # --build-arg
    folder: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    entry: str = ""

    def inside(self, path: str) -> Path:
        """Where a path of the image lies."""
        return self.root / (Path(self.folder) / path).relative_to("/")

    def variables(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def step(self, instruction: str, rest: str) -> None:
        match instruction:
            case "ARG":
                name, _, default = rest.partition("=")
                self.environment[name] = self.arguments.get(name, default)
            case "ENV":
                name, _, value = rest.partition("=")
                mapped = re.sub(r"(?<![\w.])/srv/", f"{self.root}/srv/", value)
                self.environment[name] = mapped.replace(f"${name}", self.variables()[name])
            case "WORKDIR":
                self.folder = str(Path(self.folder) / rest)
                self.inside(".").mkdir(parents=True, exist_ok=True)
            case "COPY":
                self.copy(*rest.split())
            case "RUN":
                self.run(re.sub(r"^(--mount=\S+ )+", "", rest))
            case "ENTRYPOINT":
                (self.entry,) = re.findall(r'"(.*?)"', rest)
            case _:
                assert instruction in IGNORED, f"no rule for {instruction} {rest}"

    def copy(self, *words: str) -> None:
        *sources, target = words
        for source in sources:
            path = self.inside(target)
            if (self.context / source).is_dir():
                shutil.copytree(self.context / source, path, ignore=CHANGED_BY_BUILDS)
            else:
                path.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.context / source, path)

    def run(self, command: str) -> None:
        if NEEDS_AN_IMAGE.match(command):
            return
        words = ["bash", "-euo", "pipefail", "-c", command]
        done = subprocess.run(
            words, cwd=self.inside("."), env=self.variables(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"RUN {command}\n{done.stdout}{done.stderr}"


def build(dockerfile: Path, context: Path, root: Path, arguments: dict[str, str]) -> Build:
    """Carries out every step; ``Build.entry`` and ``Build.variables()`` say how the result is started."""
    state = Build(context, root, arguments)
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text("utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            instruction, _, rest = line.strip().partition(" ")
            state.step(instruction, rest.strip())
    return state
