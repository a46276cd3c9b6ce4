"""What MkDocs is told beyond mkdocs.yml: pages of the top level and of results/ are in the site."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "RESULTS.md")


def on_files(files: Files, config: Any) -> Files:
    """Add them, under the paths that they have in the repository. README is the first page."""
    runs = [p for p in sorted((ROOT / "results").glob("*/*/*")) if p.suffix in (".md", ".png")]
    for path in [*(ROOT / name for name in TOP), *runs]:
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between docs/ and the top level lose the step between them, which the site lacks."""
    if page.file.src_uri in TOP:
        return markdown.replace("](docs/", "](")
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown
