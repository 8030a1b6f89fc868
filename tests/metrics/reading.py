"""What a source says, as a test asks for it: `said(source)["calls_total", "IssueCoupon", "OK"]`."""

from cluster.metrics import PREFIX, Source


def said(source: Source) -> dict[tuple[str, ...], float]:
    """Every sample's value, by its name without the prefix and its labels' values in the family's order."""
    return {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in source.families()
        for sample in family.samples
    }
