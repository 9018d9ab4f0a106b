"""What is computed, named by computation and operand format; each in terms of `simd` vectors."""
