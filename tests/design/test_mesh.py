import socket
import subprocess
import sys

import pytest

from tests.helpers.compiling import with_devices

PROGRAM = """if True:
    import re
    import jax
    import numpy as np
    from jax.sharding import Mesh
    import fisher_jax as fj
    from fisher_jax.design import greedy
    from fisher_jax.util import platforms

    row = platforms.PLATFORMS["cpu"]  # small batches: each is filled, needed or not
    platforms.MIN_ROWS, platforms.PLATFORMS["cpu"] = 8, row._replace(batch_cost=1.0, blocks=2)
    states, programs, advance = [], [], greedy.advance
    greedy.advance = lambda *args: (
        programs.append(advance.lower(*args)), states.append(advance(*args))
    ) and states[-1]
    mesh = Mesh(jax.devices(), "pool")
    assert mesh.size == 8
    rng = np.random.default_rng(0)

    def pool(n, dim, lengths, copies):
        examples = [rng.standard_normal((m, dim)) for m in rng.choice(lengths, n)]
        for i, j in rng.integers(0, n, (copies, 2)):
            examples[i] = examples[j]
        return fj.TokenEmbeddings.from_list([x.astype(np.float32) for x in examples])

    hot = np.eye(5, dtype=np.float32)[rng.integers(0, 5, 60)]
    pools = {
        "copies": pool(90, 16, [1, 3, 8], 40),
        "fewer rows than devices": pool(5, 4, [2, 3], 0),
        "ties": fj.TokenEmbeddings(hot, np.arange(0, 61, 3)),
        "large": pool(800, 12, [2, 6, 30], 100),
    }
    few = pool(40, 8, [1, 3, 12], 20)
    near = np.ones((12, 1), np.float32)  # keys that differ by half the tie
    quality = np.ones(12)
    quality[[8, 5, 1]] = 50 * (1 - 1.5e-6 * np.arange(3))
    labels = rng.integers(0, 3, 40)
    for emb, more in (
        (near, {"quality": quality}),
        (few, {"pool_dtype": "bfloat16"}),
        (few, {"ridge": 1e-6}),
        (few, {"groups": labels, "group_cap": "equal"}),
        (few, {"initial": pool(5, 8, [2], 0), "initial_subset": [3, 9]}),
    ):
        one = fj.select(emb, n_samples=6, **more)
        many = fj.select(emb, n_samples=6, **more, mesh=mesh)
        np.testing.assert_array_equal(one.ranking, many.ranking, str(more))
        np.testing.assert_allclose(one.gains, many.gains, rtol=1e-5)
    for name, emb in pools.items():
        budgets = [{"n_samples": min(len(emb), 40)}]
        costs = rng.uniform(1, 2, len(emb))
        if name == "copies":
            budgets.append({"token_budget": int(emb.lengths.sum()) // 2})
            budgets.append({"token_budget": costs.sum() / 2, "costs": costs})
        for budget in budgets:
            for method in ("lazy", "naive") if name in ("copies", "large") else ("lazy",):
                one = fj.select(emb, **budget, method=method)
                alone = int(states[-1].evaluated.sum())
                many = fj.select(emb, **budget, method=method, mesh=mesh)
                np.testing.assert_array_equal(one.ranking, many.ranking, name)
                np.testing.assert_allclose(one.gains, many.gains, rtol=1e-5, atol=1e-12)
                if budget is budgets[0]:
                    text = programs[-1].compile().as_text()
                    sent = re.findall(r" (all-[a-z]+|collective-[a-z]+)[(]", text)
                    assert sorted(sent) == ["all-gather", "all-reduce"]
                counts = np.asarray(states[-1].evaluated)
                assert counts.shape == (8,)
                if name == "large" and method == "naive":
                    assert np.ptp(counts) == 0 and counts[0] * 8 == alone, counts
                if name == "large" and method == "lazy":
                    assert counts.max() < 0.3 * alone, (counts, alone)
    print("same")
"""


OF_TWO_PROCESSES = """if True:
    import sys
    import jax
    import numpy as np
    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
    from jax.sharding import Mesh
    import fisher_jax as fj

    assert (len(jax.devices()), len(jax.local_devices())) == (8, 4)
    rng = np.random.default_rng(0)
    examples = [rng.standard_normal((m, 8), np.float32) for m in rng.choice([1, 3, 6], 60)]
    emb = fj.TokenEmbeddings.from_list(examples + examples[:10])

    class Source:
        lengths, dim, dtype = emb.lengths, emb.dim, emb.dtype
        mean_squared_norm = emb.mean_squared_norm
        seen = []

        def __len__(self):
            return len(emb)

        def read(self, rows):
            self.seen.extend(rows)
            return emb.read(rows)

    for budget in ({"n_samples": 12}, {"token_budget": 40}):
        one = fj.select(emb, **budget)
        for pool in (emb, Source()):
            many = fj.select(pool, **budget, mesh=Mesh(jax.devices(), "pool"))
            np.testing.assert_array_equal(many.ranking, one.ranking)
            np.testing.assert_allclose(many.gains, one.gains, rtol=1e-5)
        assert 0 < len(pool.seen) == len(set(pool.seen)) <= 4 * 9  # what its four devices hold
        pool.seen.clear()
    print("same")
"""


def test_two_processes_of_four_devices_choose_as_one_device():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    argv = [sys.executable, "-c", OF_TWO_PROCESSES, address]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*argv, str(k)], env=with_devices(4), **pipes) for k in range(2)]
    try:
        for process in processes:
            printed, messages = process.communicate(timeout=300)
            assert printed.endswith("same\n"), messages
    finally:
        for process in processes:
            process.kill()


def test_eight_devices_choose_as_one_and_divide_the_work():
    run = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(run, env=with_devices(8), capture_output=True, text=True, timeout=400)
    assert result.stdout == "same\n", result.stderr


def test_a_mesh_of_two_axes_is_refused(emb):
    import jax
    import numpy as np
    from jax.sharding import Mesh

    import fisher_jax as fj

    mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), ("a", "b"))
    with pytest.raises(ValueError, match="mesh must have one axis"):
        fj.select(emb, n_samples=2, mesh=mesh)
