"""Statistics of shards of the samples, collected by workers and merged exactly.

Ranges, averages and histograms merge to what one pass over all samples gives, bit for bit,
because their merging is exact and in any order (`calibrate/statistics.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import length_hint

import onnx
import onnx_ir as ir

from onnxlite.calibrate.collect import collect_part, sampled_fraction, with_elements
from onnxlite.calibrate.statistics import ValueStatistics, merge_statistics
from onnxlite.errors import OnnxliteError
from onnxlite.inputs import Feed, InputSpec, feed_size, input_specs
from onnxlite.model import load, to_bytes
from onnxlite.records import Progress, no_progress
from onnxlite.samples import BoundSamples, Samples
from onnxlite.workers import Workers


@dataclass(frozen=True)
class _Shard:
    """Some feeds, and what to measure on them."""

    model: bytes
    names: tuple[str, ...]
    feeds: list[Feed]
    inputs: tuple[InputSpec, ...]
    first: tuple[int, int]
    fraction: float
    threads: int | None


def collect_sharded(
    model: ir.Model,
    names: Iterable[str],
    samples: Samples,
    workers: Workers,
    *,
    shards: int,
    threads: int | None = 1,
    progress: Progress = no_progress,
) -> dict[str, ValueStatistics]:
    """Collect the statistics of `collect_statistics` by workers that see a shard each.

    Args:
        model: the float model; values are named as in its main graph.
        names: of the values.
        samples: cut into shards between feeds.
        workers: run the shards.
        shards: their number; no more than there are feeds.
        threads: of ONNX Runtime in each worker.
        progress: called as shards are done.

    Raises:
        SamplesError: a value is NaN or infinite on some sample, or empty on all of them.
        Lost: workers died on one shard repeatedly.
        ExecutionError: ONNX Runtime cannot run the model.
    """
    feeds = list(samples)
    count = max(1, min(shards, len(feeds)))
    content, wanted = to_bytes(model), tuple(dict.fromkeys(names))
    cuts = [len(feeds) * index // count for index in range(count + 1)]
    sizes = [feed_size(feed, samples.inputs) for feed in feeds]
    firsts = [(start, sum(sizes[:start])) for start in cuts[:-1]]

    parts = [feeds[first[0] : stop] for first, stop in zip(firsts, cuts[1:], strict=True)]

    def collect(fraction: float) -> dict[str, ValueStatistics]:
        pieces = [
            _Shard(content, wanted, part, samples.inputs, first, fraction, threads)
            for first, part in zip(firsts, parts, strict=True)
        ]
        found: dict[int, dict[str, ValueStatistics]] = {}
        for index, result in workers.each(_collect, pieces, stage="calibrate", progress=progress):
            if isinstance(result, OnnxliteError):
                raise result
            found[index] = result
        return merge_statistics(found[index] for index in range(count))

    return with_elements(collect, sampled_fraction(model, length_hint(samples)), wanted)


def _collect(shard: _Shard) -> dict[str, ValueStatistics] | OnnxliteError:
    """Run one shard in a worker; an error of the data is a result, not the worker's death."""
    proto = onnx.ModelProto()
    proto.ParseFromString(shard.model)
    model = load(proto)
    try:
        samples = Samples(BoundSamples(shard.feeds, shard.inputs), input_specs(model))
        return collect_part(
            model,
            shard.names,
            samples,
            fraction=shard.fraction,
            first=shard.first,
            threads=shard.threads,
        )
    except OnnxliteError as error:
        return error
