"""The unit of message sizes: AIConfigurator's against those of Vidur, on the same types of GPU."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

PLACES = {"h100_sxm": "h100_dgx", "a100_sxm": "a100_dgx"}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("gpus", [2, 4, 8])
@pytest.mark.parametrize("gpu", PLACES)
def test_sizes_are_numbers_of_two_byte_values(data_dir: Path, gpu: str, gpus: int) -> None:
    """Vidur's sizes are bytes. Read as bytes too, AIConfigurator's would be up to twice as slow."""
    theirs = {
        int(row["message_size"]): float(row["latency"])
        for row in rows(data_dir / "profiles/aiconfigurator" / gpu / "nccl.csv")
        if (row["op_name"], row["nccl_dtype"], row["num_gpus"]) == ("all_reduce", "half", str(gpus))
    }
    ours = {
        float(row["size"]): float(row["time_stats.all_reduce.median"])
        for row in rows(data_dir / "profiles/vidur/network" / PLACES[gpu] / "all_reduce.csv")
        if row["collective"] == "all_reduce"
        and row["num_workers"] == row["devices_per_node"] == str(gpus)
    }
    sizes = np.array(sorted(size for size in theirs if size >= 2**23 and 2 * size <= max(ours)))
    assert len(sizes) >= 2
    times = np.array([theirs[size] for size in sizes.tolist()])
    known = sorted(ours)
    bytes_, seconds = np.array(known), np.array([ours[size] for size in known])
    values, as_bytes = (times / np.interp(k * sizes, bytes_, seconds) for k in (2, 1))
    assert np.all(np.abs(np.log(values)) < np.log(1.3))
    assert np.all(as_bytes > 1.3)
