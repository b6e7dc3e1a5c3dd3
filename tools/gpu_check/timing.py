"""Timing on a device, and the table that comes of it."""

import statistics
import time

import torch

_FLUSH_BYTES = 256 << 20  # more than any L2
_WAIT_CYCLES = 500_000  # a quarter of a millisecond, for the host to run ahead


class Clock:
    """Times functions on a device.

    Args:
        device: `"cuda"`, or `"cpu"` for a rehearsal.
        limit: Seconds that the calls of one function may take in all.
    """

    def __init__(self, device, limit=0.4):
        self._cuda = device == "cuda"
        self._limit = limit
        self._flushed = torch.empty(
            _FLUSH_BYTES if self._cuda else 1, dtype=torch.uint8, device=device
        )

    def milliseconds(self, function, inputs=((),)):
        """The median time of a call, with the inputs in turn and nothing of them in the L2 cache.

        Args:
            function: What to time.
            inputs: The arguments of a call, one tuple after the other.
        """
        for i in range(2):
            function(*inputs[i % len(inputs)])
        once = self._once(function, inputs[0])
        number = max(5, min(25, int(self._limit / (once / 1e3 + 1e-6))))
        return statistics.median(
            self._once(function, inputs[i % len(inputs)]) for i in range(number)
        )

    def _once(self, function, arguments):
        if not self._cuda:
            start = time.perf_counter()
            function(*arguments)
            return 1e3 * (time.perf_counter() - start)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flushed.zero_()
        torch.cuda._sleep(_WAIT_CYCLES)
        start.record()
        function(*arguments)
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


class Table:
    """Rows of a Markdown table, printed as they come.

    Args:
        ceiling: Bytes a second of a large copy, read and written ones counted.
    """

    def __init__(self, ceiling):
        self._ceiling = ceiling
        self.lines = [
            "| op | size | dtype | kvision | peer | its time | times faster | GB/s | of a copy |",
            "|---|---|---|--:|---|--:|--:|--:|--:|",
        ]

    def row(self, op, size, dtype, milliseconds, peer="", peer_milliseconds=None, bytes_moved=None):
        """Adds a row.

        Args:
            op: Its name and direction.
            size: Of the work.
            dtype: Of its tensors.
            milliseconds: Of kvision.
            peer: Whom it is compared with.
            peer_milliseconds: Of that one.
            bytes_moved: The least that have to be read and written, each once.
        """
        other = ratio = rate = part = ""
        if peer_milliseconds is not None:
            other = f"{peer_milliseconds:.3f} ms"
            ratio = f"{peer_milliseconds / milliseconds:.2f}"
        if bytes_moved is not None:
            achieved = bytes_moved / milliseconds * 1e3
            rate, part = f"{achieved / 1e9:.0f}", f"{achieved / self._ceiling:.0%}"
        cells = (op, size, dtype, f"{milliseconds:.3f} ms", peer, other, ratio, rate, part)
        self.lines.append(f"| {' | '.join(cells)} |")
        print(self.lines[-1], flush=True)
