"""What became of every array and every variable when weights were loaded."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LoadReport:
    """Outcome of loading a checkpoint, by the checkpoint's names.

    Attributes:
        loaded: Names whose arrays match a variable of the model.
        missing: Names the model needs and the checkpoint lacks.
        unexpected: Names in the checkpoint that the model has no use for.
        mismatched: Name -> (shape the model needs, shape in the checkpoint).
        unused: Names in the checkpoint that are known to be left over, such as the
            classification layer of a network that becomes a backbone.
    """

    loaded: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unused: tuple[str, ...] = ()

    @property
    def complete(self):
        """Whether checkpoint and model match in every name and shape."""
        return not (self.missing or self.unexpected or self.mismatched)

    def __str__(self):
        mismatched = [
            f"{name}: expected {expected}, received {received}"
            for name, (expected, received) in self.mismatched.items()
        ]
        sections = [f"{len(self.loaded)} arrays match"]
        for title, lines in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", mismatched),
            ("unused", self.unused),
        ):
            if lines:
                sections.append(f"{len(lines)} {title}:")
                sections.extend(f"  {line}" for line in lines)
        return "\n".join(sections)


class WeightsMismatchError(ValueError):
    """A checkpoint does not fit the model; nothing was loaded.

    Args:
        message: What was asked for.
        report: The `LoadReport`, kept as an attribute.
    """

    def __init__(self, message, report):
        super().__init__(f"{message}\n{report}")
        self.report = report
