"""Accuracy, and distances between rows of matrices, under the name that other code imports them by."""

from dassl.compat import compute_accuracy, compute_distance_matrix, cosine_distance, euclidean_squared_distance

__all__ = ["compute_accuracy", "compute_distance_matrix", "cosine_distance", "euclidean_squared_distance"]
