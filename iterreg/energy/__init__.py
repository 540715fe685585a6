"""The energy: similarity, overlap and smoothness, each with its gradient and curvature."""
