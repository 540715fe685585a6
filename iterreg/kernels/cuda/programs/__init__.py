"""Triton's programs. Their arguments are pointers, sizes and constants, checked by who launches."""
