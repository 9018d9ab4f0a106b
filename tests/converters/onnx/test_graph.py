"""The algebra of graphs: what onnxruntime computes is what numpy does with the same operators."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper

from rwkv_edge.converters.onnx.graph import CONTRIB, Graph, domains
from tests.onnx_models import session_of

# float32 sums in another order.
TOLERANCE = 1e-5
CONSTANT = np.array([[2.5], [-1], [3]], np.float32)


def random(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def run(graph, results, **inputs):
    """What onnxruntime gives for these values of a graph."""
    for i, value in enumerate(results):
        graph.output(value, f"result{i}", None)
    model = helper.make_model(
        graph.proto("test"), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    return session_of(model).run(None, inputs)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x, y: x + y,
        lambda x, y: x - y,
        lambda x, y: x * y,
        lambda x, y: x / y,
        lambda x, y: -x,
        lambda x, y: x * 0.5 - 3.0,
        lambda x, y: x + CONSTANT,
        lambda x, y: x @ y.reshape(4, 3),
        lambda x, y: (x + y).reshape(2, -1),
        lambda x, y: x.transpose(1, 0),
    ],
)
def test_operators_are_those_of_numpy(compute):
    graph, x, y = Graph(), random(3, 4), random(3, 4)
    found = compute(graph.input("x", [3, 4]), graph.input("y", [3, 4]))
    np.testing.assert_allclose(run(graph, [found], x=x, y=y)[0], compute(x, y), rtol=TOLERANCE)


@pytest.mark.parametrize(("start", "stop"), [(0, 2), (1, None), (-1, None), (0, -1), (-3, -1)])
def test_rows_are_counted_as_slices_are(start, stop):
    graph, x = Graph(), random(5, 3)
    [found] = run(graph, [graph.input("x", ["n", 3]).rows(start, stop)], x=x)
    np.testing.assert_array_equal(found, x[start:stop])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_parts_of_a_split_keep_its_axis(axis):
    graph, x = Graph(), random(6, 4, 2)
    found = run(graph, graph.input("x", [6, 4, 2]).split(2, axis), x=x)
    for part, wanted in zip(found, np.split(x, 2, axis), strict=True):
        np.testing.assert_array_equal(part, wanted)


def test_equal_constants_are_stored_once():
    graph = Graph()
    x = graph.input("x", [3])
    result = x * 0.5 + x * np.array(0.5, np.float32) + np.array([0.5], np.float32)
    assert len(graph.constants) == 2  # one number, and one array of it
    [found] = run(graph, [result], x=np.ones(3, np.float32))
    np.testing.assert_array_equal(found, np.full(3, 1.5, np.float32))


@pytest.mark.parametrize("n_tokens", [1, 2, 7])
def test_a_scan_is_the_loop_over_tokens(n_tokens):
    """Two states; the body sees one token, and reads what stands outside."""
    graph = Graph()
    x, w = graph.input("x", ["T", 3]), graph.input("w", [3])

    def step(total, largest, x):
        total = total * 0.5 + x * w
        largest = total.graph.op("Max", largest, total)
        return [total, largest], largest - total

    states = [graph.input("total", [3]), graph.input("largest", [3])]
    after, ys = graph.scan(step, states, [x])
    rows = {"x": random(n_tokens, 3), "w": random(3)}
    total, largest, wanted = np.zeros(3), np.full(3, 0.1), []
    found = run(
        graph,
        [*after, ys],
        **rows,
        total=total.astype(np.float32),
        largest=largest.astype(np.float32),
    )
    for row in rows["x"]:
        total = total * 0.5 + row * rows["w"]
        largest = np.maximum(largest, total)
        wanted.append(largest - total)
    for array, expected in zip(found, (total, largest, np.stack(wanted)), strict=True):
        np.testing.assert_allclose(array, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("n_tokens", [1, 3, 4])
def test_a_branch_is_taken_by_its_condition(n_tokens):
    """With a loop inside one, and results of other shapes in the other."""
    graph = Graph()
    x, w = graph.input("x", ["T", 2]), graph.input("w", [2])
    is_long = graph.op("GreaterOrEqual", graph.op("Shape", x, end=1), np.array([3]))

    def chosen(x, w):
        [total], sums = x.graph.scan(lambda s, x: ([s + x], s * w), [w], [x])
        return [total, sums]

    def otherwise(x, w):
        return [w - 1.0, (x * w).rows(0, 1)]

    rows, v = random(n_tokens, 2), random(2)
    found = run(graph, graph.branch(is_long, chosen, otherwise, [x, w]), x=rows, w=v)
    if n_tokens < 3:
        wanted = [v - 1, rows[:1] * v]
    else:
        before = v + np.cumsum(rows, axis=0) - rows
        wanted = [v + rows.sum(axis=0), before * v]
    for array, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(array, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_no_name_stands_for_two_values_of_a_model():
    """Not even in two bodies: onnxruntime refuses some such models."""
    graph = Graph()
    x = graph.input("x", ["T", 2])

    def add(s, x):
        return [s + x], s

    def loops(x):
        [_], first = x.graph.scan(add, [x.rows(0, 1).reshape(2)], [x])
        [_], second = x.graph.scan(add, [x.rows(0, 1).reshape(2)], [first])
        return [second]

    graph.branch(graph.op("Greater", graph.op("Size", x), np.array(3)), loops, loops, [x])
    names = list(names_made(graph.proto("test")))
    assert len(names) == len(set(names)) > 20


def names_made(graph):
    """Of values and nodes, those of bodies too."""
    yield from (value.name for value in (*graph.input, *graph.initializer))
    for node in graph.node:
        yield node.name
        yield from node.output
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from names_made(attribute.g)


def test_operators_of_onnxruntime_are_found_inside_bodies():
    graph = Graph()
    x = graph.input("x", ["T", 2])
    assert domains(graph.proto("test")) == set()
    graph.scan(lambda s, x: ([s + x], s.graph.op("QuickGelu", x, domain=CONTRIB)), [x], [x])
    assert domains(graph.proto("test")) == {"", CONTRIB}


def test_an_input_of_whole_numbers_says_so():
    graph = Graph()
    tokens = graph.input("tokens", ["T"], TensorProto.INT64)
    table = random(5, 3)
    [found] = run(graph, [graph.op("Gather", table, tokens)], tokens=np.array([4, 0, 4]))
    np.testing.assert_array_equal(found, table[[4, 0, 4]])
