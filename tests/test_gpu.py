"""What only a GPU can show; `make gpu-check` runs it. Not run where there is none."""

import numpy as np
import pytest
import torch
from PIL import Image

import bench

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_ladagan_is_measured_and_trained_on_the_gpu(tmp_path, precision):
    spec = bench.RunSpec(
        model="ladagan",
        size="tiny",
        dataset="scenes",
        resolution=64,
        device="cuda",
        precision=precision,
        preset="smoke",
        train_for="5s",
    )
    record = bench.run(spec, results=tmp_path)
    assert record.status == "ok"
    assert record.spec.device == "cuda:0"
    assert record.machine.gpus
    weights_bytes = 4 * record.quantity("num_params_generator").value
    assert record.quantity("generate_peak_memory_bytes").value > weights_bytes
    assert record.quantity("rfd_v1").value < record.quantity("rfd_v1_untrained").value


def test_cpu_and_gpu_start_from_the_same_weights_and_give_the_same_first_grid(tmp_path):
    grids = []
    for device in ("cpu", "cuda"):
        spec = bench.RunSpec(
            model="ladagan", size="tiny", dataset="scenes", device=device, preset="smoke", train_for="16img"
        )
        record = bench.run(spec, results=tmp_path, phases=("train",))
        name = record.phases["train"].artifacts["samples_0000000000"]
        grids.append(np.asarray(Image.open(tmp_path / record.run_id / name), dtype=np.int16))
    assert np.abs(grids[0] - grids[1]).max() <= 2  # of 255: rounding of different kernels
