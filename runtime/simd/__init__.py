"""The SIMD vocabulary: vectors as values, short verbs on them, and what this CPU can do.

Vectors have 16 lanes of 32 bits (or 64 of 8) on every CPU: LLVM splits them where registers are
narrower, so that a kernel is written once. Only verbs that a CPU has a special instruction for
look at the tier.
"""
