"""What is to be reached: a share of MACs, parameters, latency or of each group, or widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import onnx_ir as ir

from onnxlite.analysis.channels import ChannelMap
from onnxlite.analysis.cost import cost
from onnxlite.analysis.kept_shapes import KeptShapes
from onnxlite.errors import OptionError
from onnxlite.prune.price import Item, macs_items, parameter_items
from onnxlite.samples import Feed

#: Goals that are a share to keep of something that is priced.
_SHARES = ("macs", "params", "latency")


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of the five; see `onnxlite.prune_channels`.

    Attributes:
        macs: share of the multiply-accumulates to keep, above 0 to 1.
        params: share of the parameters to keep.
        latency: share of the measured time to keep.
        ratio: share of the units of every group to remove, 0 to below 1; or by group.
        widths: units that groups keep, by name; a group whose branch may end may keep none.
    """

    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    ratio: float | Mapping[str, float] | None = None
    widths: Mapping[str, int] | None = None

    def check(self) -> None:
        """Raise `OptionError` unless exactly one is given, in its range."""
        given = {n: getattr(self, n) for n in self.__struct_fields__}
        given = {name: value for name, value in given.items() if value is not None}
        if len(given) != 1:
            raise OptionError(
                "say how much is to go by exactly one of macs, params, latency (shares to keep), "
                "ratio (share of each group to remove) and widths (units that groups keep), "
                f"given were {sorted(given) or 'none'}"
            )
        ((name, value),) = given.items()
        if name in _SHARES and not 0 < value <= 1:
            raise OptionError(f"{name} is a share to keep, above 0 to 1, given was {value}")
        if name == "ratio":
            shares = value.values() if isinstance(value, Mapping) else [value]
            if wrong := [share for share in shares if not 0 <= share < 1]:
                raise OptionError(f"ratio is a share to remove, 0 to below 1, given was {wrong[0]}")

    @property
    def kept(self) -> tuple[str, float] | None:
        """What is priced, and the share of it to keep; None for a ratio or widths."""
        for name in _SHARES:
            if (share := getattr(self, name)) is not None:
                return name, share
        return None


def static_items(
    model: ir.Model, channels: ChannelMap, name: str, feeds: Sequence[Feed] | None
) -> list[Item]:
    """What of the model is priced in MACs or parameters, with what lies beyond the units.

    Raises:
        OptionError: the MACs of some node cannot be told.
    """
    whole = cost(model, feeds=feeds)
    if name == "params":
        items, total = parameter_items(model), float(whole.parameters)
    else:
        if whole.macs is None:
            raise OptionError(
                f"the MACs of this model cannot be told ({'; '.join(whole.notes)}): "
                "give params, latency or ratio"
            )
        items, total = macs_items(model), float(whole.macs)
    # Subgraphs and what has no rule: a part of the price that never changes.
    return [*items, _rest(items, total, channels)]


def _rest(items: Sequence[Item], total: float, channels: ChannelMap) -> Item:
    now = KeptShapes(channels, [group.units[:0] for group in channels.groups])
    rest = max(total - sum(item.price(now) for item in items), 0.0)
    return Item((), lambda _shapes: rest)
