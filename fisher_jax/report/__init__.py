"""What a selection looks like: ranking, manifest, figures and a page, in one folder.

Names of the files and the ranking's columns stay; the page and its figures may change.
"""

from fisher_jax.report.comparison import N_DRAWS, Comparison, compare_with_uniform
from fisher_jax.report.files import FILES, write_manifest, write_ranking
from fisher_jax.report.page import write_report
from fisher_jax.report.subject import Subject

__all__ = [
    "FILES",
    "N_DRAWS",
    "Comparison",
    "Subject",
    "compare_with_uniform",
    "write_manifest",
    "write_ranking",
    "write_report",
]
