"""Eight simulated devices, rank promotion is an error, no network; tiny models that every test may share."""

import dataclasses
import os
import tempfile
from typing import ClassVar

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
from cdjax.sampling.targets.draws import Draws
from cdjax.sampling.targets.target import Target
from cdjax.sampling.targets.top_k import TopK

TINY = DecoderSpec(vocab=64, embed=32, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=64)


@dataclasses.dataclass(frozen=True)
class Both(Target):
    """The most likely tokens and draws, each array under the name of its kind."""

    kind: ClassVar[str] = "both"
    top_k: TopK = TopK(5, temperature=2.0)
    draws: Draws = Draws(3, temperature=2.0)

    @property
    def uniforms(self):
        return self.draws.uniforms

    def buffers(self):
        return self._each(lambda part: part.buffers())

    def observe(self, *given):
        return self._each(lambda part: part.observe(*given))

    def _each(self, of):
        return {f"{part.kind}.{name}": x for part in (self.top_k, self.draws) for name, x in of(part).items()}


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
