"""Times a step as every peer is timed, and prints one line of JSON."""
import json
import resource
import statistics
import time


def report(step, seconds, version):
    for _ in range(3):  # the first ones allocate, tune and compile
        step()
    times, begin = [], time.perf_counter()
    while len(times) < 5 or (time.perf_counter() - begin < seconds and len(times) < 5000):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"min_ms": min(times) * 1e3, "median_ms": statistics.median(times) * 1e3, "steps": len(times),
                      "peak_rss_mb": peak, "version": version}), flush=True)
