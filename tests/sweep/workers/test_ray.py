"""Workers on a Ray cluster of three nodes on this machine, one of which is killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from sweep_processes import SPACE, assert_stores_agree, closed, running_trials, wait_for  # noqa: F401
from tiny_set import tiny_recipe

from vqlab.sweep import Execution, make_comparison, make_space, sweep
from vqlab.tracking import Tracker

pytest.importorskip("ray", reason="Ray is not installed: pip install 'vqlab[ray]'")


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    ray_cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    try:
        for _ in range(nodes):
            ray_cluster.add_node(num_cpus=1)
        yield ray_cluster
    finally:
        ray.shutdown()
        ray_cluster.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_sweep_survives_the_loss_of_a_node(
    root: Path, tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vqlab.sweep.workers.ray import RayWorkers

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    recipe = tiny_recipe(root, epochs=25)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    monkeypatch.setenv("VQLAB_STORAGE", postgres)
    with cluster(nodes=2) as nodes:
        killed: list[Any] = []

        def kill() -> None:
            wait_for(lambda: running_trials(tmp_path, any_store=True), seconds=300)
            node = nodes.list_all_nodes()[-1]
            nodes.remove_node(node, allow_graceful=False)
            killed.append(node)
            time.sleep(2)
            nodes.add_node(num_cpus=1)

        killer = Thread(target=kill)
        killer.start()
        tracker = Tracker.open(tmp_path / "mlruns")
        launcher = RayWorkers(2, tracker.root, address=nodes.address)
        result = sweep(
            make_comparison(make_space(SPACE), recipe),
            tracker,
            trials=4,
            results=tmp_path / "results",
            execution=Execution(launcher=launcher),
        )
        killer.join()
    assert killed and len([t for t in result.trials if t.state == "COMPLETE"]) == 4
    assert_stores_agree(tmp_path, 4)
