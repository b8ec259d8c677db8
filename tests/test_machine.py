"""What a container may use, from the files of either cgroup version."""

import pytest

from bench.machine import _cgroup_cpu_limit, _cgroup_memory_limit


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "num_cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_cpu_quota_is_read_in_cores_and_no_quota_is_none(tmp_path, files, num_cores):
    assert _cgroup_cpu_limit(tree(tmp_path, files)) == num_cores


@pytest.mark.parametrize(
    ("files", "num_bytes"),
    [
        ({"memory.max": "1073741824\n"}, 2**30),
        ({"memory.max": "max\n"}, None),
        ({"memory/memory.limit_in_bytes": "1073741824\n"}, 2**30),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
        ({}, None),
    ],
)
def test_a_memory_limit_is_read_in_bytes_and_no_limit_is_none(tmp_path, files, num_bytes):
    assert _cgroup_memory_limit(tree(tmp_path, files)) == num_bytes
