"""What a reader does about damaged data: refuse it, or leave it out and say so."""

import dataclasses
import threading
import warnings

ON_ERROR = ("raise", "skip")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One image or one box that cannot be used as it is.

    Args:
        file: str, the file that is at fault.
        what: ``"image"`` or ``"box"``, what is left out under ``on_error="skip"``.
        reason: str.
    """

    file: str
    what: str
    reason: str

    def __str__(self):
        """Join the file and the reason, as errors show them."""
        return f"{self.file}: {self.reason}"


class ProblemReport:
    """The problems that a reader has met so far.

    Args:
        reader: str, the function that reads; it speaks in errors and warnings.
        on_error: ``"raise"`` (the first problem is a `ValueError` with file and reason) or
            ``"skip"`` (problems are kept here, and `warn` tells their number).

    Raises:
        ValueError: any other ``on_error``.
    """

    def __init__(self, reader, on_error):
        if on_error not in ON_ERROR:
            raise ValueError(
                f"{reader}: `on_error` must be one of {ON_ERROR}. Received: {on_error!r}."
            )
        self.reader = reader
        self.on_error = on_error
        self._problems = {}
        self._told = 0
        self._lock = threading.Lock()

    @property
    def problems(self):
        """Tuple of `Problem`, in the order in which they were met, each once."""
        return tuple(self._problems)

    @property
    def skipped_images(self):
        """Number of images left out."""
        return sum(problem.what == "image" for problem in self.problems)

    @property
    def skipped_boxes(self):
        """Number of boxes left out of images that are used."""
        return sum(problem.what == "box" for problem in self.problems)

    def add(self, file, what, reason):
        """Raise the problem, or keep it.

        Args:
            file: str or path.
            what: ``"image"`` or ``"box"``.
            reason: str.

        Raises:
            ValueError: under ``on_error="raise"``.
        """
        problem = Problem(str(file), what, reason)
        if self.on_error == "raise":
            raise ValueError(f"{self.reader}: {problem}")
        with self._lock:
            self._problems[problem] = None

    def warn(self):
        """Warn once of all problems kept since the last warning."""
        with self._lock:
            new = self.problems[self._told :]
            self._told += len(new)
        if new:
            warnings.warn(
                f"{self}, the last: {new[-1]}. All are in `.report.problems`.", stacklevel=3
            )

    def __str__(self):
        """Tell how many were left out."""
        left_out = f"{self.skipped_images} image(s) and {self.skipped_boxes} box(es)"
        return f"{self.reader}: skipped {left_out}"
