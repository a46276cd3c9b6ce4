"""Rows beside the pool: owned already, of a task, or of a set whose copies may not be chosen."""

import numpy as np
import pytest

import fisher_jax as fj
from fisher_jax.util.errors import UserError
from tests.helpers.cli import K, manifest_of, read_rows, texts, write_embeddings, write_rows


def embedded(rows, llama):
    return fj.embed(rows, str(llama), normalize="none")


def scaled(emb, other):
    """By the pool's root mean squared norm."""
    return fj.TokenEmbeddings(emb.tokens / np.sqrt(other.mean_squared_norm()), emb.offsets)


def test_gains_count_from_rows_that_are_owned(run, llama, out, tmp_path):
    rows, owned = texts(), texts(seed=1, n=3)
    pool, there = embedded(rows, llama), embedded(owned, llama)
    expected = fj.select(scaled(pool, pool), n_samples=K, initial=scaled(there, pool))
    choice = fj.choose(rows, model=llama, n_samples=K, initial=owned)
    assert choice.ranking.tolist() == expected.ranking.tolist()
    np.testing.assert_allclose(choice.gains, expected.gains, rtol=1e-4)
    assert choice.log_det == pytest.approx(expected.log_det, rel=1e-4)
    np.testing.assert_allclose(choice.embeddings.tokens, scaled(pool, pool).tokens, rtol=1e-5)

    files = [
        write_rows(tmp_path / f"{k}.jsonl", [{"text": t} for t in ts])
        for k, ts in enumerate((rows, owned))
    ]
    argv = [files[0], "-o", out, "--model", llama, "--n-samples", K, "--initial", files[1]]
    assert run(*argv)[0] == 0
    assert [row["text"] for row in read_rows(out)] == [rows[i] for i in expected.ranking]
    result = manifest_of(out)["result"]
    assert result["initial"] == str(files[1]) and result["initial_sha256"]
    # random rows too are told beyond what is owned
    uniform = manifest_of(out)["uniform_log_det"]["equal_examples"]
    assert uniform < result["log_det"] == pytest.approx(choice.log_det)


def test_ready_embeddings_can_do_what_text_can(llama, tmp_path):
    rows, owned, task = texts(), texts(seed=1, n=3), texts(seed=2, n=4)
    files = {}
    for name, of in {"pool": rows, "initial": owned, "task": task}.items():
        files[name] = embedded(of, llama)
    for selector, options in {
        "fisher": {},
        "rds": {"targets": task},
        "i_optimal": {"targets": task, "initial": owned},
    }.items():
        text = fj.choose(rows, model=llama, n_samples=K, selector=selector, **options)
        ready = {"targets": "target_embeddings", "initial": "initial_embeddings"}
        given = {ready[name]: files["task" if name == "targets" else name] for name in options}
        choice = fj.choose(embeddings=files["pool"], n_samples=K, selector=selector, **given)
        assert choice.ranking.tolist() == text.ranking.tolist(), selector
        np.testing.assert_allclose(choice.gains, text.gains, rtol=1e-4)
    assert np.array_equal(files["pool"].tokens, embedded(rows, llama).tokens)  # as it was


def test_copies_of_another_set_are_dropped(run, llama, out, tmp_path):
    rows = texts()
    held_out = [rows[1].upper(), *texts(seed=3, n=2), rows[4]]
    choice = fj.choose(rows, model=llama, n_samples=6, exclude=held_out)
    assert sorted(choice.ranking) == [0, 2, 3, 5, 6, 7]
    assert choice.notes == ["2 exact copies of rows of exclude were dropped."]
    with_copy = [*rows, rows[0]]
    kept = fj.choose(with_copy, model=llama, fraction=1, exclude=held_out)
    assert len(kept.ranking) == 7  # an earlier row's copy is none of another set
    both = fj.choose(with_copy, model=llama, fraction=1, exclude=held_out, deduplicate="near")
    assert sorted(both.ranking) == [0, 2, 3, 5, 6, 7]

    pool = write_rows(tmp_path / "p.jsonl", [{"text": row} for row in rows])
    other = tmp_path / "held_out.txt"
    other.write_text("\n".join(held_out) + "\n")
    write_embeddings(tmp_path / "emb.safetensors")
    ready = [pool, "-o", out, "--embeddings", tmp_path / "emb.safetensors", "--fraction", 1]
    assert run(*ready, "--against", other)[0] == 0
    assert sorted(row["text"] for row in read_rows(out)) == sorted(np.delete(rows, [1, 4]))
    assert manifest_of(out)["result"]["exclude_sha256"]
    with pytest.raises(UserError, match=r"pool: all rows are copies of rows of `exclude`"):
        fj.choose(rows, model=llama, n_samples=1, exclude=rows)


def test_semantic_copies_are_rows_of_like_means():
    rng = np.random.default_rng(0)
    first = [rng.standard_normal((4, 8)).astype(np.float32) for _ in range(8)]
    pool = fj.TokenEmbeddings.from_list([*first, first[2] + np.float32(0.01), first[5][::-1]])
    choice = fj.choose(embeddings=pool, n_samples=8, deduplicate="means")
    assert sorted(choice.ranking) == [*range(8)]
    assert choice.notes == ["2 semantic copies were dropped."]
    rows = ["a b c", *map(str, range(9))]
    both = fj.choose(rows, embeddings=pool, n_samples=7, deduplicate="means", exclude=["A b  c"])
    assert both.notes == [
        "1 exact copy of rows of exclude was dropped.",
        "2 semantic copies were dropped.",
    ]
    with pytest.raises(UserError, match="has 8 rows to choose from"):
        fj.choose(embeddings=pool, n_samples=9, deduplicate="means")


@pytest.mark.parametrize("selector", ["fisher", "uniform"])
def test_the_certificate_is_the_share_of_the_best(selector, run, ready, out):
    assert run(*ready, "-o", out, "--n-samples", K, "--selector", selector, "--certify")[0] == 0
    choice = fj.choose(embeddings=ready[1], n_samples=K, selector=selector, certify=True)
    expected = fj.certify(choice.embeddings, choice.ranking, n_samples=K)
    assert manifest_of(out)["result"]["least_share_of_best"] == choice.certificate == expected
    said = f"at least {100 * expected:.1f}% of the most that the budget can buy"
    assert manifest_of(out)["notes"] == [f"This is {said}."]


WRONG = {
    "targets of ready": (
        {"embeddings": "e", "targets": ["a"]},
        "`targets` goes with `model`: with `embeddings` give `target_embeddings`",
    ),
    "ready targets of text": (
        {"pool": ["a"], "model": "m", "target_embeddings": "e"},
        "`target_embeddings` goes with `embeddings`: of text give `targets`",
    ),
    "means of text": (
        {"pool": ["a"], "model": "m", "deduplicate": "means"},
        "`deduplicate=means` goes with `embeddings`",
    ),
    "near without text": ({"embeddings": "e", "deduplicate": "near"}, "give the `pool`"),
    "columns of no text": ({"embeddings": "e", "text_column": "t"}, "`text_column` goes with"),
    "a rule that does not add": (
        {"pool": ["a"], "model": "m", "selector": "k_center", "initial": ["a"]},
        "`selector=k_center` does not look at `initial`: leave it out, or take one of fisher,",
    ),
    "rds of ready": (
        {"embeddings": "e", "selector": "rds"},
        "give its rows as `target_embeddings=FILE`",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_refused_before_anything_is_read(name):
    options, words = WRONG[name]
    with pytest.raises(UserError) as caught:
        fj.choose(n_samples=1, **options)
    assert words in str(caught.value)


def test_the_plan_counts_forward_passes_and_refuses_by_its_own_memory(
    run, refused, llama, out, tmp_path, monkeypatch
):
    from fisher_jax.models.embed import hidden_states

    pool = write_rows(tmp_path / "p.jsonl", [{"text": text} for text in texts()])
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--batch-tokens", 16]
    argv += ["--initial", pool]
    code, messages = run(*argv, "--dry-run")
    assert code == 0
    calls = []
    monkeypatch.setattr(
        "fisher_jax.models.embed.hidden_states", lambda *a: calls.append(1) or hidden_states(*a)
    )
    assert run(*argv)[0] == 0
    assert f"{len(calls)} forward passes, about" in messages and len(calls) > 2
    monkeypatch.setattr("fisher_jax.pipeline.plan.physical_memory", lambda: 2.0**30)
    write_embeddings(tmp_path / "emb.safetensors")
    ready = ["--embeddings", tmp_path / "emb.safetensors", "-o", out, "--n-samples", K]
    refused([*ready, "--overwrite"], ["need about 1.0 GiB"])


@pytest.mark.parametrize("name", ["exclude", "initial", "targets"])
def test_bad_rows_beside_the_pool_are_told(name, run, llama, out, tmp_path):
    pool = write_rows(tmp_path / "p.jsonl", [{"text": text} for text in texts()])
    bad = [{"text": "x y z"}, {"text": 3}, {"body": "a"}]
    other = write_rows(tmp_path / "bad.jsonl", bad)
    argv = [pool, "-o", out, "--model", llama, "--n-samples", K, "--skip-bad", f"--{name}", other]
    code, messages = run(*argv, *(["--selector", "rds"] if name == "targets" else []))
    assert code == 0
    told = [
        f"{other}, line 2: column 'text' holds an int, not a string",
        f"{other}, line 3 has no column 'text', it has 'body'",
    ]
    assert manifest_of(out)["result"][f"{name}_bad_rows"] == told
    note = f"2 bad rows left out ({'; '.join(told)})."
    assert note in messages and note in manifest_of(out)["notes"]


@pytest.mark.parametrize("name", ["longest", "k_center"])
def test_compared_rules_may_ignore_rows_that_are_owned(name, emb, examples):
    initial = fj.TokenEmbeddings.from_list(examples[:2])
    options = {"embeddings": emb, "initial_embeddings": initial, "n_samples": K}
    options["normalize"] = "none"
    choice = fj.choose(**options, compare=[name])
    note = f"{name} chooses without a look at the initial rows, from which its nats count."
    assert choice.notes == [note]
    alone = fj.choose(embeddings=emb, n_samples=K, selector=name, normalize="none")
    other = choice.others[name]
    assert other.ranking.tolist() == alone.ranking.tolist()
    whole, there = (
        np.linalg.slogdet(np.eye(emb.dim) + rows.T @ rows)[1]
        for rows in (
            np.concatenate([initial.tokens, emb.take(other.ranking).tokens]),
            initial.tokens,
        )
    )
    assert other.log_det == pytest.approx(whole - there, rel=1e-4)
    with pytest.raises(UserError, match="`compare=rds` does not look at `initial_embeddings`"):
        fj.choose(**options, target_embeddings=initial, compare=["rds"])
