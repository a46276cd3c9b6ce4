"""How tests compile: most of their programs run once, so these compile fast and run slowly."""

import os

# a third of the time, in the suite of jaxlib 0.10; the numbers differ by rounding
QUICKLY = {
    "XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # of the programs that tests start
}


def with_devices(n):
    """An environment of so many virtual devices."""
    # of more devices than cores, XLA's shared threads may wait for each other for ever
    flags = f"--xla_force_host_platform_device_count={n} --xla_cpu_multi_thread_eigen=false"
    return os.environ | QUICKLY | {"XLA_FLAGS": f"{flags} {QUICKLY['XLA_FLAGS']}"}
