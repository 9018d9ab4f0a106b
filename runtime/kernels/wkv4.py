"""The recurrence of RWKV-4. Source: arXiv 2305.13048, section 3."""

from rwkv_edge.jit import kernel
from rwkv_edge.runtime.simd.arithmetic import fma, maximum
from rwkv_edge.runtime.simd.functions import exp_f32x16
from rwkv_edge.runtime.simd.memory import load_f32x16, store_f32x16


@kernel
def wkv4(k, v, w, u, aa, bb, pp, y, start, stop, first, last):
    """Tokens start to stop of one sequence, channels first to last, each channel by itself:

    y = (e**pp aa + e**(u + k) v) / (e**pp bb + e**(u + k)); e**pp aa = e**(pp + w) aa + e**k v,
    and bb the same without v.

    k, v, y: (T, C) float32; w below zero, u, and the state aa, bb, pp: (C,). y and the state are
    overwritten. The exponent pp is the larger of the two that are added, so nothing overflows.
    """
    for j in range(first, last, 16):
        wj, uj = load_f32x16(w, j), load_f32x16(u, j)
        a, b, p = load_f32x16(aa, j), load_f32x16(bb, j), load_f32x16(pp, j)
        for t in range(start, stop):
            kt, vt = load_f32x16(k[t], j), load_f32x16(v[t], j)
            top = maximum(p, uj + kt)
            past, present = exp_f32x16(p - top), exp_f32x16(uj + kt - top)
            store_f32x16(y[t], j, fma(past, a, present * vt) / fma(past, b, present))

            top = maximum(p + wj, kt)
            past, present = exp_f32x16(p + wj - top), exp_f32x16(kt - top)
            a = fma(past, a, present * vt)
            b = fma(past, b, present)
            p = top
        store_f32x16(aa, j, a)
        store_f32x16(bb, j, b)
        store_f32x16(pp, j, p)
