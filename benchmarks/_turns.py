"""A turn of a side of a benchmark whose sides take turns in one run."""

import statistics
import time


def turn(function):
    """Milliseconds by the clock and of the processors, medians of nine calls; and the result.

    Nine before them are not counted: threads that slept while the other sides had their turns are
    spread over the cores again.
    """
    wall, processors = [], []
    for _ in range(9):
        function()
    for _ in range(9):
        start, used = time.perf_counter(), time.process_time()
        result = function()
        processors.append(1e3 * (time.process_time() - used))
        wall.append(1e3 * (time.perf_counter() - start))
    return statistics.median(wall), statistics.median(processors), result
