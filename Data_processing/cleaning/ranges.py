"""The range of values of images of more than 8 bits: asked for where a source needs one, and one for a dataset."""

import math
from collections import defaultdict
from collections.abc import Sequence

from Data_processing.cleaning.corrections import Source
from Data_processing.shared.imported import value_range
from Datasets.format.images import FULL, Range
from Datasets.tools.errors import UserError

DARK = 1 / 4  # of the full range: where no value of a source is beyond it, it has another


def check_values(source: Source) -> None:
    """Raise UserError where images of more than 8 bits need a range that the source's entry does not state."""
    deep: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for each in () if source.options.range else source.facts.values():
        if each.lowest is not None and each.highest is not None and math.isfinite(each.highest - each.lowest):
            deep[(each.mode or "")[:1]].append((each.lowest, each.highest, each.image))
    for kind, those in deep.items():
        low, high, full = min(those)[0], max(high for _, high, _ in those), FULL.get(kind, FULL["I"])
        if low >= 0 and (high == 0 or full * DARK <= high <= full):
            continue
        what = f"sources.{source.name}: images of more than 8 bits, such as {those[0][2]}, have values of {low:.10g} to"
        if kind not in FULL:
            raise UserError(f"{what} about {high:.10g} of {full} in each colour; convert them to 8 bits")
        near = [min(low, 0), 2 ** math.ceil(math.log2(high + 1)) - 1 if kind == "I" and high > 0 else high]
        lines = "`range: [{:.10g}, {:.10g}]`, or `range: image` for those of each image".format(*near)
        lines += "" if low < 0 or high > full else f", or `range: [0, {full}]` if they are meant to be so dark"
        raise UserError(f"{what} {high:.10g}, not 0 to {full}; say in its entry which are black and white: {lines}")


def common_range(sources: Sequence[Source]) -> Range:
    """The range of all images of more than 8 bits. Raises UserError where sources state several."""
    deep = [source for source in sources if any(each.highest is not None for each in source.facts.values())]
    ranges = {source.name: value_range(source.options) for source in deep}
    if len(set(ranges.values())) > 1:
        told = " and ".join(f"sources.{name} has {stated or 'none'}" for name, stated in ranges.items())
        raise UserError(f"range: {told}; a dataset has one, so that a model sees all alike: give all the same")
    return next(iter(ranges.values()), None)
