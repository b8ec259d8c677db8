"""Second opinion on energy: codecarbon's offline tracker, beside our own counters and never the headline.

Where it reads the same counter as we do (a GPU's through NVML, the processor's through RAPL), a gap between the two
figures means that one of us reads the wrong device or loses time: it checks the plumbing. Everything else it says is an
estimate (processor from a table of design powers and the load, memory at 5 W per module it guesses), so its label is
`estimated:codecarbon` throughout.

Source: https://github.com/mlco2/codecarbon, read and run at 3.3.2. What it does there, and what is done about it:
* `EmissionsTracker` without network becomes Quebec: only `OfflineEmissionsTracker` is used. Its grams are thrown away
  (intensity forced to 0, country arbitrary), so no token or region of the user's configuration can cause a request.
* `pue` is multiplied into the energies, and a user's configuration file or CODECARBON_… variables may set it: every
  option that changes an energy or writes somewhere is given here and overrides them.
* Power columns are wrong averages: energies only.
* 0 J where `nvidia-smi` is missing though NVML works: a 0 is a problem with its reason.
* 0 J under CUDA_VISIBLE_DEVICES=GPU-…, and every GPU of the machine from the second tracker on (the lost id is cached
  as "all"): the GPU is given as its NVML index.
* Runs under 50 ms lose their energy: a problem below one second.
* A tracker starts once: each stretch gets its own; what it found out about the machine is cached in the process.
* Two trackers at once each book the whole machine: one per process. Its own lock replaces the signal handlers of the
  process, so `allow_multiple_runs` stays on and the rule is kept here.
* Errors are swallowed and logged: a tracker that is not whole has no figures here.
* One thread samples power once per second, one reads the counters every 15 s (1.6 ms of processor time per second), so
  `in_windows` is False and nothing runs between `stop` and `start`.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import tempfile
import time
from typing import Any, ClassVar, Literal

import pynvml
from pydantic import JsonValue

from bench.errors import BenchError
from bench.meters._nvml_match import board_of, every_board
from bench.meters._spec import EnergySource, Meter, MeterSpec, Readings
from bench.records import EnergyLabel
from bench.units import JOULES_PER_KWH

GapLevel = Literal["ok", "flag", "invalid"]
FLAG_GAP = 0.02
INVALID_GAP = 0.10

_LABEL: EnergyLabel = "estimated:codecarbon"
_FAKE_DRIVER = "fake-nvml"  # the compiled library of the tests says so in its driver version
_SAMPLING_S = 15.0
_MIN_STRETCH_S = 1.0  # its power samples are a second apart
_SAME_COUNTER = 0.05  # the sensor's, as in the nvml and rapl meters
_ESTIMATE = 1.0  # a factor of several: two known tools print 8 W and 60 W for one processor
_SLOWEST_COUNTER_S = 0.5  # NVML's slowest update; codecarbon does not say its own
_CPU_TICK_S = 0.01  # load from the kernel's processor times
_READINGS = {
    "codecarbon_gpu_energy_j": "gpu_energy",
    "codecarbon_cpu_energy_j": "cpu_energy",
    "codecarbon_ram_energy_j": "ram_energy",
}


def gap(ours_j: float, theirs_j: float) -> tuple[float, GapLevel]:
    """How far codecarbon is from our counter over one stretch of at least 30 s: (theirs − ours) / ours, and its level.

    Flagged over 2 %, invalid over 10 %. Only for a part where both read one counter; both joules above zero.

    Raises:
        ValueError: an energy that is not above zero has no relative gap.
    """
    if not (ours_j > 0 and theirs_j > 0):
        raise ValueError(f"no gap between {ours_j} J and {theirs_j} J: an energy is above zero, or unknown")
    relative = (theirs_j - ours_j) / ours_j
    if abs(relative) > INVALID_GAP:
        return relative, "invalid"
    return relative, "flag" if abs(relative) > FLAG_GAP else "ok"


class CodecarbonMeter(Meter):
    """Joules as codecarbon counts them, one tracker for each stretch.

    Args:
        device: torch device as text; a GPU's energy is that of this device alone.

    Raises:
        BenchError: there is one in this process already.
    """

    _is_one_open: ClassVar[bool] = False

    def __init__(self, device: str) -> None:
        if CodecarbonMeter._is_one_open:
            raise BenchError(
                "codecarbon has a tracker in this process already, and two at once each book the whole machine: close "
                "the first one before opening another."
            )
        self._gpu_index, self._gpu_problem, self._gpu_label = _gpu(device)
        # The adapter of an optional package: importing it starts NVML and sets up its logger, so not at our import.
        self._package: Any = importlib.import_module("codecarbon")
        importlib.import_module("codecarbon.external.logger").set_logger_level("critical")
        self._tracker: Any = None
        self._started_s = 0.0
        self._hardware = self._look_at_hardware()
        CodecarbonMeter._is_one_open = True

    def _look_at_hardware(self) -> list[str]:
        """One empty stretch, so that the slow look at the machine and the tables are behind us. What it tracks."""
        tracker = self._new_tracker()
        if tracker is None:
            return []
        tracker.start()
        tracker.stop()
        hardware = [str(each) for each in tracker._conf.get("hardware", [])]  # nothing public tells how it reads
        if self._gpu_index is not None and not any(each.startswith("GPU") for each in hardware):
            self._gpu_problem = "codecarbon found no GPU though NVML did"
            if shutil.which("nvidia-smi") is None:
                self._gpu_problem += ": it looks for nvidia-smi, which is not on PATH"
        return hardware

    def _new_tracker(self) -> Any:
        """A tracker that writes nothing, asks nobody and ignores the user's configuration; None if it is broken."""
        tracker = self._package.OfflineEmissionsTracker(
            country_iso_code="FRA",  # must be one of its table
            region=None,
            country_2letter_iso_code=None,
            cloud_provider=None,
            cloud_region=None,
            force_carbon_intensity_g_co2e_kwh=0.0,
            electricitymaps_api_token="",
            emissions_endpoint=None,
            output_methods=[],
            output_handlers=[],
            output_dir=tempfile.gettempdir(),  # must exist; nothing is written there
            api_call_interval=-1,
            pue=1.0,
            wue=0.0,
            gpu_ids=None if self._gpu_index is None else [self._gpu_index],
            tracking_mode="machine",
            measure_power_secs=_SAMPLING_S,
            force_cpu_power=None,
            force_ram_power=None,
            force_mode_cpu_load=False,
            rapl_include_dram=False,
            rapl_prefer_psys=False,
            allow_multiple_runs=True,
            log_level="critical",
        )
        return tracker if hasattr(tracker, "run_id") else None  # set last; its constructor swallows its errors

    def start(self) -> None:
        """A new tracker, and its threads."""
        self._tracker = self._new_tracker()
        self._started_s = time.perf_counter()
        if self._tracker is not None:
            self._tracker.start()

    def stop(self) -> Readings:
        """Its last reads, the end of its threads → joules, or why there are none."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.stop()
        duration_s = time.perf_counter() - self._started_s
        found = getattr(tracker, "final_emissions_data", None)
        values, problems = {}, {}
        for reading, attribute in _READINGS.items():
            energy_j = 0.0 if found is None else float(getattr(found, attribute)) * JOULES_PER_KWH
            if reason := self._why_not(reading, found is not None, energy_j, duration_s):
                problems[reading] = reason
            else:
                values[reading] = energy_j
        return Readings(values=values, problems=problems)

    def _why_not(self, reading: str, has_data: bool, energy_j: float, duration_s: float) -> str:
        if not has_data:
            return "codecarbon failed inside and hides why: run its own OfflineEmissionsTracker to see the log"
        if reading == "codecarbon_gpu_energy_j" and self._gpu_problem:
            return self._gpu_problem
        if duration_s < _MIN_STRETCH_S:
            return f"the stretch of {duration_s:.3f} s is too short for codecarbon, which samples once per second"
        return "" if energy_j > 0 else f"codecarbon counted {energy_j:g} J over {duration_s:.1f} s on a working device"

    def energy_sources(self) -> dict[str, EnergySource]:
        """All three, cross-checks."""
        reads_rapl = any("Rapl" in each for each in self._hardware)
        return {
            "codecarbon_gpu_energy_j": EnergySource(
                label=self._gpu_label,
                part="gpu",
                period_s=_SLOWEST_COUNTER_S,
                systematic=_SAME_COUNTER,
                is_cross_check=True,
            ),
            "codecarbon_cpu_energy_j": EnergySource(
                label=_LABEL,
                part="cpu",
                period_s=_CPU_TICK_S,
                systematic=_SAME_COUNTER if reads_rapl else _ESTIMATE,
                is_cross_check=True,
            ),
            "codecarbon_ram_energy_j": EnergySource(
                label=_LABEL, part="dram", period_s=0.0, systematic=_ESTIMATE, is_cross_check=True
            ),
        }

    def facts(self) -> dict[str, JsonValue]:
        """Version, how often it reads, what it reads and how."""
        return {
            "version": str(self._package.__version__),
            "tracker": "OfflineEmissionsTracker",
            "tracking_mode": "machine",
            "pue": 1.0,
            "sampling_s": _SAMPLING_S,
            "power_sampling_s": 1.0,
            "cpu_mode": next((each for each in self._hardware if each.startswith("CPU")), None),
            "hardware": list(self._hardware),
            "gpu_nvml_index": self._gpu_index,
        }

    def close(self) -> None:
        """End a stretch that was left open, and let another tracker be opened."""
        if self._tracker is not None:
            self._tracker.stop()
            self._tracker = None
        CodecarbonMeter._is_one_open = False


def _gpu(device: str) -> tuple[int | None, str, EnergyLabel]:
    """(NVML index of a torch device, why there is none, label of its energy)."""
    if device == "cpu":
        return None, "this run is on the processor: no GPU belongs to it", _LABEL
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, f"codecarbon reads GPUs through NVML, which does not start ({error})", _LABEL
    try:
        index = [board.uuid for board in every_board()].index(board_of(device).uuid)
        is_fake = _FAKE_DRIVER in pynvml.nvmlSystemGetDriverVersion()
        return index, "", "simulated:fake-nvml" if is_fake else _LABEL
    except (BenchError, pynvml.NVMLError) as error:
        return None, f"which GPU codecarbon should read is unknown: {error}", _LABEL
    finally:
        pynvml.nvmlShutdown()


def _why_unavailable(_device: str) -> str | None:
    if importlib.util.find_spec("codecarbon") is None:
        return "the package codecarbon is not installed: `pip install codecarbon`"
    return None


METER = MeterSpec(
    title="second opinion on energy: codecarbon's offline tracker",
    readings={
        "codecarbon_gpu_energy_j": "joules of this run's GPU as codecarbon counts them (NVML, our counter too)",
        "codecarbon_cpu_energy_j": "joules of the processor: RAPL where it can be read, else load × design power",
        "codecarbon_ram_energy_j": "joules of the memory: watts per module that codecarbon guesses",
    },
    why_unavailable=_why_unavailable,
    open=CodecarbonMeter,
    in_windows=False,
)
