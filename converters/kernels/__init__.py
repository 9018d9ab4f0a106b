"""Kernels that turn rows of weights into rows of a file. One file per format."""
