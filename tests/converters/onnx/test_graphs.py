"""Each version's graph, run by onnxruntime, against the official package and the other engines."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnx

from rwkv_edge import Model
from rwkv_edge.arch import architecture_of
from rwkv_edge.builtin import checkpoint_path, heldout_path
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from rwkv_edge.gguf_reader import GgufFile
from tests.onnx_models import OnnxModel
from tests.runtime.arch import (
    random_models,
    test_rwkv4,
    test_rwkv5,
    test_rwkv6,
    test_rwkv7,
    test_rwkv7a,
)
from tests.runtime.arch.oracle import difference
from tests.runtime.backends.test_contract import SHAPES
from tests.trained import trained_checkpoint

# Of the spread of the logits, or of a state array: float32 sums in another order.
TOLERANCE = 1e-4
# Of onnxruntime against numba on the same codes. Both round activations to 8 bits, 32 of them with
# one scale; where two roundings fall apart, a logit moves by some thousandths of the spread.
MAX_KL = 1e-3
N_VOCAB = 256
TOKENS = np.random.default_rng(0).integers(0, N_VOCAB, 90)
# Random checkpoints with stored official logits: what writes them, and which ones there are.
OFFICIAL = {
    "rwkv4": (test_rwkv4.write_random, list(test_rwkv4.RANDOM_SHAPES)),
    "rwkv5": (
        lambda path, name: random_models.write_random(path, test_rwkv5.MODELS[name]),
        list(test_rwkv5.MODELS),
    ),
    "rwkv6": (
        lambda path, name: random_models.write_random(path, test_rwkv6.MODELS[name]),
        list(test_rwkv6.MODELS),
    ),
    "rwkv7": (
        lambda path, name: test_rwkv7.write_random(path, name.split("_")[0], "True" in name),
        [f"{name}_{unused}" for name in test_rwkv7.RANDOM_SHAPES for unused in (False, True)],
    ),
    "rwkv7a": (test_rwkv7a.write_random, list(test_rwkv7a.RANDOM_SHAPES)),
}
TRAINED = ["tiny-rwkv-4v0-660K.pth", "tiny-rwkv-7v0-834K.pth"]


@pytest.fixture(scope="module")
def gguf_of(tmp_path_factory):
    """A random model of a version in a weight type; each is made once."""
    folder = tmp_path_factory.mktemp("graphs")

    def make(version, weight_type):
        checkpoint, path = folder / f"{version}.pth", folder / f"{version}-{weight_type}.gguf"
        if not checkpoint.exists():
            hp = synthetic_hyperparameters(
                3, 128, version=version, n_vocab=N_VOCAB, **SHAPES[version]
            )
            write_synthetic(checkpoint, hp, seed=3)
        if not path.exists():
            convert(checkpoint, path, weight_type)
        return path

    return make


def check(model, tokens, wanted, state=None):
    """Whole prompt, token by token, and split at random places; wanted: (T, n_vocab)."""
    random = np.random.default_rng(len(tokens))
    found = [model.forward(tokens), model.token_by_token(tokens)]
    for _ in range(3):
        places = np.sort(random.integers(1, len(tokens), 3))
        rows, after = [], None
        for part in np.split(tokens, places):
            if part.size:
                logits, after = model.forward(part, after)
                rows.append(logits)
        found.append((np.concatenate(rows), after))
    for logits, after in found:
        assert logits.dtype == np.float32
        assert difference(logits, wanted) < TOLERANCE
        check_state(after, state or {})


def check_state(found, wanted):
    """Every array, relative to the largest number of what is wanted: some have no spread."""
    for name, array in wanted.items():
        assert np.abs(found[name] - array).max() < TOLERANCE * np.abs(array).max(), name


def reference(path, tokens):
    """Logits and state arrays of the plain numpy engine."""
    with Model.load(path, backend="reference") as model:
        logits, state = model.forward(tokens, all_logits=True)
        return logits, state.to_arrays()


def mean_kl(wanted, found):
    """Nats a token that are lost when `found` stands for `wanted`."""
    p, q = (
        z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        for z in (x.astype(np.float64) - x.max(axis=1, keepdims=True) for x in (wanted, found))
    )
    return (np.exp(p) * (p - q)).sum(axis=1).mean()


def check_kl(path, tokens):
    """Whole prompt and token by token, against numba on the same codes."""
    with Model.load(path, threads=2) as model:
        wanted, _ = model.forward(tokens, all_logits=True)
    model = OnnxModel(path)
    assert mean_kl(wanted, model.forward(tokens)[0]) < MAX_KL
    assert mean_kl(wanted, model.token_by_token(tokens)[0]) < MAX_KL
    return wanted


@pytest.mark.parametrize("weight_type", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("version", list(SHAPES))
def test_the_checker_accepts_it_and_its_inputs_and_outputs_are_those_of_the_format(
    version, weight_type, gguf_of
):
    model = OnnxModel(gguf_of(version, weight_type))
    # Infers every shape, and compares it with what the graph says.
    onnx.checker.check_model(model.proto, full_check=True)
    hp = model.hyperparameters
    shapes = architecture_of(version).state_shapes(hp)
    inputs = {i.name: (i.type, i.shape) for i in model.session.get_inputs()}
    assert inputs == {
        "tokens": ("tensor(int64)", ["T"]),
        **{name: ("tensor(float)", list(shape)) for name, shape in shapes.items()},
    }
    [optional] = model.session.get_overridable_initializers()
    assert (optional.name, optional.type, optional.shape) == ("logits_from", "tensor(int64)", [1])
    outputs = {o.name: (o.type, o.shape) for o in model.session.get_outputs()}
    assert outputs == {
        "logits": ("tensor(float)", ["n", N_VOCAB]),
        **{f"new_{name}": ("tensor(float)", list(shape)) for name, shape in shapes.items()},
    }


def names_read(graph):
    """What nodes take, those of bodies of loops too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            yield from names_read(attribute.g)


@pytest.mark.parametrize("version", list(SHAPES))
def test_every_weight_is_read(version, gguf_of):
    """onnxruntime warns of others, and drops them."""
    graph = OnnxModel(gguf_of(version, "Q4_0")).proto.graph
    assert {tensor.name for tensor in graph.initializer} <= set(names_read(graph))


@pytest.mark.parametrize(
    ("arch", "name"), [(arch, name) for arch, (_, names) in OFFICIAL.items() for name in names]
)
def test_random_checkpoint_gives_the_stored_official_logits(arch, name, tmp_path):
    OFFICIAL[arch][0](tmp_path / "m.pth", name)
    convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32")
    stored = random_models.stored_logits(arch)
    _, state = reference(tmp_path / "m.gguf", stored["tokens"])
    check(OnnxModel(tmp_path / "m.gguf"), stored["tokens"], stored[name], state)


@pytest.mark.parametrize("name", TRAINED)
def test_trained_checkpoint_gives_the_official_logits(name, tmp_path):
    checkpoint = trained_checkpoint(name)
    convert(checkpoint, tmp_path / "m.gguf", "F32")
    stored = np.load(checkpoint.with_suffix(".npz"))
    check(OnnxModel(tmp_path / "m.gguf"), stored["tokens"], stored["logits"])


@pytest.mark.parametrize("weight_type", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("version", list(SHAPES))
def test_plain_floats_meet_the_reference(version, weight_type, gguf_of):
    path = gguf_of(version, weight_type)
    wanted, state = reference(path, TOKENS)
    check(OnnxModel(path), TOKENS, wanted, state)


@pytest.mark.parametrize("n_tokens", [1, 2, 15, 16, 17, 33, 1000])
@pytest.mark.parametrize("version", list(SHAPES))
def test_a_prompt_may_have_any_length(version, n_tokens, gguf_of):
    path = gguf_of(version, "F32")
    tokens = np.random.default_rng(n_tokens).integers(0, N_VOCAB, n_tokens)
    wanted, state = reference(path, tokens)
    logits, after = OnnxModel(path).forward(tokens)
    assert difference(logits, wanted) < TOLERANCE
    check_state(after, state)


@pytest.mark.parametrize("version", list(SHAPES))
def test_the_logits_of_the_tokens_asked_for_are_given(version, gguf_of):
    model = OnnxModel(gguf_of(version, "F32"))
    tokens = TOKENS[:9]
    everything, state = model.forward(tokens)
    assert everything.shape == (9, N_VOCAB)
    # Without being asked, the last: what the next token is chosen by.
    for first, rows in (
        (None, slice(8, 9)),
        (-1, slice(8, 9)),
        (5, slice(5, 9)),
        (-2, slice(7, 9)),
    ):
        logits, after = model.forward(tokens, logits_from=first)
        assert logits.shape == everything[rows].shape
        # A row alone is summed in another order.
        assert difference(logits, everything[rows]) < TOLERANCE
        for name, array in state.items():
            np.testing.assert_array_equal(after[name], array)


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
@pytest.mark.parametrize("version", list(SHAPES))
def test_codes_of_random_models_give_what_numba_gives(version, weight_type, gguf_of):
    path = gguf_of(version, weight_type)
    wanted = check_kl(path, TOKENS)
    # With equal logits any two distributions would agree. These are as far apart as in a trained
    # model, so that 4 bits a weight change what is likely by more than the bound.
    assert 5 < np.ptp(wanted, axis=1).mean() < 30
    if weight_type == "Q4_0":
        assert mean_kl(reference(gguf_of(version, "F32"), TOKENS)[0], wanted) > 10 * MAX_KL


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
@pytest.mark.parametrize("name", TRAINED)
def test_codes_of_trained_models_give_what_numba_gives(name, weight_type, tmp_path):
    checkpoint = trained_checkpoint(name)
    convert(checkpoint, tmp_path / "m.gguf", weight_type)
    check_kl(tmp_path / "m.gguf", np.load(checkpoint.with_suffix(".npz"))["tokens"])


@pytest.mark.parametrize("weight_type", ["Q4_0", "Q8_0"])
def test_codes_of_the_builtin_model_give_what_numba_gives(weight_type, tmp_path):
    convert(checkpoint_path(), tmp_path / "m.gguf", weight_type)
    with Model.load(tmp_path / "m.gguf") as model:
        tokens = model.tokenizer.encode(heldout_path().read_bytes()[:2000])[:200]
    check_kl(tmp_path / "m.gguf", np.array(tokens))


@pytest.mark.parametrize("every", [1, 2])
def test_weights_that_are_divided_while_x_is_halved_give_the_same_logits(
    every, tmp_path, rescaled_gguf
):
    name = "odd ffn and ranks"
    random_models.write_random(tmp_path / "m.pth", test_rwkv6.MODELS[name])
    path = rescaled_gguf(convert(tmp_path / "m.pth", tmp_path / "m.gguf", "F32").path, every)
    stored = random_models.stored_logits("rwkv6")
    wanted, state = reference(path, stored["tokens"])
    model = OnnxModel(path)
    assert model.hyperparameters.rescale_every == every
    check(model, stored["tokens"], wanted, state)
    # As in the test of the other engines: layer norm adds 1e-5 to a variance that is 4 or 16 times
    # less where x was halved. Without any halving, logits would differ by more than a tenth.
    assert difference(wanted, stored[name]) < 3e-4


def altered_tensor(path, altered_gguf, changes):
    """A copy of an F32 GGUF; changes: what a tensor's numbers become, by the end of its name."""
    tensors = {}
    with GgufFile(path) as file:
        for name, tensor in file.tensors.items():
            for ending, change in changes.items():
                if name.endswith(ending):
                    tensors[name] = (change(tensor.decode()), "F32")
    assert tensors
    return altered_gguf(path, tensors=tensors)


def test_exponents_of_rwkv4_that_no_float_holds_are_never_raised_to(gguf_of, altered_gguf):
    # Keys of more than a hundred: e**89 is infinite already.
    changes = {"time_mix_key.weight": lambda weights: 60 * weights}
    path = altered_tensor(gguf_of("4", "F32"), altered_gguf, changes)
    wanted, state = reference(path, TOKENS)
    assert state["pp"].max() > 100
    assert np.isfinite(wanted).all()
    # Not the state: what rounds a key of a hundred multiplies its sums by e**(1e-5) and more.
    check(OnnxModel(path), TOKENS, wanted)


@pytest.mark.parametrize("version", ["5.2", "6"])
@pytest.mark.parametrize("decay", [-20.0, 5.0])
def test_a_decay_that_keeps_all_or_nothing_is_no_matter(version, decay, gguf_of, altered_gguf):
    # exp(-exp(5)) is 0 in float32, exp(-exp(-20)) is 1.
    changes = {"time_mix_decay.weight": lambda weights: np.full_like(weights, decay)}
    path = altered_tensor(gguf_of(version, "F32"), altered_gguf, changes)
    wanted, state = reference(path, TOKENS)
    check(OnnxModel(path), TOKENS, wanted, state)


@pytest.mark.parametrize("decay", [-20.0, 20.0])
@pytest.mark.parametrize("rate", [-20.0, 20.0])
def test_the_state_of_rwkv7_stays_exact_over_hundreds_of_equal_tokens(
    decay, rate, gguf_of, altered_gguf
):
    """Kept or decayed as fast as can be; taking nothing out, or all that the one before put in."""
    changes = {
        "time_mix_w0.weight": lambda weights: np.full_like(weights, decay),
        "time_mix_a0.weight": lambda weights: np.full_like(weights, rate),
    }
    path = altered_tensor(gguf_of("7", "F32"), altered_gguf, changes)
    tokens = np.repeat(TOKENS[:4], (100, 1, 200, 1))
    wanted, state = reference(path, tokens)
    logits, after = OnnxModel(path).forward(tokens)
    assert np.isfinite(wanted).all()
    assert difference(logits, wanted) < TOLERANCE
    check_state(after, state)
