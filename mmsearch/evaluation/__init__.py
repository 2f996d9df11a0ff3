"""How well an index answers queries whose relevant items are known, and which setting is better.

a = mmsearch.evaluate(library, "pairs.tsv", settings={"fusion": "rrf"})
b = mmsearch.evaluate(library, "pairs.tsv", settings={"fusion": "wsum"})
a["text→image"].measures["Recall@10"]          # a value, and its interval
compare(a, b).directions[0].measures["MRR"].verdict
"""

from mmsearch.evaluation.benchmarks import BenchmarkResult, run_benchmark
from mmsearch.evaluation.comparison import Compared, Comparison, Difference, compare, parse_settings
from mmsearch.evaluation.costs import Cost
from mmsearch.evaluation.results import (
    MEASURES,
    MEDIAN,
    Direction,
    Evaluation,
    Figure,
    Outcome,
    recall_curve,
)
from mmsearch.evaluation.run import DEPTH, evaluate
from mmsearch.evaluation.variants import (
    Variant,
    VariantComparison,
    benchmark_variants,
    evaluate_variants,
    variants_of,
)

__all__ = [
    "DEPTH",
    "MEASURES",
    "MEDIAN",
    "BenchmarkResult",
    "Compared",
    "Comparison",
    "Cost",
    "Difference",
    "Direction",
    "Evaluation",
    "Figure",
    "Outcome",
    "Variant",
    "VariantComparison",
    "benchmark_variants",
    "compare",
    "evaluate",
    "evaluate_variants",
    "parse_settings",
    "recall_curve",
    "run_benchmark",
    "variants_of",
]
