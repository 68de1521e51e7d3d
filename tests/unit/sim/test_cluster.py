"""The same run on a cluster: two worker processes on the loopback interface."""

from __future__ import annotations

import numpy as np
import pytest

import llmq

pytestmark = pytest.mark.slow  # distributed is installed by `make check` (extra: cluster)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_dask_cluster_changes_nothing():
    distributed = pytest.importorskip("distributed", reason="needs the extra: cluster")
    chip = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=32)
    work = llmq.Workload.poisson(8.0, {"x": llmq.RequestClass(300, 40)})
    fields = {"replications": 6, "requests": 80, "rng": 5}
    alone = llmq.simulate(chip, work, **fields)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        spread = llmq.simulate(chip, work, **fields, workers=client)
        brief = llmq.simulate(chip, work, **fields, workers=client, record="summary")
    np.testing.assert_array_equal(alone.requests.finish, spread.requests.finish)
    np.testing.assert_array_equal(alone.server, spread.server)
    assert brief.replications == 6
