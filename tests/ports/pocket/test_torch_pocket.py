"""NGD in JAX and the PyTorch versions give the same routing weights and the same losses."""

import jax
import numpy as np
import pytest

from benchmarks.speed_problem import DescentProblem, make_problem
from benchmarks.speed_worker import ours, torch_descents

STEPS, K, B = 10, 3, 2
COMPILED = (
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of torch's own modules
    pytest.mark.filterwarnings("ignore:The .grad attribute"),  # hidden by torch.compile, but not from pytest
)


@pytest.fixture(scope="module")
def problem():
    return make_problem(B, K, references=24)


@pytest.fixture(scope="module")
def result(problem):
    return jax.tree.map(np.asarray, ours(problem, STEPS)())


@pytest.fixture
def one_thread():
    """Threads of operations this small only wait for one another."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["one_by_one", "batched", pytest.param("compiled", marks=COMPILED)])
def test_all_versions_give_the_same_weights(problem, result, name):
    r, losses = torch_descents(problem, STEPS)[name]()
    np.testing.assert_allclose(r.numpy(), result.weights, atol=1e-4, rtol=0)
    np.testing.assert_allclose(losses.numpy(), result.losses, atol=1e-5, rtol=1e-5)


def test_the_descent_moves_and_stays_inside_the_simplex(problem, result):
    assert result.path.min() > 0
    np.testing.assert_allclose(result.path.sum(-1), 1, atol=1e-5)
    assert np.abs(result.weights - problem.routing).max() > 1e-2
    assert (result.losses[:, -1] < result.losses[:, 0]).all()


def test_a_result_depends_on_its_batch_by_rounding_only(problem, result):
    single = ours(problem.take(1, K), STEPS)()
    np.testing.assert_allclose(np.asarray(single.weights)[0], result.weights[0], atol=1e-6, rtol=0)


def test_a_saved_problem_is_read_back_unchanged(problem, tmp_path):
    problem.save(tmp_path / "problem.npz")
    again = DescentProblem.read(tmp_path / "problem.npz")
    assert jax.tree.all(jax.tree.map(np.array_equal, vars(problem), vars(again)))


def test_a_problem_is_cut_and_padded(problem):
    cut = problem.take(5, 2)
    assert cut.weights.shape == (5, 2)
    assert cut.features["first"].shape[:2] == (5, 2)
    np.testing.assert_array_equal(cut.tokens[4], problem.tokens[0, :2])
