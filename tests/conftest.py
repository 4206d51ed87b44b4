"""Eight simulated devices, rank promotion is an error, no network; tiny models that every test may share."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
# Most of the time goes into compiling: XLA's own passes stay as they are, LLVM makes code as it comes.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# A run that is tested twice, as killed and resumed, compiles once.
jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix="cdjax-tests-"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

from cdjax import parallel
from cdjax.model import decoder
from cdjax.model.spec import DecoderSpec

TINY = DecoderSpec(vocab=64, embed=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=64)


@pytest.fixture(scope="session")
def mesh():
    """One device."""
    return parallel.make_mesh()


@pytest.fixture(scope="session")
def mesh8():
    """Eight simulated devices: 2 data x 2 fsdp x 2 tensor."""
    return parallel.make_mesh(data=2, fsdp=2, tensor=2)


@pytest.fixture(scope="session")
def tiny(mesh):
    """A random decoder of TINY's shape on one device."""
    return decoder.create(TINY, mesh, seed=0)
