"""What `rwkv_edge.compat` costs beside `Model.forward`: python -m tests.benchmarks.compat MODEL

One token at a time; all ways take turns, so that a machine that slows down slows all of them.
"""

import copy
import statistics
import sys
import time

from rwkv_edge.compat import RWKV

N_ROUNDS = 60
N_TOKENS = 10


def main():
    path = sys.argv[1]
    model = RWKV(path, "cpu fp32", verbose=False)
    inner, own = model.model, model.model.new_state()
    _, state = model.forward(1, None)
    _, held = model.forward(1, None)
    _, copied = model.forward(1, None)

    def directly():
        inner.forward([5], own)

    def through_compat():
        model.forward(5, state)

    def with_its_arrays_kept():
        # What `in_place=False` does, too.
        kept = list(held)
        model.forward(5, held)
        del kept

    def with_new_arrays_each_time():
        copied[:] = copy.deepcopy(copied)
        model.forward(5, copied)

    ways = (directly, through_compat, with_its_arrays_kept, with_new_arrays_each_time)
    times = {way: [] for way in ways}
    for _ in range(N_ROUNDS):
        for way in ways:
            began = time.perf_counter()
            for _ in range(N_TOKENS):
                way()
            times[way].append(1e3 * (time.perf_counter() - began) / N_TOKENS)
    for way, found in times.items():
        name = way.__name__.replace("_", " ")
        print(f"{name:26} median {statistics.median(found):7.3f} ms, least {min(found):7.3f} ms")


if __name__ == "__main__":
    main()
