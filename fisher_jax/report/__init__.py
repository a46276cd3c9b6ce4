"""What a selection looks like: ranking, manifest, figures and a page, in one folder.

Names of the files and the ranking's columns stay; the page and its figures may change.
"""

from fisher_jax.report.page import (
    FILES,
    N_DRAWS,
    compare_with_uniform,
    write_manifest,
    write_ranking,
    write_report,
)

__all__ = [
    "FILES",
    "N_DRAWS",
    "compare_with_uniform",
    "write_manifest",
    "write_ranking",
    "write_report",
]
