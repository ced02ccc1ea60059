"""NVIDIA GPUs as the driver sees them, through NVML. Nothing here touches CUDA, so no GPU memory is taken.

Without a driver there are no GPUs and one sentence why; that is no error, since ftcluster runs on CPUs too. A query
that a card does not support is None, and a card that has fallen off its bus is listed as one that does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any, Self

from ftcluster.cluster.inventory import Gpu, GpuProcess, GpuReading, GpuSlice, Links, RemappedRows

# nvmlClocksEventReason*: why clocks are lower than they could be. Idle cards and clocks set by hand are left out.
_SLOWDOWNS = (
    ("nvmlClocksEventReasonSwPowerCap", "power cap"),
    ("nvmlClocksEventReasonHwSlowdown", "hardware slowdown"),
    ("nvmlClocksEventReasonSwThermalSlowdown", "thermal slowdown"),
    ("nvmlClocksEventReasonHwThermalSlowdown", "hardware thermal slowdown"),
    ("nvmlClocksEventReasonHwPowerBrakeSlowdown", "power brake"),
)


class NvmlProbe:
    """Reads what is there now, in about 10 ms, 50 ms the first time.

    NVML tells of XID errors only while somebody listens. As a context manager this does: readings inside the block
    carry the XIDs seen since its beginning. A card that is lost cannot tell its UUID any more, so the last one counts.
    """

    def __init__(self) -> None:
        self._listener: _Listener | None = None
        self._uuids: dict[int, str] = {}

    def __enter__(self) -> Self:
        self._listener = _Listener()
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener:
            self._listener.close()
        self._listener = None

    def read(self) -> GpuReading:
        """All GPUs, or why there are none."""
        import pynvml

        xids = self._listener.heard() if self._listener else {}
        try:
            with _nvml(pynvml):
                driver = str(pynvml.nvmlSystemGetDriverVersion())
                gpus = tuple(_read(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
        except pynvml.NVMLError_LibraryNotFound:
            return GpuReading(problem="no NVIDIA driver on this machine")
        except pynvml.NVMLError as error:
            return GpuReading(problem=f"the NVIDIA driver does not answer: {error}")
        self._uuids |= {gpu.index: gpu.uuid for gpu in gpus if gpu.uuid}
        return GpuReading(tuple(self._completed(gpu, xids) for gpu in gpus), driver)

    def _completed(self, gpu: Gpu, xids: Mapping[str, tuple[int, ...]]) -> Gpu:
        uuid = self._uuids.get(gpu.index, "")
        return replace(gpu, uuid=uuid, xids=xids.get(uuid, ()))


class _Listener:
    """Collects XID errors by UUID; hears nothing where there is no driver, or one without events, such as WSL's."""

    def __init__(self) -> None:
        import pynvml

        self._nvml = pynvml
        # One for each card: an event names its card by a handle, and a card that is lost does not tell whose that is.
        self._sets: dict[str, Any] = {}
        self._heard: dict[str, tuple[int, ...]] = {}
        self._ending = ExitStack()
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            self._ending.callback(pynvml.nvmlShutdown)
            for index in range(pynvml.nvmlDeviceGetCount()):
                self._listen(index)

    def _listen(self, index: int) -> None:
        nvml = self._nvml
        with suppress(nvml.NVMLError):  # one card that is lost must not make us deaf to the others
            card = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = str(nvml.nvmlDeviceGetUUID(card))
            events = nvml.nvmlEventSetCreate()
            self._ending.callback(nvml.nvmlEventSetFree, events)
            nvml.nvmlDeviceRegisterEvents(card, nvml.nvmlEventTypeXidCriticalError, events)
            self._sets[uuid] = events

    def heard(self) -> dict[str, tuple[int, ...]]:
        """Everything so far; does not wait."""
        for uuid, events in self._sets.items():
            with suppress(self._nvml.NVMLError):  # a timeout: nothing more has happened
                while True:
                    event = self._nvml.nvmlEventSetWait_v2(events, 0)
                    self._heard[uuid] = (*self._heard.get(uuid, ()), int(event.eventData))
        return dict(self._heard)

    def close(self) -> None:
        """Stop listening."""
        with suppress(self._nvml.NVMLError):
            self._ending.close()


class _Card:
    """Queries of one card: None where it has no answer, and ``problem`` once it is lost."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle, self.problem = nvml, handle, ""

    def ask(self, query: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return query(self.handle, *arguments)
        except self.nvml.NVMLError as error:
            if error.value in (self.nvml.NVML_ERROR_GPU_IS_LOST, self.nvml.NVML_ERROR_RESET_REQUIRED):
                self.problem = f"the driver says: {error}"
            return None

    def field(self, number: int) -> int | None:
        """A value that has no query of its own."""
        values = self.ask(self.nvml.nvmlDeviceGetFieldValues, [number])
        if not values or values[0].nvmlReturn != self.nvml.NVML_SUCCESS:
            return None
        return int(values[0].value.uiVal)


@contextmanager
def _nvml(pynvml: Any) -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _read(nvml: Any, index: int) -> Gpu:
    try:
        card = _Card(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
    except nvml.NVMLError as error:
        return Gpu(index, "", problem=f"the driver says: {error}")
    memory = card.ask(nvml.nvmlDeviceGetMemoryInfo)
    rates = card.ask(nvml.nvmlDeviceGetUtilizationRates)  # none on a card that is cut into MIG devices
    capability = card.ask(nvml.nvmlDeviceGetCudaComputeCapability)
    modes = card.ask(nvml.nvmlDeviceGetMigMode)
    mig = modes and modes[0] == nvml.NVML_DEVICE_MIG_ENABLE
    return Gpu(
        index=index,
        uuid=str(card.ask(nvml.nvmlDeviceGetUUID) or ""),
        name=str(card.ask(nvml.nvmlDeviceGetName) or ""),
        memory_total=memory and int(memory.total),
        memory_used=memory and int(memory.used),
        compute_capability=capability and (int(capability[0]), int(capability[1])),
        utilization=rates and float(rates.gpu) / 100,
        temperature=card.ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        temperature_limit=card.ask(nvml.nvmlDeviceGetTemperatureThreshold, nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN),
        power=_watts(card.ask(nvml.nvmlDeviceGetPowerUsage)),
        power_limit=_watts(card.ask(nvml.nvmlDeviceGetEnforcedPowerLimit)),
        slowdowns=_slowdowns(card),
        uncorrectable_errors=card.ask(
            nvml.nvmlDeviceGetTotalEccErrors, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        ),
        remapped_rows=_remapped(card),
        recovery_action=card.field(nvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION),
        links=_links(card),
        mig=mig,
        slices=tuple(_slices(card)) if mig else (),
        processes=_processes(card),
        problem=card.problem,
    )


def _watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def _slowdowns(card: _Card) -> tuple[str, ...] | None:
    reasons = card.ask(card.nvml.nvmlDeviceGetCurrentClocksEventReasons)
    if reasons is None:
        return None
    return tuple(text for name, text in _SLOWDOWNS if reasons & getattr(card.nvml, name))


def _remapped(card: _Card) -> RemappedRows | None:
    rows = card.ask(card.nvml.nvmlDeviceGetRemappedRows)  # cards before Ampere retire pages instead
    return rows and RemappedRows(int(rows[0]), int(rows[1]), bool(rows[2]), bool(rows[3]))


def _links(card: _Card) -> Links | None:
    states = []
    for link in range(card.nvml.NVML_NVLINK_MAX_LINKS):
        state = card.ask(card.nvml.nvmlDeviceGetNvLinkState, link)
        if state is None:  # it has no more, or none at all
            break
        states.append(bool(state))
    return Links(sum(states), len(states)) if states else None


def _slices(card: _Card) -> Iterator[GpuSlice]:
    for index in range(card.ask(card.nvml.nvmlDeviceGetMaxMigDeviceCount) or 0):
        handle = card.ask(card.nvml.nvmlDeviceGetMigDeviceHandleByIndex, index)
        if handle is None:  # a place that no device was made in
            continue
        part = _Card(card.nvml, handle)
        memory = part.ask(card.nvml.nvmlDeviceGetMemoryInfo)
        yield GpuSlice(
            str(part.ask(card.nvml.nvmlDeviceGetUUID) or ""), memory and int(memory.total), memory and int(memory.used)
        )


def _processes(card: _Card) -> tuple[GpuProcess, ...] | None:
    found = card.ask(card.nvml.nvmlDeviceGetComputeRunningProcesses)
    if found is None:
        return None
    return tuple(
        GpuProcess(int(process.pid), None if process.usedGpuMemory is None else int(process.usedGpuMemory))
        for process in found
    )
