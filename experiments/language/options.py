"""Options of the language experiment."""

from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any

from experiments.corpora.pools import KINDS
from experiments.language.variants import VARIANTS
from experiments.run.harness import Wandb
from experiments.softmax.study import check_grid, check_selectors, one_of, positive
from fisher_jax.models import DTYPES
from fisher_jax.util.checks import check_seed
from fisher_jax.util.errors import UserError

METHODS = ("last_layer", "lora", "full")
STAGED = ("selectors", "equal", "budgets", "replicates", "grid")
MAX_SEED = 4_000_000  # a replicate's is 1009 times as large, and 32 bits must hold it


@dataclass
class Options:
    """Options of the language experiment; `conf/language/config.yaml` explains each."""

    name: str
    method: str
    model: str
    corpus: str
    pool: str
    second: str
    path: str | None
    second_path: str | None
    n_pool: int
    n_validation: int
    n_test: int
    max_length: int
    budgets: list[int]
    uniform_budgets: list[int]
    equal: list[str]
    selectors: list[str]
    replicates: int
    learning_rates: list[float]
    tune: str
    epochs: int
    batch_tokens: int
    rank: int
    n_prompts: int
    prompt_words: int
    new_tokens: int
    temperature: float
    generate_budgets: list[int]
    seed: int
    # options with a value here came later: it is what earlier runs did
    proxy: str | None = None
    held_out: float | None = None
    trainings: int = 1
    total_tokens: int | None = None
    ask_model: str | None = None
    ask_endpoint: str | None = None
    dtype: str = "float32"
    remat: bool = False
    micro_batches: int = 1
    decoded_rows: int | None = None
    grid: dict[str, list[Any]] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    start: str | None = None
    hours: float | None = None
    overwrite: bool = False
    wandb: Wandb = field(default_factory=Wandb)

    def __post_init__(self) -> None:
        one_of(self, "method", [*METHODS])
        one_of(self, "pool", [*KINDS])
        one_of(self, "tune", ["each", "uniform"])
        positive(self, "n_pool n_validation n_test max_length replicates epochs batch_tokens rank")
        positive(self, "trainings micro_batches")
        one_of(self, "dtype", [*DTYPES])
        for name in ("total_tokens", "decoded_rows", "hours"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise UserError(f"{name} must be above 0, or null, got {value}")
        check_selectors(self, VARIANTS)
        if self.selectors[:1] != ["uniform"]:
            raise UserError("selectors must begin with uniform, what the others are compared with")
        if not set(self.equal) <= {"examples", "tokens"} or not self.equal:
            raise UserError(f"equal must be of examples and tokens, got {self.equal}")
        if self.n_prompts and self.method == "last_layer":
            raise UserError("n_prompts must be 0 with method=last_layer, which keeps no model")
        for budgets in (self.budgets, self.uniform_budgets, self.generate_budgets):
            if any(not 1 <= n <= self.n_pool for n in budgets):
                raise UserError(f"budgets must be from 1 to n_pool = {self.n_pool}, got {budgets}")
        if self.n_prompts:
            positive(self, "prompt_words new_tokens")
            written = {*self.budgets, *self.uniform_budgets} & {*self.generate_budgets}
            if set(self.generate_budgets) != written or not written:
                raise UserError(
                    "generate_budgets must be some of the budgets where n_prompts is above 0, got "
                    f"{self.generate_budgets}"
                )
        if self.ask_endpoint is not None and self.ask_model is None:
            raise UserError(f"ask_endpoint={self.ask_endpoint} needs ask_model, its model's name")
        if self.held_out is not None and not 0 < self.held_out < 1:
            raise UserError(f"held_out must be above 0 and below 1, got {self.held_out}")
        if self.n_prompts < 0 or self.temperature < 0:
            raise UserError("n_prompts and temperature must be at least 0")
        check_seed(self.seed, most=MAX_SEED)
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise UserError(f"learning_rates must be above 0, got {self.learning_rates}")
        by_validation = self.tune == "each" and len(self.learning_rates) > 1
        if "task_rows" in self.selectors and (self.proxy is not None or by_validation):
            raise UserError(
                "task_rows trains on the validation rows: it needs tune=uniform and no proxy"
            )
        check_grid(self)
        check_stages(self)


def check_stages(options: Options) -> None:
    """Refuse what no stage may change."""
    for stage in options.stages:
        if unknown := sorted(stage.keys() - {*STAGED}):
            raise UserError(f"stages may have {', '.join(STAGED)}, got {unknown[0]!r}")
        unknown = sorted(stage.get("grid", {}).keys() - options.grid.keys())
        if unknown and options.grid:  # one setting has no grid any more
            raise UserError(f"stages: grid has {unknown[0]!r}, which the whole's grid has not")


def staged(options: Options) -> list[Options]:
    """The whole, limited to each of its stages in turn; one without stages is its only one."""
    found = []
    for stage in options.stages or [{}]:
        of = dict(stage)
        limits: dict[str, Any] = {
            "replicates": min(of.pop("replicates", options.replicates), options.replicates),
            "grid": options.grid | _within(of.pop("grid", {}), options.grid),
        }
        limits |= _within(of, vars(options))
        budgets = {*limits.get("budgets", options.budgets), *options.uniform_budgets}
        limits["generate_budgets"] = [n for n in options.generate_budgets if n in budgets]
        limits["n_prompts"] = options.n_prompts if limits["generate_budgets"] else 0
        if all(limits["grid"].values()) and all(limits[name] for name in of):
            found.append(replace(options, stages=[], **limits))
    return found


def _within(part: dict[str, list[Any]], whole: dict[str, Any]) -> dict[str, list[Any]]:
    """Each list of the part without what the whole's has not."""
    return {name: [x for x in values if x in whole[name]] for name, values in part.items()}


LATER = {f.name: f.default for f in fields(Options) if f.default is not MISSING}
