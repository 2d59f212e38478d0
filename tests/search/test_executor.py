"""Searches on workers: the same recipe as in this process, also when workers die."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from onnxlite.errors import OptionError
from onnxlite.recipe import PruneChannels, QuantizeDynamic, QuantizeStatic, Simplify
from onnxlite.search import Budget, optimize
from onnxlite.search.executor import measures_time
from tests.search.nets import images, net


def found(executor=None, **options):
    outcome = optimize(
        net(),
        images(64),
        budget=Budget(max_drop=0.3),
        executor=executor,
        cache=False,
        **{"time_limit_s": 3600.0, **options},
    )
    record = outcome.report.search
    return record, outcome.report.recipe, outcome.model


def test_any_executor_gives_the_same_recipe():
    record, recipe, model = found()
    with ThreadPoolExecutor(2) as executor:
        other, again, same = found(executor)
    assert again == recipe
    assert [t.label for t in other.trials] == [t.label for t in record.trials]
    assert same.SerializeToString() == model.SerializeToString()


def test_steps_that_measure_times_run_in_this_process():
    assert measures_time(QuantizeStatic())
    assert not measures_time(QuantizeStatic(placement="everything"))
    assert measures_time(QuantizeDynamic())
    assert not measures_time(Simplify())
    assert measures_time(PruneChannels(latency=0.5))
    assert not measures_time(PruneChannels(macs=0.5))


def test_fewer_than_one_worker_is_an_error():
    with pytest.raises(OptionError, match="at least one"):
        found(0)


@pytest.mark.slow
def test_processes_give_the_same_recipe():
    assert found(2)[1] == found()[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_recipe():
    distributed = pytest.importorskip("distributed")
    record, recipe, _ = found()
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        victims = list(client.run(os.getpid).values())

        def kill():
            time.sleep(5)
            os.kill(victims[0], signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        other, again, _ = found(client.get_executor())
        killer.join()
    assert again == recipe
    assert [t.label for t in other.trials] == [t.label for t in record.trials]
