"""Packed networks on NVIDIA GPUs: kernels in CUDA C (*.cu), compiled and launched through CuPy."""
