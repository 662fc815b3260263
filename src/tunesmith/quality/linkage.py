"""Average linkage, cut at a distance: two clusters are one while their members are, on average, no farther apart.

SciPy finds the same clusters; importing it takes a third of a second, longer than all else that a small set's check
does. Cutting while merging is also what makes most of the work go away: a text that has no near one is done at once.
"""

import numpy as np
from numpy.typing import NDArray


def linked(distances: NDArray[np.float64], farthest: float) -> NDArray[np.int64]:
    """A cluster per point, named by the first point in it, from symmetric distances (points, points), overwritten.

    The nearest-neighbour chain (Müllner 2011, arXiv:1109.2378, section 3.1): merging others draws no cluster nearer,
    so two that are each other's nearest are merged whatever comes later, and one without a near neighbour stays alone.
    """
    np.fill_diagonal(distances, np.inf)
    cluster = np.arange(len(distances))
    sizes = np.ones(len(distances))
    for first in range(len(distances)):
        chain = [first] if cluster[first] == first else []
        while chain:
            here = chain[-1]
            nearest = int(distances[here].argmin())
            if distances[here, nearest] > farthest:
                distances[here] = distances[:, here] = np.inf
                chain.pop()
            elif len(chain) > 1 and distances[here, chain[-2]] == distances[here, nearest]:
                kept, gone = sorted(chain[-2:])
                weighted = sizes[kept] * distances[kept] + sizes[gone] * distances[gone]
                sizes[kept] += sizes[gone]
                distances[kept] = distances[:, kept] = weighted / sizes[kept]
                distances[gone] = distances[:, gone] = np.inf
                cluster[cluster == gone] = kept
                chain = chain[:-2] or [kept]
            else:
                chain.append(nearest)
    return cluster
