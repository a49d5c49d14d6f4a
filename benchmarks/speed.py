"""`gip` beside its own plain loop and beside other selection packages: time, peak memory, objective reached.

Run `make bench`, or `python benchmarks/speed.py [k] [folder of real data]`. Every method runs in a process of its own
on the same vectors (the real Alpaca ones where they are at hand), one after the other. One judge, in float64, says
what share of the queries' energy the rows hold that each method chose.
"""

import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import write_results

from hf_gip import gip

ROOT = Path(__file__).resolve().parents[1]
NOISE, QUERIES, THREADS = 0.1, 64, 2
PEERS_N, PEERS_K = 20_000, 300  # scikit-learn's pursuit ends at d = 384 rows; others hold n x n numbers


def vectors(folder: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit rows and 64 of them as queries: real ones, or clustered ones made here."""
    path = Path(folder) / "alpaca_minilm_f16.npy"
    rng = np.random.default_rng(0)
    if path.exists():
        rows = np.load(path).astype(np.float32)
    else:
        rows = rng.standard_normal((256, 384))[rng.integers(256, size=52_002)] + rng.standard_normal((52_002, 384))
        rows = (rows / np.sqrt(np.arange(1, 385))).astype(np.float32)
    rows = rows[rng.permutation(len(rows))[:n]]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows, rows[rng.permutation(n)[:QUERIES]]


def engine(X: np.ndarray, Q: np.ndarray, k: int) -> list[int]:
    """Ours."""
    return gip(torch.from_numpy(X), torch.from_numpy(Q), k, noise=NOISE).indices.tolist()


def plain(X: np.ndarray, Q: np.ndarray, k: int) -> list[int]:
    """The same greedy, one pick per pass over the rows, in the same torch."""
    sys.path.insert(0, str(ROOT / "tests"))
    import plain_loops

    from hf_gip.core.rows import MemoryRows
    from hf_gip.core.setting import prepare

    rows = torch.from_numpy(X)
    setting = prepare(MemoryRows(rows), torch.from_numpy(Q), NOISE, None)
    return plain_loops.project(rows, setting.scale, setting.queries, k, NOISE).indices.tolist()


def apricot(X: np.ndarray, Q: np.ndarray, k: int) -> list[int]:
    """Facility location, lazy greedy."""
    from apricot import FacilityLocationSelection

    return FacilityLocationSelection(k, metric="cosine", optimizer="lazy").fit(X).ranking.tolist()


def sklearn_omp(X: np.ndarray, Q: np.ndarray, k: int) -> list[int]:
    """Orthogonal matching pursuit towards the mean query: it takes one target at a time."""
    from sklearn.linear_model import orthogonal_mp

    return np.flatnonzero(orthogonal_mp(X.T.astype(np.float64), Q.mean(0), n_nonzero_coefs=k)).tolist()


def submodlib(X: np.ndarray, Q: np.ndarray, k: int) -> list[int]:
    """Facility-location mutual information with the queries (FLVMI variant without the n x n kernel)."""
    from submodlib import FacilityLocationVariantMutualInformationFunction as Function

    made = Function(n=len(X), num_queries=len(Q), query_sijs=X @ Q.T, queryDiversityEta=1.0)
    found = made.maximize(budget=k, optimizer="NaiveGreedy", verbose=False, show_progress=False)
    return [row for row, _ in found]


def pyversity_dpp(X: np.ndarray, Q: np.ndarray, k: int) -> list[int]:
    """Greedy determinantal point process, relevance = mean cosine to the queries."""
    from pyversity import dpp

    return dpp(X, (X @ Q.T).mean(1), k, diversity=0.5).indices.tolist()


def semhash(X: np.ndarray, Q: np.ndarray, k: int) -> list[int]:
    """Representative selection of semhash, from the vectors as they are."""
    from semhash import SemHash

    records = [{"row": str(row)} for row in range(len(X))]
    chosen = SemHash.from_embeddings(X, records=records, columns=["row"], model=Vectors(X))
    return [int(record["row"]) for record in chosen.self_find_representative(selection_size=k).selected]


class Vectors:
    """The vectors as the encoder that semhash wants."""

    def __init__(self, X: np.ndarray) -> None:
        self.X = X

    def encode(self, inputs: list[str], **options: Any) -> np.ndarray:
        """The rows of these numbers."""
        return self.X[[int(row) for row in inputs]]


def numpy_dpp(X: np.ndarray, Q: np.ndarray, k: int) -> list[int]:
    """Greedy determinantal point process of the rows, pivoted Cholesky in numpy."""
    left, factors, picks = np.einsum("ij,ij->i", X, X) + NOISE, np.zeros((k, len(X)), X.dtype), []
    for step in range(k):
        row = int(left.argmax())
        picks.append(row)
        factors[step] = (X @ X[row] - factors[:step, row] @ factors[:step]) / np.sqrt(left[row])
        left -= factors[step] ** 2
        left[row] = -np.inf
    return picks


PEERS = (apricot, sklearn_omp, submodlib, pyversity_dpp, semhash, numpy_dpp)


def captured(X: np.ndarray, Q: np.ndarray, picks: list[int]) -> float:
    """Share of the queries' energy that the rows `picks` hold, in float64 from its definition."""
    rows, asked = X[picks].astype(np.float64), Q.astype(np.float64)
    ridge = NOISE * float((X.astype(np.float64) ** 2).sum(1).mean())
    cross = rows @ asked.T
    kernel = rows @ rows.T + ridge * np.eye(len(rows))
    return float((cross * np.linalg.solve(kernel, cross)).sum() / (asked**2).sum())


def measure(method: Callable[..., list[int]], folder: str, n: int, k: int) -> dict[str, Any]:
    """One line of the table, in a process of its own."""
    torch.set_num_threads(THREADS)
    X, Q = vectors(folder, n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line: dict[str, Any] = {"method": method.__name__, "n": n, "d": X.shape[1], "m": len(Q), "k": k}
    start = time.perf_counter()
    try:
        picks = method(X, Q, k)
    except Exception as error:  # a peer that cannot do it says why in the table
        return line | {"note": f"{type(error).__name__}: {error}"[:80]}
    line["seconds"] = time.perf_counter() - start
    line["extra_mib"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
    return line | {"chosen": len(picks), "captured": captured(X, Q, picks)}


def apart(method: Callable[..., list[int]], folder: str, n: int, k: int) -> dict[str, Any]:
    """`measure` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        line = pool.submit(measure, method, folder, n, k).result()
    print(line, flush=True)
    return line


def main() -> None:
    """Measure all and write the table."""
    k = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    folder = sys.argv[2] if len(sys.argv) > 2 else str(ROOT.parent / "shared" / "data")
    real = (Path(folder) / "alpaca_minilm_f16.npy").exists()
    lines = [apart(method, folder, 52_002, k) for method in (engine, plain)]
    lines += [apart(method, folder, PEERS_N, PEERS_K) for method in (engine, *PEERS)]
    for group in (lines[:2], lines[2:]):
        for line in group:
            if "seconds" in line:
                line["times_engine"] = line["seconds"] / group[0]["seconds"]
    write_results(
        "speed",
        lines,
        command=f"python benchmarks/speed.py {k}",
        packages=["torch", "numpy", "apricot-select", "scikit-learn", "submodlib-py", "pyversity", "semhash"],
        notes=[
            f"{'Real Alpaca vectors (MiniLM)' if real else 'Clustered vectors made here'}, {QUERIES} of them as "
            f"queries, {THREADS} threads. `captured`: share of the queries' energy held by the chosen rows (ridge "
            f"{NOISE}), one float64 judge. Peers optimise other objectives; the captured share is ours.",
        ],
    )


if __name__ == "__main__":
    main()
