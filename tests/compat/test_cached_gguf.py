"""Which file is meant, and the GGUF that is made of a checkpoint once."""

import os
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from rwkv_edge import Model, RwkvEdgeError
from rwkv_edge.compat import RWKV, cached_gguf
from rwkv_edge.compat.cached_gguf import find_model_file, gguf_of, n_layer_of
from rwkv_edge.converters.checkpoints import open_checkpoint
from rwkv_edge.converters.convert import convert
from rwkv_edge.converters.synthetic import synthetic_hyperparameters, write_synthetic
from tests.converters.foreign_names import fla_7


@pytest.fixture
def folder(tmp_path_factory):
    """A dull name: pytest's own holds the test's, which a `match` would find."""
    return tmp_path_factory.mktemp("m")


@pytest.fixture
def pth(folder):
    hp = synthetic_hyperparameters(2, 64, n_ffn=128, n_vocab=256, ranks=(8, 8, 8, 8))
    write_synthetic(folder / "model.v1.pth", hp)
    return folder / "model.v1.pth"


@pytest.fixture(autouse=True)
def user_cache(tmp_path_factory, monkeypatch):
    """Kernels have been compiled into another by the time that this is set."""
    chosen = tmp_path_factory.mktemp("c")
    monkeypatch.setenv("RWKV_EDGE_CACHE", str(chosen))
    return chosen


def ggufs(folder):
    return sorted(folder.glob("**/*.gguf"))


def test_a_checkpoint_is_named_with_or_without_its_ending(pth):
    bare = str(pth).removesuffix(".pth")
    for name in (bare, str(pth), f" {bare} "):
        assert find_model_file(name) == pth
    other = pth.with_name("other.safetensors")
    other.touch()
    assert find_model_file(str(other)) == other


def test_a_gguf_is_named_with_or_without_its_ending(pth):
    gguf = pth.with_name("quantized.gguf")
    convert(pth, gguf, "Q4_0")
    for name in (str(gguf), str(gguf).removesuffix(".gguf")):
        model = RWKV(name, "cpu fp32", verbose=False)
        assert model.model.info.file_type == "Q4_0"
        model.close()
    assert ggufs(pth.parent) == [gguf]


def test_a_hugging_face_folder_is_converted_once_beside_itself(pth, monkeypatch):
    model = pth.with_name("rwkv7-0.1B")
    model.mkdir()
    with open_checkpoint(pth) as checkpoint:
        tensors = fla_7({name: checkpoint.read(name) for name in checkpoint.names()})
    save_file(tensors, model / "model.safetensors")
    assert n_layer_of(find_model_file(str(model))) == 2
    monkeypatch.chdir(model)
    made = gguf_of(find_model_file("."), "F32", print)
    assert made.parent == pth.parent.resolve()
    assert made.name.startswith("rwkv7-0.1B.rwkv-edge-f32-")
    assert gguf_of(find_model_file(str(model)), "F32", pytest.fail) == made
    os.utime(model / "model.safetensors", ns=(0, 0))
    assert gguf_of(find_model_file(str(model)), "F32", print) != made
    assert len(ggufs(pth.parent)) == 1


def test_a_checkpoint_comes_before_a_gguf_of_its_name(pth):
    pth.with_suffix(".gguf").touch()
    assert find_model_file(str(pth).removesuffix(".pth")) == pth


def test_what_is_not_there_is_said_with_what_was_looked_for(folder):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth, .*absent\.gguf"):
        RWKV(str(folder / "absent"), "cpu fp32")


@pytest.mark.parametrize(
    ("strategy", "file_type"),
    [("cpu fp32", "F32"), ("cpu bf16", "BF16"), ("cpu fp16", "F16"), ("cpu fp32i8", "Q8_0")],
)
def test_precision_follows_the_strategy(pth, strategy, file_type):
    model = RWKV(str(pth), strategy, verbose=False)
    assert model.model.info.file_type == file_type
    assert model.model.path.parent == pth.parent
    assert model.model.path.name.startswith(f"model.v1.rwkv-edge-{file_type.lower()}-")
    model.close()


def test_conversion_happens_once_and_is_said_once(pth, capfd):
    for n_times in (1, 0):
        RWKV(str(pth), "cpu fp32").close()
        out, err = capfd.readouterr()
        assert out == ""
        assert err.count("Loading") == 1
        assert err.count("Converting") == n_times
        assert err.count("Converted") == n_times
    assert len(ggufs(pth.parent)) == 1


def test_quiet_is_quiet(pth, capfd):
    RWKV(str(pth), "cpu fp32", verbose=False).close()
    assert capfd.readouterr() == ("", "")


def test_types_lie_beside_each_other(pth):
    said = []
    made = {gguf_of(pth, weight_type, said.append) for weight_type in ("F32", "Q8_0", "F16")}
    assert set(ggufs(pth.parent)) == made
    assert len(made) == 3


def test_a_changed_checkpoint_is_converted_anew_and_its_predecessor_goes(pth):
    first = gguf_of(pth, "Q8_0", lambda line: None)
    other = gguf_of(pth, "F16", lambda line: None)
    before = first.read_bytes()
    hp = synthetic_hyperparameters(2, 64, n_ffn=128, n_vocab=256, ranks=(8, 8, 8, 8))
    write_synthetic(pth, hp, seed=1)
    second = gguf_of(pth, "Q8_0", lambda line: None)
    assert second != first
    assert second.read_bytes() != before
    # That of another type goes when it is asked for.
    assert ggufs(pth.parent) == sorted([other, second])


def test_a_checkpoint_of_another_time_is_converted_anew(pth):
    first = gguf_of(pth, "Q8_0", lambda line: None)
    found = pth.stat()
    os.utime(pth, ns=(found.st_atime_ns, found.st_mtime_ns + 1_000_000_000))
    assert gguf_of(pth, "Q8_0", lambda line: None) != first


def test_a_vocabulary_put_beside_it_is_noticed(pth):
    first = gguf_of(pth, "Q8_0", lambda line: None)
    lines = [f"{i} {bytes([i])!r} 1\n" for i in range(255)]
    (pth.parent / "model.v1.vocab.txt").write_text("".join(lines), encoding="utf-8")
    assert gguf_of(pth, "Q8_0", lambda line: None) != first


def test_another_format_is_converted_anew(pth, monkeypatch):
    first = gguf_of(pth, "Q8_0", lambda line: None)
    monkeypatch.setattr(cached_gguf, "CACHE_FORMAT", cached_gguf.CACHE_FORMAT + 1)
    second = gguf_of(pth, "Q8_0", lambda line: None)
    assert ggufs(pth.parent) == [second]
    assert second != first


def test_files_of_similar_names_are_left_alone(pth):
    names = [
        "model.v1.gguf",
        "model.v1.rwkv-edge-q8_0.gguf",
        "model.v1.rwkv-edge-q8_0-0123456789abcdef.gguf.bak",
        "model.v10.rwkv-edge-q8_0-0123456789abcdef.gguf",
        "modelxv1.rwkv-edge-q8_0-0123456789abcdef.gguf",
    ]
    for name in names:
        (pth.parent / name).write_bytes(b"mine")
    gguf_of(pth, "Q8_0", lambda line: None)
    assert all((pth.parent / name).read_bytes() == b"mine" for name in names)


def test_what_an_interrupted_conversion_left_is_not_used(pth, monkeypatch):
    from rwkv_edge.converters import row_encoder

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(row_encoder, "encode_weights", fail)
        with pytest.raises(KeyboardInterrupt):
            gguf_of(pth, "F32", lambda line: None)
    assert list(pth.parent.iterdir()) == [pth]
    with Model.load(gguf_of(pth, "F32", lambda line: None)) as model:
        model.forward([1])


def test_where_nothing_can_be_written_it_goes_into_the_users_cache(pth, user_cache, monkeypatch):
    monkeypatch.setattr(cached_gguf, "is_writable", lambda folder: folder != pth.parent)
    made = gguf_of(pth, "Q8_0", lambda line: None)
    assert user_cache in made.parents
    assert list(pth.parent.iterdir()) == [pth]
    said = []
    assert gguf_of(pth, "Q8_0", said.append) == made
    assert not said
    # One of the same name elsewhere is another.
    elsewhere = pth.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy2(pth, elsewhere)
    monkeypatch.setattr(cached_gguf, "is_writable", lambda folder: False)
    assert gguf_of(elsewhere / pth.name, "Q8_0", lambda line: None) != made


def test_a_folder_is_writable_if_a_file_can_be_made_there(folder):
    assert cached_gguf.is_writable(folder)
    assert not list(folder.iterdir())
    assert not cached_gguf.is_writable(folder / "absent")
    if Path("/proc/self").is_dir():
        assert not cached_gguf.is_writable(Path("/proc/self"))


def test_layers_are_counted_before_anything_is_converted(pth, folder):
    assert n_layer_of(pth) == 2
    assert n_layer_of(gguf_of(pth, "F32", lambda line: None)) == 2
    for strategy in ("cuda fp16", "cpu fp32 *1 -> cpu fp32i8", "nonsense"):
        with pytest.raises(RwkvEdgeError):
            RWKV(str(pth), strategy)
    assert len(ggufs(folder)) == 1
