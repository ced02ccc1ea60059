"""An NVIDIA driver that says what a test wants: ``fake_nvml.c`` in the place of NVML, below the real pynvml.

The library is found by programs that begin with ``variables``; those that run already have looked for one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftcluster.cluster import inventory
from ftcluster.cluster.inventory import GpuReading

Answers = Mapping[str, object]  # by what is asked; None: not supported

# An H100 at work; the number after a dot is an argument, see nvml.h.
SOUND: Answers = {
    "Name": "NVIDIA H100 80GB HBM3",
    "MemoryInfo": "85520809984 1073741824",
    "UtilizationRates": "37 12",
    "CudaComputeCapability": "9 0",
    "Temperature.0": 41,
    "TemperatureThreshold.1": 87,
    "PowerUsage": 312500,
    "EnforcedPowerLimit": 700000,
    "CurrentClocksEventReasons": 0x4,
    "TotalEccErrors.1.0": 0,
    "RemappedRows": "0 0 0 0",
    "Field.230": 0,
    "NvLinkState": "1 1 1 1",
    "MigMode": "0 0",
    "ComputeRunningProcesses": "",
}
_SOURCE = Path(__file__).with_name("fake_nvml.c")
# What it prints is Python, so that a test compares whole values.
_READER = """
import sys
import pynvml
from ftcluster.cluster.nvml import NvmlProbe

with NvmlProbe() as probe:
    print("listening", flush=True)
    for _ in sys.stdin:
        print(probe.read(), flush=True)
try:
    pynvml.nvmlDeviceGetCount()
except pynvml.NVMLError_Uninitialized:
    sys.exit(0)
sys.exit("the driver is still in use")
"""


class MadeUpDriver:
    """One driver; what it says may change while somebody reads."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if not compiler:
            pytest.skip("no C compiler (cc) here to make the driver with")
        library = folder / "libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, _SOURCE], check=True)
        self._script = folder / "answers"
        self.variables = {**os.environ, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(self._script)}
        self.variables.pop("CUDA_VISIBLE_DEVICES", None)

    def says(self, *cards: Answers, driver: Answers | None = None, **parts: Answers) -> None:
        """Its answers from now on, for each card and for MIG devices of the first one: ``part_0``, ``part_1``."""
        told = {"driver": {"Version": "580.95.05", "Count": len(cards), **(driver or {})}}
        told |= {str(index): {"UUID": f"GPU-{index}", **SOUND, **card} for index, card in enumerate(cards)}
        told |= {name.replace("part_", "0."): answers for name, answers in parts.items()}
        lines = [
            f"{who} {what} {value}\n"
            for who, answers in told.items()
            for what, value in answers.items()
            if value is not None
        ]
        new = self._script.with_suffix(".new")
        new.write_text("".join(lines))
        new.replace(self._script)

    def read(self) -> GpuReading:
        """What ``NvmlProbe`` makes of it."""
        with self.listening() as read:
            return read()

    @contextmanager
    def listening(self) -> Iterator[Callable[[], GpuReading]]:
        """Readings by one probe, which listens for XIDs in between; at the end it must be done with the driver."""
        words = [sys.executable, "-c", _READER]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, env=self.variables, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as reader:

            def read() -> GpuReading:
                assert reader.stdin is not None
                assert reader.stdout is not None
                reader.stdin.write("\n")
                reader.stdin.flush()
                reading = eval(reader.stdout.readline() or "None", vars(inventory))
                assert isinstance(reading, GpuReading)
                return reading

            assert reader.stdout is not None
            reader.stdout.readline()
            yield read
            _, problem = reader.communicate()
        assert reader.returncode == 0, problem
