"""Nearest images: the largest cosine similarities of features, in blocks of bounded memory."""

import numpy as np

BLOCK_ROWS = 2048
"""Rows of a block: 16 MiB of similarities for a block of queries."""


class NearestSearch:
    """Exact search for the images whose features point most nearly in the direction of a query's.

    Args:
        features: float32 (num_images, channels), in memory or a memory map; only blocks of it are read at a time.
    """

    def __init__(self, features: np.ndarray) -> None:
        self._features = features

    def search(
        self, queries: np.ndarray, count: int, *, exclude: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rows and similarities of the `count` nearest images of each query, the nearest first.

        Args:
            queries: float32 (num_queries, channels).
            count: At least 1; there may be fewer images.
            exclude: Pairs of a query and a row that is left out of its neighbours, such as its own: int64
                (num_pairs, 2).

        Returns:
            int64 and float32 (num_queries, count): rows and cosines, -1 to 1. If there are fewer images than `count`,
            there are fewer columns. All features 0 have the cosine 0 with everything. Where a query leaves out more
            rows than another, its last cosines are -inf: there is no further image.
        """
        exclude = np.zeros((0, 2), np.int64) if exclude is None else exclude
        num_excluded = np.bincount(exclude[:, 0], minlength=len(queries)).min(initial=len(self._features))
        count = min(count, len(self._features) - int(num_excluded))
        rows = np.zeros((len(queries), count), np.int64)
        cosines = np.zeros((len(queries), count), np.float32)
        for start in range(0, len(queries), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            inside = (exclude[:, 0] >= start) & (exclude[:, 0] < start + BLOCK_ROWS)
            excluded = exclude[inside] - np.array([start, 0])
            rows[part], cosines[part] = self._search_block(_unit(queries[part]), count, excluded)
        return rows, cosines

    def _search_block(self, queries: np.ndarray, count: int, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        best_rows = np.zeros((len(queries), 0), np.int64)
        best = np.zeros((len(queries), 0), np.float32)
        for start in range(0, len(self._features), BLOCK_ROWS):
            block = _unit(np.asarray(self._features[start : start + BLOCK_ROWS]))
            cosines = queries @ block.T
            inside = exclude[(exclude[:, 1] >= start) & (exclude[:, 1] < start + len(block))]
            cosines[inside[:, 0], inside[:, 1] - start] = -np.inf
            rows = np.broadcast_to(np.arange(start, start + len(block)), cosines.shape)
            candidates, candidate_rows = np.hstack([best, cosines]), np.hstack([best_rows, rows])
            order = _largest(candidates, count)
            best = np.take_along_axis(candidates, order, 1)
            best_rows = np.take_along_axis(candidate_rows, order, 1)
        return best_rows, best


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the columns of the `count` largest values of each row, the largest first; all if there are fewer."""
    if count < values.shape[1]:
        columns = np.sort(np.argpartition(-values, max(0, count - 1), axis=1)[:, :count], axis=1)
    else:
        columns = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    order = np.argsort(-np.take_along_axis(values, columns, 1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, 1)


def _unit(features: np.ndarray) -> np.ndarray:
    """Return rows of length 1; rows of zeros stay."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1)
